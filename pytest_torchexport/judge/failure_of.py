"""Parity: on a call that eager takes, the artifact does what eager does."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_torchexport.results.failures import (
    ArtifactCrashed,
    ArtifactHung,
    ArtifactRaised,
    Failure,
    OutputsDiffer,
    StateDiffers,
    StructureDiffers,
)
from pytest_torchexport.results.verdict import Difference

# The first kind that occurs names the failure: what keeps the rest from meaning anything comes first.
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
    """The failure these differences amount to; None where there are none."""
    present = {difference.kind for difference in differences}
    return next((cls for kind, cls in KINDS if kind in present), None)


def check(differences: Sequence[Difference]) -> None:
    """Raise the failure these differences amount to."""
    cls = failure_class(differences)
    if cls is None:
        return
    first = differences[0]
    if cls in (ArtifactCrashed, ArtifactHung):
        raise cls(first.actual, output=first.what)
    text = first.actual if cls is ArtifactRaised else ""
    raise cls(
        text, where=first.where if cls is ArtifactRaised else None, differences=tuple(differences)
    )
