"""Examine whether a file from elsewhere has other weights than the module that it is checked with.

The evidence is a new export of the module: it has the module's weights under the same names, and it
agrees with eager on the failing call.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pytest_torchexport.checks.foreign_file import FLAT, ForeignFile
from pytest_torchexport.diagnosis.scene import Scene
from pytest_torchexport.judge.log import ItemLog
from pytest_torchexport.outcomes.observe import tensors_of
from pytest_torchexport.results.diagnosis import Cause, Diagnosis
from pytest_torchexport.targets.base import Artifact
from pytest_torchexport.targets.formats import onnx_model


def examine(scene: Scene, known: Diagnosis) -> Diagnosis:
    """Add that the file has other weights, if that is why it fails."""
    case, file = scene.case, scene.case.artifact
    if not isinstance(file, ForeignFile):
        return known
    names = tensors_of(case.reference.pristine.module).keys()
    theirs = _weights(file.found, names)
    if not theirs:
        return known
    made = case.exported_or_refused(case.call_to_export())
    if isinstance(made, str):
        return known
    ours = _weights(_found(made, file.target), names)
    alike = [name for name in ours if _kind(ours[name]) == _kind(theirs.get(name, ""))]
    others = [name for name in alike if ours[name] != theirs[name]]
    judge = case.judge_of(case.runner_of(made), ItemLog(), case.random_paths)
    if not others or not scene.agrees(judge=judge):
        return known
    first = others[0].partition(" ")[2] + (", ..." if len(others) > 1 else "")
    cause = Cause(
        kind="other weights",
        text=f"{len(others)} of {len(alike)} weights in the file differ from the module's "
        f"({first}), and a new export of it agrees with eager",
        remedy="export the file again from these weights, or load the weights it was made from",
    )
    return dataclasses.replace(known, causes=(cause, *known.causes))


def _found(made: Artifact, target: str) -> Mapping[str, Any]:
    """Return what the clean process finds in a file, of an artifact that was made here."""
    if target not in FLAT:
        return {"contents": made.facts.contents()}
    with tempfile.TemporaryDirectory() as directory:
        return {"weights": onnx_model.weights(made.save(Path(directory)))}


def _weights(found: Mapping[str, Any], names: Collection[str]) -> dict[str, str]:
    """Return the texts of parameters and buffers, by names as ``parameter fc.weight``.

    A text is dtype, shape and digest. In an ONNX file the name is ``fc.weight``.
    """
    texts = {**found.get("contents", {}), **found.get("weights", {})}
    return {
        name: texts[key].removesuffix(" requires_grad")
        for name in names
        for key in (name, name.partition(" ")[2])
        if isinstance(texts.get(key), str)
    }


def _kind(text: str) -> str:
    """Return dtype and shape of a text."""
    return text.rpartition(" ")[0]
