"""Calls of numbers that differ before an operator and are equal after it.

A cast to a narrower type or a remainder makes numbers equal. If only one side has such an operator
and then compares, chooses or sorts, the sides differ on such numbers, and random ones seldom meet.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pytest_torchexport.explore.moves import may_change
from pytest_torchexport.inputs.building import build_leaves
from pytest_torchexport.inputs.pytrees import is_plain
from pytest_torchexport.inputs.recipes import Recipe, with_leaves
from pytest_torchexport.inputs.spec import InputSpec, TensorLeaf
from pytest_torchexport.outcomes.operator_table import row_of

LARGEST = torch.finfo(torch.float64).max


@dataclass(frozen=True)
class Merge:
    """Numbers that an operator makes equal.

    ``apart`` is the distance of two such integers, and ``start`` the lower one, or None if it may
    be any. Of floats, ``to`` is the type to which they are rounded.
    """

    apart: int = 0
    start: int | None = None
    to: torch.dtype | None = None

    def part(self, wide: torch.dtype | None = None) -> float:
        """Return a distance, in parts of a float, that it makes zero and that ``wide`` has.

        By default, that is the next wider type.
        """
        if self.to is None:
            return 0.0
        wider = torch.float64 if self.to == torch.float32 else torch.float32
        return math.sqrt(torch.finfo(wide or wider).eps * torch.finfo(self.to).eps)


# In the type that an exporter or a runtime may cast integers to, these are equal, or they change
# their order: float32, int32, float64.
WIDE = (
    Merge(1, 2**24),
    Merge(1, 2**31 - 1),
    Merge(2**32),
    Merge(1, 2**53),
)


def merge_of(name: str, args: Sequence[Any], result: Any) -> Merge | None:
    """Return what an operator made equal of its first operand; None if nothing, or not known."""
    operand = args[0]
    if not is_plain(operand) or operand.dtype == torch.bool or operand.is_complex():
        return None
    whole = not operand.is_floating_point()
    if whole and len(args) > 1 and isinstance(args[1], int):
        if "remainder" in row_of(name).kinds and args[1]:
            return Merge(abs(args[1]))
        if "mask" in row_of(name).kinds and args[1] != -1:
            return Merge(~args[1] & (args[1] + 1))  # the lowest bit that it clears
    if not is_plain(result) or result.is_complex() or result.dtype == torch.bool:
        return None
    if not whole:
        narrower = result.is_floating_point() and result.dtype.itemsize < operand.dtype.itemsize
        return Merge(to=result.dtype) if narrower else None
    if result.is_floating_point():
        first = round(2 / torch.finfo(result.dtype).eps)
        return Merge(1, first) if first < torch.iinfo(operand.dtype).max else None
    narrower = result.dtype.itemsize < operand.dtype.itemsize
    return Merge(2 ** (8 * result.dtype.itemsize)) if narrower else None


def merging(
    spec: InputSpec, base: Recipe, merge: Merge, starts: Sequence[float], seed: int
) -> Iterator[Recipe]:
    """Yield two calls, of opposite orders, in which numbers of the inputs are made equal.

    Floats are next to each of ``starts``, and to a number of the call.
    """
    built = build_leaves(spec, base)
    if built is None:
        return
    leaves = {
        index: leaf
        for index, leaf in enumerate(spec.leaves)
        if isinstance(leaf, TensorLeaf) and may_change(leaf) and _takes(leaf, merge)
    }
    own = [_any_number(built[index]) for index in leaves]
    for start in (None,) if merge.to is None else dict.fromkeys([*starts, *own[:1]]):
        for way in (1, -1):
            generator = torch.Generator().manual_seed(seed)
            values = {}
            for index, leaf in leaves.items():
                among = torch.randint(0, 2, built[index].shape, generator=generator) > 0
                pair = _wholes(leaf, merge) if start is None else _floats(leaf, merge, start, way)
                if pair is not None:
                    one, other = pair[::way]
                    values[index] = torch.where(among, one, other).to(leaf.dtype)
            if values:
                yield with_leaves(base, values)


def _takes(leaf: TensorLeaf, merge: Merge) -> bool:
    """Return True if a leaf's numbers may be chosen, and are of the kind that a merge is of."""
    if leaf.domain.choices or leaf.index is not None:
        return False
    if merge.to is None:
        return leaf.domain.kind == "int"
    wider = leaf.dtype.itemsize > merge.to.itemsize
    return leaf.domain.kind == "float" and wider


def _any_number(value: Tensor) -> float:
    """Return the largest number of a tensor; 1 if it has none."""
    numbers = value.detach().double().reshape(-1)
    largest = float(numbers.abs().max()) if numbers.numel() else 0.0
    return largest if 0 < largest < math.inf else 1.0


def _wholes(leaf: TensorLeaf, merge: Merge) -> tuple[Tensor, Tensor] | None:
    """Return two integers that are made equal, as a leaf may have them."""
    low, high = int(leaf.domain.low or 0), int(leaf.domain.high or 0)
    # The lowest number often stands for something else: padding, for one.
    starts = (low + 1, low) if merge.start is None else (merge.start, -merge.start - merge.apart)
    for start in starts:
        if low <= start and start + merge.apart <= high:
            return torch.tensor(start), torch.tensor(start + merge.apart)
    return None


def _floats(leaf: TensorLeaf, merge: Merge, start: float, way: int) -> tuple[Tensor, Tensor] | None:
    """Return two floats that are rounded to one, the nearest to ``start``, as a leaf may have them.

    ``way`` says on which side of it the other one is.
    """
    assert merge.to is not None
    rounded = torch.tensor(start, dtype=torch.float64).to(merge.to).double()
    apart = merge.part(leaf.dtype) * abs(rounded)
    first, second = sorted((float(rounded), float(rounded + way * apart)))
    low = -LARGEST if leaf.domain.low is None else leaf.domain.low
    high = LARGEST if leaf.domain.high is None else leaf.domain.high
    return (rounded, rounded + way * apart) if low <= first and second <= high else None
