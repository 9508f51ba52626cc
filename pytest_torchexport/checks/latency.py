"""The time of the artifact's calls beside eager's on the same inputs, and their limit.

Only an artifact that is called in this process is timed: elsewhere, the way there is a part of the
time. Raises ArtifactSlower, and Ineffective under strict if a limit could not be applied.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from functools import partial

from pytest_torchexport.checks.latency import Pairs, TooSlow, timed_in_turn
from pytest_torchexport.inputs.recipes import Recipe, example_recipe
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.inputs.strategies import boundary_recipes
from pytest_torchexport.judge.case import Case
from pytest_torchexport.judge.log import Shrunk
from pytest_torchexport.outcomes.observe import State
from pytest_torchexport.results.failures import ArtifactSlower
from pytest_torchexport.results.verdict import Latency, seconds_text
from pytest_torchexport.targets.base import served

# Seconds for one call, with all its repeats.
SECONDS = 10.0
ELSEWHERE = (
    "latency not measured: the artifact is called in a process of its own, and the way there would "
    "be a part of the time"
)
CHANGES = (
    "latency not measured: forward changes its module, so that each call starts anew and no two "
    "are alike"
)
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
    if case.runner.isolated or case.reference.fresh_each_call:
        tell(ELSEWHERE if case.runner.isolated else CHANGES)
        return
    if case.plan.workers > 1:
        log.caution(BESIDE.format(case.plan.workers))
    with log.timed("latency"):
        measured = list(_measured(case, tell))
    slow: list[tuple[Latency, Recipe, Call]] = []
    short: list[str] = []
    for recipe, call, pairs in measured:
        low, high = pairs.interval
        latency = Latency(
            sizes=case.spec.all_sizes(recipe.sizes),
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
        if latency.eager >= OVERHEAD and pairs.without(OVERHEAD).exceeds(limit):
            slow.append((latency, recipe, call))
        elif pairs.exceeds(limit):
            short.append(
                SHORT.format(_at(latency), seconds_text(latency.artifact), seconds_text(OVERHEAD))
            )
    if slow:
        worst, recipe, call = max(slow, key=lambda each: each[0].ratio)
        log.shrunk = Shrunk.as_made(case.spec, recipe, call)
        allowed = f"the limit is {limit:g} (torchexport_max_slowdown)"
        raise ArtifactSlower(
            f"it takes {worst.times}{_at(worst)}; {allowed}",
            details=(*map(str, log.latency), HOW.format(worst.pairs), NEXT),
        )
    if short:
        tell(short[0])


def _at(latency: Latency) -> str:
    return f" at {latency.at}" if latency.sizes else ""


def _measured(case: Case, tell: Callable[[str], None]) -> Iterator[tuple[Recipe, Call, Pairs]]:
    state = State(case.artifact.module, thorough=case.reference.stateful)
    subject = case.reference.pristine.copy().to(case.plan.device)
    try:
        for recipe, call in _calls(case):
            one = call.clone().to(case.plan.device)
            eager = partial(subject.function, *one.args, **one.kwargs)
            with case.reference.served.entered():
                artifact = served(case.artifact, call.clone().to(case.plan.device))
                found = timed_in_turn(eager, artifact, SECONDS)
            if isinstance(found, TooSlow):
                tell(
                    f"latency not measured: the fewest calls that tell noise from time take "
                    f"{found.seconds:.0f} s, more than {SECONDS:.0f}"
                )
                return
            yield recipe, call, found
    finally:
        state.restore()


def _calls(case: Case) -> Iterator[tuple[Recipe, Call]]:
    """Yield the example, and the boundary calls of the fewest and of the most elements."""

    def elements(recipe: Recipe) -> int:
        return case.spec.numel(case.spec.all_sizes(recipe.sizes))

    boundary = sorted(boundary_recipes(case.spec, case.plan.seed), key=elements)
    seen = []
    for recipe in (example_recipe(case.spec), *boundary[:1], *boundary[-1:]):
        found = case.accepted.call(recipe)
        sizes = case.spec.all_sizes(recipe.sizes)
        if found is not None and sizes not in seen:
            seen.append(sizes)
            yield found.recipe, found.call
