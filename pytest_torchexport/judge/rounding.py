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
# Operators with float results that never round: they copy, pick or compare. torch itself marks
# views.
EXACT = frozenset(
    """
    _reshape_alias _reshape_copy _to_copy _unique2 _unsafe_view abs adaptive_max_pool1d
    adaptive_max_pool2d adaptive_max_pool3d alias amax amin aminmax bernoulli bucketize cat ceil
    channel_shuffle clamp clamp_max clamp_min clone col2im constant_pad_nd contiguous copy
    copysign cummax cummin diag diag_embed diagonal_copy dropout embedding empty empty_like
    empty_strided expand_copy eye
    _fake_quantize_per_tensor_affine_cachemask_tensor_qparams
    fake_quantize_per_channel_affine_cachemask fake_quantize_per_tensor_affine_cachemask
    fill flip floor floor_divide fmax fmin fractional_max_pool2d full full_like gather
    glu_backward hardtanh heaviside histc im2col index index_fill index_select isfinite lift_fresh
    lift_fresh_copy masked_fill masked_scatter masked_select max max_pool1d
    max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices maximum min minimum
    nan_to_num nanmedian narrow_copy neg new_empty new_full new_ones new_zeros normal ones
    ones_like permute_copy pixel_shuffle pixel_unshuffle positive put rand rand_like randint
    randn randn_like random reflection_pad1d reflection_pad2d reflection_pad3d relu repeat
    replication_pad1d replication_pad2d replication_pad3d resize roll round scalar_tensor
    scatter select_copy select_scatter set sgn sign slice_copy slice_scatter stack take
    threshold transpose_copy tril triu trunc unfold_copy uniform unique_consecutive unique_dim
    upsample_nearest1d upsample_nearest2d upsample_nearest3d where zero zeros zeros_like
    """.split()  # noqa: SIM905  # as a list they would be 130 lines
)
# Sums of products: if all partial sums are exact, the result is exact in any order. A mean, a
# variance or a softmax may look exact by chance, and another kernel still computes it differently.
SUMS = frozenset(
    """
    addbmm addmm addmv addr baddbmm bmm convolution cumsum dot index_add index_put linear matmul
    mm mv nansum scatter_add sum trace vdot
    """.split()  # noqa: SIM905  # as above
)


def rounds(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Return True if the operator computes with floats, and may have to round its results."""
    if name_of(func) in EXACT or func.is_view or not floats_of((args, kwargs)):
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
    if name != "mean":
        return name in SUMS
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
    dtype = argument_of(func, args, kwargs, "dtype") if name_of(func) == "_to_copy" else None
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
