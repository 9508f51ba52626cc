"""Search for calls on which the artifact may differ: those that reach thresholds of operators.

A faulty exporter or runtime has another bound in an operator, or none, and the calls that show it
may be one in a million. Eager and, where it can be run here, the artifact are run with their
operators recorded. For each threshold that no call has reached, the search moves the nearest call
towards it, first those that only one of the two has. The search does not compare results: its
calls are made and judged like all others.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

from pytest_torchexport.explore import assignments, moves
from pytest_torchexport.explore.merges import WIDE, Merge, merging
from pytest_torchexport.explore.numbers import Effort
from pytest_torchexport.explore.operator_run import (
    Key,
    Near,
    OperatorRuns,
)
from pytest_torchexport.explore.probe import Gap, Probe
from pytest_torchexport.explore.seeds import scaled, sized_together
from pytest_torchexport.explore.side import Side
from pytest_torchexport.explore.thresholds import LARGEST_EPSILON, STATED
from pytest_torchexport.explore.together import combinations
from pytest_torchexport.inputs.building import build
from pytest_torchexport.inputs.recipes import SWITCHED, Recipe, example_recipe, plain_recipe
from pytest_torchexport.inputs.spec import InputSpec
from pytest_torchexport.inputs.strategies import within_memory

# Kinds and scales of the calls from which the search starts, at the example's sizes and at the
# largest. They are made too: drawing may leave a kind out.
SEEDS = (
    ("normal", 1.0),
    ("normal", 1e-3),
    ("normal", 1e-6),
    ("ladder", 1.0),
    ("offset", 1.0),
    ("grid", 1.0),
    ("flat", 1.0),
    ("twins", 1.0),
)
# Calls whose rows are masks.
SWITCHES = 2
# Calls moved towards one threshold.
STEPS = 4
# How far beyond a threshold a call is moved, in parts of the operand's scale: just beyond it the
# difference may be within the tolerance, and far beyond it the two sides may agree again.
BEYOND = (0.05, 5e-4)
# A call this many times further beyond a threshold than it should be does not show it.
AFAR = 10.0
# Calls that the thresholds which both sides have are worth, and those that only one has.
COMMON, DIFFERENT = 30, 200
# Numbers that may be computed to choose those of the inputs, for the same.
COMMON_EFFORT, DIFFERENT_EFFORT = 2**24, 2**27
# How often no numbers may be found for a threshold.
ATTEMPTS = 2
# Numbers written into the input for one threshold.
WRITTEN = 3
# How far beyond several thresholds at once a call is moved, in parts of each operand's scale.
BEYOND_TOGETHER = (1e-2, 1e-6)
# Calls that other elements and starts are worth, and elements of each start.
ELSEWHERE, MOST_PLACES = 150, 4
# A call so near to an equality is at it.
NEXT, EXACTLY = 1e-6, 1e-18
# Calls from which it starts, how often a step is halved, and calls that all this is worth.
STARTS, HALVED, STEPS_TOGETHER, TOGETHER = 2, 3, 8, 100
# Calls of sizes that are such bounds together.
MOST_SIZED = 12
# Bounds that differ by less are the same, rounded to another precision.
SAME = 1e-6
# The most bounds that only the artifact has and that eager's operands are compared with.
MOST_BOUNDS = 4


class DifferenceSearch:
    """One search. It is the same for the same seed.

    ``artifact`` is None if it cannot be run in this process. ``bounds`` are the numbers that its
    operators compare with, as far as the program tells. ``straight``: every call runs the same
    operators.
    """

    def __init__(
        self,
        spec: InputSpec,
        eager: OperatorRuns,
        artifact: OperatorRuns | None,
        *,
        bounds: Sequence[float],
        straight: bool,
        seed: int,
        before_call: Callable[[Recipe], None],
    ) -> None:
        self._spec = spec
        self._eager = Side(eager)
        self._artifact = Side(artifact) if artifact is not None else None
        self._sides = [side for side in (self._eager, self._artifact) if side is not None]
        self._bounds = bounds
        self._straight = straight
        self._seed = seed
        largest = {name: dim.high for name, dim in spec.dims.items()}
        more = within_memory(spec, largest) and largest != spec.example_sizes
        sizes = [spec.example_sizes, *([largest] if more else [])]
        self._seeds = [
            scaled(plain_recipe(spec, kind, each, seed + number), scale)
            for number, (kind, scale) in enumerate((*SEEDS, *_masks(spec)))
            for each in sizes
        ]
        self._before_call = before_call
        self._effort = Effort(DIFFERENT_EFFORT)
        # What only one side makes equal.
        self._merged: set[Merge] = set()
        self._found: list[Recipe] = []

    def run(self) -> Sequence[Recipe]:
        """Return calls that meet thresholds which the usual calls may not have met."""
        example = example_recipe(self._spec)
        for side in self._sides:
            self._try(side, example)
        self._find_own(example)
        sides = [side for side in self._sides if side is self._eager or side.own]
        if not self._straight or self._eager.open() or any(side.own for side in sides):
            for side, recipe in itertools.product(sides, self._seeds):
                self._try(side, recipe)
        self._found = [*self._seeds, *self._merging(), *self._sized()]
        # Before the calls far from these that the pursuit of others makes.
        common = self._eager.open()
        for side in sides:
            nearest = sorted(side.own, key=lambda key: (side.nearest[key][0].relative, key))
            self._pursue(side, nearest, DIFFERENT, exactly=True)
            self._pursue_elsewhere(side, nearest)
            self._pursue_together(side)
        self._effort = Effort(COMMON_EFFORT)
        self._pursue(self._eager, common, COMMON)
        return self._found

    def _find_own(self, example: Recipe) -> None:
        """Find the thresholds that only one side has, and compare eager with foreign bounds too."""
        eager, artifact = self._eager, self._artifact
        if artifact is not None and artifact.ran:
            self._merged = eager.merges ^ artifact.merges
            for side, other in ((eager, artifact), (artifact, eager)):
                equalities = side.equalities() if self._merged else frozenset()
                side.own = side.without(other) | equalities
        foreign = self._moved_bounds() or self._foreign()
        if self._bounds:
            eager.own |= {
                key for key in eager.nearest if key.source in STATED and self._is_lost(key)
            }
        if foreign:
            eager.runs = dataclasses.replace(eager.runs, bounds=foreign)
            before = frozenset(eager.nearest)
            self._try(eager, example)
            eager.own |= frozenset(eager.nearest) - before

    def _merging(self) -> Iterator[Recipe]:
        """Yield calls of numbers that only one side makes equal, or that a wide type may."""
        merges = {*WIDE, *self._merged}
        compared = [
            near.bound
            for side in self._sides
            for key, (near, _) in side.nearest.items()
            if key.source in STATED and near.bound is not None
        ]
        starts = list(dict.fromkeys(compared))[:MOST_BOUNDS]
        base = plain_recipe(self._spec, "normal", self._spec.example_sizes, self._seed)
        for merge in sorted(merges, key=repr):
            yield from merging(self._spec, base, merge, starts, self._seed)

    def _sized(self) -> Iterator[Recipe]:
        """Yield calls whose sizes are what only one side compares with: it may count elements."""
        nears = [side.nearest[key][0] for side in self._sides for key in sorted(side.own)]
        bounds = dict.fromkeys(near.bound for near in nears if near.bound is not None)
        found = sized_together(self._spec, bounds, self._seed)
        yield from itertools.islice(found, MOST_SIZED)

    def _foreign(self) -> tuple[float, ...]:
        """Return the bounds of the artifact's that eager does not have."""
        known = [near.bound for near, _ in self._eager.nearest.values() if near.bound is not None]
        finite = filter(math.isfinite, self._bounds)
        return tuple(bound for bound in finite if not _among(bound, known))[:MOST_BOUNDS]

    def _moved_bounds(self) -> tuple[float, ...]:
        """Return the numbers that only one side has in its tables of bounds, a few of each side."""
        if self._artifact is None or self._eager.numbers() == self._artifact.numbers():
            return ()
        for side in self._sides:
            self._try(side, self._seeds[0])  # a table that depends on the call is none
        one, other = self._eager.numbers(), self._artifact.numbers()
        return tuple(
            number
            for mine, others in ((one, other), (other, one))
            for number in itertools.islice(_lacking(mine, others), MOST_BOUNDS // 2)
        )

    def _is_lost(self, key: Key) -> bool:
        """Return True if the artifact does not have a bound of eager's."""
        near, _ = self._eager.nearest[key]
        return near.bound is not None and not _among(near.bound, self._bounds)

    def _pursue(self, side: Side, keys: Sequence[Key], most: int, *, exactly: bool = False) -> None:
        most += side.calls
        for key in keys:
            for _ in self._towards(side, key, exactly=exactly):
                if side.calls >= most:
                    return

    def _towards(self, side: Side, key: Key, *, exactly: bool) -> Iterator[None]:
        """Move the nearest call beyond a threshold; ``exactly``: about as far as it should be."""
        for beyond in self._distances(side, key):
            tried: list[Recipe] = []
            while True:
                near, base = side.nearest[key]
                if near.met and _is_there(-near.missing, beyond, exactly):
                    self._keep(base)
                    break
                if base in tried or len(tried) == STEPS:
                    break
                tried.append(base)
                for recipe in self._moved(side, key, beyond):
                    self._try(side, recipe)
                    yield
            if exactly and not beyond:
                yield from self._beside(side, key)
            elif exactly and side.nearest[key][0].met:
                self._keep(side.nearest[key][1])  # as near as it got

    def _beside(self, side: Side, key: Key) -> Iterator[None]:
        """Keep the call that is nearest to an equality, and others that only one side has there."""
        near, base = side.nearest[key]
        self._keep(base)
        probes = self._probes(side, [key], base) if self._merged else ()
        for probe, merge, way in itertools.product(probes, self._merged, (1, -1)):
            far = way * merge.part() * max(near.scale, abs(near.bound or 0.0))
            moved = moves.against(self._spec, base, probe.gradients, near.missing + far)
            if far and moved is not None:
                self._keep(moved)
            yield

    def _moved(self, side: Side, key: Key, beyond: float) -> Iterator[Recipe]:
        """Yield calls nearer to a threshold than the nearest one."""
        near, base = side.nearest[key]
        call = build(self._spec, base)
        side.calls += 1
        probe = side.runs.probe(call, key) if call is not None else None
        if probe is None:
            return
        moved = moves.against(self._spec, base, probe.gradients, near.missing + beyond)
        if moved is not None:
            yield moved
            if side.nearest[key][0].missing > near.missing / 2:
                # The range of the inputs stopped it.
                corner = moves.cornered(self._spec, base, probe.gradients)
                if corner is not None:
                    yield corner
        else:
            if near.met and probe.demand is not None:
                probe = dataclasses.replace(probe, demand=probe.demand.just_beyond(beyond))
            written = (
                moves.placed(self._spec, base, probe),
                moves.written(self._spec, base, probe, True),
                self._assigned(side, (key,), base, (probe,)),
            )
            yield from itertools.islice(itertools.chain(*written), 2 * WRITTEN)

    def _assigned(
        self, side: Side, keys: Sequence[Key], recipe: Recipe, probes: Sequence[Probe]
    ) -> Iterator[Recipe]:
        """Yield a call with numbers without a slope that are beyond thresholds, if there is one."""
        demands = tuple(keys), tuple(probe.demand and probe.demand.operator for probe in probes)
        if side.failed[demands] < ATTEMPTS:
            made = assignments.assigned_to_all(self._spec, recipe, probes, self._effort)
            if made is None:
                side.failed[demands] += 1
            else:
                yield made

    def _pursue_elsewhere(self, side: Side, keys: Sequence[Key]) -> None:
        """Move other elements and from other calls, to thresholds that the nearest did not get to.

        The nearest element need not be one that can get there.
        """
        most = side.calls + ELSEWHERE
        spec, example = self._spec, self._spec.example_sizes
        others = [
            plain_recipe(spec, "uniform", example, self._seed + number) for number in range(STARTS)
        ]
        for key in keys:
            near, base = side.nearest[key]
            if not near.met and near.bound is not None:
                for start, part in itertools.product([*others, base], BEYOND_TOGETHER):
                    if self._meet_elsewhere(side, key, start, part, most):
                        break

    def _meet_elsewhere(self, side: Side, key: Key, start: Recipe, part: float, most: int) -> bool:
        """Move one element after the other beyond a threshold. Return True if one got there."""
        call = build(self._spec, start) if side.calls < most else None
        side.calls += 1
        places = side.runs.places(call, key) if call is not None else []
        return any(
            side.calls < most and self._meet(side, [key], start, part, place)
            for place in places[:MOST_PLACES]
        )

    def _pursue_together(self, side: Side) -> None:
        """Move calls beyond several thresholds at once, those of the side's own among them."""
        most = side.calls + TOGETHER
        left = list(combinations(side.first, side.own))
        for number, part in itertools.product(range(STARTS), BEYOND_TOGETHER):
            for keys in list(left):
                if side.calls >= most:
                    return
                start = side.nearest[keys[number]][1]
                if keys in left and self._meet(side, keys, start, part):
                    left = [other for other in left if not set(other) <= set(keys)]

    def _meet(
        self,
        side: Side,
        keys: Sequence[Key],
        recipe: Recipe,
        part: float,
        place: int | None = None,
    ) -> bool:
        """Move a call beyond all of some thresholds, and keep it. Return True if it got there.

        A step that leads further away is halved. ``place`` is the position of an element.
        """
        probes = self._probes(side, keys, recipe, place)
        margins = [
            _margin(key, side.nearest[key][0], probe, part)
            for key, probe in zip(keys, probes, strict=bool(probes))
        ]
        for _ in range(STEPS_TOGETHER):
            gaps = _gaps(keys, probes, margins)
            if not gaps or _all_met(gaps, margins):
                break
            moved = (
                moves.jointly(self._spec, recipe, gaps)
                or next(self._assigned(side, keys, recipe, probes), None)
                or self._written(recipe, probes)
            )
            for _ in range(HALVED):
                nearer = self._probes(side, keys, moved, place) if moved is not None else []
                if moved is None or _missing(_gaps(keys, nearer, margins)) < _missing(gaps):
                    break
                moved = moves.between(self._spec, recipe, moved)
            if moved is None or not _missing(_gaps(keys, nearer, margins)) < _missing(gaps):
                break
            recipe, probes = moved, nearer
        gaps = _gaps(keys, probes, margins)
        if not gaps or not _all_met(gaps, margins):
            return False
        self._keep(recipe)
        return True

    def _probes(
        self, side: Side, keys: Sequence[Key], recipe: Recipe, place: int | None = None
    ) -> Sequence[Probe]:
        """Return the state of a call at some thresholds; empty if it does not reach them all."""
        self._before_call(recipe)
        call = build(self._spec, recipe)
        side.calls += 1
        return side.runs.probes(call, keys, place) if call is not None else ()

    def _written(self, recipe: Recipe, probes: Sequence[Probe]) -> Recipe | None:
        """Write the numbers of thresholds to the positions that are compared with them."""
        written: Recipe | None = None
        for probe in probes:
            if probe.missing >= 0:
                made = next(moves.written(self._spec, written or recipe, probe, True), None)
                written = made or written
        return written

    def _distances(self, side: Side, key: Key) -> Iterator[float]:
        """Yield how far beyond a threshold a call is to be, one after the other."""
        near, _ = side.nearest[key]
        if near.bound is None or key.is_equality:
            yield 0.0
            return
        other = self._artifact if side is self._eager else self._eager
        there = other.nearest.get(key) if other is not None else None
        # The further bounds may be those of an operator that states one, and of no other.
        stated = side.runs.bounds if key.source in STATED or key.is_further else ()
        others = [there[0].bound] if there is not None else stated
        gaps = [bound - near.bound for bound in others if bound is not None]
        between = [abs(gap) / 2 for gap in gaps if gap and (gap > 0) == (key.side == "above")]
        parts = [part * max(near.scale, abs(near.bound)) for part in BEYOND]
        if between:
            yield min(between)  # half way to the other side's bound
            # The network before the operator may give nothing that is so far.
            yield from parts[:1] if not side.nearest[key][0].met else ()
        elif 0 < abs(near.bound) <= LARGEST_EPSILON:
            yield abs(near.bound) / 2
        else:
            yield from parts

    def _try(self, side: Side, recipe: Recipe) -> None:
        """Run a call on one side; keep it if it is the first to meet a threshold."""
        if not within_memory(self._spec, recipe.sizes):
            return
        self._before_call(recipe)
        call = build(self._spec, recipe)
        side.calls += 1
        found = side.runs.run(call) if call is not None else None
        if found is not None and side.learn(recipe, found):
            self._keep(recipe)

    def _keep(self, recipe: Recipe) -> None:
        if recipe not in self._found:
            self._found.append(recipe)


def _masks(spec: InputSpec) -> list[tuple[Sequence[str], float]]:
    """Return the kinds of calls whose rows are masks: of floats only if there is nothing else."""
    whole = [leaf.domain.kind != "float" for leaf in spec.tensors]
    kinds = [SWITCHED if each or not any(whole) else "normal" for each in whole]
    return [(kinds, 1.0)] * SWITCHES if kinds else []


def _is_there(distance: float, beyond: float, exactly: bool) -> bool:
    """Return True if a call is as far beyond a threshold as it should be, or about so."""
    if exactly:
        return 0.5 * beyond <= distance <= 1.5 * beyond
    return not beyond or distance <= AFAR * beyond


def _margin(key: Key, near: Near, probe: Probe, part: float) -> float:
    """Return how far a call is to be beyond a threshold, or how near to an equality."""
    if key.is_equality:
        # What has no slope is equal or not.
        part = NEXT if probe.gradients else EXACTLY
    return part * max(near.scale, abs(near.bound or 0.0))


def _gaps(keys: Sequence[Key], probes: Sequence[Probe], margins: Sequence[float]) -> list[Gap]:
    """Return how far a call is from being beyond thresholds by margins.

    It can only be at an equality, not beyond.
    """
    return [
        Gap(probe.missing + (0.0 if key.is_equality else margin), probe.gradients)
        for key, probe, margin in zip(keys, probes, margins, strict=bool(probes))
    ]


def _missing(gaps: Sequence[Gap]) -> float:
    return sum(max(gap.missing, 0.0) for gap in gaps) if gaps else math.inf


def _all_met(gaps: Sequence[Gap], margins: Sequence[float]) -> bool:
    """Return True if a call is beyond thresholds, or as near to an equality as a margin."""
    return all(gap.missing < margin for gap, margin in zip(gaps, margins, strict=True))


def _lacking(numbers: Iterable[float], others: Sequence[float]) -> Iterator[float]:
    """Yield the numbers that a sorted sequence does not have, also not rounded."""
    for number in numbers:
        after = bisect.bisect_left(others, number)
        if not _among(number, others[max(after - 1, 0) : after + 1]):
            yield number


def _among(bound: float, others: Iterable[float]) -> bool:
    """Return True if a bound is one of these, rounded to another precision perhaps."""
    return any(math.isclose(bound, other, rel_tol=SAME, abs_tol=SAME) for other in others)
