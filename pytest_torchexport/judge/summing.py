"""Summing in another order than torch: one term after the other, or in double precision.

- ``sequential`` adds up sums, and the means, norms, losses and products of matrices made of them,
  one term after the other, in the dtype itself. ONNX Runtime does so along outer axes and in
  running sums, and in the lanes of a vector register along the last axis; torch adds pairwise or in
  double precision. Of ``n`` equal terms the last digits then go one way: the error grows with
  ``n``, and no scattered run (``scatter``) shows it.
- ``in_double`` adds up the same sums in double precision and rounds once: it is torch that adds
  products one after the other, in matrices with few rows.

Separate from ``scatter``, because here nothing is random, and each sum has a formula.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from pytest_torchexport.judge.rounding import adds, axes_of, in_float64, widened
from pytest_torchexport.outcomes.operator_table import row_of
from pytest_torchexport.outcomes.operators import (
    argument_of,
    dispatched,
    floats_of,
    is_float,
    name_of,
    with_floats,
    written_to,
)
from pytest_torchexport.torch_private.dispatcher import (
    aten_of_prim,
    decomposition_of,
    is_operator,
    schema_of,
)

# Matrices with more multiplications are not multiplied step by step: it would take seconds.
MOST_PRODUCTS = 100_000_000
# Products that are held at a time.
PRODUCTS_HELD = 4_000_000


def sequential(lanes: int = 1) -> AbstractContextManager[None]:
    """Add up sums one term after the other, also in means, variances and normalizations.

    In so many lanes, a power of two, as vector registers do: every term is added to the lane that
    is next in turn, and at last the upper half of the lanes to the lower one, until one is left. A
    running sum has one.
    """
    return dispatched(_Sequential(lanes).operator)


def in_double() -> AbstractContextManager[None]:
    """Add up sums in double precision, and round each once."""
    return dispatched(_summed_in_double)


class _Sequential:
    """Compute sums with single additions.

    An operator that ``_FORMULAS`` does not know is taken apart, as torch does it for torch.compile
    and torch.export: the sums of a loss or a normalization are among its parts.
    """

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes
        # Operators that are being taken apart. One that occurs among its own parts runs as it is.
        self._open: set[Any] = set()

    def operator(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one operator."""
        of_prim = aten_of_prim(func)
        if of_prim is not None:
            with dispatched(self.operator):
                return of_prim(*args, **kwargs)
        found = self._one_by_one(func, args, kwargs) if is_operator(func) else None
        return filled(func(*args, **kwargs), found)

    def _one_by_one(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the results of an operator; None if nothing is known about its sums."""
        if any(tensor.is_complex() for tensor in floats_of((args, kwargs))):
            return None
        if row_of(name_of(func)).sum:
            return by_rule(func, args, kwargs, self._lanes) if is_float(args[0]) else None
        parts = decomposition_of(func)
        if parts is None or func in self._open or not adds(func, args, kwargs):
            return None
        if written_to(func):  # once, by the operator itself
            args = with_floats(torch.clone, args)
            kwargs = {name: with_floats(torch.clone, value) for name, value in kwargs.items()}
        self._open.add(func)
        try:
            with dispatched(self.operator):
                return parts(*args, **kwargs)
        except Exception:  # parts are written for compilers, and raise anything on a rare argument
            return None
        finally:
            self._open.discard(func)


def by_rule(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], lanes: int) -> Any:
    """Return an operator's results as ``_FORMULAS`` has them; None if it cannot."""
    schema = schema_of(func)
    given = {item.name: argument_of(func, args, kwargs, item.name) for item in schema.arguments}
    return _FORMULAS[row_of(name_of(func)).sum](**given, lanes=lanes)


def filled(plain: Any, found: Any) -> Any:
    """Write other results, as far as there are any, to those of an operator."""
    for tensor, other in zip(floats_of(plain), floats_of(found), strict=False):
        if tensor.numel() == other.numel():
            tensor.copy_(other.reshape(tensor.shape))
    return plain


def _summed_in_double(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run one operator."""
    plain = func(*args, **kwargs)
    if adds(func, args, kwargs) and not written_to(func):
        wide = floats_of(in_float64(func, args, kwargs))
        for tensor, found in zip(floats_of(plain), wide, strict=False):
            tensor.copy_(found)
    return plain


def _running(terms: torch.Tensor, axis: int) -> torch.Tensor:
    """Return the sums of the first one, two, three, ... terms, each rounded.

    numpy's ``accumulate`` adds in the dtype itself; ``torch.cumsum`` adds floats in double. The
    terms are copied, because a tensor that has lent numpy its memory can never be resized again.
    """
    return torch.from_numpy(np.add.accumulate(terms.detach().clone().numpy(), axis))


def _one_by_one(terms: torch.Tensor, axes: Sequence[int], lanes: int) -> torch.Tensor:
    """Return the sum over the axes, which keep size 1: of all their terms in a row."""
    row = terms.movedim(list(axes), list(range(-len(axes), 0))).flatten(-len(axes))
    row = functional.pad(row, (0, -row.shape[-1] % lanes))
    row = _running(row.reshape(*row.shape[:-1], -1, lanes), -2)[..., -1, :]
    while row.shape[-1] > 1:
        row = row[..., : row.shape[-1] // 2] + row[..., row.shape[-1] // 2 :]
    total = row[..., 0]
    return total.reshape([1 if axis in axes else size for axis, size in enumerate(terms.shape)])


def _sum(
    self: torch.Tensor, *, lanes: int, dim: Any = None, dtype: Any = None, **_: Any
) -> torch.Tensor | None:
    axes = axes_of(self, dim)
    return None if axes is None else _one_by_one(widened(self.to(dtype or self.dtype)), axes, lanes)


def _mean(self: torch.Tensor, **given: Any) -> torch.Tensor | None:
    total = _sum(self, **given)
    return None if total is None else total / (self.numel() / total.numel())


def _cumsum(self: torch.Tensor, dim: int, dtype: Any = None, **_: Any) -> torch.Tensor | None:
    axes = axes_of(self, dim)
    return None if axes is None else _running(widened(self.to(dtype or self.dtype)), axes[0])


def _var(
    self: torch.Tensor,
    *,
    lanes: int,
    dim: Any = None,
    correction: Any = None,
    unbiased: bool = True,
    **_: Any,
) -> torch.Tensor | None:
    terms = widened(self)
    mean = _mean(terms, dim=dim, lanes=lanes)
    squares = _sum((terms - mean) ** 2, dim=dim, lanes=lanes) if mean is not None else None
    if squares is None:
        return None
    count = self.numel() / squares.numel()
    return squares / (count - (unbiased if correction is None else float(correction)))


def _var_mean(self: torch.Tensor, **given: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
    mean = _mean(self, dim=given["dim"], lanes=given["lanes"])
    variance = _var(self, **given)
    return (variance, mean) if mean is not None and variance is not None else None


def _product(self: torch.Tensor, mat2: torch.Tensor, *, lanes: int, **_: Any) -> Any:
    """Multiply matrices, or batches of them, one inner index after the other."""
    inner = self.shape[-1]
    left, right = widened(self), widened(mat2)
    total = torch.zeros_like(left[..., :1] * right[..., :1, :])
    if not inner * total.numel() or inner * total.numel() > MOST_PRODUCTS:
        return None
    step = max(PRODUCTS_HELD // total.numel(), 1)
    for start in range(0, inner, step):
        held = slice(start, start + step)
        terms = left[..., held].unsqueeze(-1) * right[..., held, :].unsqueeze(-3)
        terms = torch.cat([total.unsqueeze(-2), terms], -2)
        total = _one_by_one(terms, [terms.dim() - 2], lanes).squeeze(-2)
    return total.to(self.dtype)


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    attn_mask: Any = None,
    scale: Any = None,
    **_: Any,
) -> torch.Tensor | None:
    """Compute attention in separate steps, each rounded; a fused kernel rounds once."""
    if dropout_p:
        return None
    # Heads of the query per head of key and value.
    groups = query.shape[-3] // max(key.shape[-3], 1)
    key, value = (item.repeat_interleave(groups, -3) for item in (key, value))
    factor = float(query.shape[-1] ** -0.5 if scale is None else scale)
    # As torch's own unfused implementation and the ONNX exporter do.
    query, key = query * factor**0.5, key * factor**0.5
    scores = query @ key.transpose(-2, -1)
    if is_causal:
        allowed = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~allowed, float("-inf"))
    if attn_mask is not None:
        scores = scores + attn_mask
    # A row without an allowed key attends to nothing: https://github.com/pytorch/pytorch/pull/131060
    nothing = (scores == float("-inf")).all(-1, keepdim=True)
    return scores.softmax(-1).masked_fill(nothing, 0.0) @ value


# How to compute the operators of which torch makes the others, with single additions. By the names
# that the rows of the operators have for them.
_FORMULAS: Mapping[str, Callable[..., Any]] = {
    "sum": _sum,
    "mean": _mean,
    "running": _cumsum,
    "variance": _var,
    "variance_and_mean": _var_mean,
    "product": _product,
    "attention": _attention,
}
