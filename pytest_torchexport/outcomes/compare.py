"""Compare two outcomes, and return all their differences. Pure: knows no target.

Values follow ``torch.testing``'s table per dtype, float64 a narrower rule; structure, shape, dtype,
device and integers are exact; NaN equals NaN and nothing else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import inspect
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pytest_torchexport.inputs.pytrees import (
    Structure,
    attributes_of,
    describe,
    flatten,
)
from pytest_torchexport.outcomes.observe import (
    Crashed,
    Outcome,
    Raised,
    Returned,
    TimedOut,
    are_one_memory,
)
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.results.verdict import Difference, DifferenceKind

# torch.testing._comparison._DTYPE_PRECISIONS, documented at
# https://docs.pytorch.org/docs/stable/testing.html#torch.testing.assert_close
DTYPE_TOLERANCES: dict[torch.dtype, tuple[float, float]] = {
    torch.float16: (1e-3, 1e-5),
    torch.bfloat16: (1.6e-2, 1e-5),
    torch.float32: (1.3e-6, 1e-5),
    torch.complex32: (1e-3, 1e-5),
    torch.complex64: (1.3e-6, 1e-5),
}
# In double precision, the table's 1e-7 is the precision of float32: it would hide a constant, a
# table or an operator in float32. There it is this many units in the last place of the tensor's
# largest element: 9e-13.
DOUBLE_UNITS = 4096
_DOUBLE = (torch.float64, torch.complex128)
# Of two objects with neither `__eq__` nor attributes: functions, members of an enum.
ONLY_ITSELF = "another object of a class without `__eq__` and attributes"


@dataclass(frozen=True)
class Tolerance:
    """``|actual - expected| <= atol + rtol * |expected|``; None takes the dtype's own.

    ``runtime``: the relative error of the runtime's own functions in float32 and narrower types, if
    it is larger than the table's.
    """

    rtol: float | None = None
    atol: float | None = None
    runtime: float = 0.0

    @property
    def given(self) -> bool:
        """Return True if the user gave it: then nothing is excused as rounding."""
        return self.rtol is not None

    def of(self, dtype: torch.dtype, largest: float) -> tuple[float, float]:
        """Return ``(rtol, atol)`` for a tensor with this largest absolute value."""
        if dtype == torch.bool:
            return 0.0, 0.0
        if self.rtol is not None and self.atol is not None:
            return self.rtol, self.atol
        if dtype in _DOUBLE:
            return 0.0, DOUBLE_UNITS * torch.finfo(dtype).eps * largest
        rtol, atol = DTYPE_TOLERANCES.get(dtype, (0.0, 0.0))
        return max(rtol, self.runtime) if rtol else rtol, atol


def compare(expected: Outcome, actual: Outcome, tolerance: Tolerance) -> list[Difference]:
    """Return every difference between eager's outcome, a Returned, and the artifact's."""
    if not isinstance(expected, Returned):
        raise TypeError("eager must return for a comparison to mean anything")
    if isinstance(actual, Returned):
        # The arguments after the call: both sides must have written the same to them.
        left, right = ((its.inputs.args, dict(its.inputs.kwargs)) for its in (expected, actual))
        written = compare_values(left, right, tolerance, "inputs")
        return compare_values(expected.value, actual.value, tolerance) + [
            dataclasses.replace(difference, kind="state") for difference in written
        ]
    kinds: dict[type, DifferenceKind] = {TimedOut: "hung", Crashed: "crashed"}
    what = actual.output if isinstance(actual, Crashed) else ""
    where = actual.where if isinstance(actual, Raised) else None
    kind = kinds.get(type(actual), "raised")
    return [_different(kind, "", "returned", str(actual), what, where)]


def _different(
    kind: DifferenceKind,
    path: str,
    expected: str,
    actual: str,
    what: str = "",
    where: SourceLine | None = None,
) -> Difference:
    return Difference(
        kind=kind, path=path, expected=expected, actual=actual, what=what, where=where
    )


def compare_values(
    expected: Any,
    actual: Any,
    tolerance: Tolerance,
    path: str = "output",
    within: frozenset[tuple[int, int]] = frozenset(),
) -> list[Difference]:
    """Return every difference between two pytrees.

    Containers must be of one kind (mapping or sequence) with the same keys or length: formats turn
    namedtuples into tuples, dataclasses into dicts, and arrays of numpy into tensors. ``within``
    are the pairs of objects that contain these, because an object may hold itself.
    """
    differences, pairs = _paired(expected, actual, path)
    for leaf_path, left, right in pairs:
        try:
            differences += _leaf(leaf_path, left, right, tolerance, within)
        except Exception as error:  # a tensor without numbers, which some exporters leave behind
            what = f"cannot be compared: {type(error).__name__}"
            kinds = type(left).__name__, type(right).__name__
            differences.append(_different("structure", leaf_path, *kinds, what))
    return differences


def _paired(
    expected: Any, actual: Any, path: str
) -> tuple[list[Difference], list[tuple[str, Any, Any]]]:
    """Return the differences in structure of two pytrees; without any, their leaves in pairs."""
    wanted, structure = flatten(expected, path)
    found, other = flatten(actual, path)
    differences = _structure(path, structure, other)
    if differences:
        return differences, []
    by_path = dict(found)
    if all(path in by_path for path, _ in wanted):  # dicts may change their order
        return [], [(path, leaf, by_path[path]) for path, leaf in wanted]
    return [], [(path, left, right) for (path, left), (_, right) in zip(wanted, found, strict=True)]


def _structure(path: str, expected: Structure, actual: Structure) -> list[Difference]:
    mapping = expected.kind == "mapping"
    if {expected.kind, actual.kind} == {"leaf", "array"}:
        return []
    if (
        expected.kind != actual.kind
        or len(expected.children) != len(actual.children)
        or (mapping and set(expected.keys) != set(actual.keys))
    ):
        return [_different("structure", path, expected.describe(), actual.describe())]
    others = dict(zip(actual.keys, actual.children, strict=True))
    twins = [others[key] for key in expected.keys] if mapping else actual.children
    triples = zip(expected.keys, expected.children, twins, strict=True)
    return [d for key, left, right in triples for d in _structure(f"{path}{key}", left, right)]


def largest_error(expected: Any, actual: Any) -> float | None:
    """Return ``max |actual - expected|`` over float outputs of equal structure, or None."""
    _, pairs = _paired(expected, actual, "")
    errors = [
        _error(a, b)
        for _, a, b in pairs
        if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and _shape(a) == _shape(b)
    ]
    return max((error for error in errors if error is not None), default=None)


def _error(a: torch.Tensor, b: torch.Tensor) -> float | None:
    numeric = a.is_floating_point() or a.is_complex()
    if not numeric or not a.numel() or a.is_meta or a.device != b.device:
        return None
    a, b = dense(a.detach()), dense(b.detach())
    if torch.equal(a, b):
        return 0.0
    gap = (_wide(b) - _wide(a)).abs()
    gap = gap[torch.isfinite(gap)]
    return float(gap.max()) if gap.numel() else None


def _leaf(
    path: str,
    expected: Any,
    actual: Any,
    tolerance: Tolerance,
    within: frozenset[tuple[int, int]],
) -> list[Difference]:
    pair = id(expected), id(actual)
    if expected is actual or pair in within:
        return []
    if isinstance(expected, torch.Generator) and isinstance(actual, torch.Generator):
        return _leaf(path, expected.get_state(), actual.get_state(), tolerance, within)
    if type(expected) is type(actual) and hasattr(expected, "__array_interface__"):
        # NumPy's arrays and numbers, images: as tensors, unless they hold no numbers.
        with contextlib.suppress(TypeError):
            return _leaf(path, as_tensor(expected), as_tensor(actual), tolerance, within)
    classes = type(expected).__mro__[:-1]
    if type(expected) is type(actual) and not any("__eq__" in vars(cls) for cls in classes):
        fixed = isinstance(expected, (type, enum.Enum)) or inspect.isroutine(expected)
        held, others = ({} if fixed else attributes_of(each) for each in (expected, actual))
        if not held and not others:
            kind = describe(expected)
            return [_different("values", path, kind, kind, ONLY_ITSELF)]
        # For example a cache of keys and values: compare its attributes.
        return compare_values(held, others, tolerance, path, within | {pair})
    if not isinstance(expected, torch.Tensor) or not isinstance(actual, torch.Tensor):
        return _scalar(path, expected, actual, tolerance)
    facts: tuple[tuple[DifferenceKind, str, Any, Any], ...] = (
        ("shape", "shape", _shape(expected), _shape(actual)),
        ("dtype", "dtype", expected.dtype, actual.dtype),
        ("device", "device", expected.device.type, actual.device.type),
        ("device", "layout", expected.layout, actual.layout),
    )
    for kind, fact, left, right in facts:
        if left != right:
            what = f"{fact} {_short(left)} became {_short(right)}"
            return [_different(kind, path, describe(expected), describe(actual), what)]
    return _numbers(path, expected, actual, tolerance)


def _shape(tensor: torch.Tensor) -> tuple[Any, ...]:
    if tensor.is_nested:
        return tuple(tuple(part.shape) for part in tensor.unbind())
    return tuple(tensor.shape)


def _short(value: Any) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value).removeprefix("torch.")


def _scalar(path: str, expected: Any, actual: Any, tolerance: Tolerance) -> list[Difference]:
    tensors = isinstance(expected, torch.Tensor) or isinstance(actual, torch.Tensor)
    kinds = tensors or type(expected) is not type(actual)
    if not kinds and isinstance(expected, (float, complex)):
        # Held in double, judged as what it was computed from: a number of float32.
        judged = Tolerance(*tolerance.of(torch.float32, abs(expected)))
        return _numbers(path, as_tensor(expected), as_tensor(actual), judged)
    if not kinds and _equal(expected, actual):
        return []
    kind: DifferenceKind = "structure" if kinds else "values"
    return [_different(kind, path, describe(expected), describe(actual))]


def as_tensor(number: Any) -> torch.Tensor:
    """Return a Python number with all its digits as a tensor of one element, or NumPy's numbers.

    Raises TypeError for an array of what torch has no dtype for.
    """
    if hasattr(number, "__array_interface__"):
        return torch.tensor(np.array(number))
    wide = torch.complex128 if isinstance(number, complex) else torch.float64
    return torch.tensor([number], dtype=wide)


def _equal(expected: Any, actual: Any) -> bool:
    """Return True if two foreign objects are equal; arrays answer per element, some raise."""
    try:
        answer = expected == actual
        return bool(answer.all() if hasattr(answer, "all") else answer)
    except Exception:
        return expected is actual


def _numbers(
    path: str, expected: torch.Tensor, actual: torch.Tensor, tolerance: Tolerance
) -> list[Difference]:
    if expected.is_meta:
        return []
    expected, actual = dense(expected), dense(actual)
    if are_one_memory(expected, actual) or torch.equal(expected, actual):
        return []
    rtol, atol = _allowed(expected, tolerance)
    wanted, found = _wide(expected), _wide(actual)
    if wanted.is_floating_point() or wanted.is_complex():
        bad = ~torch.isclose(found, wanted, rtol=rtol, atol=atol, equal_nan=True)
    else:
        # Exactly, or within the user's own tolerance: in double, which does not wrap around.
        apart = (found.double() - wanted.double()).abs()
        bad = (found != wanted) & ~((apart > 0) & (apart <= atol + rtol * wanted.double().abs()))
    if not bad.any():
        return []
    return [number_difference(path, expected, wanted, found, bad, (rtol, atol))]


def _allowed(tensor: torch.Tensor, tolerance: Tolerance) -> tuple[float, float]:
    if tensor.dtype not in _DOUBLE or not tensor.numel():  # it takes longer than to compare
        return tolerance.of(tensor.dtype, 0.0)
    sizes = _wide(tensor.detach()).abs().double()
    return tolerance.of(tensor.dtype, float(sizes.masked_fill(~torch.isfinite(sizes), 0.0).max()))


def number_difference(
    path: str,
    tensor: torch.Tensor,
    wanted: torch.Tensor,
    found: torch.Tensor,
    bad: torch.Tensor,
    allowed: tuple[float, float],
) -> Difference:
    """Return the difference of two tensors in the ``bad`` elements, shown by the worst of them.

    ``tensor`` has the output's own dtype; ``wanted`` and ``found`` hold its numbers as ``_wide``
    has them. ``allowed`` is (rtol, atol).
    """
    rtol, atol = allowed
    shape = bad.shape
    wanted, found, bad = (each.detach().reshape(-1) for each in (wanted, found, bad))
    # In double, so that extremes of int64 do not wrap around; ``bad`` was computed exactly.
    one, other = (each if each.is_complex() else each.double() for each in (wanted, found))
    gap, size = (other - one).abs(), one.abs()
    # The worst element is the one furthest beyond its tolerance; NaN and inf come first.
    excess = torch.where(bad, (gap - rtol * size).nan_to_num(nan=math.inf), -math.inf)
    flat = int(excess.argmax())
    index = tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), shape))
    left, right = (_number(each[flat], tensor.dtype) for each in (wanted, found))
    worst, scale = float(gap[flat]), float(size[flat])
    if isinstance(left, int):
        worst, scale = float(abs(right - left)), float(abs(left))
    return Difference(
        kind="values",
        path=path,
        expected=_shown(left, tensor.dtype),
        actual=_shown(right, tensor.dtype),
        what=describe(tensor),
        mismatched=int(bad.sum()),
        total=tensor.numel(),
        max_abs=worst,
        max_rel=worst / scale if scale else math.inf,
        index=index,
        rtol=rtol,
        atol=atol,
    )


def _number(value: torch.Tensor, dtype: torch.dtype) -> Any:
    """Return the exact number: ``_wide`` holds uint64 beyond 2**63 as negative numbers."""
    number = value.item()
    return number + 2**64 if dtype == torch.uint64 and number < 0 else number


def _shown(number: Any, dtype: torch.dtype) -> str:
    if dtype == torch.bool:
        return str(bool(number))
    # All digits of float64, of which an artifact may lose the last half.
    exact = isinstance(number, int) or dtype == torch.float64
    return str(number) if exact else f"{number:.7g}"


def gap(left: torch.Tensor, right: torch.Tensor) -> float:
    """Return how much two tensors differ, in epsilons of the largest number; 0 if not at all.

    For intermediate results, which have no tolerance: all numbers on the scale of the largest.
    """
    if left is right or left.is_meta:
        return 0.0
    if left.dtype != right.dtype or left.device != right.device:
        return math.inf
    try:
        left, right = dense(left.detach()), dense(right.detach())
        if left.shape != right.shape:
            return math.inf
        if are_one_memory(left, right):
            return 0.0
        same = (left == right) | ((left != left) & (right != right))
        if bool(same.all()):
            return 0.0
        if not (left.is_floating_point() or left.is_complex()):
            return math.inf
        apart = torch.where(same, 0.0, (left - right).abs().double())
        size = left.abs().double()
        largest = float(torch.where(torch.isfinite(size), size, 0.0).max())
    except (RuntimeError, NotImplementedError):  # a layout without these operators
        return 0.0
    if not largest or not bool(torch.isfinite(apart).all()):
        return math.inf
    return float(apart.max()) / (largest * torch.finfo(left.dtype).eps)


def dense(tensor: torch.Tensor) -> torch.Tensor:
    """Return the same numbers in a plain strided tensor."""
    if tensor.is_nested:
        tensor = torch.cat([part.reshape(-1) for part in tensor.unbind()])
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    if tensor.dtype == torch.complex32:
        tensor = tensor.to(torch.complex64)  # which the operators below do not take
    if tensor.is_floating_point() and tensor.dtype.itemsize == 1:
        tensor = tensor.float()  # likewise
    return tensor.dequantize() if tensor.is_quantized else tensor


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    """Return the same numbers in a dtype in which differences do not overflow or wrap around."""
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    if tensor.is_floating_point():
        return tensor.double()
    return tensor.to(torch.int64)
