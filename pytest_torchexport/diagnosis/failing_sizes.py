"""Examine sizes: at which sizes of each dim does the call fail, and what have these in common?

Which sizes are run depends on what the ones before have shown: those on which the rules that are
still possible disagree, those beside the size at which a rule changes its answer, and a few far
from all others. A rule is told only if it is true of every size that was run.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

from pytest_torchexport.config.named_dims import Dim
from pytest_torchexport.diagnosis.scene import Scene
from pytest_torchexport.inputs.recipes import Recipe, plain_recipe
from pytest_torchexport.judge.judge import Judge
from pytest_torchexport.results.diagnosis import Diagnosis
from pytest_torchexport.results.failures import SpecError
from pytest_torchexport.results.size_pattern import SizePattern, Sizes

# The smallest sizes that are always run, and how many more a rule may ask for.
SMALLEST, MORE = 8, 12
# Of these, so many are far from all others, to confirm a rule.
FAR = 2
# A rule about a part of the legal sizes needs so many runs; about steps, so many of each kind.
ENOUGH, ENOUGH_STEPS = 5, 3
# Two dims are called equal if the call agrees at so many other sizes of both.
EQUAL = 2
# Sizes without a rule are tried with other values too, so many.
OTHER_VALUES = 4
# The sizes among which further ones are chosen: the smallest, and those around the ones run.
NEAR = 32
STEPS = (2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 32)

# Whether the call fails at a size; None if eager does not take it.
Fails = Callable[[int], bool | None]


def examine(scene: Scene, known: Diagnosis) -> Diagnosis:
    """Add the sizes of each dim at which the call fails."""
    sweep = _Sweep(scene)
    found = [sweep.sizes(dim) for dim in scene.case.spec.dims.values()]
    telling = [
        item
        for item in sweep.with_equals(found)
        if item.ok and item.failing and (item.pattern or not sweep.values_decide(item))
    ]
    return dataclasses.replace(known, sizes=tuple(telling))


class _Sweep:
    """The failing call at other sizes."""

    def __init__(self, scene: Scene) -> None:
        self._spec = scene.case.spec
        self._dims: Mapping[str, Dim] = scene.case.spec.dims
        self._example = scene.case.spec.example_sizes
        self._recipe: Recipe = scene.recipe
        self._judge: Judge = scene.judge()

    def sizes(self, dim: Dim) -> Sizes:
        """Return where the call fails; the other dims are as in the example.

        If no size fails then, they are as in the call. The values of a call that was shrunk may all
        be equal, which hides much: if they do, a size at which others fail is one that fails.
        """
        others: Mapping[str, int] = self._example
        found = self._beside(dim, others, self._fails)
        if not found.failing and self._recipe.sizes != self._example:
            others = self._recipe.sizes
            found = self._beside(dim, others, self._fails)
        if found.pattern and self.values_decide(found):
            return self._beside(dim, others, self._fails_with_any)
        return found

    def with_equals(self, found: Sequence[Sizes]) -> Iterator[Sizes]:
        """Yield the sizes, with the dim that one has to be equal to."""
        for item in found:
            others = (other for other in found if other is not item and self._equal(item, other))
            other = next(others, None)
            yield dataclasses.replace(item, equal_to=other.dim) if other is not None else item

    def values_decide(self, found: Sizes) -> bool:
        """Return True if the call fails with other values at sizes at which it agrees."""
        for seed, size in enumerate(found.ok[:OTHER_VALUES], start=1):
            sizes = self._spec.all_sizes({found.dim: size})
            if self._judged(plain_recipe(self._spec, "normal", sizes, seed)):
                return True
        return False

    def _beside(
        self,
        dim: Dim,
        others: Mapping[str, int],
        fails_at: Callable[[Mapping[str, int]], bool | None],
    ) -> Sizes:
        def fails(size: int) -> bool | None:
            return fails_at({**others, dim.name: size})

        own = self._recipe.sizes.get(dim.name, dim.example)
        runs, pattern = described(dim.sizes, (dim.example, own), fails)
        ok, failing = (tuple(n for n in sorted(runs) if runs[n] is kind) for kind in (False, True))
        return Sizes(dim=dim.name, example=dim.example, ok=ok, failing=failing, pattern=pattern)

    def _fails(self, sizes: Mapping[str, int]) -> bool | None:
        return self._judged(dataclasses.replace(self._recipe, sizes=dict(sizes)))

    def _fails_with_any(self, sizes: Mapping[str, int]) -> bool | None:
        found = self._fails(sizes)
        if found is not False:
            return found
        return self._judged(plain_recipe(self._spec, "normal", sizes, 0)) or False

    def _judged(self, recipe: Recipe) -> bool | None:
        try:
            judgment = self._judge.call(recipe, counted=False)
        except SpecError:
            return None
        return None if judgment is None else judgment.failure is not None

    def _equal(self, one: Sizes, other: Sizes) -> bool:
        """Return True if the call agrees at other sizes too, as long as both dims are equal."""
        if one.example != other.example or {one.ok, other.ok} != {(one.example,)}:
            return False
        shared = [size for size in one.failing if size in other.failing][: EQUAL + 1]
        runs = [self._fails(self._spec.all_sizes({one.dim: n, other.dim: n})) for n in shared]
        return runs.count(False) >= EQUAL and True not in runs


def described(
    sizes: Sequence[int], wanted: Sequence[int], fails: Fails
) -> tuple[dict[int, bool], SizePattern | None]:
    """Return whether the call fails at each size that was run, and the simplest rule for it.

    ``sizes`` are the legal ones, sorted; ``wanted`` are those to run in any case, with their
    neighbors. The rule is None if no simple one is true, or if too few sizes were run to tell.
    """
    runs = _Runs(sizes, fails)
    for size in (*sizes[:SMALLEST], sizes[-1], *wanted):
        runs.run(size)
    for size in wanted:
        for neighbor in runs.beside(size):
            runs.run(neighbor)
    far = 0
    for _ in range(MORE):
        rules = list(_rules(runs.results))
        if not rules:
            break
        chosen = runs.contested(rules)
        if chosen is None:
            chosen = runs.border(rules[0])
        if chosen is None and far < FAR:
            far += 1
            chosen = runs.far(rules[0])
        if chosen is None:
            break
        runs.run(chosen)
    rules = list(_rules(runs.results))
    told = bool(rules) and runs.contested(rules) is None and runs.is_enough_for(rules[0])
    return runs.results, rules[0] if told else None


class _Runs:
    """The sizes that were run, and which to run next."""

    def __init__(self, sizes: Sequence[int], fails: Fails) -> None:
        self.results: dict[int, bool] = {}
        self._refused: set[int] = set()
        self._sizes = sizes
        self._fails = fails

    def run(self, size: int) -> None:
        """Run the call at a size, once."""
        if self._is_tried(size):
            return
        fails = self._fails(size)
        if fails is None:
            self._refused.add(size)
        else:
            self.results[size] = fails

    def beside(self, size: int) -> Iterator[int]:
        """Yield the legal sizes next to one."""
        index = bisect_left(self._sizes, size)
        yield from (self._sizes[i] for i in (index - 1, index + 1) if 0 <= i < len(self._sizes))

    def contested(self, rules: Sequence[SizePattern]) -> int | None:
        """Return a size on which two of the rules disagree."""
        return _middle([n for n in self._near() if len({rule.fails_at(n) for rule in rules}) > 1])

    def border(self, rule: SizePattern) -> int | None:
        """Return the middle of the sizes among which the rule's answer may change."""
        tried = sorted(self.results)
        for low, high in pairwise(tried):
            if rule.kind != "steps" and self.results[low] != self.results[high]:
                between = self._untried_between(low, high)
                if between is not None:
                    return between
        return None

    def far(self, rule: SizePattern) -> int | None:
        """Return a size like those that the fewest runs are about, far from the others."""
        named = sum(map(rule.names, self.results))
        rare = named <= len(self.results) - named
        near = self._near()
        return _middle([n for n in near if rule.names(n) == rare] or near)

    def is_enough_for(self, rule: SizePattern) -> bool:
        """Return True if the runs are enough to tell a rule that is true of all of them."""
        named = sum(map(rule.names, self.results))
        others = len(self.results) - named
        if not named or not others or self.border(rule) is not None:
            return False
        if rule.kind == "steps":
            return min(named, others) >= ENOUGH_STEPS
        return not self._near() or len(self.results) >= ENOUGH

    def _is_tried(self, size: int) -> bool:
        return size in self.results or size in self._refused

    def _near(self) -> list[int]:
        """Return sizes to choose from: the smallest, those beside the tried, and between them."""
        tried = sorted({*self.results, *self._refused})
        middles = map(self._untried_between, tried, tried[1:])
        beside = (n for size in tried for n in self.beside(size))
        found = {*self._sizes[:NEAR], *beside, *(n for n in middles if n is not None)}
        return sorted(n for n in found if not self._is_tried(n))

    def _untried_between(self, low: int, high: int) -> int | None:
        """Return the untried legal size nearest to the middle of two; None if there is none."""
        first, last = (bisect_left(self._sizes, n) for n in (low, high))
        middle = (first + last) // 2
        refused = len(self._refused) + 1
        for step in range(min(last - first, refused)):
            for index in (middle - step, middle + step):
                if first < index < last and not self._is_tried(self._sizes[index]):
                    return self._sizes[index]
        return None


def _middle(sizes: Sequence[int]) -> int | None:
    return sizes[len(sizes) // 2] if sizes else None


def _rules(results: Mapping[int, bool]) -> Iterator[SizePattern]:
    """Yield the rules that are true of these sizes, the simplest first."""
    failing = sorted(n for n, fails in results.items() if fails)
    ok = sorted(n for n, fails in results.items() if not fails)
    if not failing or not ok:
        return
    for rule in _possible(failing, ok):
        if all(rule.fails_at(size) == fails for size, fails in results.items()):
            yield rule


def _possible(failing: Sequence[int], ok: Sequence[int]) -> Iterator[SizePattern]:
    sides = ((False, ok), (True, failing))
    for fails, named in sides:
        if len(named) == 1:
            yield SizePattern(kind="only", numbers=(named[0],), fails=fails)
    yield SizePattern(kind="from", numbers=(failing[0],), fails=True)
    yield SizePattern(kind="up to", numbers=(failing[-1],), fails=True)
    for fails, named in sides:
        yield SizePattern(kind="between", numbers=(named[0], named[-1]), fails=fails)
    for step in STEPS:
        for fails, named in sides if step > 2 else sides[1:]:
            if len(named) > 1:
                yield SizePattern(kind="steps", numbers=(step, named[0] % step), fails=fails)
