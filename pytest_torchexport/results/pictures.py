"""Lay out the pictures of a report: sizes that fail, an error beside eager's own, times.

Plain numbers, without any markup: a template draws them. Apart from the page that shows them,
because another format may draw the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_torchexport.results.size_pattern import Sizes
from pytest_torchexport.results.verdict import Difference

# Steps that take less of the time are one bar together.
LEAST_SHARE = 0.03
WIDEST_BAR = 160
MOST_TICKS = 6


@dataclass(frozen=True, kw_only=True)
class SizeMap:
    """The sizes of one dim that were run, sorted: size, if it fails, if it is the example's."""

    dim: str
    cells: Sequence[tuple[int, bool, bool]]
    words: str


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A number on a scale, ``at`` 0 to 1 of its width."""

    kind: str
    label: str
    value: float
    at: float


@dataclass(frozen=True, kw_only=True)
class ErrorScale:
    """The worst error of one leaf, what is allowed, and eager's own error, on one scale of decades.

    ``ticks``: the powers of ten, and where they are. ``times``: the error in units of eager's own.
    """

    path: str
    marks: Sequence[Mark]
    ticks: Sequence[tuple[int, float]]
    times: float | None
    cause: str


@dataclass(frozen=True, kw_only=True)
class TimeBar:
    """A step, its seconds, and the width of its bar."""

    step: str
    seconds: float
    width: int


def size_map(sizes: Sizes) -> SizeMap:
    """Return the map of the sizes at which a failing call was run."""
    failing = dict.fromkeys(sizes.failing, True) | dict.fromkeys(sizes.ok, False)
    cells = [(size, failing[size], size == sizes.example) for size in sorted(failing)]
    return SizeMap(dim=sizes.dim, cells=cells, words=str(sizes))


def error_scale(difference: Difference) -> ErrorScale | None:
    """Return the scale of a difference of numbers; None if nothing is known to compare it with."""
    found = {
        "own": ("eager's own", difference.own_error),
        "allowed": ("allowed", _allowed(difference)),
        "worst": ("difference", difference.max_abs),
    }
    known = {
        kind: (label, value)
        for kind, (label, value) in found.items()
        if value is not None and 0 < value < math.inf
    }
    if "worst" not in known or len(known) == 1:
        return None
    values = [value for _, value in known.values()]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    width = max(high - low, 1)
    return ErrorScale(
        path=difference.path,
        marks=[
            Mark(kind=kind, label=label, value=value, at=(math.log10(value) - low) / width)
            for kind, (label, value) in known.items()
        ],
        ticks=[
            (power, (power - low) / width)
            for power in range(low, low + width + 1, math.ceil(width / MOST_TICKS))
        ],
        times=difference.in_own_errors,
        cause=difference.cause,
    )


def _allowed(difference: Difference) -> float | None:
    """Return what the tolerance allows at the worst element; None if eager's is no number."""
    try:
        expected = abs(complex(difference.expected.replace(" ", "")))
    except (ValueError, OverflowError):
        return None
    return (difference.atol or 0.0) + (difference.rtol or 0.0) * expected


def time_bars(seconds: Mapping[str, float]) -> list[TimeBar]:
    """Return the steps that took most of the time, the longest first, and the others as one."""
    whole = sum(seconds.values())
    if whole <= 0:
        return []
    long = {step: spent for step, spent in seconds.items() if spent >= LEAST_SHARE * whole}
    shown = dict(sorted(long.items(), key=lambda pair: -pair[1]))
    rest = whole - sum(shown.values())
    if others := len(seconds) - len(shown):
        shown[f"{others} more steps" if others > 1 else "1 more step"] = rest
    return [
        TimeBar(step=step, seconds=spent, width=max(1, round(WIDEST_BAR * spent / whole)))
        for step, spent in shown.items()
    ]
