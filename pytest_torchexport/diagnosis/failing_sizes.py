"""Examine sizes: at which sizes of each dim does the call fail, and what have these in common?

A few sizes are always run. Then one after the other on which the rules that are still possible
disagree, and two that confirm the rule that is left. A rule is told only if it is true of every
size that was run.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

from pytest_torchexport.config.named_dims import Dim
from pytest_torchexport.diagnosis.scene import Scene
from pytest_torchexport.inputs.recipes import Recipe, plain_recipe
from pytest_torchexport.results.diagnosis import Diagnosis, SizePattern, Sizes
from pytest_torchexport.results.failures import SpecError

# The smallest sizes that are always run, and how many more a rule may ask for: with 12, a
# threshold among some thousand sizes is found to the size.
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
    each = [sweep.sizes(dim) for dim in scene.case.spec.dims.values()]
    telling = [
        item
        for item in sweep.with_equals(each)
        if item.ok and item.failing and (item.pattern or not sweep.values_decide(item))
    ]
    return dataclasses.replace(known, sizes=tuple(telling))


class _Sweep:
    """The failing call at other sizes."""

    def __init__(self, scene: Scene) -> None:
        self._spec = scene.case.spec
        self._example: Mapping[str, int] = scene.case.spec.example_sizes
        self._recipe = scene.recipe
        self._judge = scene.judge()

    def sizes(self, dim: Dim) -> Sizes:
        """Return where the call fails; the other dims are as in the example.

        If no size fails then, they are as in the call. The values of a call that was shrunk may all
        be equal, which hides much: if they do, a size at which others fail is one that fails.
        """
        others = self._example
        found = self._beside(dim, others, self._fails)
        if not found.failing and self._recipe.sizes != self._example:
            others = self._recipe.sizes
            found = self._beside(dim, others, self._fails)
        if found.pattern and self.values_decide(found):
            return self._beside(dim, others, self._fails_with_any)
        return found

    def with_equals(self, each: Sequence[Sizes]) -> Iterator[Sizes]:
        """Yield the sizes, with the dim that one has to be equal to."""
        for item in each:
            others = (other for other in each if other is not item and self._equal(item, other))
            other = next(others, None)
            yield dataclasses.replace(item, equal_to=other.dim) if other is not None else item

    def values_decide(self, sizes: Sizes) -> bool:
        """Return True if the call fails with other values at sizes at which it agrees."""
        for seed, size in enumerate(sizes.ok[:OTHER_VALUES], start=1):
            every = self._spec.all_sizes({sizes.dim: size})
            if self._judged(plain_recipe(self._spec, "normal", every, seed)):
                return True
        return False

    def _beside(
        self,
        dim: Dim,
        others: Mapping[str, int],
        fails: Callable[[Mapping[str, int]], bool | None],
    ) -> Sizes:
        wanted = dim.example, self._recipe.sizes.get(dim.name, dim.example)
        runs, pattern = described(dim.sizes, wanted, lambda n: fails({**others, dim.name: n}))
        ok, failing = (tuple(n for n in sorted(runs) if runs[n] is kind) for kind in (False, True))
        return Sizes(dim=dim.name, example=dim.example, ok=ok, failing=failing, pattern=pattern)

    def _fails(self, sizes: Mapping[str, int]) -> bool | None:
        return self._judged(dataclasses.replace(self._recipe, sizes=dict(sizes)))

    def _fails_with_any(self, sizes: Mapping[str, int]) -> bool | None:
        fails = self._fails(sizes)
        if fails is not False:
            return fails
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
    tried: dict[int, bool | None] = {}

    def run(size: int) -> None:
        if size not in tried:
            tried[size] = fails(size)

    for size in (*sizes[:SMALLEST], sizes[-1], *wanted, *_beside(sizes, wanted)):
        run(size)
    far = 0
    for _ in range(MORE):
        rules, left = _rules(tried), _untried(sizes, tried)
        contested = [n for n in left if len({rule.fails_at(n) for rule in rules}) > 1]
        if not rules or not left or (not contested and far == FAR):
            break
        if not contested:
            far += 1
            # Those like which the fewest were run.
            named = sum(map(rules[0].names, tried))
            rarer = [n for n in left if rules[0].names(n) == (2 * named <= len(tried))]
            contested = rarer or left
        run(contested[len(contested) // 2])
    results = {size: bool(answer) for size, answer in tried.items() if answer is not None}
    rules, left = _rules(tried), _untried(sizes, tried)
    if not rules or any(len({rule.fails_at(n) for rule in rules}) > 1 for n in left):
        return results, None
    named = sum(map(rules[0].names, results))
    if rules[0].kind == "steps":
        is_enough = min(named, len(results) - named) >= ENOUGH_STEPS
    else:
        is_enough = not left or len(results) >= ENOUGH
    return results, rules[0] if is_enough else None


def _beside(sizes: Sequence[int], some: Sequence[int]) -> Iterator[int]:
    for size in some:
        index = bisect_left(sizes, size)
        yield from (sizes[i] for i in (index - 1, index + 1) if 0 <= i < len(sizes))


def _untried(sizes: Sequence[int], tried: Mapping[int, bool | None]) -> list[int]:
    """Return sizes to choose from: the smallest, those beside the tried, and between them."""
    known = sorted(tried)
    middles = (
        (bisect_left(sizes, low) + bisect_left(sizes, high)) // 2 for low, high in pairwise(known)
    )
    near = {*sizes[:NEAR], *_beside(sizes, known), *(sizes[middle] for middle in middles)}
    return sorted(near.difference(tried))


def _rules(tried: Mapping[int, bool | None]) -> list[SizePattern]:
    """Return the rules that are true of these sizes, the simplest first."""
    failing = sorted(n for n, fails in tried.items() if fails)
    ok = sorted(n for n, fails in tried.items() if fails is False)
    if not failing or not ok:
        return []
    return [
        rule
        for rule in _possible(failing, ok)
        if all(map(rule.fails_at, failing)) and not any(map(rule.fails_at, ok))
    ]


def _possible(failing: Sequence[int], ok: Sequence[int]) -> Iterator[SizePattern]:
    """Yield rules whose numbers fit: of those on a row of sizes, the shortest and the longest."""
    sides = ((False, ok, failing), (True, failing, ok))
    for fails, named, _ in sides:
        if len(named) == 1:
            yield SizePattern(kind="only", numbers=(named[0],), fails=fails)
    for first in (failing[0], _after(ok, failing[0])):
        yield SizePattern(kind="from", numbers=(first,), fails=True)
    for last in (failing[-1], _before(ok, failing[-1])):
        yield SizePattern(kind="up to", numbers=(last,), fails=True)
    for fails, named, others in sides:
        longest = _after(others, named[0]), _before(others, named[-1])
        for first, last in ((named[0], named[-1]), longest):
            yield SizePattern(kind="between", numbers=(first, last), fails=fails)
    for step in STEPS:
        for fails, named, _ in sides if step > 2 else sides[1:]:
            if len(named) > 1:
                yield SizePattern(kind="steps", numbers=(step, named[0] % step), fails=fails)


def _after(sizes: Sequence[int], bound: int) -> int:
    """Return the number behind the last size below a bound."""
    return max((size + 1 for size in sizes if size < bound), default=bound)


def _before(sizes: Sequence[int], bound: int) -> int:
    """Return the number before the first size above a bound."""
    return min((size - 1 for size in sizes if size > bound), default=bound)
