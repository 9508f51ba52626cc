"""Hold eager to the numbers that the artifact decides on too, where both have the same bits.

``floor``, ``argmax``, a comparison, a cast to half precision and the index of a pooling jump: if
rounding moves their operand, they may decide otherwise. That excuses an artifact whose operand has
other last digits. It does not excuse one that has the same operand, bit for bit, and decides
otherwise: ``>`` for ``>=``, another floor division, the last of equal elements for the first. So
before a difference passes as a tie, the operands of eager's decisions are looked up in the
artifact, and those that are the same there are put back in eager's other runs. Only the others are
left to rounding. In the last of these runs they are the artifact's, as far as rounding explains
them: if eager then does what the artifact does, it is a tie.

Which of the artifact's values is which operand of eager's is learned from usual calls, where it
has about the same numbers. If several values have, all of them must have the same bits. A
value that is not found is not held: then rounding excuses as much as it does without this.

``topk`` and ``sort`` may order equal elements in any way, and one order decides on many elements at
once. So their results are held instead: among the artifact's integers, those are looked up that
are an order eager could have chosen. Then eager chooses as the artifact did, and no other way. If
it never does what the artifact does, no order explains it.

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

from pytest_torchexport.judge.last_digits import ORDERING, narrows
from pytest_torchexport.outcomes.operator_table import of_kind
from pytest_torchexport.outcomes.operators import Operation, operations, with_floats

# Operators that jump, and that do not round before they do. ``_decides`` adds casts to integers and
# narrower floats, and poolings, whose indices jump. A quantization divides first, and a runtime may
# multiply by the reciprocal instead: equal operands do not mean that it must decide alike.
_DECIDING, _POOLING = of_kind("decides"), of_kind("pooling")
# Values that differ by less than this part of the largest element may be the same value, rounded
# otherwise: more than any rounding that calibration excuses, less than two values on usual calls.
NEAR = 1e-2
# Limits of cost, chosen and not measured: of values, or of orders of several operators together,
# that may be the artifact's, so many are tried; operands with more elements are not looked up.
MOST_REPLAYS = 16
MOST_ELEMENTS = 2**18

# An operator: its name, and its number among those of its name.
Operator = tuple[str, int]
# An operand: its operator, and its place among the float tensors that the operator takes.
Operand = tuple[str, int, int]
# Gets the name of a value inside an artifact, and the value.
See = Callable[[str, Tensor], None]


def seen(see: See) -> AbstractContextManager[None]:
    """Hand each operator's float operands, and its integers, to ``see`` in the block."""

    def shown(operation: Operation) -> Any:
        if not operation.name:
            return operation.run()
        title = f"{operation.name} {operation.number}"
        for place, tensor in enumerate(operation.floats):
            see(f"{title} {place}", tensor.detach())
        result = operation.run()
        for place, tensor in enumerate(result if isinstance(result, tuple) else (result,)):
            if isinstance(tensor, Tensor) and tensor.dtype == torch.int64:
                see(f"{title} gives {place}", tensor.detach())
        return result

    return operations(shown)


@dataclass(frozen=True)
class Order:
    """The places along a dim that ``topk``, ``sort`` and the like chose in their operand.

    ``drops`` is True if the results have no axis for the dim.
    """

    operand: Tensor
    dim: int
    places: Tensor
    drops: bool

    @classmethod
    def chosen(cls, operation: Operation, result: Any) -> Order | None:
        """Return the order in an operator's result; None if no other one could have been chosen."""
        if operation.name not in ORDERING or operation.argument("stable"):
            return None
        operand, dim = operation.operand.detach(), operation.argument("dim")
        if dim is None or not operand.dim() or not 1 < operand.numel() <= MOST_ELEMENTS:
            return None
        places, dim = result[-1].detach().clone(), dim % operand.dim()
        drops = places.dim() < operand.dim()
        return cls(operand.clone(), dim, places.unsqueeze(dim) if drops else places, drops)

    def index(self, value: Tensor) -> Tensor | None:
        """Return a value of the artifact's as places; None if eager could not have chosen these."""
        if not _alike(value, self.places):
            return None
        found = value.reshape(self.places.shape)
        inside = (found >= 0) & (found < self.operand.shape[self.dim])
        repeated = found.sort(self.dim).values.diff(dim=self.dim) == 0
        if bool(repeated.any()) or not bool(inside.all()):
            return None
        there, here = (
            self.operand.gather(self.dim, each).double() for each in (found, self.places)
        )
        # Equal numbers agree in half of their digits, whatever was rounded.
        floats = self.operand.is_floating_point()
        digits = torch.finfo(self.operand.dtype).eps ** 0.5 if floats else 0.0
        return found if is_near(there, here, digits) else None

    def taken(self, tensor: Tensor, index: Tensor) -> tuple[Tensor, ...]:
        results = tensor.gather(self.dim, index), index
        return tuple(each.squeeze(self.dim) if self.drops else each for each in results)


@dataclass(frozen=True)
class Decisions:
    """The operands on which eager decides in one call, and the orders that it chooses.

    ``casts`` are the operators that cast to narrower floats.
    """

    operands: dict[Operand, Tensor] = field(default_factory=dict)
    orders: dict[Operator, Order] = field(default_factory=dict)
    casts: set[str] = field(default_factory=set)

    def recorded(self) -> AbstractContextManager[None]:
        def record(operation: Operation) -> Any:
            if not operation.name:
                return operation.run()
            name, number = operation.name, operation.number
            if narrows(operation):
                self.casts.add(name)
            if _decides(operation):
                for place, tensor in enumerate(operation.floats):
                    if 0 < tensor.numel() <= MOST_ELEMENTS and not tensor.is_complex():
                        self.operands[name, number, place] = tensor.detach().clone()
            result = operation.run()
            order = Order.chosen(operation, result)
            if order is not None:
                self.orders[name, number] = order
            return result

        return operations(record)


def _decides(operation: Operation) -> bool:
    kinds = operation.row.kinds
    if "rounding" in kinds:
        return not operation.argument("decimals")
    if "cast" in kinds:
        dtype, given = operation.argument("dtype"), operation.operand.dtype
        return isinstance(dtype, torch.dtype) and (
            not (dtype.is_floating_point or dtype.is_complex) or dtype.itemsize < given.itemsize
        )
    if operation.name in _DECIDING or operation.name in _POOLING:
        return True
    return "division" in kinds and operation.argument("rounding_mode") is not None


class Places:
    """The names of the artifact's values that are operands of eager's decisions, or its orders."""

    def __init__(self) -> None:
        self._names: dict[Operand | Operator, frozenset[str]] = {}

    def names(self) -> frozenset[str]:
        return frozenset().union(*self._names.values())

    def learn(self, eager: Decisions, run: Callable[[See], object]) -> None:
        """Learn from one call. ``run`` makes it on the artifact, and shows its values."""
        operands = {key: operand for key, operand in eager.operands.items() if bool(operand.any())}
        found: dict[Operand | Operator, set[str]] = defaultdict(set)

        def see(name: str, value: Tensor) -> None:
            for key, operand in operands.items():
                if _alike(value, operand) and is_near(value.reshape(operand.shape), operand):
                    found[key].add(name)
            for operator, order in eager.orders.items():
                if order.index(value) is not None:
                    found[operator].add(name)

        run(see)
        known: list[Operand | Operator] = [*operands, *eager.orders]
        for decision in known:
            names = found[decision]
            self._names[decision] = self._names.get(decision, frozenset(names)) & names

    def held(self, eager: Decisions, values: Mapping[str, Tensor]) -> Held:
        """Return the operands of a call that the artifact has; ``values`` are its own, by name."""
        found = {}
        for key, operand in eager.operands.items():
            names = sorted(self._names.get(key, ()))
            if not names or not all(_alike(values.get(name), operand) for name in names):
                continue
            there = tuple(values[name].reshape(operand.shape) for name in names)
            same = torch.ones_like(operand, dtype=torch.bool)
            for value in there:
                same &= (value == operand) | (value.isnan() & operand.isnan())
            found[key] = _Kept(operand, same, there)
        return Held(found, self._orders(eager, values))

    def _orders(self, eager: Decisions, values: Mapping[str, Tensor]) -> Sequence[_Orders]:
        """Return the artifact's own orders of all operators of which it has any, in all ways."""
        known: dict[Operator, list[Choice]] = {}
        for key, order in eager.orders.items():
            choices: dict[tuple[int, ...], Choice] = {}
            for name in sorted(self._names.get(key, ())):
                index = order.index(values[name]) if name in values else None
                if index is not None:
                    choices.setdefault(tuple(index.flatten().tolist()), (order, index))
            if choices:
                known[key] = list(choices.values())
        if not known or math.prod(map(len, known.values())) > MOST_REPLAYS:
            return ()
        return [dict(zip(known, each, strict=True)) for each in product(*known.values())]


@dataclass
class _Kept:
    """An operand of eager's: its numbers, which of them the artifact has too, and its own values.

    ``spread`` is how far rounding has moved it.
    """

    operand: Tensor
    same: Tensor
    values: tuple[Tensor, ...]
    spread: float = 0.0

    def put_back(self, tensor: Tensor) -> Tensor:
        """Return the operand of another run with the elements that the artifact has too."""
        moved = (tensor.double() - self.operand.double()).abs()
        self.spread = max(self.spread, float(moved.nan_to_num(0.0, 0.0, 0.0).max()))
        return torch.where(self.same, self.operand.to(tensor.dtype), tensor)

    def replayed(self, tensor: Tensor, number: int, times: float) -> Tensor:
        """Return the operand with the artifact's numbers that are within ``times`` the spread."""
        value = self.values[number % len(self.values)]
        near = (value.double() - self.operand.double()).abs() <= times * self.spread
        return torch.where(near, value, tensor)


PutBack = Callable[[_Kept, Tensor], Tensor]
# An order, and the places that are chosen.
Choice = tuple[Order, Tensor]
_Orders = Mapping[Operator, Choice]


@dataclass(frozen=True)
class Held:
    """Operands of the decisions of one call, and the orders that may be the artifact's."""

    operands: Mapping[Operand, _Kept] = field(default_factory=dict)
    orders: Sequence[_Orders] = ()

    def __bool__(self) -> bool:
        return bool(self.operands or self.orders)

    def kept(self) -> AbstractContextManager[None]:
        """Put back in the block, which makes the same call rounded otherwise, what is the same."""
        ways = self.orders[0] if self.orders else {}
        eager = {operator: (order, order.places) for operator, (order, _) in ways.items()}
        return self._replacing(_Kept.put_back, eager)

    def replays(self, times: float) -> list[Callable[[], AbstractContextManager[None]]]:
        """Return blocks in which eager decides on the artifact's operands, and orders as it does.

        As far as these are within ``times`` what rounding has moved them in ``kept``.
        """
        most = max((len(kept.values) for kept in self.operands.values()), default=0)

        def replay(number: int) -> AbstractContextManager[None]:
            orders = self.orders[number % len(self.orders)] if self.orders else {}
            return self._replacing(lambda kept, own: kept.replayed(own, number, times), orders)

        count = max(min(most, MOST_REPLAYS), len(self.orders))
        return [partial(replay, number) for number in range(count)]

    def _replacing(self, put_back: PutBack, orders: _Orders) -> AbstractContextManager[None]:
        if not self:
            return nullcontext()

        def replace(operation: Operation) -> Any:
            key = operation.name, operation.number
            own = {
                place: self.operands[*key, place]
                for place in range(len(operation.floats))
                if (*key, place) in self.operands
            }
            if key in orders:
                order, index = orders[key]
                # Another path through the code may bring another operand here.
                if is_near(operation.operand, order.operand):
                    return order.taken(operation.operand, index)
            return operation.run() if not own else _with(own, put_back, operation)

        return operations(replace)


NOTHING_HELD = Held()


def _with(own: Mapping[int, _Kept], put_back: PutBack, operation: Operation) -> Any:
    """Run an operator with some of its float tensors replaced.

    In eager's own dtype: in float64 it would compare with other numbers than eager, as 0.1 is.
    """
    given = operation.floats
    wide, dtype = given[0].dtype, next(iter(own.values())).operand.dtype
    places = iter(range(len(given)))
    writes = bool(operation.written)

    def replaced(tensor: Tensor) -> Tensor:
        kept = own.get(next(places))
        narrow = tensor if writes or tensor.is_complex() else tensor.to(dtype)
        # Another path through the code may bring another operand here.
        if kept is None or not is_near(tensor, kept.operand):
            return narrow
        found = put_back(kept, narrow).to(narrow.dtype)
        return tensor.copy_(found) if writes else found

    result = operation.func(
        *(with_floats(replaced, arg) for arg in operation.args),
        **{name: with_floats(replaced, value) for name, value in operation.kwargs.items()},
    )
    if writes or wide == dtype:
        return result
    return with_floats(lambda found: found.to(wide) if found.dtype == dtype else found, result)


def _alike(value: Tensor | None, operand: Tensor) -> bool:
    """Return True for one dtype, and one shape but for axes of size one.

    torch adds such an axis to pool along one axis, and ONNX does not.
    """
    if value is None or value.dtype != operand.dtype:
        return False
    left, right = ([size for size in each.shape if size != 1] for each in (value, operand))
    return left == right


def is_near(value: Tensor, operand: Tensor, near: float = NEAR) -> bool:
    """Return True if all elements are about the same, in units of the largest of them."""
    if value.shape != operand.shape:
        return False
    left, right = value.to(operand.dtype), operand
    largest = float(right.abs().nan_to_num(0.0, 0.0, 0.0).max())
    return bool(torch.isclose(left, right, rtol=0.0, atol=near * largest, equal_nan=True).all())
