"""Name the failure that some differences amount to: a pure function of them."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_torchexport.judge.state_differences import Lines, written_at
from pytest_torchexport.outcomes.messages import is_guard
from pytest_torchexport.results.failures import (
    ArtifactCrashed,
    ArtifactHung,
    ArtifactRaised,
    DimsNarrowed,
    Failure,
    OutputsDiffer,
    StateDiffers,
    StructureDiffers,
)
from pytest_torchexport.results.verdict import Difference

# The first kind that occurs names the failure: a kind that makes the others meaningless comes
# before them.
KINDS: tuple[tuple[str, type[Failure]], ...] = (
    ("hung", ArtifactHung),
    ("crashed", ArtifactCrashed),
    ("raised", ArtifactRaised),
    ("structure", StructureDiffers),
    ("dtype", OutputsDiffer),
    ("shape", OutputsDiffer),
    ("device", OutputsDiffer),
    ("values", OutputsDiffer),
    ("state", StateDiffers),
)


def failure_class(differences: Sequence[Difference]) -> type[Failure] | None:
    """Return the class of failure that these differences amount to, or None if there are none."""
    present = {difference.kind for difference in differences}
    return next((cls for kind, cls in KINDS if kind in present), None)


def failure_of(differences: Sequence[Difference], lines: Lines) -> Failure | None:
    """Return the failure that these differences amount to, or None if there are none.

    ``lines`` are those of forward's writes.
    """
    cls = failure_class(differences)
    if cls is None:
        return None
    first = differences[0]
    if cls in (ArtifactCrashed, ArtifactHung):
        return cls(first.actual, output=first.what)
    if cls is StateDiffers:
        where = written_at(differences, lines)
        return cls(where=where, differences=tuple(differences))
    if cls is not ArtifactRaised:
        return cls(differences=tuple(differences))
    text, where = first.actual, first.where
    if is_guard(text):  # the program's own guard on a size
        cls, text = DimsNarrowed, " ".join(text.split())
    return cls(text, where=where, differences=tuple(differences))
