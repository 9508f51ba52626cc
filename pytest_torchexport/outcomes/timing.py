"""Time two callables beside each other, and decide if one of them takes longer than allowed.

Machines are noisy: the two are timed in turn, and compared pair by pair. Knows no eager and no
artifact.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import benchmark

# Fewer pairs decide nothing; more are not needed.
FEWEST, MOST = 10, 30
# The seconds of calls between two looks at the clock.
BLOCK = 0.002
# Of so many blocks the fastest counts: other processes take time from the rest. A call that takes
# longer than a block is made once.
BLOCKS = 3
# So rarely may equal callables have as many slow pairs.
SIGNIFICANT = 0.001

Run = Callable[[], Any]


@dataclass(frozen=True)
class TooSlow:
    """The fewest pairs that decide anything would take so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Pairs:
    """The seconds of one call of each callable, timed in turn."""

    ones: Sequence[float]
    others: Sequence[float]

    @property
    def ratios(self) -> list[float]:
        """The times of the other in units of the one's, pair by pair."""
        return [other / one for one, other in zip(self.ones, self.others, strict=True)]

    @property
    def interval(self) -> tuple[float, float]:
        """The ends of what holds the middle 80 % of the ratios."""
        deciles = statistics.quantiles(self.ratios, n=10, method="inclusive")
        return deciles[0], deciles[-1]

    def without(self, seconds: float) -> Pairs:
        """Return the pairs as if each call of the other took so many seconds less."""
        return Pairs(self.ones, [other - seconds for other in self.others])

    def exceeds(self, limit: float) -> bool:
        """Return True if the other takes more than ``limit`` times as long, and it is no noise.

        A sign test over the pairs says so, and the whole interval of the ratio lies above.
        """
        slow, pairs = sum(ratio > limit for ratio in self.ratios), len(self.ones)
        by_chance = sum(math.comb(pairs, k) for k in range(slow, pairs + 1)) / 2**pairs
        return by_chance < SIGNIFICANT and self.interval[0] > limit


def timed_in_turn(one: Run, other: Run, seconds: float) -> Pairs | TooSlow:
    """Return the times of pairs, as many as there are seconds for."""
    sides = [_Side(run) for run in (one, other)]
    needed = FEWEST * sum(side.seconds for side in sides)
    if needed > seconds:
        return TooSlow(needed)
    until = time.monotonic() + seconds
    found: tuple[list[float], list[float]] = [], []
    while len(found[0]) < MOST and (len(found[0]) < FEWEST or time.monotonic() < until):
        order = (0, 1) if len(found[0]) % 2 == 0 else (1, 0)
        for index in order:
            found[index].append(sides[index].time())
    return Pairs(*found)


class _Side:
    """One callable, and how many calls of it are timed at once."""

    def __init__(self, run: Run) -> None:
        threads = torch.get_num_threads()
        self._timer = benchmark.Timer("run()", globals={"run": run}, num_threads=threads)
        self._number, self._blocks = 1, 1
        each = self.time()  # a timer makes calls that it does not count before
        if each < BLOCK:
            self._number, self._blocks = math.ceil(BLOCK / max(each, 1e-9)), BLOCKS
        calls = self._number + max(2, self._number // 100)  # as many of them are not counted
        self.seconds = each * calls * self._blocks

    def time(self) -> float:
        """Return the seconds of a call."""
        return min(self._timer.timeit(self._number).median for _ in range(self._blocks))
