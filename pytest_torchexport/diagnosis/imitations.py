"""Imitate the defects of other packages: what an operator computes that has the defect.

Each function is given the right operator and its arguments, and follows the source or the graph of
the package that has the defect. Separate from the table, which says whose defect it is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# An addend that onnxscript's patterns take for zero, as math.isclose does with an abs_tol.
ZERO = 1e-8


def without_small_addend(func: Any, x: Tensor, other: Any, *, alpha: float = 1) -> Tensor:
    """Add nothing if the addend is almost zero."""
    small = abs(float(other)) <= ZERO if not isinstance(other, Tensor) or not other.dim() else False
    right: Tensor = func(x, other, alpha=alpha)
    return x.to(right.dtype) if small else right


def floor_of_quotient(_func: Any, x: Tensor, other: Any) -> Tensor:
    """Round the quotient down; the right operator rounds the exact one."""
    return torch.floor(torch.true_divide(x, other))


def atan2_by_slope(_func: Any, y: Tensor, x: Tensor) -> Tensor:
    """Take the quadrant from comparisons with zero, and 0 for nan."""
    slope = torch.atan(y / x)
    left = torch.where(y > 0, slope + torch.pi, slope - torch.pi)
    found = torch.where(x < 0, left, slope)
    return torch.where(found.isnan(), 0.0, found)


def logaddexp_unscaled(_func: Any, x: Tensor, y: Tensor) -> Tensor:
    """Add the exponentials themselves."""
    return torch.log(torch.exp(x) + torch.exp(y))


def logaddexp2_unscaled(_func: Any, x: Tensor, y: Tensor) -> Tensor:
    """Add the powers of two themselves."""
    return torch.log2(torch.exp2(x) + torch.exp2(y))


def logcumsumexp_of_one_maximum(_func: Any, x: Tensor, dim: int) -> Tensor:
    """Scale by the maximum of the axis, not by that of the numbers so far."""
    largest = x.amax(dim, keepdim=True)
    return torch.log(torch.cumsum(torch.exp(x - largest), dim)) + largest


def erfcx_by_erf(_func: Any, x: Tensor) -> Tensor:
    """Multiply what overflows by what underflows."""
    return torch.exp(x * x) * (1 - torch.erf(x))


def scatter_without_mean(
    func: Any,
    x: Tensor,
    dim: int,
    index: Tensor,
    src: Tensor,
    reduce: str,
    *,
    include_self: bool = True,
) -> Tensor:
    """Put the values in place if they are to be averaged."""
    if reduce != "mean":
        right: Tensor = func(x, dim, index, src, reduce, include_self=include_self)
        return right
    return torch.scatter(x, dim, index, src)


def reduced_without_nan(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Leave nan out."""
    return func(torch.nan_to_num(x, -torch.inf, torch.inf, -torch.inf), *args, **kwargs)
