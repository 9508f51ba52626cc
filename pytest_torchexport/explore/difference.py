"""Search for calls on which the artifact may differ: those that reach thresholds of operators.

A faulty exporter or runtime has another bound in an operator, or none, and the calls that show it
may be one in a million. Eager and, where it can be run here, the artifact are run with their
operators recorded. Each threshold that no call has reached is a goal, those that only one of the
two has before others, and several of them at once. The search does not compare results: its calls
are made and judged like all others.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import operator
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from pytest_torchexport.explore import moves, sweep
from pytest_torchexport.explore.operator_run import NOWHERE, Key, Merge, Near, OperatorRuns, Reach
from pytest_torchexport.explore.probe import Gap, Probe
from pytest_torchexport.explore.pursuit import TINY, Base, Pursuit, World
from pytest_torchexport.explore.seeds import scaled
from pytest_torchexport.explore.thresholds import AT, BUCKETING, COMPARING, CONSTANT, SIDES, STATED
from pytest_torchexport.inputs.building import build
from pytest_torchexport.inputs.recipes import (
    LAYOUTS,
    SWITCHED,
    Recipe,
    example_recipe,
    plain_recipe,
    with_leaves,
)
from pytest_torchexport.inputs.spec import Call, InputSpec, TensorLeaf
from pytest_torchexport.inputs.strategies import layouts_of, within_memory
from pytest_torchexport.outcomes.operator_table import row_of

# Kinds and scales of the calls from which the search starts. They are made too: drawing may leave a
# kind out.
SEEDS = (
    *(("normal", scale) for scale in (1.0, 1e-3, 1e-6)),
    *((kind, 1.0) for kind in ("ladder", "offset", "grid", "flat", "twins")),
)
# Calls whose rows are masks.
SWITCHES = 2
# The moves towards thresholds.
BY_SLOPES = ("descend", "write")
# A threshold that so many calls at least were equally far from is moved by no input.
FEW_CALLS = 4
# A call takes as long as it has thresholds: so many are weighed in all, in 300 calls of 200.
MOST_WEIGHED = 60_000
# Thresholds of operators of one kind, with one bound, that are goals.
ALIKE = 8
# Calls moved towards one goal.
CALLS_PER_GOAL = 12
# Calls moved towards goals of which none was met or came near, before the others are given up.
IN_VAIN = 4 * CALLS_PER_GOAL
# How far beyond a threshold a call is moved, in parts of the operand's scale: just beyond it the
# difference may be within the tolerance, and far beyond it the two sides may agree again.
BEYOND = (5e-4, 0.05)
# Of several thresholds, of which one may be as small as another's rounding.
BEYOND_TOGETHER = (1e-2, 1e-6)
# So near to an equality, in parts of the scale, is at it: further away than the inputs' rounding.
# Bounds that differ by less are the same, rounded to another precision.
NEXT = 1e-6
# Calls that the thresholds are worth which both sides have, and those that only one has: a call
# takes as long as an ordinary one, or twice.
COMMON, DIFFERENT = 30, 300
# Thresholds that are met at once, at most: 2 ** 4 combinations of their sides. The most bounds that
# only the artifact has and that eager's operands are compared with.
TOGETHER = 4
# In the type that an exporter or a runtime may cast integers to, these are equal, or they change
# their order: float32, int32, float64.
WIDE = (Merge(1, 2**24), Merge(1, 2**31 - 1), Merge(2**32), Merge(1, 2**53))


class Side(World):
    """One side, eager or the artifact: how near calls came to each of its thresholds.

    ``nearest`` are these calls. ``own`` are the thresholds that the other side does not have.
    ``ran`` is True if a call ran operators of torch's. ``keep`` takes calls that are the first at
    one.
    """

    # A step is to land where it was meant to. The last one takes every number to an end of its
    # range: what a step is stopped by there adds up.
    lengths = (1.0, 0.5, 0.25, 1e9)

    def __init__(
        self,
        spec: InputSpec,
        runs: OperatorRuns,
        seed: int,
        before_call: Callable[[Recipe], object],
        keep: Callable[[Recipe], None],
    ) -> None:
        super().__init__(spec, seed, before_call)
        self.runs = runs
        self.nearest: dict[Key, tuple[Near, Recipe]] = {}
        self.own: frozenset[Key] = frozenset()
        self.merges: set[Merge] = set()
        self.ran = False
        self._keep = keep
        self._calls = 0
        self._first: dict[Key, Near] = {}
        self._moved: set[Key] = set()

    def near(self, recipe: Recipe, goal: Reach = NOWHERE) -> Base | None:
        """Run a call, and learn from it; return it as a base if it gets to the goal's operators."""
        call = self._call(recipe)
        recorded = self.runs.run(call, goal) if call is not None else None
        if recorded is None:
            return None
        self.merges |= recorded.merges
        self.ran |= recorded.ran
        self._calls += 1
        meets_first = False
        for key, near in recorded.near.items():
            known, _ = self.nearest.setdefault(key, (near, recipe))
            if self._first.setdefault(key, near) != near:
                self._moved.add(key)
            meets_first |= near.met and (known is near or not known.met)
            if (not near.met, abs(near.missing)) < (not known.met, abs(known.missing)):
                self.nearest[key] = near, recipe
        if meets_first:
            self._keep(recipe)
        demands = goal.demands(recorded.reached)
        return Base(recipe, sum(each.far for each in demands)) if demands else None

    def _probe(self, call: Call, base: Base, goal: Reach) -> Probe | None:
        return self.runs.probe(call, goal)

    def moves(self, key: Key) -> bool:
        """Return True unless a threshold was as far away on several calls: no input moves it."""
        return key in self._moved or self._calls < FEW_CALLS

    def open(self) -> list[Key]:
        """Return the thresholds that no call has met, the nearest first.

        Without its own, which are pursued before, and without sums and rows that are constant.
        """
        left = {
            key: near
            for key, (near, _) in self.nearest.items()
            if not near.met and CONSTANT not in {key.side, key.name} and key not in self.own
        }
        return sorted(filter(self.moves, left), key=lambda key: left[key].relative)

    def without(self, other: Side) -> frozenset[Key]:
        """Return the thresholds that the other side has less often, or with another bound."""
        mine, others = (
            {
                key: (Key(key.source, 0, key.side, key.name), near.bound)
                for key, (near, _) in side.nearest.items()
            }
            for side in (self, other)
        )
        rare = Counter(mine.values()) - Counter(others.values())
        return frozenset(key for key, kind in mine.items() if kind in rare)


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
        self._sides = [
            Side(spec, runs, seed, before_call, self._keep)
            for runs in (eager, artifact)
            if runs is not None
        ]
        self._bounds = bounds
        self._straight = straight
        self._seed = seed
        # Calls whose rows are masks: of floats only if there is nothing else.
        whole = [leaf.domain.kind != "float" for leaf in spec.tensors]
        kinds = [SWITCHED if each or not any(whole) else "normal" for each in whole]
        masks: list[tuple[Any, float]] = [(kinds, 1.0)] * SWITCHES if kinds else []

        def seeds_at(sizes: Mapping[str, int]) -> list[Recipe]:
            return [
                laid_out(
                    spec, scaled(plain_recipe(spec, kind, sizes, seed + number), scale), number
                )
                for number, (kind, scale) in enumerate((*SEEDS, *masks))
            ]

        largest = {name: dim.high for name, dim in spec.dims.items()}
        more = within_memory(spec, largest) and largest != spec.example_sizes
        self._seeds = seeds_at(spec.example_sizes)
        self._large = seeds_at(largest) if more else []
        # What only one side makes equal.
        self._merged: set[Merge] = set()
        self._kept: list[Recipe] = []

    @property
    def _eager(self) -> Side:
        return self._sides[0]

    def run(self) -> Sequence[Recipe]:
        """Return calls that meet thresholds which the usual calls may not have met."""
        example = example_recipe(self._spec)
        for side in self._sides:
            side.near(example)
        self._find_own(example)
        sides = [side for side in self._sides if side is self._eager or side.own]
        every = [*self._seeds, *self._large]
        # A few of several kinds and sizes show what no input moves.
        few = [*self._seeds[::4], *self._large[:1]]
        for seeds in (few, every):
            moving = any(side.moves(key) for side in sides for key in side.own)
            if self._straight and not moving and not self._eager.open():
                break  # only the operators' kernels could tell the large ones from the others
            for side, recipe in itertools.product(sides, seeds):
                side.near(recipe)
        else:
            self._seeds = every
        self._kept = [*self._seeds, *self._merging()]
        # Before the calls far from these that the pursuit of others makes.
        common = self._eager.open()
        for side in sides:
            side.own = frozenset(filter(side.moves, side.own))
            own = sorted(side.own, key=lambda key: (side.nearest[key][0].relative, key))
            goals = itertools.chain(self._goals(side, own), _together(side))
            self._pursue(side, goals, DIFFERENT)
        if any(side.own for side in sides):
            self._pursue_common(common)
        else:
            # Eager alone decides: the same is found beside another artifact.
            runs, found = self._eager.runs, partial(self._pursue_common, common)
            key = "common thresholds", runs.bounds, *common
            for recipe in runs.learned.once(key, found):
                self._keep(recipe)
        self._sweep()
        return self._kept

    def _pursue_common(self, keys: Sequence[Key]) -> list[Recipe]:
        """Pursue thresholds that both sides have. Return the calls that are kept for them."""
        known = len(self._kept)
        self._pursue(self._eager, self._goals(self._eager, keys), COMMON)
        return self._kept[known:]

    def _merging(self) -> Iterator[Recipe]:
        """Yield calls of numbers that only one side makes equal, or that a wide type may."""
        compared = [
            near.bound
            for side in self._sides
            for key, (near, _) in side.nearest.items()
            if key.source in STATED and near.bound is not None
        ]
        starts = list(dict.fromkeys(compared))[:TOGETHER]
        base = plain_recipe(self._spec, "normal", self._spec.example_sizes, self._seed)
        for merge in sorted({*WIDE, *self._merged}, key=repr):
            yield from merging(self._spec, base, merge, starts, self._seed)

    # -- goals ------------------------------------------------------------------------------------

    def _find_own(self, example: Recipe) -> None:
        """Find the thresholds that only one side has, and compare eager with foreign bounds too."""
        eager = self._eager
        for artifact in self._sides[1:]:
            if not artifact.ran:
                continue
            self._merged = eager.merges ^ artifact.merges
            for side, other in ((eager, artifact), (artifact, eager)):
                equalities = (
                    key
                    for key in side.nearest
                    if key.side == "tied" or (key.source in COMPARING and key.is_equality)
                )
                side.own = side.without(other) | frozenset(equalities if self._merged else ())
        if self._bounds:
            # The artifact does not have these bounds of eager's.
            eager.own |= {
                key
                for key, (near, _) in eager.nearest.items()
                if key.source in STATED
                and near.bound is not None
                and not _among(near.bound, self._bounds)
            }
        known = [near.bound for near, _ in eager.nearest.values() if near.bound is not None]
        finite = filter(math.isfinite, self._bounds)
        foreign = tuple(bound for bound in finite if not _among(bound, known))[:TOGETHER]
        if foreign:
            eager.runs = dataclasses.replace(eager.runs, bounds=foreign)
            before = frozenset(eager.nearest)
            eager.near(example)
            eager.own |= frozenset(eager.nearest) - before

    def _goals(self, side: Side, keys: Sequence[Key]) -> Iterator[Reach]:
        """Yield at most two goals for each threshold: how far beyond it a call is to be.

        Of many that are alike, as those of a loop's rounds, for the first few alone.
        """
        alike: Counter[object] = Counter()
        for key in keys:
            near, _ = side.nearest[key]
            kind = key.source, key.side, key.name, near.bound
            alike[kind] += 1
            if alike[kind] > ALIKE:
                continue
            margins = [part * near.size for part in BEYOND]
            if near.bound is None or key.is_equality:
                margins = margins[-1:] if key.way else [NEXT * near.size]
            else:
                # Half way to the other side's bound.
                there = [each.nearest[key][0].bound for each in self._sides if key in each.nearest]
                bounds = [each for each in (*there, *side.runs.bounds) if each is not None]
                margins += [abs(bound - near.bound) / 2 for bound in bounds]
            for margin in sorted(filter(None, margins))[:2]:
                yield Reach((key,), (margin,))

    def _pursue(self, side: Side, goals: Iterable[Reach], calls: int) -> None:
        """Move calls towards goals, each from the one that is nearest to its first threshold."""
        most = side.spent + min(calls, MOST_WEIGHED // max(len(side.nearest), 1))
        kept, last_news = len(self._kept), side.spent
        for goal in goals:
            if len(self._kept) > kept:
                kept, last_news = len(self._kept), side.spent
            if side.spent >= min(most, last_news + IN_VAIN):
                return
            _, start = side.nearest[goal.keys[0]]
            probe = side.probe(Base(start), goal)
            if probe is None:
                continue
            pursuit = Pursuit(side, goal, Base(start, probe.missing))
            last = min(most, side.spent + CALLS_PER_GOAL)
            for _ in pursuit.make(BY_SLOPES):
                if not pursuit.base.far or side.spent >= last:
                    break
            self._arrive(side, goal, pursuit.base)

    def _arrive(self, side: Side, goal: Reach, base: Base) -> None:
        """Keep the call that came nearest to a goal if it meets it, or nearly does."""
        if not base.far:
            self._keep(base.recipe)
        if len(goal.keys) > 1:
            return
        key = goal.keys[0]
        near, recipe = side.nearest[key]
        at_it = key in side.own and not key.way
        if near.met or at_it:
            self._keep(recipe)  # as near as it got
        probe = side.probe(Base(recipe), goal) if at_it else None
        for merge, way in itertools.product(self._merged, (1, -1)):
            # So near that only one side makes the numbers equal.
            apart = near.missing + way * merge.part() * near.size
            if probe is not None and probe.demands and merge.part():
                gap = Gap.to_zero(apart, probe.demands[0].gradients)
                other = dataclasses.replace(probe, demands=(gap,))
                self._keep(moves.stepped(self._spec, recipe, other, 1.0) or recipe)

    def _keep(self, recipe: Recipe) -> None:
        if recipe not in self._kept:
            self._kept.append(recipe)

    # -- other calls ------------------------------------------------------------------------------

    def _sweep(self) -> None:
        """Keep calls with values, of one number or of all, that operators take as few others."""
        deciding = {*COMPARING, *BUCKETING}
        if not any(key.source in deciding for side in self._sides for key in side.nearest):
            return
        smallest = {name: max(1, dim.low) for name, dim in self._spec.dims.items()}
        base = plain_recipe(self._spec, "normal", smallest, self._seed)
        call = build(self._spec, base)
        for index, built in moves.numbers(self._spec, base).items():
            leaf = self._spec.leaves[index]
            if call is None or not moves.is_free(leaf) or not built.numel():
                continue
            values = sweep.values_of(leaf, numel=built.numel())
            sides = [sweep.follow(side.runs, self._spec, call, leaf.path) for side in self._sides]
            programs = [side for side in sides if side is not None]
            one = self._seed % built.numel()
            for changed in sweep.leaves(programs, built, values, one) if programs else ():
                self._keep(with_leaves(base, {index: changed}))


def _together(side: Side) -> Iterator[Reach]:
    """Yield goals of several thresholds at once.

    A program may ask for several conditions of which none alone changes anything.
    """
    for part in BEYOND_TOGETHER:
        for keys in _combinations(side):
            sizes = [side.nearest[key][0].size for key in keys]
            parts = [NEXT if key.is_equality else part for key in keys]
            yield Reach(keys, tuple(map(operator.mul, parts, sizes)))


def _combinations(side: Side) -> Iterator[tuple[Key, ...]]:
    """Yield thresholds to be met at once, one side of each; the rarest combinations first.

    They are those that only one of eager and the artifact has, with comparisons that both have.
    How a program combines them is not known: each combination of the sides of a few is a goal.
    """
    sides: dict[Key, list[Key]] = {}
    for key, (near, _) in side.nearest.items():
        equality = row_of(key.source).symbol in ("==", "!=")
        aimed = AT if key.name == CONSTANT else ("at", "above") if equality else SIDES
        # Two tensors that are compared have no bound.
        fixed = near.bound is not None or key.source in COMPARING
        if fixed and key.side in aimed:
            sides.setdefault(Key(key.source, key.number, "", key.name), []).append(key)
    # A threshold with one side is an overflow.
    several = [keys for keys in sides.values() if len(keys) > 1 or keys[0].name == CONSTANT]
    mine = [keys for keys in several if keys[0] in side.own]
    others = [keys for keys in several if keys[0] not in side.own and keys[0].source in COMPARING]
    goals = [*mine, *others][:TOGETHER] if mine else []

    def common(keys: tuple[Key, ...]) -> float:
        nears = [side.nearest[key][0] for key in keys]
        return -sum(near.missing / max(near.scale, TINY) for near in nears)

    for number in dict.fromkeys((len(goals), 2)) if len(goals) > 1 else ():
        some = itertools.combinations(goals, number)
        yield from sorted((keys for each in some for keys in itertools.product(*each)), key=common)


def _among(bound: float, others: Iterable[float]) -> bool:
    """Return True if a bound is one of these, rounded to another precision perhaps."""
    return any(math.isclose(bound, other, rel_tol=NEXT, abs_tol=NEXT) for other in others)


def laid_out(spec: InputSpec, recipe: Recipe, number: int) -> Recipe:
    """Return a recipe with tensors in another memory layout: each of all of them, then of one."""
    leaves = list(recipe.leaves)
    turn, alone = divmod(number - len(LAYOUTS), max(len(leaves), 1))
    for index, leaf in enumerate(spec.leaves):
        layouts = layouts_of(leaf) if isinstance(leaf, TensorLeaf) else LAYOUTS[:1]
        if number < len(LAYOUTS):
            layout = layouts[number % len(layouts)]
        else:
            layout = layouts[1 + turn % (len(layouts) - 1)] if layouts[1:] else layouts[0]
        if number < len(LAYOUTS) or index == alone:
            leaves[index] = dataclasses.replace(leaves[index], layout=layout)
    return dataclasses.replace(recipe, leaves=tuple(leaves))


def merging(
    spec: InputSpec, base: Recipe, merge: Merge, starts: Sequence[float], seed: int
) -> Iterator[Recipe]:
    """Yield two calls, of opposite orders, in which numbers of the inputs are made equal.

    Floats are next to each of ``starts``, and to a number of the call.
    """
    leaves = {
        index: value
        for index, value in moves.numbers(spec, base).items()
        if moves.is_free(spec.leaves[index]) and merge.takes(value) and value.numel()
    }
    largest = [float(value.double().abs().max()) for value in leaves.values()][:1]
    own = [each for each in largest if 0 < each < math.inf] or [1.0]
    for start in (0.0,) if merge.to is None else dict.fromkeys([*starts, *own]):
        for way in (1, -1):
            generator = torch.Generator().manual_seed(seed)
            values = {}
            for index, value in leaves.items():
                low, high = moves.range_of(spec.leaves[index])
                among = torch.randint(0, 2, value.shape, generator=generator) > 0
                for pair in merge.pairs(value.dtype, low, start, way):
                    if low <= pair.min() and pair.max() <= high:
                        one, other = pair if way > 0 else pair.flip(0)
                        values[index] = torch.where(among, one, other).to(value.dtype)
                        break
            if values:
                yield with_leaves(base, values)
