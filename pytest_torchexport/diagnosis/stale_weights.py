"""Examine whether a file from elsewhere was made from another module than it is checked with.

The evidence is a new export of the module: it agrees with eager on the failing call, and the
weights of the file, under the same names, are others or are the same.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch

from pytest_torchexport.checks.foreign import FLAT, ForeignFile
from pytest_torchexport.diagnosis.scene import Scene
from pytest_torchexport.judge.log import ItemLog
from pytest_torchexport.outcomes.observe import named_tensors
from pytest_torchexport.results.diagnosis import Cause, Diagnosis
from pytest_torchexport.results.failures import (
    Failure,
    OutputsDiffer,
    StateDiffers,
    StructureDiffers,
)
from pytest_torchexport.targets.base import Artifact
from pytest_torchexport.targets.formats import onnx_model

Texts: TypeAlias = dict[str, str]
AGREES = "a new export of it agrees with eager"
# Not a branch: another example of the export freezes another one. Not an exception: what the file
# takes is no matter of the code alone.
OF_OTHER_CODE = (OutputsDiffer, StateDiffers, StructureDiffers)


def examine(scene: Scene, known: Diagnosis) -> Diagnosis:
    """Add that the file has other weights, or was made from other code, if that is why it fails."""
    case, file = scene.case, scene.case.artifact
    if not isinstance(file, ForeignFile):
        return known
    module = case.reference.pristine.module
    own = dict(named_tensors(module)) if module is not None else {}
    theirs = _weights(file.found, own.keys())
    # Of a module in another dtype, a new export tells nothing of the file.
    if not any(theirs[name].partition("[")[0] == _dtype(own[name]) for name in theirs):
        return known
    made = case.exported_or_refused(case.call_to_export())
    if isinstance(made, str):
        return known
    cause = _cause(theirs, _weights(_found(made, file.target), own.keys()), scene.failure)
    judge = case.judge_of(case.runner_of(made), ItemLog(), case.random_paths)
    if cause is None or not scene.agrees(judge=judge):
        return known
    return dataclasses.replace(known, causes=(cause, *known.causes))


def _cause(theirs: Texts, ours: Texts, failure: Failure) -> Cause | None:
    """Return the cause if a new export, which has the weights ``ours``, does not fail."""
    alike = [name for name in ours if _kind(ours[name]) == _kind(theirs.get(name, ""))]
    others = [name for name in alike if ours[name] != theirs[name]]
    if others:
        first = others[0].partition(" ")[2] + (", ..." if len(others) > 1 else "")
        return Cause(
            kind="other weights",
            text=f"{len(others)} of {len(alike)} weights in the file differ from the module's "
            f"({first}), and {AGREES}",
            remedy="export the file again from these weights, or load the weights it was made from",
        )
    if not alike or len(alike) < len(ours) or not isinstance(failure, OF_OTHER_CODE):
        return None
    same = "weight is" if len(alike) == 1 else "weights are"
    return Cause(
        kind="other code",
        text=f"the file was made from other code, or exported otherwise: its {len(alike)} {same} "
        f"the module's, and {AGREES}",
        remedy="export the file again from this code; if it fails then too, look at the example, "
        "mode and options of the export",
    )


def _found(made: Artifact, target: str) -> Mapping[str, Any]:
    """Return what the clean process finds in a file, of an artifact that was made here."""
    if target not in FLAT:
        return {"weights": made.facts.weights()}
    with tempfile.TemporaryDirectory() as directory:
        return {"weights": onnx_model.weights(made.save(Path(directory)))}


def _weights(found: Mapping[str, Any], names: Collection[str]) -> Texts:
    """Return the texts of parameters and buffers, by names as ``parameter fc.weight``.

    A text is dtype, shape and digest. In an ONNX file the name is ``fc.weight``.
    """
    texts = found.get("weights", {})
    return {
        name: texts[key]
        for name in names
        for key in (name, name.partition(" ")[2])
        if isinstance(texts.get(key), str)
    }


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _kind(text: str) -> str:
    """Return dtype and shape of a text."""
    return text.rpartition(" ")[0]
