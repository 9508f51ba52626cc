"""The time of the artifact's calls beside eager's on the same inputs, and their limit.

Only an artifact that is called in this process is timed: elsewhere, the way there is a part of the
time. Raises ArtifactSlower, and Ineffective under strict if a limit could not be applied.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils import benchmark

from pytest_torchexport.eager.accepted import ReferenceCall
from pytest_torchexport.inputs.recipes import example_recipe
from pytest_torchexport.judge.case import Case
from pytest_torchexport.judge.changed_file import ChangedFile
from pytest_torchexport.judge.log import Shrunk
from pytest_torchexport.outcomes.observe import State
from pytest_torchexport.results.failures import ArtifactSlower
from pytest_torchexport.results.verdict import Latency, seconds_text
from pytest_torchexport.targets.base import served

# Seconds for one call, with all its repeats.
SECONDS = 10.0
# Pairs of calls. Of the fewest, 18 are slower if the low end of the interval is: callables that are
# equally fast have that in 2 of 10,000 measurements (sign test).
FEWEST, MOST = 20, 30
# The seconds of calls between two looks at the clock.
BLOCK = 0.002
# Of so many blocks the fastest counts: other processes take time from the rest. A call that takes
# longer than a block is made once.
BLOCKS = 3
ELSEWHERE = (
    "latency not measured: the artifact is called in a process of its own, and the way there would "
    "be a part of the time"
)
CHANGES = (
    "latency not measured: forward changes its module, so that each call starts anew and no two "
    "are alike"
)
TOO_SLOW = f"latency not measured: {FEWEST} pairs of calls take more than {SECONDS:.0f} s"
BESIDE = (
    "latency measured while {} workers of pytest-xdist are at work: the times are not those of an "
    "idle machine; for such times, run without -n"
)
SHORT = (
    "the latency was not limited{}: a call takes {}, and the way into a runtime may take {}; "
    "without these, it is within the limit or too short to tell"
)
# Seconds that the call of an empty model may take: 45 us were measured on torch.export, 40 us on
# ONNX Runtime, on a machine that was not loaded.
OVERHEAD = 1e-4
HOW = "medians of {} interleaved pairs, the middle 80 % of their ratios, one thread"
NEXT = (
    "next step: profile both (torch.profiler, or ONNX Runtime's own) on this call; if this is what "
    "you accept, raise torchexport_max_slowdown"
)


def measure(case: Case) -> None:
    """Log the latency of some calls. Raises ArtifactSlower if one of them exceeds the limit."""
    log, limit = case.log, case.plan.settings.max_slowdown
    tell = case.not_applied if limit < math.inf else log.caution
    elsewhere = case.runner.isolated and not isinstance(case.artifact, ChangedFile)
    if elsewhere or case.plan.why_isolated or case.reference.fresh_each_call:
        tell(CHANGES if case.reference.fresh_each_call and not elsewhere else ELSEWHERE)
        return
    if case.plan.workers > 1:
        log.caution(BESIDE.format(case.plan.workers))
    with log.timed("latency"):
        measured = list(_measured(case, tell))
    slow: list[tuple[Latency, ReferenceCall]] = []
    short: list[str] = []
    for found, pairs in measured:
        low, high = pairs.interval
        latency = Latency(
            sizes=case.spec.all_sizes(found.recipe.sizes),
            eager=statistics.median(pairs.ones),
            artifact=statistics.median(pairs.others),
            ratio=statistics.median(pairs.ratios),
            low=low,
            high=high,
            pairs=len(pairs.ones),
            slower=sum(ratio > 1 for ratio in pairs.ratios),
            workers=case.plan.workers,
        )
        log.latency.append(latency)
        if latency.eager >= OVERHEAD and pairs.without(OVERHEAD).interval[0] > limit:
            slow.append((latency, found))
        elif low > limit:
            short.append(
                SHORT.format(_at(latency), seconds_text(latency.artifact), seconds_text(OVERHEAD))
            )
    if slow:
        worst, found = max(slow, key=lambda each: each[0].ratio)
        log.shrunk = Shrunk.as_made(case.spec, found.recipe, found.call)
        allowed = f"the limit is {limit:g} (torchexport_max_slowdown)"
        raise ArtifactSlower(
            f"it takes {worst.times}{_at(worst)}; {allowed}",
            details=(*map(str, log.latency), HOW.format(worst.pairs), NEXT),
        )
    if short:
        tell(short[0])


def _at(latency: Latency) -> str:
    return f" at {latency.at}" if latency.sizes else ""


def _measured(case: Case, tell: Callable[[str], None]) -> Iterator[tuple[ReferenceCall, Pairs]]:
    """Yield the example, and the boundary calls of the fewest and of the most elements."""
    state = State(case.artifact.module, thorough=case.reference.stateful)
    subject = case.reference.pristine.copy().to(case.plan.device)
    largest = case.largest_first()
    seen: list[Mapping[str, int]] = []
    try:
        for found in case.calls([example_recipe(case.spec), *largest[-1:], *largest[:1]]):
            sizes = case.spec.all_sizes(found.recipe.sizes)
            if sizes in seen:
                continue
            seen.append(sizes)
            one = found.call.clone().to(case.plan.device)
            eager = partial(subject.function, *one.args, **one.kwargs)
            with case.reference.served.entered():
                artifact = served(case.artifact, found.call.clone().to(case.plan.device))
                pairs = timed_in_turn(eager, artifact, SECONDS)
            if pairs is None:
                tell(TOO_SLOW)
                return
            yield found, pairs
    finally:
        state.restore()


# -- the times of two callables --------------------------------------------------------------------
# Machines are noisy: the two are timed in turn, and compared pair by pair.

Run = Callable[[], Any]


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


def timed_in_turn(one: Run, other: Run, seconds: float) -> Pairs | None:
    """Return the times of as many pairs as there are seconds for; None if the fewest take more."""
    sides = [_Side(run) for run in (one, other)]
    if FEWEST * sum(side.seconds for side in sides) > seconds:
        return None
    until = time.monotonic() + seconds
    found: tuple[list[float], list[float]] = [], []
    while len(found[0]) < MOST and (len(found[0]) < FEWEST or time.monotonic() < until):
        order = (0, 1) if len(found[0]) % 2 == 0 else (1, 0)
        for index in order:
            found[index].append(sides[index].time())
    return Pairs(*found)


class _Side:
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
        return min(self._timer.timeit(self._number).median for _ in range(self._blocks))
