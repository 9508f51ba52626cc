"""Diagnose an exporter's refusal: the owner, the cause in a sentence, the user's line, the remedy.

The tables are in ``targets/refused``, one file per exporter; conditions and sizes, of which the
user's source is read, are in ``targets/refusals.py``. A refusal that no rule knows has no cause.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pytest_torchexport.results.diagnosis import NOTHING, Cause, Diagnosis, Owner
from pytest_torchexport.targets import refusals
from pytest_torchexport.targets.refused import (
    capture_refusals,
    onnx_refusals,
    script_refusals,
    trace_refusals,
)
from pytest_torchexport.targets.refused.rule import Refusal, Rule

# The first rule that applies counts. A target of another package is taken to call torch.export.
TABLES = {
    "trace": trace_refusals.RULES,
    "script": script_refusals.RULES,
    "export": capture_refusals.RULES,
    "onnx": (*onnx_refusals.RULES, *capture_refusals.RULES),
    "onnx_legacy": (*onnx_refusals.RULES, *onnx_refusals.LEGACY, *trace_refusals.RULES),
}


def diagnosed(
    error: BaseException, target: str, called: Callable[..., Any] | None = None
) -> Diagnosis:
    """Return what the exception of a target's exporter shows; ``NOTHING`` if no rule knows it.

    ``called`` is the module or function that was to be exported, if it is known.
    """
    refusal = Refusal(error, called)
    found = _first(TABLES.get(target, capture_refusals.RULES), refusal)
    if found is not None:
        return found
    decided = refusals.control_flow(error)
    if decided is not None:
        return _diagnosis(decided, "model")
    return _first(capture_refusals.GENERIC, refusal) or NOTHING


def can_be_drafted(found: Diagnosis) -> bool:
    """Return True if torch.export.draft_export may go past the refusal: a value, a fake kernel."""
    return any(
        cause.kind in ("data-dependent value", "unsupported operator") for cause in found.causes
    ) and (found.owner == "model")


def _first(rules: Iterable[Rule], refusal: Refusal) -> Diagnosis | None:
    for rule in rules:
        cause = rule.applied(refusal)
        if cause is not None:
            return _diagnosis(cause, rule.owner)
    return None


def _diagnosis(cause: Cause, owner: Owner) -> Diagnosis:
    return Diagnosis(owner=owner, causes=(cause,))
