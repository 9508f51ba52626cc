"""Remember what a condition's tensor was computed from.

A condition only sees a bool, or a number that ``item()`` returned. A torch function mode remembers
the comparison behind it, so that the search knows both operands and has something to differentiate.
Under a mode torch skips some fast paths, which is one reason why no verdict is based on an observed
call.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pytest_torchexport.inputs.pytrees import is_plain, leaves_of
from pytest_torchexport.outcomes.operator_table import functions_of, of_kind, row_of
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


# A number, or one per element of a tensor.
Far = float | Tensor


@dataclass(frozen=True)
class Compared:
    """``left <operator> right``, element by element.

    ``truth``: no comparison was seen, and this one stands for the truth of ``left``.
    """

    operator: str
    left: Any
    right: Any
    truth: bool = False

    @classmethod
    def of_truth(cls, value: Any) -> Compared:
        return cls("!=", value, False, truth=True)

    @property
    def comparisons(self) -> list[Compared]:
        return [self]

    def far(self, wanted: bool) -> Far | None:
        """Return the distance to the wanted outcome, of each element."""
        left, right = number(self.left), number(self.right)
        if left is None or right is None:
            return None
        sign, value = self.operator, self.left
        of_tensor = isinstance(value, Tensor) and value.dtype == torch.bool
        if self.truth and (of_tensor or isinstance(value, bool)):
            sign, right = ">", 0.5
        try:
            far: Far | None = _missing(sign, left - right, wanted)
        except RuntimeError:  # the shapes do not broadcast
            return None
        return far


@dataclass(frozen=True)
class Combined:
    """``and``, ``or`` or ``not`` of conditions, element by element.

    Or ``any`` or ``all`` of a condition's elements, along some dimensions or over all.
    """

    operator: str
    parts: tuple[Provenance, ...]
    dims: tuple[int, ...] = ()
    keepdim: bool = False

    @property
    def comparisons(self) -> list[Compared]:
        return [item for part in self.parts for item in part.comparisons]

    def needs_all(self, wanted: bool) -> bool:
        """Return True if the outcome needs every part, or every element of the one part."""
        return (self.operator in ("and", "all")) == wanted

    def far(self, wanted: bool) -> Far | None:
        if self.operator == "not":
            return self.parts[0].far(not wanted)
        distances = (part.far(wanted) for part in self.parts)
        known = [torch.as_tensor(far, dtype=torch.float64) for far in distances if far is not None]
        if not known:
            return None
        every = self.needs_all(wanted)
        if self.operator in ("any", "all"):
            return self._over_elements(known[0], every)
        try:
            return functools.reduce(torch.maximum if every else torch.minimum, known)
        except RuntimeError:  # the shapes do not broadcast
            return None

    def _over_elements(self, far: Tensor, every: bool) -> Tensor | None:
        if not far.numel():
            return None
        if self.dims and far.dim():
            along = far.amax if every else far.amin
            return along(self.dims, self.keepdim)
        if every:
            missing = far.relu().sum()
            return missing if bool(missing > 0) else far.max()
        return far.min()


@dataclass(frozen=True)
class Computed:
    """The result of a computation in Python. ``missing`` is its distance, if that is known."""

    inner: Provenance
    missing: float | None = None

    @property
    def comparisons(self) -> list[Compared]:
        return self.inner.comparisons

    def far(self, wanted: bool) -> float | None:  # from both outcomes
        return self.missing


Provenance = Compared | Combined | Computed


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
        self._paused = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Remember nothing in the block, whose operations are not forward's."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def forget(self) -> None:
        self.raised = False
        self._numbers.clear()

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = kwargs or {}
        if self._paused:
            return function(*args, **given)
        try:
            result = function(*args, **given)
        except Exception:
            self.raised = True
            raise
        name = self._names.get(function)
        if name is None:
            return result
        operands = *args, *(given[each] for each in _OPERANDS if each in given)
        others = {each: value for each, value in given.items() if each not in _OPERANDS}
        if name in _ASKED or "read" in row_of(name).kinds:
            self._numbers += (
                _elements(args[0], result)
                if name == "tolist"
                else [(result, _of_read(name, operands, others))]
            )
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

    def source(self, value: float, read: bool) -> Any:
        """Return the tensor that a Python number was read from, or the number itself."""
        found = self.of_number(value, read)
        return found.left if isinstance(found, Compared) and found.truth else value

    def computed(self, missing: float | None = None) -> Provenance | None:
        """Return the latest number's provenance for a value computed from numbers in Python."""
        last = self.last()
        return Computed(last, missing) if last is not None else None

    def last(self) -> Provenance | None:
        return self._numbers[-1][1] if self._numbers else None


def provenance_of(value: Any) -> Provenance:
    """Return the comparison behind a tensor, or the tensor itself if it was written to since."""
    found: tuple[Provenance, int] | None = getattr(value, _ATTRIBUTE, None)
    if found is not None and found[1] == times_written(value):
        return found[0]
    return Compared.of_truth(value)


def _elements(tensor: Tensor, numbers: Any) -> list[tuple[object, Provenance]]:
    """Return the numbers of a list that a small tensor was read to, each with its element."""
    if tensor.numel() > REMEMBERED:
        return []
    elements = map(Compared.of_truth, tensor.reshape(-1).unbind())
    return list(zip(leaves_of(numbers), elements, strict=True))


def _of_read(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Provenance:
    if "closeness" not in row_of(name).kinds:
        return provenance_of(args[0])
    if row_of(name).symbol != "==":
        return Combined("all", (_close(*args, **kwargs),))
    left, right = args
    same = left.shape == right.shape
    return Combined("all", (Compared("==", left, right),)) if same else Compared.of_truth(False)


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
        return Combined(row.symbol, (provenance_of(args[0]),), dims, keepdim)
    if "inspection" in row.kinds:
        return Computed(provenance_of(args[0]))
    return _close(*args, **kwargs) if "closeness" in row.kinds else None


# The elements of one tensor whose distances are looked at one by one; the last lookups and
# conditions before a probed one that are remembered, and the distances by which these are kept.
MOST_DEMANDS = 8
# Python integers beyond this do not fit a float64.
LARGEST = 2**1000
NEGATED = {">": "<=", ">=": "<", "<": ">=", "<=": ">", "==": "!=", "!=": "=="}


def violation(provenance: Provenance, wanted: bool) -> Tensor | None:
    """Return the distance to the wanted outcome as a scalar tensor, or None if there is none."""
    far = provenance.far(wanted)
    if far is None:
        return None
    scalar = torch.as_tensor(far, dtype=torch.float64)
    return scalar.reshape(()) if scalar.numel() == 1 else None


def demands(provenance: Provenance, wanted: bool) -> list[Tensor]:
    """Return distances, as scalars, of which every one has to go for the wanted outcome.

    If the outcome needs all elements of a tensor, these are the distances of the elements: the
    largest ``MOST_DEMANDS``, and the sum of the others that are missing. Else there is only one.
    """
    if isinstance(provenance, Combined):
        first = provenance.parts[0]
        if provenance.operator == "not":
            return demands(first, not wanted)
        if provenance.operator in ("and", "or") and provenance.needs_all(wanted):
            return [gap for part in provenance.parts for gap in demands(part, wanted)]
        each = first.far(wanted) if provenance.operator in ("any", "all") else None
        if isinstance(each, Tensor) and not provenance.dims and provenance.needs_all(wanted):
            ordered = each.reshape(-1).sort(descending=True).values
            largest, others = ordered[:MOST_DEMANDS], ordered[MOST_DEMANDS:]
            return [*largest, others.relu().sum()] if len(others) else [*largest]
    whole = violation(provenance, wanted)
    return [whole] if whole is not None else []


def distance(provenance: Provenance, wanted: bool) -> float | None:
    """Return the violation as a float.

    Two numbers are compared without torch, which would take ten times as long.
    """
    far = provenance.far(wanted)
    if isinstance(far, Tensor):
        return float(far.item()) if far.numel() == 1 else None
    return far


def sequence_distance(left: Any, right: Any) -> float | None:
    """Return how much two rows of numbers differ; None for other values."""
    if type(left) is not type(right) or not isinstance(left, (tuple, list)):
        return None
    rows = [[it for it in map(number, row) if isinstance(it, float)] for row in (left, right)]
    if len({len(row) for row in (left, right, *rows)}) > 1:
        return None
    return math.fsum(abs(one - other) for one, other in zip(*rows, strict=True))


def _missing(operator: str, difference: Any, wanted: bool) -> Any:
    """Return how far ``difference <operator> 0`` is from the wanted outcome."""
    operator = operator if wanted else NEGATED.get(operator, "")
    if operator in (">", ">="):
        return -difference
    if operator in ("<", "<="):
        return difference
    if operator == "==":
        return abs(difference)
    return -abs(difference) if operator == "!=" else None


def number(value: Any) -> Far | None:
    """Return a value in float64, in which large integers stay apart; None if it is no number."""
    if isinstance(value, Tensor):
        return value.double() if is_plain(value) and not value.is_complex() else None
    if isinstance(value, (int, float)) and (isinstance(value, float) or abs(value) < LARGEST):
        return float(value)
    return None
