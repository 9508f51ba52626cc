"""Examine masks: does the call fail only with rows that mask every element?"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from pytest_torchexport.diagnosis.scene import Scene, places
from pytest_torchexport.inputs.building import build_leaves
from pytest_torchexport.inputs.pytrees import is_plain
from pytest_torchexport.inputs.recipes import with_leaves
from pytest_torchexport.results.diagnosis import Cause, Diagnosis

# What masks an element, and what does not. Models disagree on what True means.
BOOL_MASKS = ((False, True), (True, False))
FLOAT_MASKS = ((-torch.inf, 0.0),)


def examine(scene: Scene, known: Diagnosis) -> Diagnosis:
    """Add the masks with full rows without which eager and the artifact agree."""
    return dataclasses.replace(known, causes=(*known.causes, *_causes(scene)))


def _causes(scene: Scene) -> Iterator[Cause]:
    values = build_leaves(scene.case.spec, scene.recipe)
    if values is None or not scene.fails:
        return
    for index, (leaf, value) in enumerate(zip(scene.case.spec.leaves, values, strict=True)):
        for masked, kept in _masks(value):
            rows = (value == masked).all(-1)
            if not rows.any():
                continue
            opened = value.detach().clone()
            opened[..., 0].masked_fill_(rows, kept)
            if scene.agrees(with_leaves(scene.recipe, {index: opened})):
                text = f"{leaf.path} is all {masked} {places(rows)}: with one {kept} there, "
                yield Cause(kind="masked rows", text=f"{text}eager and artifact agree")


def _masks(value: Any) -> Sequence[tuple[Any, Any]]:
    """Return the values of a mask; none for a tensor that cannot be one."""
    if not is_plain(value) or value.dim() < 2 or not value.numel():
        return ()
    if value.dtype == torch.bool:
        return BOOL_MASKS
    return FLOAT_MASKS if value.is_floating_point() else ()
