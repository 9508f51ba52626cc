"""Find numbers of the inputs for which elements of tensors meet conditions.

Elements of the inputs are changed one after the other: each to the number that brings a condition
nearest, and keeps those before it, of all that it may have, or of a grid that gets finer.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pytest_torchexport.explore.distance import MIRRORED, NEGATED, number
from pytest_torchexport.explore.origins import Origin, Origins
from pytest_torchexport.explore.provenance import Combined, Compared, Computed, Reduced
from pytest_torchexport.explore.recomputation import (
    MOST_NUMBERS,
    Effort,
    Element,
    Recomputation,
    TooLarge,
)

# All integers of a range are tried if they are no more than this, divided by the elements that they
# are combined with, and may all be computed; else the numbers of a grid, which is made finer up to
# so many times.
MOST_POINTS, GRID, FINER = 2**20, 2**11, 8
# Whole numbers that a grid leaves out and code asks for: powers of two, and those beside them.
LANDMARKS = tuple(sign * (2**n + way) for n in range(63) for way in (-1, 0, 1) for sign in (1, -1))
# Elements of the inputs that are changed for one element of a tensor.
MOST_CHANGED = 48

# Elements of an operand for which numbers of the inputs are chosen.
MOST_PLACES = 16


@dataclass(frozen=True)
class Among:
    """The numbers that an element of an input may have: a range, or some."""

    low: float
    high: float
    choices: tuple[float, ...] = ()


@dataclass(frozen=True)
class Decided:
    """The elements that decide a demand, and how many are computed: at once, and in all."""

    elements: dict[Element, None]
    width: int
    cost: int


@dataclass(frozen=True)
class Demand:
    """An element of a tensor, its relation to a number, and that number.

    ``operator`` is one of ``==``, ``!=``, ``<``, ``<=``, ``>``, ``>=``. ``other`` is the
    tensor that has the number at the same place, if it depends on the inputs too.
    """

    origin: Origin
    place: int
    operator: str
    number: float
    other: Origin | None = None

    def just_beyond(self, far: float) -> Demand:
        """Return the demand of a number that is so far beyond the one that it is compared with."""
        way = {">": 1, "<": -1}.get(self.operator, 0)
        whole = not self.origin.value.is_floating_point()
        number = self.number + way * (max(1, round(far)) if whole else far)
        return dataclasses.replace(self, operator="==", number=number)

    def decided_by(self, recomputation: Recomputation) -> Decided:
        """Return the elements of the inputs that it depends on, and what it takes to compute it."""
        elements: dict[Element, None] = {}
        width = cost = 0
        for origin in filter(None, (self.origin, self.other)):
            elements |= dict.fromkeys(recomputation.elements(origin, self.place))
            width, cost = max(width, recomputation.width), cost + recomputation.cost
        return Decided(elements, width, cost)

    def missing(self, recomputation: Recomputation, element: Element, points: Tensor) -> Tensor:
        """Return how far it is from being met if an element is each of some numbers; 0 if it is."""
        apart = recomputation.run(self.origin, self.place, element, points).double()
        if self.other is None:
            apart = apart - self.number
        else:
            apart = apart - recomputation.run(self.other, self.place, element, points).double()
        if self.operator in ("==", "!="):
            far = apart.abs()
            return far if self.operator == "==" else (far == 0).double()
        beyond = apart if self.operator in (">", ">=") else -apart
        met = beyond >= 0 if "=" in self.operator else beyond > 0
        least = math.ulp(self.number)
        return (-beyond).clamp(min=least).masked_fill(met, 0.0)


def demands_of(provenance: Any, wanted: bool, origins: Origins) -> Iterator[list[Demand]]:
    """Yield demands that together give a condition the wanted outcome: in one element, in all."""
    if isinstance(provenance, Combined):
        if provenance.operator == "not":
            yield from demands_of(provenance.parts[0], not wanted, origins)
        elif (provenance.operator == "and") == wanted:
            first = [next(demands_of(part, wanted, origins), []) for part in provenance.parts]
            yield [demand for demands in first for demand in demands]
        else:
            for part in provenance.parts:
                yield from demands_of(part, wanted, origins)
    elif isinstance(provenance, (Reduced, Computed)):
        yield from demands_of(provenance.inner, wanted, origins)
    elif isinstance(provenance, Compared):
        sign = provenance.operator if wanted else NEGATED.get(provenance.operator, "")
        for mine, other, own in (
            (provenance.left, provenance.right, sign),
            (provenance.right, provenance.left, MIRRORED.get(sign, sign)),
        ):
            yield from _demands(mine, own, other, origins)
    elif isinstance(provenance.value, Tensor):
        yield from _demands(provenance.value, "!=" if wanted else "==", False, origins)


def _demands(mine: Any, operator: str, other: Any, origins: Origins) -> Iterator[list[Demand]]:
    """Yield the demand of the nearest element of an operand, then those of all elements."""
    origin, right = origins.of(mine), number(other)
    if origin is None or right is None or origins.has_part(mine) or operator not in MIRRORED:
        return
    apart = (mine.detach().double() - right.detach()).abs().nan_to_num(math.inf)
    if apart.shape != mine.shape:
        return
    order = apart.reshape(-1).argsort()[:MOST_PLACES].tolist()
    demands = [demand_at(origin, place, operator, other, origins) for place in order]
    yield demands[:1]
    if len(demands) > 1:
        yield demands


def demand_at(origin: Origin, place: int, operator: str, other: Any, origins: Origins) -> Demand:
    """Return the demand of one element, which is compared with a number or with a tensor's."""
    right = number(other)
    assert right is not None
    wanted = float(right.detach().expand(origin.value.shape).reshape(-1)[place])
    alike = isinstance(other, Tensor) and other.shape == origin.value.shape
    moving = origins.of(other) if alike else None
    # A place says nothing about how far another one is from being chosen.
    missing = origin.missing_at(wanted) if operator == "==" and moving is None else None
    if missing is not None:
        return Demand(missing, place, "==", 0.0)
    return Demand(origin, place, operator, wanted, moving)


def met(
    demands: Sequence[Demand],
    leaves: dict[int, Tensor],
    among: dict[int, Among],
    most: Effort | None = None,
) -> dict[int, Tensor] | None:
    """Return the inputs with numbers that meet all demands, flat; None if none are found.

    ``leaves`` are the numbers of the call by input, flat, and ``among`` those that an input may
    have. Inputs that ``among`` leaves out are not changed. ``most`` is what it may take, if less
    than usual; what it takes is subtracted.
    """
    most = most or Effort()
    effort = Effort(min(most.left, MOST_NUMBERS))
    before = effort.left
    recomputation = Recomputation({i: leaf.clone() for i, leaf in leaves.items()}, effort=effort)
    try:
        decided = [demand.decided_by(recomputation) for demand in demands]
        done = all(
            _meet(list(zip(demands[:last], decided, strict=False)), recomputation, among)
            for last in range(1, len(demands) + 1)
        )
    except torch.OutOfMemoryError:
        raise
    except (TooLarge, RuntimeError, IndexError):  # an operator that takes no such shapes
        return None
    finally:
        most.left -= before - effort.left
    return recomputation.leaves if done else None


def _meet(
    demands: Sequence[tuple[Demand, Decided]],
    recomputation: Recomputation,
    among: dict[int, Among],
) -> bool:
    """Change elements until the last demand is met; the others, each with its elements, stay so."""
    elements = [element for element in demands[-1][1].elements if element[0] in among]
    for element in elements[:MOST_CHANGED]:
        leaf, position = element
        of_element = [item for item in demands if element in item[1].elements]
        width = max(decided.width for _, decided in of_element)
        cost = sum(decided.cost for _, decided in of_element)
        most = min(MOST_POINTS // width, recomputation.effort.left // cost)
        together = [demand for demand, _ in of_element]
        chosen, far = _best(together, recomputation, element, among[leaf], most)
        recomputation.leaves[leaf][position] = chosen
        if far == 0:
            return True
    return False


def _best(
    demands: Sequence[Demand],
    recomputation: Recomputation,
    element: Element,
    among: Among,
    most: int,
) -> tuple[Tensor, float]:
    """Return the number of an element that comes nearest to all demands, and how near.

    ``most`` is how many numbers may be tried at once.
    """
    leaf, position = element
    own = recomputation.leaves[leaf][position].clone()
    low, high = among.low, among.high
    best, least = own, math.inf
    for _ in range(FINER):
        tried = _points(among, low, high, own.dtype, most)
        points = torch.cat([own[None], tried])
        far = torch.stack([each.missing(recomputation, element, points) for each in demands])
        missing = far.nan_to_num(math.inf).sum(0)
        nearest = float(missing.min())
        if nearest < least:
            near = points[missing == nearest]
            # Of those as near, the one nearest to the call's.
            best, least = near[(near.double() - own.double()).abs().argmin()], nearest
        step = (high - low) / GRID
        whole = among.choices or _are_few(low, high, own.dtype, most)
        if not least or whole or step <= math.ulp(float(best)):
            break
        low, high = max(among.low, float(best) - step), min(among.high, float(best) + step)
    return best, least


def _are_few(low: float, high: float, dtype: torch.dtype, most: int) -> bool:
    """Return True if all whole numbers of a range are tried."""
    return not dtype.is_floating_point and high - low < most


def _points(among: Among, low: float, high: float, dtype: torch.dtype, most: int) -> Tensor:
    if among.choices:
        return torch.tensor(among.choices, dtype=dtype)
    if _are_few(low, high, dtype, most):
        return torch.arange(math.ceil(low), math.floor(high) + 1).to(dtype)
    if dtype.is_floating_point:
        return torch.linspace(low, high, GRID, dtype=torch.float64).to(dtype)
    # Not as floats, which do not hold the ends of int64.
    first, last = math.ceil(low), math.floor(high)
    grid = [first + (last - first) * n // (GRID - 1) for n in range(GRID)]
    marks = [number for number in LANDMARKS if among.low <= number <= among.high]
    return torch.tensor([*grid, *marks]).to(dtype)
