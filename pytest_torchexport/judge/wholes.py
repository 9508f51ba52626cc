"""Tell whether ties can give a result as a whole, and not only each of its elements.

If an element differs among eager's own runs, another value there is excused. But one order of equal
elements decides on many elements at once: of five equal scores ``topk(2)`` may keep any, though
never all five, and ranks may be given in any way, though never twice. So quantities of the whole
result are measured: its elements along an axis in ascending order, how many of them are not zero,
how they go together with those of another output, what an index points to. A quantity that is the
same in all of eager's runs must be the same in the artifact.

It may be the same by chance. So elements are mixed, each from any of the runs: if that changes the
quantity so often that one of the runs would have changed it, were their elements free of each
other, then it is no chance. If the runs are too few to know, nothing is held against the artifact.

Separate from ``calibrate``, which judges element by element: this file knows no error but the
table's. A quantity that rounding moves further is not held against an artifact either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from pytest_torchexport.judge.pairs import Pairs, mixed
from pytest_torchexport.outcomes.compare import Tolerance
from pytest_torchexport.outcomes.operators import argument_of, dispatched, name_of
from pytest_torchexport.torch_private.dispatcher import is_operator

# Operators that return places along a dim.
_PICKING = frozenset("topk sort kthvalue median nanmedian mode argmax argmin max min".split())  # noqa: SIM905
# A quantity has changed if it is off by this multiple of what the table allows.
FAR = 5.0
# Eager's runs must give so many different results; two may have something in common by chance.
WAYS = 3
# Two tell enough about each element by itself, as what an index points to.
TWO_WAYS = 2
# So rarely would eager's runs have a quantity in common if their elements were free of each other.
CHANCE = 1e-4
# How often elements are mixed to learn that.
MIXTURES = 64
# Larger tensors, and pairs of more outputs, are not looked at.
MOST_ELEMENTS = 2**16
MOST_OUTPUTS = 12

# Numbers in float64, by path.
Whole = Mapping[str, Tensor]


@dataclass(frozen=True)
class Choice:
    """The operand of an operator that picks elements along a dim, and the places that it picked."""

    operand: Tensor
    dim: int
    places: Tensor

    def aligned(self, output: Tensor) -> Tensor | None:
        """Return an output as an index into the operand along the dim; None if it has no shape."""
        index = output.long()
        if index.dim() == self.operand.dim() - 1:
            index = index.unsqueeze(self.dim)
        others = [axis for axis in range(self.operand.dim()) if axis != self.dim]
        fits = index.dim() == self.operand.dim() and all(
            index.shape[axis] == self.operand.shape[axis] for axis in others
        )
        return index if fits else None

    def holds(self, index: Tensor) -> bool:
        """Return True if the index is some of the places that were picked, in a row."""
        places, size = self.aligned(self.places), index.shape[self.dim]
        return places is not None and any(
            torch.equal(places.narrow(self.dim, start, size), index)
            for start in range(places.shape[self.dim] - size + 1)
        )

    def at(self, index: Tensor) -> Tensor:
        """Return the elements at an index; NaN where there is none."""
        size = self.operand.shape[self.dim]
        found = self.operand.double().gather(self.dim, index.clamp(0, size - 1))
        return torch.where((index >= 0) & (index < size), found, torch.nan)


@dataclass(frozen=True)
class Choices:
    """The indices that eager picks in one call."""

    made: list[Choice] = field(default_factory=list)

    def recorded(self) -> AbstractContextManager[None]:
        """Record what the block picks."""

        def operator(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            result = func(*args, **kwargs)
            if is_operator(func) and name_of(func) in _PICKING:
                dim = argument_of(func, args, kwargs, "dim")
                places = result[-1] if isinstance(result, tuple) else result
                operand = args[0]
                if (
                    isinstance(dim, int)
                    and 1 < operand.numel() <= MOST_ELEMENTS
                    and operand.dim()
                    and not operand.is_complex()
                    and places.dtype == torch.int64
                ):
                    given = operand.detach().cpu().clone(), dim % operand.dim()
                    self.made.append(Choice(*given, places.detach().cpu().clone()))
            return result

        return dispatched(operator)


@dataclass(frozen=True)
class _Quantity:
    """A quantity of a whole result; ``of`` returns None if it is not defined.

    ``slack`` is what the table allows. ``joint``: it is about elements together, not about each.
    """

    paths: frozenset[str]
    of: Callable[[Whole], Tensor | None]
    wanted: Tensor
    slack: Tensor
    joint: bool = True

    def changed(self, whole: Whole, times: float = 1.0) -> bool | None:
        """Return True if it is off by more than so many times the slack; None if undefined."""
        if any(path not in whole for path in self.paths):
            return None
        found = self.of(whole)
        if found is None:
            return None
        gap = (found - self.wanted).abs()
        gap[(found == self.wanted) | (found.isnan() & self.wanted.isnan())] = 0.0
        return bool((gap.nan_to_num(nan=torch.inf) > times * self.slack).any())


class Wholes:
    """The result of an artifact as a whole, beside those of eager's runs."""

    def __init__(
        self,
        expected: Whole,
        actual: Whole,
        *,
        asked: Sequence[str],
        exact: frozenset[str],
        tolerances: Mapping[str, tuple[float, float]],
        choices: Sequence[Choice] = (),
    ) -> None:
        """Find the quantities that the artifact changes.

        ``asked``: the outputs that differ. ``exact``: those of integers and bools. ``tolerances``:
        ``(rtol, atol)`` of the others.
        """
        self._asked = frozenset(asked)
        self._wholes = [expected]
        self._actual, self._tolerances = actual, tolerances
        self._paired = 1  # runs whose pairs are known
        made = _Quantities(expected, self._asked, exact, tolerances, choices)
        self._doubts = [item for item in made if item.changed(actual, FAR)]

    @cached_property
    def _pairs(self) -> Pairs:
        expected = self._wholes[0]
        slack = {
            path: FAR * (atol + rtol * expected[path].abs().nan_to_num(0.0, 0.0, 0.0))
            for path, (rtol, atol) in self._tolerances.items()
        }
        return Pairs(expected, self._actual, asked=self._asked, slack=slack)

    def _has_foreign_pairs(self) -> bool:
        """Return True if a pair of the artifact is in none of the runs so far.

        Looked for when it is asked: it takes long, and plain bugs need no pairs.
        """
        for run in self._wholes[self._paired :]:
            self._pairs.add(run)
        self._paired = len(self._wholes)
        return self._pairs.foreign

    @property
    def doubtful(self) -> bool:
        """Return True if the artifact lacks what all of eager's runs so far have in common."""
        return bool(self._doubts) or self._has_foreign_pairs()

    def add(self, run: Whole) -> None:
        """Take one more of eager's runs into account."""
        self._wholes.append(run)
        self._doubts = [item for item in self._doubts if item.changed(run) is False]

    def impossible(self, *, ties: bool = True) -> frozenset[str]:
        """Return the outputs that no tie explains as a whole; ``ties``: eager met equal numbers."""
        found = set[str]()
        for item in self._doubts:
            if not self._asked & item.paths <= found and self._is_no_chance(item):
                found |= self._asked & item.paths
        if ties and self._has_foreign_pairs():
            for paths in self._pairs.impossible(self._wholes, MIXTURES, CHANCE):
                found |= self._asked & paths
        return frozenset(found)

    def _is_no_chance(self, quantity: _Quantity) -> bool:
        ways = list[Whole]()
        for whole in self._wholes:
            if not any(_same(quantity.paths, whole, other) for other in ways):
                ways.append(whole)
        if len(ways) < (WAYS if quantity.joint else TWO_WAYS):
            return False
        if not quantity.joint:
            return True
        generator = torch.Generator().manual_seed(0)
        runs = {path: torch.stack([w[path] for w in self._wholes]) for path in quantity.paths}
        changed = sum(
            bool(quantity.changed({path: mixed(runs[path], generator) for path in runs}))
            for _ in range(MIXTURES)
        )
        return (1 - changed / MIXTURES) ** (len(self._wholes) - 1) < CHANCE


def _same(paths: frozenset[str], left: Whole, right: Whole) -> bool:
    """Return True if two runs differ by no more than rounding: they fell the same way."""
    return all(
        torch.allclose(left[path], right[path], rtol=1e-2, atol=1e-5, equal_nan=True)
        for path in paths
    )


class _Quantities:
    """The quantities of a result."""

    def __init__(
        self,
        expected: Whole,
        asked: frozenset[str],
        exact: frozenset[str],
        tolerances: Mapping[str, tuple[float, float]],
        choices: Sequence[Choice],
    ) -> None:
        self._expected, self._asked, self._exact = expected, asked, exact
        self._tolerances, self._choices = tolerances, choices

    def __iter__(self) -> Iterator[_Quantity]:
        """Yield all those that are defined in eager's result."""
        for path in self._asked & self._expected.keys():
            yield from self._of_one(path)
            if path in self._exact:
                yield from self._pointed_to(path)
        paths = list(self._expected)[:MOST_OUTPUTS]
        for left, right in combinations(paths, 2):
            if {left, right} & self._asked:
                yield from self._of_two(left, right)

    def _of_one(self, path: str) -> Iterator[_Quantity]:
        tensor = self._expected[path]
        rtol, atol = self._tolerances[path]
        whole_numbers = path in self._exact
        for axis in _long_axes(tensor):
            along = partial(_sorted, path=path, axis=axis)
            size = tensor.sort(axis).values.abs()
            yield from self._made([path], along, atol + rtol * size)
            total = partial(_total, path=path, axis=axis)
            slack = (atol + rtol * tensor.abs()).sum(axis)
            yield from self._made([path], total, slack)
            count = partial(_not_zero, path=path, axis=axis, atol=atol)
            yield from self._made([path], count, torch.zeros_like(slack))
            if whole_numbers:
                distinct = partial(_distinct, paths=(path,), axis=axis)
                yield from self._made([path], distinct, torch.zeros_like(slack))
            if tensor.dim() > 1:
                yield from self._together(path, path, axis)
        if tensor.dim() > 1:
            flat = partial(_sorted, path=path, axis=None)
            size = tensor.flatten().sort().values.abs()
            yield from self._made([path], flat, atol + rtol * size)

    def _of_two(self, left: str, right: str) -> Iterator[_Quantity]:
        one, other = self._expected[left], self._expected[right]
        for axis in _long_axes(one):
            if one.shape[: axis + 1] == other.shape[: axis + 1]:
                yield from self._together(left, right, axis)
            fits = one.dim() == other.dim() and all(
                one.shape[place] == other.shape[place]
                for place in range(one.dim())
                if place != axis
            )
            if fits and {left, right} <= self._exact:
                both = partial(_distinct, paths=(left, right), axis=axis)
                yield from self._made([left, right], both, torch.zeros(()))

    def _together(self, left: str, right: str, axis: int) -> Iterator[_Quantity]:
        """Yield the sum of products along an axis: it tells which elements go together."""
        one, other = (self._expected[path].abs() for path in (left, right))
        size = _products(one, other, axis)
        if size is None:
            return
        (rtol, atol), (rtol_, atol_) = self._tolerances[left], self._tolerances[right]
        ones, others = torch.ones_like(one), torch.ones_like(other)
        far = _products(one, others, axis), _products(ones, other, axis)
        if far[0] is None or far[1] is None:
            return
        slack = (rtol + rtol_) * size + atol_ * far[0] + atol * far[1]

        def of(whole: Whole) -> Tensor | None:
            return _products(whole[left], whole[right], axis)

        yield from self._made([left, right], of, slack)

    def _pointed_to(self, path: str) -> Iterator[_Quantity]:
        """Yield the elements that an index points to, if eager picked it, or picked it as well."""
        for choice in self._choices:
            index = choice.aligned(self._expected[path])
            if index is None or not choice.holds(index):
                continue
            of = partial(_at, path=path, choice=choice)
            wanted = choice.at(index)
            largest = float(choice.operand.double().abs().max())
            rtol, atol = Tolerance().of(choice.operand.dtype, largest)
            slack = atol + rtol * wanted.abs()
            yield _Quantity(frozenset([path]), of, wanted, slack, joint=False)

    def _made(
        self, paths: Sequence[str], of: Callable[[Whole], Tensor | None], slack: Tensor
    ) -> Iterator[_Quantity]:
        wanted = of(self._expected)
        if wanted is not None:
            yield _Quantity(frozenset(paths), of, wanted, slack.nan_to_num(0.0, 0.0, 0.0))


def _long_axes(tensor: Tensor) -> list[int]:
    return [axis for axis, size in enumerate(tensor.shape) if size > 1]


def _sorted(whole: Whole, path: str, axis: int | None) -> Tensor:
    tensor = whole[path]
    return tensor.flatten().sort().values if axis is None else tensor.sort(axis).values


def _total(whole: Whole, path: str, axis: int) -> Tensor | None:
    total = whole[path].sum(axis)
    return total if bool(total.isfinite().all()) else None


def _not_zero(whole: Whole, path: str, axis: int, atol: float) -> Tensor | None:
    """Return how many elements are not zero; None if it is not clear of some."""
    size = whole[path].abs()
    if bool(((size > 0) & (size <= FAR * atol)).any()):
        return None
    return (size > 0).sum(axis).double()


def _distinct(whole: Whole, paths: tuple[str, ...], axis: int) -> Tensor:
    """Return how many different numbers there are."""
    ordered = torch.cat([whole[path] for path in paths], axis).sort(axis).values
    return (ordered.diff(dim=axis) != 0).sum(axis).double()


def _products(left: Tensor, right: Tensor, axis: int) -> Tensor | None:
    """Return sums of products along an axis, up to which both have the same sizes.

    Of each element of the one behind that axis with each of the other.
    """
    one, other = (
        tensor.flatten(axis + 1) if tensor.dim() > axis + 1 else tensor[..., None]
        for tensor in (left, right)
    )
    count = one.shape[-1] * other.shape[-1] * (one[..., 0].numel() // one.shape[axis])
    if count > MOST_ELEMENTS:
        return None
    result = one.transpose(-1, -2) @ other
    return result if bool(result.isfinite().all()) else None


def _at(whole: Whole, path: str, choice: Choice) -> Tensor | None:
    index = choice.aligned(whole[path])
    return None if index is None else choice.at(index)
