"""Remember what a condition's tensor was computed from.

A condition only sees a bool, or a number that ``item()`` returned. A torch function mode remembers
the comparison behind it, so that the search knows both operands and has something to differentiate.
Under a mode torch skips some fast paths, which is one reason why no verdict is based on an observed
call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pytest_torchexport.inputs.pytrees import is_plain
from pytest_torchexport.outcomes.operator_table import functions_of, of_kind, row_of
from pytest_torchexport.torch_private.circumstances import innermost_function_mode
from pytest_torchexport.torch_private.memory import times_written

# How many of the numbers last read from tensors are remembered.
REMEMBERED = 64
# CPython keeps one object for each integer from -5 up to 256.
SHARED = 257
_ATTRIBUTE = "_torchexport_provenance"
_OPERANDS = ("input", "self", "other")
_REMEMBERED_KINDS = ("comparison", "logic", "truths", "closeness", "inspection", "read")
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
class Uncompared:
    """A tensor or number without a comparison behind it: its own truth decides."""

    value: Any


@dataclass(frozen=True)
class Computed:
    """The result of a computation in Python. ``missing`` is its distance, if that is known."""

    inner: Any
    missing: float | None = None


Provenance = Compared | Combined | Reduced | Uncompared | Computed


class ProvenanceMode(TorchFunctionMode):
    """Remembers the comparisons of a block, on the tensors that they return.

    ``on_truth`` is called with each truth value that a tensor is asked for; code without source
    has no other sign of a condition.
    """

    def __init__(self, on_truth: Callable[[bool], None]) -> None:
        super().__init__()
        # The plain names of the functions of torch that are remembered.
        self._names: Mapping[Any, str] = {
            **functions_of(of_kind(*_REMEMBERED_KINDS)),
            **{getattr(Tensor, name): name for name in _ASKED},
        }
        self._on_truth = on_truth
        # Whether an operation raised; forward may have caught the error.
        self.raised = False
        self._numbers: list[tuple[object, Provenance]] = []

    @contextmanager
    def paused(self) -> Iterator[None]:
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
        if innermost_function_mode() is not self:
            with self.paused():
                yield
            return
        self.__exit__(None, None, None)
        try:
            yield
        finally:
            self.__enter__()

    def forget(self) -> None:
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
        if name is None:
            return result
        given = kwargs or {}
        operands = *args, *(given[each] for each in _OPERANDS if each in given)
        others = {each: value for each, value in given.items() if each not in _OPERANDS}
        if name == "tolist":
            self._numbers += _elements(args[0], result)
            del self._numbers[:-REMEMBERED]
        elif name in _ASKED or "read" in row_of(name).kinds:
            self._numbers.append((result, _of_read(name, operands, others)))
            del self._numbers[:-REMEMBERED]
            if name == "__bool__":
                self._on_truth(result)
        # A condition is a bool tensor; ``ids & 1`` on integers is arithmetic.
        elif isinstance(result, Tensor) and result.dtype == torch.bool:
            provenance = _of_condition(name, operands, others)
            if provenance is not None:
                setattr(result, _ATTRIBUTE, (provenance, times_written(result)))
        return result

    def of_number(self, value: object, read: bool) -> Provenance | None:
        """Return the provenance of a Python number, or None if no tensor returned this object.

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
        return self._numbers[-1][1] if self._numbers else None


def provenance_of(value: Any) -> Provenance:
    """Return the comparison behind a tensor, or the tensor itself if it was written to since."""
    found: tuple[Provenance, int] | None = getattr(value, _ATTRIBUTE, None)
    return found[0] if found is not None and found[1] == times_written(value) else Uncompared(value)


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
    if row_of(name).symbol != "==":
        return Reduced("all", _close(*args, **kwargs))
    left, right = args
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
        parts = tuple(map(provenance_of, args))
        return Combined(row.symbol, parts) if row.symbol != "xor" else None
    if "truths" in row.kinds:
        dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
        keepdim = kwargs.get("keepdim", args[2] if len(args) > 2 else False)
        dims = (dim,) if isinstance(dim, int) else tuple(dim or ())
        return Reduced(row.symbol, provenance_of(args[0]), dims, keepdim)
    if "inspection" in row.kinds:
        return Computed(provenance_of(args[0]))
    return _close(*args, **kwargs) if "closeness" in row.kinds else None


_Number = TypeVar("_Number", float, Tensor)

# The elements of one tensor whose distances are looked at one by one; the last lookups and
# conditions before a probed one that are remembered, and the distances by which these are kept.
MOST_DEMANDS = 8
# Python integers beyond this do not fit a float64.
LARGEST = 2**1000
NEGATED = {">": "<=", ">=": "<", "<": ">=", "<=": ">", "==": "!=", "!=": "=="}


def violation(provenance: Any, wanted: bool) -> Tensor | None:
    """Return the distance to the wanted outcome as a scalar tensor, or None if there is none."""
    found = _violation(provenance, wanted)
    return found.reshape(()) if found is not None and found.numel() == 1 else None


def demands(provenance: Any, wanted: bool) -> list[Tensor]:
    """Return distances, as scalars, of which every one has to go for the wanted outcome.

    If the outcome needs all elements of a tensor, these are the distances of the elements: the
    largest ``MOST_DEMANDS``, and the sum of the others that are missing. Else there is only one.
    """
    if isinstance(provenance, Combined):
        if provenance.operator == "not":
            return demands(provenance.parts[0], not wanted)
        if (provenance.operator == "and") == wanted:
            return [gap for part in provenance.parts for gap in demands(part, wanted)]
    if isinstance(provenance, Reduced) and not provenance.dims:
        each = _violation(provenance.inner, wanted)
        if each is not None and (provenance.operator == "all") == wanted:
            ordered = each.reshape(-1).sort(descending=True).values
            first, others = ordered[:MOST_DEMANDS], ordered[MOST_DEMANDS:]
            return [*first, others.relu().sum()] if len(others) else [*first]
    whole = violation(provenance, wanted)
    return [whole] if whole is not None else []


def distance(provenance: Any, wanted: bool) -> float | None:
    """Return the violation as a float.

    Two numbers are compared without torch, which would take ten times as long.
    """
    if isinstance(provenance, Compared):
        left, right = _single(provenance.left), _single(provenance.right)
        if left is not None and right is not None:
            return _missing(provenance.operator, left - right, wanted)
    if isinstance(provenance, Computed):
        return provenance.missing
    missing = violation(provenance, wanted)
    return float(missing) if missing is not None else None


def sequence_distance(left: Any, right: Any) -> float | None:
    """Return how much two rows of numbers differ; None for other values."""
    if type(left) is not type(right) or not isinstance(left, (tuple, list)):
        return None
    if len(left) != len(right):
        return None
    pairs = [(_single(one), _single(other)) for one, other in zip(left, right, strict=True)]
    known = [abs(a - b) for a, b in pairs if a is not None and b is not None]
    return sum(known) if len(known) == len(pairs) else None


def is_order(provenance: Any) -> bool:
    """Return True if a condition consists of ``<``, ``<=``, ``>`` and ``>=`` only."""
    if isinstance(provenance, Compared):
        return provenance.operator in ("<", "<=", ">", ">=")
    if isinstance(provenance, Combined):
        return all(map(is_order, provenance.parts))
    return isinstance(provenance, Reduced) and is_order(provenance.inner)


def operands_of(provenance: Any) -> list[Any]:
    if isinstance(provenance, Compared):
        return [provenance.left, provenance.right]
    if isinstance(provenance, Combined):
        return [operand for part in provenance.parts for operand in operands_of(part)]
    if isinstance(provenance, (Reduced, Computed)):
        return operands_of(provenance.inner)
    return [provenance.value]


def _violation(provenance: Any, wanted: bool) -> Tensor | None:
    """Return the distance per element."""
    if isinstance(provenance, Computed):
        return None
    if isinstance(provenance, Reduced):
        return _reduced(provenance, wanted)
    if isinstance(provenance, Uncompared):
        value = provenance.value
        far = number(value)
        if isinstance(value, bool) or (isinstance(value, Tensor) and value.dtype == torch.bool):
            return None if far is None else (1.0 - far if wanted else far) - 0.5
        return None if far is None else (-far.abs() if wanted else far.abs())
    if isinstance(provenance, Combined) and provenance.operator == "not":
        return _violation(provenance.parts[0], not wanted)
    try:  # the shapes may not broadcast
        if isinstance(provenance, Compared):
            left, right = number(provenance.left), number(provenance.right)
            if left is None or right is None:
                return None
            return _missing(provenance.operator, left - right, wanted)
        known = [far for part in provenance.parts if (far := _violation(part, wanted)) is not None]
        if len(known) < 2:
            return known[0] if known else None
        every = (provenance.operator == "and") == wanted
        return torch.maximum(*known) if every else torch.minimum(*known)
    except RuntimeError:
        return None


def _missing(operator: str, difference: _Number, wanted: bool) -> _Number | None:
    """Return how far ``difference <operator> 0`` is from the wanted outcome."""
    operator = operator if wanted else NEGATED.get(operator, "")
    if operator in (">", ">="):
        return -difference
    if operator in ("<", "<="):
        return difference
    if operator == "==":
        return abs(difference)
    return -abs(difference) if operator == "!=" else None


def _reduced(provenance: Reduced, wanted: bool) -> Tensor | None:
    inner = _violation(provenance.inner, wanted)
    if inner is None or not inner.numel():
        return None
    every = (provenance.operator == "all") == wanted
    if provenance.dims and inner.dim():
        along = inner.amax if every else inner.amin
        return along(provenance.dims, provenance.keepdim)
    if every:
        missing = inner.relu().sum()
        return missing if bool(missing > 0) else inner.max()
    return inner.min()


def number(value: Any) -> Tensor | None:
    """Return a value as float64, in which large integers stay apart; None if it is no number."""
    if isinstance(value, Tensor):
        if not is_plain(value) or value.is_complex():
            return None
        return value.double()
    if isinstance(value, (bool, int, float)) and (isinstance(value, float) or abs(value) < LARGEST):
        return torch.tensor(float(value), dtype=torch.float64)
    return None


def _single(value: Any) -> float | None:
    """Return a number, or that of a tensor with one element, as ``_number`` has it."""
    if isinstance(value, Tensor):
        real = is_plain(value) and not value.is_complex()
        return float(value.item()) if real and value.numel() == 1 else None
    if isinstance(value, (bool, int, float)) and (isinstance(value, float) or abs(value) < LARGEST):
        return float(value)
    return None
