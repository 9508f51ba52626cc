"""Keep the largest differences that the table of tolerances lets pass, and judge those at the end.

The table allows 1e-5 also for an output whose numbers are all smaller than 1e-3: a constant or an
operator in half precision may pass there. So of each output the call is kept on which eager and the
artifact are furthest apart. If eager's own error does not explain the difference, it is no
rounding, and the item passes with a warning: whether it matters is for the user to say, with
``rtol`` and ``atol``.

Separate from ``calibrate``, which judges every difference beyond the table when it is found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from pytest_torchexport.inputs.pytrees import is_plain
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.calibrate import Calibration
from pytest_torchexport.judge.other_runs import Leaves
from pytest_torchexport.outcomes.compare import Tolerance, compare_values, largest_of
from pytest_torchexport.results.verdict import Difference

# From so many units in the last place of an output's largest element on, a difference is doubted.
# On healthy artifacts none was larger than four, beyond eager's own error (same-numbers.md).
UNITS = 32.0
# So many outputs are judged at the end of an item.
MOST = 3


@dataclass(frozen=True)
class Doubt:
    """The call on which an output was furthest off, and what was returned.

    ``units``: how far, in units in the last place of ``largest``.
    """

    units: float
    largest: float
    call: Call
    expected: torch.Tensor
    actual: torch.Tensor


@dataclass
class Doubts:
    """The largest differences so far that are within the tolerance, by output.

    In units of the output's largest element on this call or on the first one: a sigmoid that is
    next to zero on one call is not off by more than on the others.
    """

    _first: dict[str, float] = field(default_factory=dict)
    _worst: dict[str, Doubt] = field(default_factory=dict)

    def saw(self, call: Call, expected: Leaves, actual: Leaves) -> None:
        """Keep the outputs of a call that are further off than on the calls before."""
        for path, left in expected.items():
            right: Any = actual.get(path)
            if not _comparable(left, right):
                continue
            if path not in self._first:
                self._first[path] = largest_of(left)
            if torch.equal(left, right):
                continue
            largest = max(self._first[path], largest_of(left))
            unit = torch.finfo(left.dtype).eps * largest
            gap = (right.detach().double() - left.detach().double()).abs().nan_to_num(0.0, 0.0, 0.0)
            units = float(gap.max()) / unit if unit else 0.0
            if units > max(UNITS, self._worst[path].units if path in self._worst else 0.0):
                self._worst[path] = Doubt(units, largest, call, left, right)

    def judged(self, calibration: Calibration) -> Iterator[tuple[Doubt, Difference]]:
        """Yield the differences that are no rounding."""
        largest = sorted(self._worst.items(), key=lambda item: -item[1].units)
        for path, doubt in largest[:MOST]:
            atol = UNITS * torch.finfo(doubt.expected.dtype).eps * doubt.largest
            found = compare_values(doubt.expected, doubt.actual, Tolerance(0.0, atol), path)
            leaves = {path: doubt.expected}, {path: doubt.actual}
            for bug in calibration.judge(found, [doubt.call], *leaves).bugs:
                yield doubt, bug


def _comparable(left: Any, right: Any) -> bool:
    """Return True for two tensors of real floats that have one shape."""
    plain = (
        is_plain(left)
        and is_plain(right)
        and (left.shape, left.dtype)
        == (
            right.shape,
            right.dtype,
        )
    )
    return plain and left.is_floating_point() and left.numel() > 0
