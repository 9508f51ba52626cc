"""State: calls in a row, where a forward changes its module: what the artifact carries must follow eager."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytest_torchexport.compare import Tolerance, compare, compare_values
from pytest_torchexport.failures import StateDiffers
from pytest_torchexport.observe import Outcome, Returned

LENGTH = 3


def check(
    expected: Sequence[Outcome],
    actual: Sequence[Outcome],
    buffers: tuple[Mapping[str, Any], Mapping[str, Any]],
    tolerance: Tolerance,
) -> None:
    """Raise where the artifact parts from eager within a sequence of calls, in what it returns or in the
    ``buffers`` (eager's, the artifact's) that both still have under one name at its end.
    """
    for number, (eager, artifact) in enumerate(zip(expected, actual, strict=True), start=1):
        if not isinstance(eager, Returned):
            return  # eager itself does not survive being called again: nothing to hold against anyone
        differences = compare(eager, artifact, tolerance)
        if differences and number > 1:  # the first call is parity's, which also knows rounding
            raise StateDiffers(
                f"call {number} of {len(expected)} equal calls in a row: forward changes its module, and "
                "the artifact does not follow",
                differences=tuple(differences),
            )
    left, right = buffers
    differences = [
        difference
        for name in left
        if name in right
        for difference in compare_values(left[name], right[name], tolerance, f"buffer {name}")
    ]
    if differences:
        raise StateDiffers(
            f"what {len(expected)} calls in a row leave in the module's buffers",
            differences=tuple(differences),
        )
