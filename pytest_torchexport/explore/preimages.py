"""Find numbers of the inputs for which an element of a tensor meets a condition.

Elements of the inputs are changed one after the other: each to the number that brings the condition
nearest, of all that it may have, or of a grid that gets finer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pytest_torchexport.explore.distance import MIRRORED, NEGATED, number
from pytest_torchexport.explore.origins import Origin, Origins
from pytest_torchexport.explore.provenance import Combined, Compared, Computed, Reduced
from pytest_torchexport.explore.recomputation import Recomputation, TooLarge

# All integers of a range are tried if they are no more than this, divided by the elements that they
# are combined with; else the numbers of a grid, which is made finer up to so many times.
MOST_POINTS, GRID, FINER = 2**20, 2**11, 8
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
class Demand:
    """An element of a tensor, the relation that it is to have, and the number it is compared with.

    ``operator`` is one of ``==``, ``!=``, ``<``, ``<=``, ``>``, ``>=``.
    """

    origin: Origin
    place: int
    operator: str
    number: float

    def missing(self, found: Tensor) -> Tensor:
        """Return how far numbers are from meeting it; 0 if they do."""
        apart = found.double() - self.number
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
    numbers = right.detach().expand(mine.shape).reshape(-1)
    order = apart.reshape(-1).argsort()[:MOST_PLACES].tolist()
    demands = [Demand(origin, place, operator, float(numbers[place])) for place in order]
    yield demands[:1]
    if len(demands) > 1:
        yield demands


def met(
    demands: Sequence[Demand], leaves: dict[int, Tensor], among: dict[int, Among]
) -> dict[int, Tensor] | None:
    """Return the inputs with numbers that meet all demands, flat; None if none are found.

    ``leaves`` are the numbers of the call by input, flat, and ``among`` those that an input may
    have. Inputs that ``among`` leaves out are not changed.
    """
    recomputation = Recomputation({index: leaf.clone() for index, leaf in leaves.items()})
    try:
        done = all(_meet(demand, recomputation, among) for demand in demands)
    except torch.OutOfMemoryError:
        raise
    except (TooLarge, RuntimeError, IndexError):  # an operator that takes no such shapes
        return None
    return recomputation.leaves if done else None


def _meet(demand: Demand, recomputation: Recomputation, among: dict[int, Among]) -> bool:
    elements = [
        element
        for element in recomputation.elements(demand.origin, demand.place)
        if element[0] in among
    ]
    width = recomputation.width
    for element in elements[:MOST_CHANGED]:
        leaf, position = element
        chosen, far = _best(demand, recomputation, element, among[leaf], width)
        recomputation.leaves[leaf][position] = chosen
        if far == 0:
            return True
    return False


def _best(
    demand: Demand, recomputation: Recomputation, element: tuple[int, int], among: Among, width: int
) -> tuple[Tensor, float]:
    """Return the number of an element that comes nearest to a demand, and how near."""
    leaf, position = element
    own = recomputation.leaves[leaf][position].clone()
    low, high = among.low, among.high
    best, least = own, math.inf
    for _ in range(FINER):
        points = torch.cat([own[None], _points(among, low, high, own.dtype, width)])
        missing = demand.missing(recomputation.run(demand.origin, demand.place, element, points))
        far = float(missing.nan_to_num(math.inf).min())
        if far < least:
            near = points[missing == far]
            # Of those as near, the one nearest to the call's.
            best, least = near[(near.double() - own.double()).abs().argmin()], far
        step = (high - low) / GRID
        if not least or among.choices or len(points) != GRID + 1 or step <= math.ulp(float(best)):
            break
        low, high = max(among.low, float(best) - step), min(among.high, float(best) + step)
    return best, least


def _points(among: Among, low: float, high: float, dtype: torch.dtype, width: int) -> Tensor:
    if among.choices:
        return torch.tensor(among.choices, dtype=dtype)
    if not dtype.is_floating_point and high - low < MOST_POINTS // width:
        return torch.arange(math.ceil(low), math.floor(high) + 1).to(dtype)
    if dtype.is_floating_point:
        return torch.linspace(low, high, GRID, dtype=torch.float64).to(dtype)
    # Not as floats, which do not hold the ends of int64.
    first, last = math.ceil(low), math.floor(high)
    return torch.tensor([first + (last - first) * n // (GRID - 1) for n in range(GRID)]).to(dtype)
