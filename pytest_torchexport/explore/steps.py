"""Find the smallest step of float inputs that lets quantities of a call fall by given amounts.

To first order. The step stays within the inputs' ranges, and other quantities rise by no more than
they may: they are the distances at which earlier conditions would change. The problem is the
quadratic program ``min |step|²`` with one linear constraint per quantity; it has few constraints
and is solved by coordinate ascent on their multipliers (C. Hildreth, 1957).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# How often the solver goes over the multipliers.
SWEEPS = 60
# It ends before that if no multiplier moves the step by more than this part of what is missing.
SETTLED = 1e-6
# How often the step is continued with the elements that are not yet at an end of their range.
CONTINUED = 4
# A step that reaches less than this part of the amount gives up the other quantities.
ENOUGH = 0.5

Range = tuple[float, float]


@dataclass(frozen=True)
class Quantity:
    """A quantity of a call: its gradients per float leaf, and the most that it may change by.

    A negative ``most`` says how far it has to fall.
    """

    gradients: Mapping[int, Tensor]
    most: float


def stepped(
    values: Mapping[int, Tensor],
    ranges: Mapping[int, Range],
    wanted: Sequence[Quantity],
    kept: Sequence[Quantity] = (),
) -> dict[int, Tensor] | None:
    """Return the leaves after the step; None if no quantity that is to fall depends on them.

    If the kept quantities leave no way to half of what is wanted, the step ignores them. Elements
    that are not finite stay as they are, and quantities that are not finite do not count.
    """
    wanted, kept = (
        [item for item in items if math.isfinite(item.most)] for items in (wanted, kept)
    )
    if not wanted:
        return None
    own = _flat(values, values)
    fixed = ~own.isfinite()
    start = own.masked_fill(fixed, 0.0)
    low, high = (
        _flat({i: torch.full_like(v, ranges[i][end]) for i, v in values.items()}, values)
        for end in (0, 1)
    )
    low, high = low.masked_fill(fixed, 0.0), high.masked_fill(fixed, 0.0)
    slopes = torch.stack([_flat(item.gradients, values) for item in (*wanted, *kept)]) * ~fixed
    most = torch.tensor([item.most for item in (*wanted, *kept)], dtype=torch.float64)
    number = len(wanted)
    if not slopes[:number].square().sum() > 0:
        return None
    there = _within(start, low, high, slopes, most)
    missing = -most[:number].clamp(max=0.0).sum()
    if kept and not _left(slopes[:number], there - start, most[:number]) <= ENOUGH * missing:
        there = _within(start, low, high, slopes[:number], most[:number])
    there = torch.where(fixed, own, there)
    parts = torch.split(there, [value.numel() for value in values.values()])
    return {
        index: part.reshape(value.shape)
        for (index, value), part in zip(values.items(), parts, strict=True)
    }


def _flat(tensors: Mapping[int, Tensor], like: Mapping[int, Tensor]) -> Tensor:
    """Return the tensors of these leaves in one row; zeros for those that are missing."""
    return torch.cat(
        [tensors.get(i, torch.zeros_like(leaf)).double().reshape(-1) for i, leaf in like.items()]
    )


def _left(slopes: Tensor, change: Tensor, most: Tensor) -> Tensor:
    """Return how much is still missing after a change, to first order."""
    return (slopes @ change - most).clamp(min=0.0).sum()


def _within(start: Tensor, low: Tensor, high: Tensor, slopes: Tensor, most: Tensor) -> Tensor:
    """Return where the step ends. Elements that reach an end of their range stay there."""
    there = start.clamp(low, high)
    free = torch.ones_like(there, dtype=torch.bool)
    for _ in range(CONTINUED):
        change = _smallest(slopes * free, most - slopes @ (there - start))
        there = (there + change).clamp(low, high)
        stuck = ((there == low) & (change < 0)) | ((there == high) & (change > 0))
        if not (stuck & free).any():
            break
        free &= ~stuck
    return there


def _smallest(slopes: Tensor, most: Tensor) -> Tensor:
    """Return the smallest change for which ``slopes @ change <= most``."""
    products: list[list[float]] = (slopes @ slopes.T).tolist()
    missing: list[float] = (-most).tolist()
    pulls = [0.0] * len(missing)
    for _ in range(SWEEPS if len(pulls) > 1 else 1):
        moved = 0.0
        for number, row in enumerate(products):
            if row[number] > 0:
                left = missing[number] - sum(map(operator.mul, row, pulls))
                pull = max(0.0, pulls[number] + left / row[number])
                moved = max(moved, abs(pull - pulls[number]) * math.sqrt(row[number]))
                pulls[number] = pull
        if moved <= SETTLED * max(map(abs, missing)):
            break
    return -(torch.tensor(pulls, dtype=slopes.dtype, device=slopes.device) @ slopes)
