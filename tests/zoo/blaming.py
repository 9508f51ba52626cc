"""Compare what a failure's report names with what it has to name."""

from __future__ import annotations

from typing import Any, Literal

from zoo.row import Blame

Judged = Literal["right", "unknown", "wrong"]


def judged(verdict: Any, blame: Blame) -> dict[str, Judged]:
    """Return for the owner, the line and the cause if the report names the right one."""
    found = verdict.diagnosis
    kinds = [cause.kind for cause in found.causes]
    return {
        "owner": _judged(found.owner or "", blame.owner, equal=True),
        "line": _judged(str(verdict.where or ""), blame.line, equal=False),
        "cause": _judged(", ".join(kinds), blame.cause, equal=True),
    }


def _judged(named: str, wanted: str, *, equal: bool) -> Judged:
    if named == wanted or (wanted and not equal and wanted in named):
        return "right"
    return "wrong" if named else "unknown"
