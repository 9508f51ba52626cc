"""Have eager take equal elements in the order in which the artifact took them.

``topk`` and ``sort`` may order equal elements in any way, and one order decides on many elements at
once. So before a difference passes as a tie, the orders that the artifact chose are looked up among
its integers: those that eager could have chosen as well. Then eager chooses as the artifact did,
and no other way. If it never does what the artifact does, no order explains it.

Which of the artifact's values is which order of eager's is learned from usual calls, on which both
choose the same. A value that is not found is not held: then rounding excuses as much as it does
without this.

Separate from ``rounding``, which changes what operators return, and knows no artifact.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from pytest_torchexport.judge.last_digits import LOOKED_AT, ORDERING, narrows
from pytest_torchexport.outcomes.operators import Operation, operations

# Values that differ by less than this part of the largest element may be the same value, rounded
# otherwise: more than any rounding that calibration excuses, less than two values on usual calls.
NEAR = 1e-2
# Of orders of several operators together that may be the artifact's, so many are tried: a limit of
# cost, chosen and not measured.
MOST_REPLAYS = 16

# An operator: its name, and its number among those of its name.
Operator = tuple[str, int]
# Gets the name of a value inside an artifact, and the value.
See = Callable[[str, Tensor], None]
# A block in which eager runs otherwise.
Block = Callable[[], AbstractContextManager[Any]]


def seen(see: See) -> AbstractContextManager[None]:
    """Hand the integers that each operator returns to ``see`` in the block."""

    def shown(operation: Operation) -> Any:
        result = operation.run()
        for place, tensor in enumerate(result if isinstance(result, tuple) else (result,)):
            if operation.name and isinstance(tensor, Tensor) and tensor.dtype == torch.int64:
                see(f"{operation.name} {operation.number} {place}", tensor.detach())
        return result

    return operations(shown)


@dataclass(frozen=True)
class Order:
    """The places along a dim that ``topk``, ``sort`` and the like chose in their operand."""

    operand: Tensor
    dim: int
    places: Tensor

    @classmethod
    def chosen(cls, operation: Operation, result: Any) -> Order | None:
        """Return the order in an operator's result; None if no other one could have been chosen."""
        if operation.name not in ORDERING or operation.argument("stable"):
            return None
        operand, dim = operation.operand, operation.argument("dim")
        if dim is None or not operand.dim() or not 1 < operand.numel() <= LOOKED_AT:
            return None
        return cls(operand.detach().clone(), dim % operand.dim(), result[-1].detach().clone())

    def index(self, value: Tensor) -> Tensor | None:
        """Return a value of the artifact's as places; None if eager could not have chosen these."""
        if value.dtype != self.places.dtype or _axes(value) != _axes(self.places):
            return None
        found, own = self._along(value.reshape(self.places.shape)), self.own
        inside = (found >= 0) & (found < self.operand.shape[self.dim])
        repeated = found.sort(self.dim).values.diff(dim=self.dim) == 0
        if bool(repeated.any()) or not bool(inside.all()):
            return None
        there, here = (self.operand.gather(self.dim, each).double() for each in (found, own))
        # Equal numbers agree in half of their digits, whatever was rounded.
        floats = self.operand.is_floating_point()
        digits = torch.finfo(self.operand.dtype).eps ** 0.5 if floats else 0.0
        return found if is_near(there, here, digits) else None

    @property
    def own(self) -> Tensor:
        return self._along(self.places)

    def _along(self, places: Tensor) -> Tensor:
        return places if places.dim() == self.operand.dim() else places.unsqueeze(self.dim)

    def taken(self, tensor: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the operator's results for such a tensor if it chooses these places."""
        values = tensor.gather(self.dim, index)
        return values.reshape(self.places.shape), index.reshape(self.places.shape)


@dataclass(frozen=True)
class Choices:
    """The orders that eager chooses in one call, and whether it casts to narrower floats."""

    orders: dict[Operator, Order] = field(default_factory=dict)
    casts: list[str] = field(default_factory=list)

    def recorded(self) -> AbstractContextManager[None]:
        def record(operation: Operation) -> Any:
            result = operation.run()
            if operation.name:
                if narrows(operation):
                    self.casts.append(operation.name)
                order = Order.chosen(operation, result)
                if order is not None:
                    self.orders[operation.name, operation.number] = order
            return result

        return operations(record)


# For each operator, eager's order and the places that it is to choose instead.
Chosen = Mapping[Operator, tuple[Order, Tensor]]


class Places:
    """The names of the artifact's values that are orders of eager's operators."""

    def __init__(self) -> None:
        self._names: dict[Operator, frozenset[str]] = {}

    def names(self) -> frozenset[str]:
        return frozenset().union(*self._names.values())

    def learn(self, eager: Choices, run: Callable[[See], object]) -> None:
        """Learn from one call. ``run`` makes it on the artifact, and shows its values."""
        found: dict[Operator, set[str]] = defaultdict(set)

        def see(name: str, value: Tensor) -> None:
            for operator, order in eager.orders.items():
                if order.index(value) is not None:
                    found[operator].add(name)

        run(see)
        for operator in eager.orders:
            names = found[operator]
            self._names[operator] = self._names.get(operator, frozenset(names)) & names

    def held(self, eager: Choices, values: Mapping[str, Tensor]) -> Held:
        """Return the artifact's own orders of all operators of which it has any, in all ways.

        ``values`` are the artifact's in a call in which eager chose so, by name.
        """
        known: dict[Operator, list[tuple[Order, Tensor]]] = {}
        for operator, order in eager.orders.items():
            names = sorted(self._names.get(operator, ()))
            found = [order.index(values[name]) for name in names if name in values]
            given = [index for index in found if index is not None]
            different = [
                index
                for number, index in enumerate(given)
                if not any(torch.equal(index, other) for other in given[:number])
            ]
            if different:
                known[operator] = [(order, index) for index in different]
        if not known or math.prod(map(len, known.values())) > MOST_REPLAYS:
            return NOTHING_HELD
        return Held([dict(zip(known, each, strict=True)) for each in product(*known.values())])


@dataclass(frozen=True)
class Held:
    """The ways of choosing in one call of which one is the artifact's; none if nothing is known."""

    ways: Sequence[Chosen] = ()

    def kept(self) -> AbstractContextManager[None]:
        """Choose as eager does in the block, which makes the same call rounded otherwise."""
        orders = self.ways[0] if self.ways else {}
        return _choosing({key: (order, order.own) for key, (order, _) in orders.items()})

    def replays(self) -> list[Block]:
        """Return blocks in which eager chooses as the artifact does, one for each way."""
        return [partial(_choosing, way) for way in self.ways]


NOTHING_HELD = Held()


def _choosing(orders: Chosen) -> AbstractContextManager[None]:
    def choose(operation: Operation) -> Any:
        order, index = orders.get((operation.name, operation.number), (None, None))
        # Another path through the code may bring another operand here.
        if order is None or index is None or not is_near(operation.operand, order.operand):
            return operation.run()
        return order.taken(operation.operand, index)

    return operations(choose) if orders else nullcontext()


def _axes(tensor: Tensor) -> list[int]:
    """Return the sizes of a tensor's axes but those of one, which ONNX may not have."""
    return [size for size in tensor.shape if size != 1]


def is_near(value: Tensor, operand: Tensor, near: float = NEAR) -> bool:
    """Return True if all elements are about the same, in units of the largest of them."""
    if value.shape != operand.shape:
        return False
    left, right = value.to(operand.dtype), operand
    largest = float(right.abs().nan_to_num(0.0, 0.0, 0.0).max())
    return bool(torch.isclose(left, right, rtol=0.0, atol=near * largest, equal_nan=True).all())
