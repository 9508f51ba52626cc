"""Rules on what an operator is: its dtype, its mode, and what an artifact can return."""

from __future__ import annotations

import re

from pytest_torchexport.diagnosis.evidence import Evidence
from pytest_torchexport.outcomes.operator_table import row_of
from pytest_torchexport.outcomes.operators import plain_name
from pytest_torchexport.results.diagnosis import Cause, Structural
from pytest_torchexport.results.failures import StructureDiffers

_DTYPE = re.compile(r"\w+(?=\[)")


def dtype_promotion(evidence: Evidence) -> Cause | None:
    """Return that an operator gives another dtype of equal operands."""
    found = evidence.structural
    if found is None or found.kind != "same":
        return None
    dtypes = [_DTYPE.findall(side) for side in (found.eager, found.artifact)]
    if dtypes[0] == dtypes[1]:
        return None
    return Cause(
        kind="dtype promotion",
        text=f"{found.operator} gives {found.eager} in eager and {found.artifact} in the "
        f"{evidence.target}, of equal operands",
        remedy="convert an operand or the result to the dtype that you want",
        where=found.where,
    )


def training_mode(evidence: Evidence) -> Cause | None:
    """Return that one side runs an operator in training mode, and the other does not."""
    found = evidence.structural
    if found is None:
        return None
    sides = [_trains(found, side) for side in (found.eager, found.artifact)]
    if sides[0] == sides[1]:
        return None
    which, other = (
        ("eager", evidence.artifact)
        if sides[0]
        else (
            evidence.artifact,
            "eager",
        )
    )
    return Cause(
        kind="mode-dependent operator",
        text=f"{which} runs {found.operator} in training mode, and {other} does not",
        remedy="call .eval() before the export"
        if sides[1]
        else "export in training mode, or call .eval() where eager runs",
        where=found.where,
    )


def exported_in_eval_mode(evidence: Evidence) -> Cause | None:
    """Return that the old ONNX exporter put a module in training mode into eval mode."""
    if evidence.target != "onnx_legacy" or not evidence.agrees_in_eval_mode:
        return None
    return Cause(
        kind="mode-dependent operator",
        text="torch.onnx.export(dynamo=False) exports in eval mode, in which eager returns what "
        "the ONNX file does",
        remedy="call .eval() where eager runs, or export with "
        "training=torch.onnx.TrainingMode.PRESERVE",
    )


def _trains(found: Structural, side: str) -> bool:
    if found.kind == "constant" and found.argument in ("training", "train"):
        return side == "True"
    return any("training" in row_of(plain_name(name)).kinds for name in side.split(", "))


def number_as_tensor(evidence: Evidence) -> Cause | None:
    """Return that an output of the artifact is a tensor where eager's is a number of Python's."""
    for item in evidence.failure.differences:
        tensor = re.fullmatch(r"\w+\[\]", item.actual)
        if tensor is None or item.kind != "structure":
            continue
        if isinstance(evidence.failure, StructureDiffers) and _is_number(item.expected):
            return Cause(
                kind="number as a tensor",
                text=f"{item.path} is the number {item.expected} in eager: {evidence.artifact} "
                "returns a tensor",
                remedy="return a tensor, or leave the number out of what forward returns",
            )
    return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text in ("True", "False")
    return True
