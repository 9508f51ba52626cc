"""Find the thresholds inside torch's operators: the values at which one computes something else.

``clamp`` has bounds, ``round`` has half points, ``argmax`` has ties, a division has zero. An
exporter or a runtime may have another bound there, or none, and random numbers seldom meet the few
calls on which that shows. Separate from the conditions of Python code (``conditions``): these are
decided element by element, and every path through the code has both sides of them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pytest_torchexport.inputs.pytrees import is_plain
from pytest_torchexport.outcomes.operator_table import OPERATORS, of_kind
from pytest_torchexport.outcomes.operators import Operation

# Operands with more elements are not looked at: it would cost more than the operator.
MOST_ELEMENTS = 2**18
# A denominator or a norm below this part of its tensor's largest element is next to zero.
TINY = 1e-6
# A constant up to this that is added to a tensor is there for the case that the tensor is zero.
LARGEST_EPSILON = 1e-2
# A tensor of up to so many elements may be a table of bounds, each of which is a threshold.
TABLE = 8
# The name of a threshold at which a sum with a number is zero. There is none in most models: it is
# one only if the other side does not have the number. Also the side of one at which a row is
# constant.
CONSTANT = "constant"
SIDES = ("above", "below")
AT = ("at",)
# Where two elements are to be equal, and where a denominator is to be.
TIED, NEXT_TO_ZERO = "tied", "next to 0"

# Tensors, each with the direction in which its elements are to move.
Pull = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """One threshold of one operator, and the element that is nearest to it or beyond.

    ``side`` is where the element is to be, as above a bound or at it; ``name`` tells the bound from
    others of its operator, and ``bound`` is its value, or None if it is no constant. ``missing`` is
    how far the element is from it, in the units of the operand, negative beyond it. ``pull``
    returns the operands with the directions that take the element there. ``operand`` is compared
    with ``other``, and ``scale`` is its largest absolute value.
    """

    side: str
    missing: float
    scale: float
    pull: Callable[[], Pull]
    operand: Tensor
    name: str = ""
    bound: float | None = None
    other: Any = None

    @property
    def met(self) -> bool:
        """Return True if the call has an element there."""
        return self.missing <= 0 if self.side in (*AT, TIED, NEXT_TO_ZERO) else self.missing < 0


def beyond(operand: Any, bounds: Sequence[float]) -> Iterator[Threshold]:
    """Yield both sides of each number for the elements of a tensor of floats.

    For integers, yield only the number itself: if two bounds decide on some integer differently,
    they decide on one of the bounds differently too.
    """
    if bounds and _usable(operand) and operand.dtype != torch.bool:
        for bound in bounds:
            sides = SIDES if operand.is_floating_point() else AT
            yield from _against(operand, bound, sides, f"{bound:.17g}", closest=True)


def _usable(value: Any) -> bool:
    """Return True for a dense tensor of real numbers, of which there are some and not too many."""
    return is_plain(value) and not value.is_complex() and 0 < value.numel() <= MOST_ELEMENTS


def _is_float(value: Any) -> bool:
    return _usable(value) and bool(value.is_floating_point())


def _numbers(value: Tensor) -> Tensor:
    """Return floats that can be subtracted without loss, outside autograd."""
    value = value.detach()
    return value if value.dtype in (torch.float32, torch.float64) else value.double()


def _largest(numbers: Tensor) -> float:
    return float(numbers.abs().nan_to_num(0.0, 0.0, 0.0).max())


def _against(
    operand: Any,
    bound: Any,
    sides: Sequence[str],
    name: str = "",
    *,
    fixed: bool = False,
    closest: bool = False,
) -> Iterator[Threshold]:
    """Yield the thresholds ``above``, ``below`` and ``at`` a bound, those in ``sides``.

    ``bound`` is a number, or a tensor that broadcasts with the operand; ``fixed`` if it is one that
    does not move with the input. ``closest``: of the element that is closest to it, also beyond it.
    """
    if not _usable(operand) or not (isinstance(bound, (int, float)) or _usable(bound)):
        return
    if isinstance(bound, Tensor) and bound.numel() <= TABLE and not fixed:
        # A table of bounds, each of which the other side may have rounded.
        for number, value in enumerate(bound.reshape(-1).tolist()):
            yield from _against(operand, value, sides, f"[{number}] {name}".strip())
    numbers = _numbers(operand)
    apart = numbers - (_numbers(bound) if isinstance(bound, Tensor) else bound)
    # As they are now: forward may reshape them in place (``squeeze_``) before a pull is asked for.
    shape = operand.shape
    bounds = bound.shape if isinstance(bound, Tensor) else ()
    unknown = apart.isfinite().logical_not_()
    known = apart.numel() - int(unknown.count_nonzero())
    if apart.numel() > MOST_ELEMENTS or not known:
        return
    scale = _largest(numbers)
    for side in sides:
        far = -apart if side == "above" else apart if side == "below" else apart.abs()
        far = far if known == apart.numel() else far.masked_fill(unknown, math.inf)
        nearest = int((far.abs() if closest else far).argmin())
        missing = float(far.reshape(-1)[nearest])

        def pull(index: int = nearest, side: str = side) -> Pull:
            up = side == "above" or (side == "at" and float(apart.reshape(-1)[index]) < 0)
            way = torch.zeros(apart.numel(), dtype=torch.float64)
            way[index] = 1.0 if up else -1.0
            way = way.reshape(apart.shape)
            moves = isinstance(bound, Tensor) and not fixed
            other = [(bound, -way.sum_to_size(bounds).reshape(bound.shape))] if moves else []
            return [(operand, way.sum_to_size(shape).reshape(operand.shape)), *other]

        yield Threshold(
            side=side,
            name=name,
            bound=None if isinstance(bound, Tensor) else float(bound),
            missing=missing,
            scale=scale,
            pull=pull,
            operand=operand,
            other=bound,
        )


# -- the operators ---------------------------------------------------------------------------------


Rule = Callable[[Operation], Iterator[Threshold]]


def _bounded(op: Operation) -> Iterator[Threshold]:
    """Yield the numbers of the operator's row, and the arguments that the row names."""
    for bound in op.row.bounds:
        if isinstance(bound, float):
            sides = SIDES + AT if op.row.kinds >= {"step"} else SIDES
            yield from _against(op.operand, bound, sides, f"{bound:g}")
            continue
        name, _, divisor = bound.removeprefix("-").partition("/")
        value, by = op.argument(name), op.argument(divisor) if divisor else 1
        if value is not None and by:
            value = value if by == 1 else value / by
            yield from _against(op.operand, -value if bound[0] == "-" else value, SIDES, bound)


def _bucketed(op: Operation) -> Iterator[Threshold]:
    """Yield each boundary of a few, or the nearest ones; at a boundary, its side decides."""
    operand, boundaries = op.argument("self"), op.argument(op.row.table)
    right = op.argument("right") or op.argument("side") == "right"
    side = "right" if right else "left"
    if not _usable(operand) or not _usable(boundaries) or boundaries.dim() != 1:
        return
    if boundaries.numel() <= TABLE:
        for number, value in enumerate(boundaries.tolist()):
            yield from _against(operand, value, SIDES + AT, f"{side} {number}")
        return
    numbers, bounds = _numbers(operand), _numbers(boundaries)
    after = torch.searchsorted(bounds, numbers).clamp(1, len(bounds) - 1)
    below, above = bounds[after - 1], bounds[after]
    nearest = torch.where(numbers - below < above - numbers, below, above)
    yield from _against(operand, nearest, AT, side, fixed=True)


def _half_points(op: Operation) -> Iterator[Threshold]:
    if _is_float(op.operand):
        half = _numbers(op.operand).floor() + 0.5
        yield from _against(op.operand, half, AT, fixed=True)


def _integers(op: Operation) -> Iterator[Threshold]:
    if _is_float(op.operand):
        yield from _against(op.operand, _numbers(op.operand).round(), AT, fixed=True)
        yield from _against(op.operand, 0.0, ("below",))


def _divided(op: Operation) -> Iterator[Threshold]:
    divisor = op.argument("other")
    yield from _next_to_zero(divisor)
    if _usable(op.operand) and not op.operand.dim() and not op.operand.is_floating_point():
        return  # a trace divides sizes so, and numbers of the inputs do not move them
    whole = "decides" in op.row.kinds or op.argument("rounding_mode") is not None
    if whole and _usable(op.operand) and (isinstance(divisor, (int, float)) or _usable(divisor)):
        by = _numbers(divisor) if isinstance(divisor, Tensor) else divisor
        multiples = (_numbers(op.operand) / by).nan_to_num(0.0, 0.0, 0.0).round() * by
        yield from _against(op.operand, multiples, AT, "multiple", fixed=True)
        yield from _against(op.operand, 0.0, ("below",))


def _next_to_zero(operand: Any) -> Iterator[Threshold]:
    if _is_float(operand):
        for found in _against(operand, 0.0, AT):
            yield found
            missing = found.missing - TINY * found.scale
            yield dataclasses.replace(found, side=NEXT_TO_ZERO, bound=None, missing=missing)


def _added(op: Operation) -> Iterator[Threshold]:
    number = op.argument("other")
    if not isinstance(number, (int, float)) or not number:
        return
    if abs(number) > LARGEST_EPSILON:
        zero = -number if op.row.symbol == "+" else number
        yield from _against(op.operand, zero, AT, CONSTANT)
    elif isinstance(number, float):
        yield from _against(op.operand, abs(number), ("below",), "epsilon")


def _exponential(op: Operation) -> Iterator[Threshold]:
    """Yield the largest and the smallest exponent whose power the operand's type holds."""
    for name in op.row.exponents:
        operand = op.argument(name)
        if _is_float(operand):
            limits = torch.finfo(operand.dtype)
            largest, smallest = (
                math.log(limit, op.row.base) for limit in (limits.max, limits.tiny)
            )
            yield from _against(operand, largest, ("above",), f"overflow {name}")
            yield from _against(operand, smallest, ("below",), f"underflow {name}")


def _angle(op: Operation) -> Iterator[Threshold]:
    """Yield the axes: on the left half of the first one, a sign of zero decides."""
    yield from _against(op.operand, 0.0, SIDES + AT, "y")
    yield from _against(op.argument("other"), 0.0, SIDES, "x")


def _tied(op: Operation) -> Iterator[Threshold]:
    """Yield the tie of the first two elements of the row that is nearest to having one."""
    tensor, dim = op.operand, op.argument("dim")
    if not _usable(tensor) or not tensor.dim() or tensor.dtype == torch.bool:
        return
    along = dim if isinstance(dim, int) else None
    rows = _numbers(tensor)
    rows = rows.reshape(1, -1) if along is None else rows.movedim(along, -1)
    if rows.shape[-1] < 2:
        return
    smallest = op.row.largest is False and "reduction" in op.row.kinds
    first = rows.topk(2, dim=-1, largest=not smallest)
    gaps = (first.values[..., 0] - first.values[..., 1]).abs().nan_to_num(math.inf).reshape(-1)
    row = int(gaps.argmin())

    way = torch.zeros(rows.shape[-1], dtype=torch.float64)
    ahead, behind = first.indices.reshape(-1, 2)[row].tolist()
    way[ahead], way[behind] = (1.0, -1.0) if smallest else (-1.0, 1.0)
    yield _of_row(tensor, rows, (row, way), TIED, float(gaps[row]), along)


def _normalized(op: Operation) -> Iterator[Threshold]:
    """Yield the row that is nearest to being constant, so that epsilon decides."""
    tensor, group = op.operand, op.argument("group")
    if not _is_float(tensor):
        return
    rows = (
        _numbers(tensor).reshape(tensor.shape[0], group, -1)
        if group is not None
        else _numbers(tensor).flatten(tensor.dim() - len(op.argument("normalized_shape")))
    )
    centered = rows - rows.mean(-1, keepdim=True)
    deviations = centered.square().mean(-1).sqrt().reshape(-1)
    row = int(deviations.argmin())
    own = float(deviations[row])
    # A row that is constant already has no way.
    way = -centered.reshape(-1, rows.shape[-1])[row].double() / ((own or 1.0) * rows.shape[-1])
    yield _of_row(tensor, rows, (row, way), CONSTANT, own - math.sqrt(op.argument("eps")))


def _of_row(
    tensor: Tensor,
    rows: Tensor,
    moved: tuple[int, Tensor],
    side: str,
    missing: float,
    along: int | None = None,
) -> Threshold:
    """Return the threshold of a row of a tensor; ``along`` is the dimension that rows have last.

    ``moved`` is the position of the row, and the direction of its elements.
    """

    def pull() -> Pull:
        row, way = moved
        ways = torch.zeros(rows.numel(), dtype=torch.float64).reshape(-1, rows.shape[-1])
        ways[row] = way
        ways = ways.reshape(rows.shape)
        ways = ways if along is None else ways.movedim(-1, along)
        return [(tensor, ways.reshape(tensor.shape))]

    return Threshold(side=side, missing=missing, scale=_largest(rows), pull=pull, operand=tensor)


def _cast(op: Operation) -> Iterator[Threshold]:
    dtype = op.argument("dtype")
    if not isinstance(dtype, torch.dtype) or not _is_float(op.operand) or dtype.is_complex:
        return
    if not dtype.is_floating_point and dtype != torch.bool:
        yield from _integers(op)
    elif dtype.itemsize < op.operand.dtype.itemsize:
        largest = torch.finfo(dtype).max
        yield from _against(op.operand, largest, ("above",), "overflow")
        yield from _against(op.operand, -largest, ("below",), "overflow")


COMPARING = of_kind("comparison")
BUCKETING = of_kind("bucketing")
_OF_KINDS: Mapping[str, Rule] = {
    "comparison": lambda op: _against(op.operand, op.argument("other"), SIDES + AT),
    "rounding": _half_points,
    "whole": _integers,
    "division": _divided,
    "near_zero": lambda op: _next_to_zero(op.operand),
    "exponential": _exponential,
    "angle": _angle,
    "addition": _added,
    "choice": _tied,
    "normalization": _normalized,
    "cast": _cast,
    "bucketing": _bucketed,
}
RULES: Mapping[str, Rule] = {
    **{name: _bounded for name, row in OPERATORS.items() if row.bounds},
    **{name: rule for kind, rule in _OF_KINDS.items() for name in of_kind(kind)},
}
# Operators whose bounds are numbers in the code: an exporter writes them into the file.
STATED = of_kind("comparison", "clamp")
