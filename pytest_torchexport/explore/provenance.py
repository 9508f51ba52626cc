"""Origins: what a condition's tensor was computed from, and how far it is from coming out otherwise.

A condition sees a bool, or a number that ``item()`` drew. A torch function mode remembers the comparison
behind it, so that a search knows both operands and has something to differentiate. Under a mode torch
leaves some fast paths, which is one reason why verdicts never come from here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_Number = TypeVar("_Number", float, Tensor)

# How many numbers drawn from tensors are remembered at a time.
REMEMBERED = 64
# Python makes one object of each integer below, and not of those above.
SHARED = 257
# Of what a float64 holds.
LARGEST = 2**1000
_ATTRIBUTE = "_torchexport_origin"
_COMPARISONS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "eq": "==", "ne": "!="}
_NEGATED = {">": "<=", ">=": "<", "<": ">=", "<=": ">", "==": "!=", "!=": "=="}
_OPERANDS = ("input", "self", "other")
# What looks at every number for itself: that it came out otherwise has no distance.
_LOOKS = ["isnan", "isinf", "isfinite"]
_DRAWN = ("item", "__bool__", "__int__", "__float__", "__index__", "is_nonzero")


@dataclass(frozen=True)
class Compared:
    """``left <operator> right``, element by element."""

    operator: str
    left: Any
    right: Any


@dataclass(frozen=True)
class Combined:
    """``and``, ``or`` and ``not`` of conditions, element by element."""

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
class Plain:
    """A tensor (or a number) whose own truth counts."""

    value: Any


@dataclass(frozen=True)
class Computed:
    """What was computed in Python from numbers of this origin: how far it is, there is no telling."""

    inner: Any


Origin = Compared | Combined | Reduced | Plain | Computed


def _table() -> dict[Any, str]:
    names = [
        *_COMPARISONS,
        "logical_and",
        "logical_or",
        "logical_not",
        "bitwise_not",
        "bitwise_and",
    ]
    names += ["bitwise_or", "any", "all", "equal", "allclose", "isclose", "eq", "ne", *_DRAWN]
    names += _LOOKS
    dunders = {f"__{name}__": name for name in _COMPARISONS}
    dunders |= {"__and__": "bitwise_and", "__or__": "bitwise_or", "__invert__": "bitwise_not"}
    dunders |= {
        "greater": "gt",
        "less": "lt",
        "greater_equal": "ge",
        "less_equal": "le",
        "not_equal": "ne",
    }
    table: dict[Any, str] = {}
    for spelled, meant in (dict(zip(names, names, strict=True)) | dunders).items():
        for place in (torch, torch.Tensor):
            function = getattr(place, spelled, None)
            if function is not None:
                table[function] = meant
    return table


class Origins(TorchFunctionMode):
    """Remembers the comparisons of a block, on the tensors they returned."""

    def __init__(self, asked: Callable[[bool], None]) -> None:
        super().__init__()
        self._names = _table()
        # Told of every truth that a tensor is asked for, for code that has no source to rewrite.
        self._asked = asked
        # Whether an operation raised, which forward may have caught.
        self.raised = False
        self._scalars: list[tuple[object, Origin]] = []

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Remember nothing of what the block computes."""
        names, self._names = self._names, {}
        try:
            yield
        finally:
            self._names = names

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Let what the block computes pass by, which is faster than to look away: for arithmetic that is none
        of forward's.
        """
        if _innermost_mode() is not self:  # a mode of forward's own is to stay
            with self.paused():
                yield
            return
        self.__exit__(None, None, None)
        try:
            yield
        finally:
            self.__enter__()

    def forget(self) -> None:
        """Drop what is known of the call before."""
        self.raised = False
        self._scalars.clear()

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
        if name in _DRAWN or name in ("equal", "allclose"):
            self._scalars.append((result, _behind(name, args, kwargs)))
            del self._scalars[:-REMEMBERED]
            if name == "__bool__":
                self._asked(result)
        elif isinstance(result, Tensor):
            origin_made = _made(name, args, kwargs)
            if (
                origin_made is not None and result.dtype == torch.bool
            ):  # not the bits of ``ids & 1``
                setattr(result, _ATTRIBUTE, (origin_made, _version(result)))

    def of_number(self, value: object, drawn: bool) -> Origin | None:
        """What a Python number or bool was drawn from; None where no tensor returned that very object. Of
        booleans and small integers there is one object each, so only where the source says that it is
        ``drawn``.
        """
        if isinstance(value, int) and abs(value) < SHARED and not drawn:
            return None
        for known, origin in reversed(self._scalars):
            if known is value and type(known) is type(value):
                return origin
        return None

    def computed(self) -> Origin | None:
        """For what the source computes from numbers drawn: the latest stands for them."""
        last = self.last()
        return Computed(last) if last is not None else None

    def last(self) -> Origin | None:
        """What the latest number came from, whatever was computed from it since."""
        return self._scalars[-1][1] if self._scalars else None


def _innermost_mode() -> Any:
    """The torch function mode that sees an operation first; None where this torch does not tell."""
    current = getattr(torch.overrides, "_get_current_function_mode", None)
    return current() if current is not None else None


def origin_of(value: Any) -> Origin:
    """The comparison behind a tensor, or the tensor itself, also where it was written to since."""
    found: tuple[Origin, int] | None = getattr(value, _ATTRIBUTE, None)
    return found[0] if found is not None and found[1] == _version(value) else Plain(value)


def _version(tensor: Tensor) -> int:
    """How often a tensor was written to; what was made in inference mode does not count it."""
    return 0 if tensor.is_inference() else tensor._version


def _operands(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The operands by position, also those that were given by name."""
    rest = {name: value for name, value in kwargs.items() if name not in _OPERANDS}
    return (*args, *(kwargs[name] for name in _OPERANDS if name in kwargs)), rest


def _behind(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Origin:
    if name == "equal":
        return _equal(*args)
    if name == "allclose":
        return Reduced("all", _close(*args, **kwargs))
    return origin_of(args[0])


def _equal(left: Tensor, right: Tensor) -> Origin:
    same = left.shape == right.shape
    return Reduced("all", Compared("==", left, right)) if same else Plain(False)


def _close(left: Tensor, right: Tensor, *more: Any, **kwargs: Any) -> Compared:
    rtol = kwargs.get("rtol", more[0] if more else 1e-5)
    atol = kwargs.get("atol", more[1] if len(more) > 1 else 1e-8)
    left, right = (item if item.is_complex() else item.double() for item in (left, right))
    return Compared("<=", (left - right).abs(), atol + rtol * right.abs())


def _made(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Origin | None:
    if name in _COMPARISONS and len(args) == 2:
        return Compared(_COMPARISONS[name], args[0], args[1])
    if name in ("logical_and", "bitwise_and", "logical_or", "bitwise_or") and len(args) == 2:
        return Combined(name[-3:].strip("_"), (origin_of(args[0]), origin_of(args[1])))
    if name in ("logical_not", "bitwise_not"):
        return Combined("not", (origin_of(args[0]),))
    if name in ("any", "all"):
        return _reduction(name, *args, **kwargs)
    if name in _LOOKS:
        return Computed(origin_of(args[0]))
    if name == "isclose":
        return _close(*args, **kwargs)
    return None


def _reduction(
    name: str, inner: Tensor, dim: Any = None, keepdim: bool = False, *, out: Any = None
) -> Reduced:
    dims = (dim,) if isinstance(dim, int) else tuple(dim or ())
    return Reduced(name, origin_of(inner), dims, keepdim)


# -- how far ---------------------------------------------------------------------------------------------


def violation(origin: Any, wanted: bool) -> Tensor | None:
    """How much is missing until the condition comes out as wanted: positive as long as it does not, in the
    operands' own units, differentiable where they are. None where there is no number to it.
    """
    found = _violation(origin, wanted)
    return found.reshape(()) if found is not None and found.numel() == 1 else None


def distance(origin: Any, wanted: bool) -> float | None:
    """The violation as a mere number; two numbers are compared without torch, which takes ten times as long."""
    if isinstance(origin, Compared):
        left, right = _single(origin.left), _single(origin.right)
        if left is not None and right is not None:
            return _missing(origin.operator, left - right, wanted)
    missing = violation(origin, wanted)
    return float(missing) if missing is not None else None


def _violation(origin: Any, wanted: bool) -> Tensor | None:
    if isinstance(origin, Compared):
        return _compared(origin, wanted)
    if isinstance(origin, Combined):
        return _combined(origin, wanted)
    if isinstance(origin, Reduced):
        return _reduced(origin, wanted)
    if isinstance(origin, Computed):
        return None
    value = origin.value
    if isinstance(value, bool) or (isinstance(value, Tensor) and value.dtype == torch.bool):
        number = _number(value)
        return None if number is None else (1.0 - number if wanted else number) - 0.5
    number = _number(value)
    return None if number is None else (-number.abs() if wanted else number.abs())


def _compared(origin: Compared, wanted: bool) -> Tensor | None:
    left, right = _number(origin.left), _number(origin.right)
    if left is None or right is None:
        return None
    try:
        difference = left - right
    except RuntimeError:  # shapes that do not broadcast
        return None
    return _missing(origin.operator, difference, wanted)


def _missing(operator: str, difference: _Number, wanted: bool) -> _Number | None:
    """How much ``difference <operator> 0`` is from coming out as wanted."""
    operator = operator if wanted else _NEGATED.get(operator, "")
    if operator in (">", ">="):
        return -difference
    if operator in ("<", "<="):
        return difference
    if operator == "==":
        return abs(difference)
    return -abs(difference) if operator == "!=" else None


def _combined(origin: Combined, wanted: bool) -> Tensor | None:
    if origin.operator == "not":
        return _violation(origin.parts[0], not wanted)
    found = [_violation(part, wanted) for part in origin.parts]
    known = [item for item in found if item is not None]
    if len(known) < len(found):
        return known[0] if known else None
    every = (origin.operator == "and") == wanted
    try:
        return torch.maximum(*known) if every else torch.minimum(*known)
    except RuntimeError:
        return None


def _reduced(origin: Reduced, wanted: bool) -> Tensor | None:
    inner = _violation(origin.inner, wanted)
    if inner is None or not inner.numel():
        return None
    every = (origin.operator == "all") == wanted
    if origin.dims and inner.dim():
        along = inner.amax if every else inner.amin
        return along(origin.dims, origin.keepdim)
    if every:
        missing = inner.relu().sum()
        return missing if bool(missing > 0) else inner.max()
    return inner.min()


def _number(value: Any) -> Tensor | None:
    """As float64, so that integers far apart stay apart; None for what is no number."""
    if isinstance(value, Tensor):
        plain = value.layout == torch.strided and not value.is_complex() and not value.is_quantized
        return value.double() if plain else None
    if isinstance(value, (bool, int, float)) and (isinstance(value, float) or abs(value) < LARGEST):
        return torch.tensor(float(value), dtype=torch.float64)
    return None


def _single(value: Any) -> float | None:
    """A number, or that of a tensor with one element, as ``_number`` would have it."""
    if isinstance(value, Tensor):
        if value.numel() != 1 or value.is_meta or value.is_complex() or value.is_quantized:
            return None
        return float(value.item()) if value.layout == torch.strided else None
    if isinstance(value, (bool, int, float)) and (isinstance(value, float) or abs(value) < LARGEST):
        return float(value)
    return None


def is_order(origin: Any) -> bool:
    """Whether a condition is made of ``<``, ``<=``, ``>`` and ``>=`` alone."""
    if isinstance(origin, Compared):
        return origin.operator in ("<", "<=", ">", ">=")
    if isinstance(origin, Combined):
        return all(map(is_order, origin.parts))
    return isinstance(origin, Reduced) and is_order(origin.inner)


def leaves(origin: Any) -> list[Any]:
    """The operands at the bottom of a condition, as they were compared."""
    if isinstance(origin, Compared):
        return [origin.left, origin.right]
    if isinstance(origin, Combined):
        return [leaf for part in origin.parts for leaf in leaves(part)]
    if isinstance(origin, Reduced):
        return leaves(origin.inner)
    if isinstance(origin, Computed):
        return leaves(origin.inner)
    return [origin.value]
