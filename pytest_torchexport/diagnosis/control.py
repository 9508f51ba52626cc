"""Rules on control flow: a branch or a number of iterations that is a constant of the artifact."""

from __future__ import annotations

import re
from collections.abc import Collection

from pytest_torchexport.diagnosis.evidence import Evidence
from pytest_torchexport.judge.branch_table import place
from pytest_torchexport.results.diagnosis import Cause
from pytest_torchexport.results.failures import BranchFrozen
from pytest_torchexport.results.source_line import SourceLine

# Conditions of which who calls the artifact does not know the side: memory and identity.
_OF_OBJECTS = re.compile(
    r"\.(?:(?:is_contiguous|stride|storage_offset|data_ptr)\(|(?:requires_grad|is_leaf)\b)"
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


def decided_once(evidence: Evidence) -> Cause | None:
    """Return that the artifact always takes the side, or the iterations, that the example took."""
    branch = evidence.branch
    if not isinstance(evidence.failure, BranchFrozen) or branch is None:
        return None
    return cause_of(
        branch.kind,
        branch.text,
        where=branch.where,
        on_values=branch.on_values,
        target=evidence.target,
        artifact=evidence.artifact,
        arguments=tuple(evidence.arguments),
    )


def unrolled(evidence: Evidence) -> Cause | None:
    """Return that Python ran a loop another number of times at the export than in the call."""
    loop = next(iter(evidence.loops), None)
    if loop is None:
        return None
    return cause_of(
        loop.kind,
        loop.text,
        where=place(loop),
        on_values=False,
        target=evidence.target,
        artifact=evidence.artifact,
    )


def cause_of(
    kind: str,
    text: str,
    *,
    where: SourceLine,
    on_values: bool,
    target: str,
    artifact: str,
    arguments: Collection[str] = (),
) -> Cause:
    """Return the cause of a failure for which a condition is to blame.

    ``kind`` and ``text`` are those of the condition; ``on_values``: values decide it, and not only
    sizes. ``artifact`` is the target's product, in words; ``arguments`` are those which are no
    tensors and other than in the example.
    """
    if kind in ("for", "while"):
        return Cause(
            kind="unrolled loop",
            text=f"Python runs the loop at the export, and {artifact} has its iterations one after "
            "the other",
            remedy=LOOPS.get(target, "compute all steps at once"),
            where=where,
        )
    remedy = "export once for each side, and choose between the artifacts outside"
    if _OF_OBJECTS.search(text):
        remedy = (
            "compute the same on both sides, or make the inputs alike before it, as by "
            "x.contiguous() or x.clone()"
        )
    elif not {*arguments}.isdisjoint(re.findall(r"\w+", text)):
        remedy = "export once for each value of the argument, and choose between the artifacts "
        remedy += "outside"
    elif on_values:
        otherwise = OTHERWISE.get(target, "")
        remedy = f"compute both sides and choose with torch.where, {otherwise}".rstrip(", ")
    return Cause(
        kind="frozen branch",
        text=f"Python decides {text!r} once, at the export: {artifact} has only that side",
        remedy=remedy,
        where=where,
    )
