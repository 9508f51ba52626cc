"""Tell whether ties can give the pairs of elements that an artifact returns, as a box and a label.

Which boxes are kept may change with the order of equal scores, and with them the labels. But the
box of one and the label of another are in none of eager's runs. So each pair of elements at one
place of two outputs, or of two columns, must be a pair of one of eager's runs, at any place along
the axis.

Eager's runs may lack a pair by chance. So each pair that they have must be in several of them. And
pairs of which both elements are from any of the runs must so often be others that one of the runs
would have had another, were the elements free of each other.

Separate from ``wholes``, whose quantities are the same in all of eager's runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import torch
from torch import Tensor

# Numbers in float64, by path.
Whole = Mapping[str, Tensor]

# No more columns of one length are paired, of no more elements.
MOST_COLUMNS = 8
MOST_ELEMENTS = 2**12
# Eager's runs show all pairs that there are if each is in so many of them.
SEEN = 4


@dataclass(frozen=True)
class _Column:
    """Elements along an axis of an output: at one place behind the axis, at all before it."""

    path: str
    axis: int
    place: int

    def of(self, whole: Whole) -> Tensor:
        """Return the elements in a row: those at the first place before the axis, and so on."""
        tensor = whole[self.path]
        return tensor.reshape(*tensor.shape[: self.axis + 1], -1)[..., self.place].flatten()


class _Pair:
    """Two columns of equal length; ``foreign`` are pairs of the artifact that no run has yet.

    A row of numbers each: the place before the axis, and the two elements.
    """

    def __init__(
        self, columns: tuple[_Column, _Column], expected: Whole, actual: Whole, slack: Whole
    ) -> None:
        self.paths = frozenset(column.path for column in columns)
        self._columns = columns
        elements = columns[0].of(expected).numel()
        size = expected[columns[0].path].shape[columns[0].axis]
        self._group = torch.arange(elements) // size
        self._actual = self._of(actual)
        slacks = [column.of(slack) for column in columns]
        self._slack = torch.stack([torch.zeros(elements), *slacks], 1)
        self.foreign, self._foreign_slack = self._actual, self._slack
        self.add(expected)

    def _of(self, whole: Whole) -> Tensor:
        return torch.stack([self._group, *(column.of(whole) for column in self._columns)], 1)

    def add(self, run: Whole) -> None:
        """Take away the foreign pairs that one more of eager's runs has."""
        known, slack = self._of(run), torch.cat([self._slack, self._foreign_slack])
        which = _numbered(torch.cat([known, self.foreign]), slack)
        codes = _coded(*which.unbind(1), most=1 + int(which.max()))
        left = ~torch.isin(codes[len(known) :], codes[: len(known)])
        self.foreign, self._foreign_slack = self.foreign[left], self._foreign_slack[left]

    def is_impossible(self, runs: Sequence[Whole], mixtures: int, chance: float) -> bool:
        """Return True if runs that show all pairs there are lack one of the artifact's."""
        numbers = torch.stack([self._actual, *map(self._of, runs)])
        which = _numbered(numbers, self._slack.expand_as(numbers))[..., 1:].unbind(-1)
        most = 1 + max(int(each.max()) for each in which)
        coded = partial(_coded, self._group, most=most)
        codes = coded(*which)
        shown = torch.cat([torch.unique(code) for code in codes[1:]])
        known, counts = torch.unique(shown, return_counts=True)
        unknown = self._group[~torch.isin(codes[0], known)]
        rare = known[counts < SEEN] // most**2
        places = torch.isin(self._group, unknown[~torch.isin(unknown, rare)])
        generator = torch.Generator().manual_seed(0)
        changed = 0
        for _ in range(mixtures):
            mixture = coded(*(mixed(each[1:], generator) for each in which))
            changed += not bool(torch.isin(mixture[places], known).all())
        return (1 - changed / mixtures) ** (len(runs) - 1) < chance


class Pairs:
    """The pairs of elements of an artifact's result, beside those of eager's runs."""

    def __init__(
        self, expected: Whole, actual: Whole, *, asked: frozenset[str], slack: Whole
    ) -> None:
        """Find those that eager does not return.

        ``asked``: the outputs that differ. ``slack``: how far from each other equal elements may
        be.
        """
        # Inputs are the same in all runs: no pair with them proves anything.
        shared = {
            path: tensor
            for path, tensor in expected.items()
            if path in actual and (path in asked or not path.startswith("inputs"))
        }
        made = (
            _Pair(columns, shared, actual, slack) for columns in _pairs_of_columns(shared, asked)
        )
        self._made = [pair for pair in made if len(pair.foreign)]

    @property
    def foreign(self) -> bool:
        """Return True if the artifact has a pair that is in none of eager's runs so far."""
        return bool(self._made)

    def add(self, run: Whole) -> None:
        """Take one more of eager's runs into account."""
        for pair in self._made:
            if pair.paths <= run.keys():
                pair.add(run)
        self._made = [pair for pair in self._made if len(pair.foreign)]

    def impossible(
        self, runs: Sequence[Whole], mixtures: int, chance: float
    ) -> Iterator[frozenset[str]]:
        """Yield the outputs of pairs that no tie explains."""
        for pair in self._made:
            complete = [run for run in runs if pair.paths <= run.keys()]
            if pair.is_impossible(complete, mixtures, chance):
                yield pair.paths


def _pairs_of_columns(whole: Whole, asked: frozenset[str]) -> Iterator[tuple[_Column, _Column]]:
    """Yield each two columns that are of one length, and not both of outputs that agree."""
    by_shape: dict[torch.Size, list[_Column]] = {}
    for path, tensor in whole.items():
        for axis, size in enumerate(tensor.shape):
            shape, behind = tensor.shape[: axis + 1], tensor.shape[axis + 1 :].numel()
            columns = by_shape.setdefault(shape, [])
            fits = len(columns) + behind <= MOST_COLUMNS and shape.numel() <= MOST_ELEMENTS
            if size > 1 and fits:
                columns += [_Column(path, axis, place) for place in range(behind)]
    for columns in by_shape.values():
        for left, right in combinations(columns, 2):
            if {left.path, right.path} & asked:
                yield left, right


def _numbered(numbers: Tensor, slack: Tensor) -> Tensor:
    """Return for each number which one of the different ones of its column, the last axis, it is.

    Numbers next to each other in order are the same one if they are within ``slack``.
    """
    columns, apart = (each.reshape(-1, each.shape[-1]) for each in (numbers, slack))
    ordered, order = columns.sort(0)
    begins = (ordered.diff(dim=0) > apart.gather(0, order)[1:]) | ordered.isnan().diff(dim=0)
    which = torch.zeros_like(order)
    which[1:] = begins.cumsum(0)
    return torch.empty_like(order).scatter(0, order, which).reshape(numbers.shape)


def _coded(group: Tensor, left: Tensor, right: Tensor, *, most: int) -> Tensor:
    """Return one number for each pair; ``left`` and ``right`` are below ``most``."""
    return (group * most + left) * most + right


def mixed(runs: Tensor, generator: torch.Generator) -> Tensor:
    """Return a tensor of which each element is from any of the runs."""
    which = torch.randint(len(runs), runs.shape[1:], generator=generator)
    return runs.gather(0, which[None])[0]
