"""State: calls in a row, where a forward changes its module: what the artifact carries must follow eager."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_torchexport.compare import Tolerance, compare
from pytest_torchexport.failures import StateDiffers
from pytest_torchexport.observe import Outcome, Returned

LENGTH = 3


def check(expected: Sequence[Outcome], actual: Sequence[Outcome], tolerance: Tolerance) -> None:
    """Raise where the artifact parts from eager after the first call of a sequence."""
    for number, (eager, artifact) in enumerate(zip(expected, actual, strict=True), start=1):
        if not isinstance(eager, Returned):
            return  # eager itself does not survive being called again: nothing to hold against anyone
        differences = compare(eager, artifact, tolerance)
        if differences:
            raise StateDiffers(
                f"call {number} of {len(expected)} equal calls in a row: forward changes its module, and "
                "the artifact does not follow",
                differences=tuple(differences),
            )
