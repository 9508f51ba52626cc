"""Run the operators between the inputs and an element of a tensor again, on other numbers.

Elements of the inputs are replaced by many numbers at once, and each operator runs on the elements
alone that the one in question depends on.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pytest_torchexport.explore.origins import Origin
from pytest_torchexport.outcomes.operators import Operation, tensors_among

# A number that depends on more elements at once, or on more operators, is not computed.
MOST_READ, MOST_STEPS = 2**12, 200
# Numbers that are computed for one call at most.
MOST_NUMBERS = 2**25
# An element of an input: its leaf and its position.
Element = tuple[int, int]
# Of no input.
_NONE: Element = (-1, -1)


class TooLarge(Exception):
    """Raised if a number depends on more elements or operators than are looked at."""


@dataclass
class Effort:
    """The count of numbers that may still be computed."""

    left: int = MOST_NUMBERS


@dataclass
class Recomputation:
    """Runs the operators again that lead to elements of a tensor.

    ``leaves`` are the numbers of the inputs, flat. ``read`` are the elements of them that the last
    run has read, ``width`` the most elements that it had at once, and ``cost`` how many it had in
    all. ``effort`` is what it may still take.
    """

    leaves: dict[int, Tensor]
    read: dict[Element, None] = field(default_factory=dict)
    width: int = 1
    cost: int = 0
    effort: Effort = field(default_factory=Effort)
    _element: Element = _NONE
    _points: Tensor = field(default_factory=lambda: torch.zeros(1))
    _steps: int = 0

    def elements(self, origin: Origin, place: int) -> list[Element]:
        """Return the elements of the inputs that one of a tensor depends on."""
        self.run(origin, place, _NONE, torch.zeros(1))
        return list(self.read)

    def run(self, origin: Origin, place: int, element: Element, points: Tensor) -> Tensor:
        """Return what an element of a tensor is if one of the inputs is each of some numbers."""
        self._element, self._points = element, points
        self._steps, self.read, self.width, self.cost = 0, {}, 1, 0
        found = self._at(origin, torch.tensor([place]))
        return found[:, 0].expand(len(points))

    def _at(self, origin: Origin, places: Tensor) -> Tensor:
        """Return elements of a tensor: a column for each, a row for each point or only one."""
        self._steps += 1
        self.width = max(self.width, places.numel())
        self.cost += places.numel()
        self.effort.left -= places.numel() * len(self._points)
        if self._steps > MOST_STEPS or self.width > MOST_READ or self.effort.left < 0:
            raise TooLarge
        if origin.leaf is not None:
            return self._of_leaf(origin.leaf, places)
        assert origin.operation is not None
        kinds = origin.operation.row.kinds
        if "move" in kinds:
            return self._moved(origin, places)
        if "lookup" in kinds:
            return self._looked_up(origin, places)
        if not kinds.isdisjoint(("reduction", "scan")):
            return self._of_rows(origin, places)
        if "product" in kinds:
            return self._of_product(origin, places)
        return self._elementwise(origin, places)

    def _of_leaf(self, leaf: int, places: Tensor) -> Tensor:
        self.read |= dict.fromkeys((leaf, place) for place in places.tolist())
        found = self.leaves[leaf][places][None]
        hit = places == self._element[1]
        if leaf == self._element[0] and bool(hit.any()):
            found = torch.where(hit, self._points[:, None], found)
        return found

    def _of(self, origin: Origin, argument: Tensor, places: Tensor) -> Tensor:
        """Return elements of an argument of the operator."""
        source = origin.of(argument)
        return self._at(source, places) if source is not None else _elements(argument, places)

    def _moved(self, origin: Origin, places: Tensor) -> Tensor:
        operation = origin.operation
        assert operation is not None
        numbered, start = {}, 1  # 0 is what was filled in
        for tensor in tensors_among(operation.args):
            ids = torch.arange(start, start + tensor.numel()).reshape(tensor.shape)
            numbered[id(tensor)] = ids
            start += tensor.numel()
        moved = operation.func(*_replaced(operation.args, numbered), **operation.kwargs)
        ids = list(tensors_among([moved]))[origin.number].reshape(-1)[places]
        found, start = _elements(origin.value, places), 1
        for tensor in tensors_among(operation.args):
            own = (ids >= start) & (ids < start + tensor.numel())
            if bool(own.any()):
                inside = (ids - start).clamp(0, tensor.numel() - 1)
                there = self._of(origin, tensor, inside)
                found = there if bool(own.all()) else torch.where(own, there.to(found.dtype), found)
            start += tensor.numel()
        return found

    def _elementwise(self, origin: Origin, places: Tensor) -> Tensor:
        operation = origin.operation
        assert operation is not None
        row = operation.row
        given = operation.args[row.operand : row.operand + 1] if row.table else operation.args
        numbers = {
            id(tensor): self._of(origin, tensor, _broadcast(tensor, origin.value, places))
            if tensor.dim() or origin.of(tensor) is not None
            else tensor  # its dtype counts less
            for tensor in tensors_among(given)
        }
        found: Tensor = operation.func(*_replaced(operation.args, numbers), **operation.kwargs)
        return found

    def _looked_up(self, origin: Origin, places: Tensor) -> Tensor:
        operation, shape = origin.operation, origin.value.shape
        assert operation is not None
        table = operation.argument(operation.row.table)
        indices, before = _indices(operation)
        if "flat" in operation.row.kinds:
            table = table.reshape(-1)
        like = functools.reduce(torch.add, indices)  # of the shape that they broadcast to
        ranks = like.shape
        coordinates = list(torch.unravel_index(places, shape)) if shape else []
        after = coordinates[before + len(ranks) :]
        within = coordinates[before : before + len(ranks)]
        rows = _raveled(within, ranks) if ranks else torch.zeros_like(places)
        keys = [self._of(origin, index, _broadcast(index, like, rows)) for index in indices]
        if origin.of(operation.operand) is None:
            sizes = table.shape[before : before + len(keys)]
            legal = [k.clamp(-n, n - 1) for k, n in zip(keys, sizes, strict=True)]
            found: Tensor = table.detach()[(*coordinates[:before], *legal, *after)]
            return found
        # The elements of the table move; the indices are those of the call.
        chosen = [key[0] % n for key, n in zip(keys, table.shape[before:], strict=False)]
        flat = _raveled([*coordinates[:before], *chosen, *after], table.shape)
        return self._of(origin, operation.args[0], flat)

    def _of_rows(self, origin: Origin, places: Tensor) -> Tensor:
        operation = origin.operation
        assert operation is not None
        operand = operation.operand
        ids = torch.arange(operand.numel()).reshape(operand.shape)
        dims = operation.argument("dim")
        dims = [dims] if isinstance(dims, int) else list(dims or range(operand.dim()))
        dims = [dim % max(operand.dim(), 1) for dim in dims] if operand.dim() else []
        kept = [dim for dim in range(operand.dim()) if dim not in dims]
        count = 1
        for dim in dims:
            count *= operand.shape[dim]
        rows = ids.permute(*kept, *dims).reshape(-1, count)
        scan = "scan" in operation.row.kinds
        if scan:
            at = (rows.reshape(-1).argsort()[places]).tolist()
            row, column = torch.tensor([[i // count, i % count] for i in at]).T
        else:
            row = places
        asked = rows[row]
        method = operation.row.second if origin.number else operation.row.of_rows
        function = origin.reduction or operator.methodcaller(method, -1)
        found = self._of(origin, operand, asked.reshape(-1))
        result = function(found.reshape(len(found), *asked.shape)).to(origin.value.dtype)
        return result[:, torch.arange(len(row)), column] if scan else result

    def _of_product(self, origin: Origin, places: Tensor) -> Tensor:
        operation = origin.operation
        assert operation is not None
        if operation.kwargs:
            raise TooLarge  # factors of a sum
        row_facts = operation.row
        assert row_facts.factors is not None
        left, right = (operation.args[place] for place in row_facts.factors)
        inner, width = left.shape[-1], origin.value.shape[-1]
        row, of_row = torch.unique(places // width, return_inverse=True)
        column, of_column = torch.unique(places % width, return_inverse=True)
        terms = torch.arange(inner)
        ones = self._of(origin, left, (row.unsqueeze(-1) * inner + terms).reshape(-1))
        there = column * inner + terms.unsqueeze(-1)
        if not row_facts.transposed:
            there = terms.unsqueeze(-1) * width + column
        others = self._of(origin, right, there.reshape(-1))
        found = ones.reshape(len(ones), len(row), inner) @ others.reshape(len(others), inner, -1)
        found = found[:, of_row, of_column]
        bias = operation.argument(row_facts.bias)
        if bias is None:
            return found
        return found + self._of(origin, bias, _broadcast(bias, origin.value, places))


def _elements(tensor: Tensor, places: Tensor) -> Tensor:
    return tensor.detach().reshape(-1)[places][None]


def _replaced(arguments: Any, by: Mapping[int, Tensor]) -> list[Any]:
    return [
        _replaced(item, by) if isinstance(item, (list, tuple)) else by.get(id(item), item)
        for item in arguments
    ]


def _broadcast(tensor: Tensor, result: Tensor, places: Tensor) -> Tensor:
    """Return the places in a tensor of those in a result that it broadcasts to."""
    ids = torch.arange(tensor.numel()).reshape(tensor.shape)
    return ids.expand(result.shape).reshape(-1)[places]


def _raveled(coordinates: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    flat = torch.zeros_like(coordinates[0])
    for own, size in zip(coordinates, shape, strict=True):
        flat = flat * size + own
    return flat


def _indices(operation: Operation) -> tuple[list[Tensor], int]:
    """Return the index tensors of a lookup, and the number of dimensions before them."""
    given = operation.argument(operation.row.indices)
    if isinstance(given, Tensor):
        return [given], (operation.argument("dim") or 0) % max(operation.operand.dim(), 1)
    before = next(n for n, item in enumerate(given) if item is not None)
    indices = list(given[before:])
    if any(item is None or item.dtype == torch.bool for item in indices):
        raise TooLarge
    return indices, before
