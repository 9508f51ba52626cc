"""Remember what a condition's tensor was computed from.

A condition only sees a bool, or a number that ``item()`` returned. A torch function mode remembers
the comparison behind it, so that the search knows both operands and has something to differentiate.
Under a mode torch skips some fast paths, which is one reason why no verdict is based on an observed
call.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pytest_torchexport.outcomes.operator_table import OPERATORS, functions_of, of_kind, row_of
from pytest_torchexport.torch_private.circumstances import innermost_function_mode
from pytest_torchexport.torch_private.memory import times_written

# How many of the numbers last read from tensors are remembered.
REMEMBERED = 64
# CPython keeps one object for each integer from -5 up to 256.
SHARED = 257
_ATTRIBUTE = "_torchexport_provenance"
_SELECTED = "_torchexport_selected"
_OPERANDS = ("input", "self", "other")
# Python's questions to a tensor, beside the operators that give it numbers.
_ASKED = ("tolist", "__bool__", "__int__", "__float__", "__index__")


@dataclass(frozen=True)
class Compared:
    """``left <operator> right``, element by element."""

    operator: str
    left: Any
    right: Any


@dataclass(frozen=True)
class Combined:
    """``and``, ``or`` or ``not`` of conditions, element by element."""

    operator: str
    parts: tuple[Any, ...]


@dataclass(frozen=True)
class Reduced:
    """``any`` or ``all`` of a condition's elements, along some dimensions or over all."""

    operator: str
    inner: Any
    dims: tuple[int, ...] = ()
    keepdim: bool = False


@dataclass(frozen=True)
class Selected:
    """The element of a tensor that has this rank, from 0 on; along some dimensions or of all."""

    operand: Tensor
    rank: float


@dataclass(frozen=True)
class Uncompared:
    """A tensor or number without a comparison behind it: its own truth decides."""

    value: Any


@dataclass(frozen=True)
class Computed:
    """The result of a computation in Python. ``missing`` is its distance, if that is known."""

    inner: Any
    missing: float | None = None


Provenance = Compared | Combined | Reduced | Uncompared | Computed


def _table() -> Mapping[Any, str]:
    """Return the plain name of each function of torch that is remembered."""
    kinds = ("comparison", "logic", "truths", "closeness", "inspection", "read")
    selecting = {name for name, row in OPERATORS.items() if row.rank is not None}
    asked = {getattr(Tensor, name): name for name in _ASKED}
    return {**functions_of(of_kind(*kinds) | selecting), **asked}


class ProvenanceMode(TorchFunctionMode):
    """Remembers the comparisons of a block, on the tensors that they return.

    ``on_truth`` is called with each truth value that a tensor is asked for; code without source
    has no other sign of a condition.
    """

    def __init__(self, on_truth: Callable[[bool], None]) -> None:
        super().__init__()
        self._names = _table()
        self._on_truth = on_truth
        # Whether an operation raised; forward may have caught the error.
        self.raised = False
        # Whether what runs now is not forward's.
        self.is_disabled = False
        self._numbers: list[tuple[object, Provenance]] = []

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Remember nothing of what the block computes."""
        names, self._names = self._names, {}
        try:
            yield
        finally:
            self._names = names

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Take the mode off the stack for the block, which is faster than ``paused``.

        Meant for arithmetic that is not forward's. If another mode is on top, pauses instead.
        """
        outer, self.is_disabled = self.is_disabled, True
        try:
            if innermost_function_mode() is not self:
                with self.paused():
                    yield
                return
            self.__exit__(None, None, None)
            try:
                yield
            finally:
                self.__enter__()
        finally:
            self.is_disabled = outer

    def forget(self) -> None:
        """Drop what is known of the previous call."""
        self.raised = False
        self._numbers.clear()

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        try:
            result = function(*args, **kwargs) if kwargs else function(*args)
        except Exception:
            self.raised = True
            raise
        name = self._names.get(function)
        if name is not None:
            self._remember(name, *_operands(args, kwargs or {}), result)
        return result

    def _remember(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        if name == "tolist":
            self._numbers += _elements(args[0], result)
            del self._numbers[:-REMEMBERED]
        elif name in _ASKED or "read" in row_of(name).kinds:
            self._numbers.append((result, _of_read(name, args, kwargs)))
            del self._numbers[:-REMEMBERED]
            if name == "__bool__":
                self._on_truth(result)
        elif row_of(name).rank is not None:
            value = result[0] if isinstance(result, tuple) else result
            if isinstance(value, Tensor) and value.numel() == 1:
                selected = _selected(name, *args, **kwargs)
                setattr(value, _SELECTED, (selected, times_written(value)))
        # A condition is a bool tensor; ``ids & 1`` on integers is arithmetic.
        elif isinstance(result, Tensor) and result.dtype == torch.bool:
            provenance = _of_condition(name, args, kwargs)
            if provenance is not None:
                setattr(result, _ATTRIBUTE, (provenance, times_written(result)))

    def of_number(self, value: object, read: bool) -> Provenance | None:
        """Return what a Python number was read from, or None if no tensor returned this object.

        ``read`` says that the source reads the number from a tensor. Without it, bools and small
        integers count as unknown, because there is one object for each.
        """
        if isinstance(value, int) and abs(value) < SHARED and not read:
            return None
        for known, provenance in reversed(self._numbers):
            if known is value and type(known) is type(value):
                return provenance
        return None

    def computed(self, missing: float | None = None) -> Provenance | None:
        """Return the latest number's provenance for a value computed from numbers in Python."""
        last = self.last()
        return Computed(last, missing) if last is not None else None

    def last(self) -> Provenance | None:
        """Return what the latest number was read from."""
        return self._numbers[-1][1] if self._numbers else None

    def reads(self) -> list[tuple[float, Tensor]]:
        """Return the latest numbers that were read, and the tensors; the last first."""
        return [
            (value, origin.value)
            for value, origin in reversed(self._numbers)
            if isinstance(value, (int, float))
            and not isinstance(value, bool)
            and isinstance(origin, Uncompared)
            and isinstance(origin.value, Tensor)
        ]


def provenance_of(value: Any) -> Provenance:
    """Return the comparison behind a tensor, or the tensor itself if it was written to since."""
    found: tuple[Provenance, int] | None = getattr(value, _ATTRIBUTE, None)
    return found[0] if found is not None and found[1] == times_written(value) else Uncompared(value)


def unfolded(compared: Compared) -> Provenance:
    """Return the comparison of a selected element as one of all elements that it speaks for.

    The median is above a number if all elements of the upper half are.
    """
    above = compared.operator in (">", ">=")
    for name, upper in (("left", above), ("right", not above)):
        selected = _selected_from(getattr(compared, name))
        if selected is not None and compared.operator not in ("==", "!="):
            ordered = selected.operand.reshape(-1).sort().values
            part = (
                ordered[int(selected.rank) :] if upper else ordered[: math.ceil(selected.rank) + 1]
            )
            every: Any = {name: part}
            return Reduced("all", dataclasses.replace(compared, **every))
    return compared


def _selected_from(value: Any) -> Selected | None:
    found: tuple[Selected, int] | None = getattr(value, _SELECTED, None)
    return found[0] if found is not None and found[1] == times_written(value) else None


def _selected(
    name: str, operand: Tensor, number: Any = None, *_: Any, **more: Any
) -> Selected | None:
    """Return which element of its operand a function selects, if it selects one."""
    last, rank = operand.numel() - 1, row_of(name).rank
    if isinstance(rank, str):
        given = more.get(rank, number)
        counted = "choice" in row_of(name).kinds  # from 1, and else a fraction
        return Selected(operand, given - 1 if counted else float(given) * last)
    if isinstance(number, Tensor):  # torch.max of two tensors
        return None
    return Selected(operand, math.floor((rank or 0.0) * last))


def _operands(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the operands by position, also those given by name, and the other keywords."""
    rest = {name: value for name, value in kwargs.items() if name not in _OPERANDS}
    return (*args, *(kwargs[name] for name in _OPERANDS if name in kwargs)), rest


def _elements(tensor: Tensor, numbers: Any) -> list[tuple[object, Provenance]]:
    """Return the numbers of a list that a small tensor was read to, each with its element."""
    if tensor.numel() > REMEMBERED:
        return []
    while isinstance(numbers, list) and any(isinstance(item, list) for item in numbers):
        numbers = [number for row in numbers for number in row]
    elements = map(Uncompared, tensor.reshape(-1).unbind())
    return list(zip(numbers if isinstance(numbers, list) else [numbers], elements, strict=True))


def _of_read(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Provenance:
    if "closeness" not in row_of(name).kinds:
        return provenance_of(args[0])
    if row_of(name).symbol == "==":
        return _equal(*args)
    return Reduced("all", _close(*args, **kwargs))


def _equal(left: Tensor, right: Tensor) -> Provenance:
    same = left.shape == right.shape
    return Reduced("all", Compared("==", left, right)) if same else Uncompared(False)


def _close(left: Tensor, right: Tensor, *more: Any, **kwargs: Any) -> Compared:
    rtol = kwargs.get("rtol", more[0] if more else 1e-5)
    atol = kwargs.get("atol", more[1] if len(more) > 1 else 1e-8)
    left, right = (item if item.is_complex() else item.double() for item in (left, right))
    return Compared("<=", (left - right).abs(), atol + rtol * right.abs())


def _of_condition(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Provenance | None:
    row = row_of(name)
    if "comparison" in row.kinds and len(args) == 2:
        return Compared(row.symbol, args[0], args[1])
    if "logic" in row.kinds:
        return (
            Combined(row.symbol, tuple(map(provenance_of, args))) if row.symbol != "xor" else None
        )
    if "truths" in row.kinds:
        return _reduction(row.symbol, *args, **kwargs)
    if "inspection" in row.kinds:
        return Computed(provenance_of(args[0]))
    return _close(*args, **kwargs) if "closeness" in row.kinds else None


def _reduction(
    name: str, inner: Tensor, dim: Any = None, keepdim: bool = False, *, out: Any = None
) -> Reduced:
    dims = (dim,) if isinstance(dim, int) else tuple(dim or ())
    return Reduced(name, provenance_of(inner), dims, keepdim)
