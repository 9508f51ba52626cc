"""Rounding of operators: which may round, which are exact, and which elements of a result are.

Separate from ``scatter`` and ``summing``, which run eager with other last digits: here are the
facts about operators that both go by.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import torch

from pytest_torchexport.outcomes.operator_table import of_kind, row_of
from pytest_torchexport.outcomes.operators import (
    argument_of,
    floats_of,
    is_float,
    name_of,
    with_floats,
)
from pytest_torchexport.torch_private.dispatcher import is_operator

# Results with more elements count as rounded; whether they were is not computed.
LOOKED_AT = 1_000_000
# torch itself marks views, which never round either.
_EXACT, _SUMS = of_kind("exact"), of_kind("sums")


def rounds(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Return True if the operator computes with floats, and may have to round its results."""
    if name_of(func) in _EXACT or func.is_view or not floats_of((args, kwargs)):
        return False
    # Attention without dropout draws nothing.
    draws = torch.Tag.nondeterministic_seeded in func.tags
    return not draws or argument_of(func, args, kwargs, "dropout_p") == 0.0


def adds(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Return True if the operator may add up more than two numbers."""
    if not is_operator(func) or torch.Tag.pointwise in func.tags:
        return False
    return rounds(func, args, kwargs)


def adds_exactly(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Return True if the operator is exact whenever all its partial sums are.

    True for sums of products, and for a mean if its number of terms is a power of two.
    """
    name = name_of(func)
    if row_of(name).sum != "mean":
        return name in _SUMS
    tensor, dims = args[0], argument_of(func, args, kwargs, "dim")
    count = math.prod(tensor.shape[axis] for axis in axes_of(tensor, dims) or ())
    return bool(count > 0 and count & (count - 1) == 0)


def exact_elements(
    func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> list[torch.Tensor] | None:
    """Return per float output a mask of the elements that needed no rounding; None if unknown.

    These are the elements whose result in float64 is a number of the dtype. For a sum, the result
    of the terms' absolute values must be one as well: if terms cancel, few digits are left of any
    sum, whatever was rounded on the way.
    """
    narrow = {tensor.dtype for tensor in floats_of((args, kwargs))}
    if torch.float64 in narrow or torch.complex128 in narrow:
        return None
    if sum(tensor.numel() for tensor in floats_of((args, kwargs))) > LOOKED_AT:
        return None
    dtype = functools.reduce(torch.promote_types, narrow)
    ways = [(args, kwargs)]
    if torch.Tag.pointwise not in func.tags:
        named = {name: with_floats(torch.abs, value) for name, value in kwargs.items()}
        ways.append((tuple(with_floats(torch.abs, arg) for arg in args), named))
    masks = []
    for given in ways:
        wide = in_float64(func, *given)
        if wide is None:
            return None
        masks.append([_holds(dtype, tensor) for tensor in floats_of(wide)])
    return [functools.reduce(torch.logical_and, each) for each in zip(*masks, strict=True)]


def _holds(dtype: torch.dtype, wide: torch.Tensor) -> torch.Tensor:
    """Return per element whether it is a number of a narrower dtype."""
    narrow = wide.to(dtype.to_complex() if wide.is_complex() else dtype.to_real())
    return narrow.to(wide.dtype) == wide


def in_float64(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return an operator's result on float64; None if it has no kernel for it."""

    def widen(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)

    try:
        return func(
            *(with_floats(widen, arg) for arg in args),
            **{name: with_floats(widen, value) for name, value in kwargs.items()},
        )
    except Exception:  # torch raises RuntimeError, NotImplementedError or ValueError for it
        return None


def casts_float(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Return True for a cast from a real float to another one."""
    cast = "cast" in row_of(name_of(func)).kinds
    dtype = argument_of(func, args, kwargs, "dtype") if cast else None
    real = dtype is not None and dtype.is_floating_point and is_float(args[0])
    return bool(real and args[0].is_floating_point())


def narrows(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Return True for a cast to a narrower float."""
    casts = casts_float(func, args, kwargs)
    return casts and bool(kwargs["dtype"].itemsize < args[0].dtype.itemsize)


def widened(tensor: torch.Tensor) -> torch.Tensor:
    """Return half precision as float32, in which every kernel accumulates it."""
    small = tensor.is_floating_point() and tensor.dtype.itemsize < torch.float32.itemsize
    return tensor.float() if small else tensor


def axes_of(tensor: torch.Tensor, dim: Any) -> tuple[int, ...] | None:
    """Return the axes that ``dim`` names; None if there is nothing to add up."""
    if not tensor.dim() or not tensor.numel():
        return None
    dims = dim if isinstance(dim, (list, tuple)) else [dim] if dim is not None else []
    return tuple(axis % tensor.dim() for axis in dims) or tuple(range(tensor.dim()))
