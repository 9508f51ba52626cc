"""Rules on control flow: a branch or a number of iterations that is a constant of the artifact."""

from __future__ import annotations

import re

from pytest_torchexport.diagnosis.evidence import Evidence
from pytest_torchexport.results.diagnosis import Cause
from pytest_torchexport.results.failures import BranchFrozen

# Conditions of which who calls the artifact does not know the side: memory and identity.
_OF_OBJECTS = re.compile(
    r"\b(?:is_contiguous|stride|storage_offset|data_ptr|requires_grad|is_leaf)\b"
    r"|\bis (?:not )?(?!not\b|None\b)"
)

OTHERWISE = {
    "trace": "or compile the function that has it by @torch.jit.script",
    "export": "or write torch.cond, which keeps both sides",
}
LOOPS = {
    "trace": "compile the function that has it by @torch.jit.script, or compute all steps at once",
    "export": "write torch.while_loop or torch.ops.higher_order.scan, or compute all steps at once",
}


def frozen_branch(evidence: Evidence) -> Cause | None:
    """Return that the artifact always takes the side of a condition that the example took."""
    branch = evidence.branch
    if not isinstance(evidence.failure, BranchFrozen) or branch is None or _loops(branch.kind):
        return None
    remedy = "export once for each side, and choose between the artifacts outside"
    if _OF_OBJECTS.search(branch.text):
        remedy = (
            "compute the same on both sides, or make the inputs alike before it, as by "
            "x.contiguous() or x.clone()"
        )
    elif branch.on_values:
        otherwise = OTHERWISE.get(evidence.target, "")
        remedy = f"compute both sides and choose with torch.where, {otherwise}".rstrip(", ")
    return Cause(
        kind="frozen branch",
        text=f"Python decides {branch.text!r} once, at the export: {evidence.artifact} has only "
        "that side",
        remedy=remedy,
        where=branch.where,
    )


def unrolled_loop(evidence: Evidence) -> Cause | None:
    """Return that the artifact always goes round a loop as often as the example did."""
    branch = evidence.branch
    if not isinstance(evidence.failure, BranchFrozen) or branch is None or not _loops(branch.kind):
        return None
    return Cause(
        kind="unrolled loop",
        text=f"Python runs the loop at the export, and {evidence.artifact} has its iterations "
        "one after the other",
        remedy=LOOPS.get(evidence.target, "compute all steps at once"),
        where=branch.where,
    )


def _loops(kind: str) -> bool:
    return kind in ("for", "while")
