"""Imitate the defects of other packages: what an operator computes that has the defect.

Each function is given the right operator and its arguments, and follows the source or the graph of
the package that has the defect. Separate from the table, which says whose defect it is.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pytest_torchexport.outcomes.operators import argument_of, name_of

# An addend that onnxscript's patterns take for zero, as math.isclose does with an abs_tol.
ZERO = 1e-8
# A factor that they take for one, as math.isclose does with a rel_tol.
ONE = 1e-5
# ONNX Runtime's kernel of Sigmoid returns zero from here down.
LOWEST_SIGMOID = -18.0


# -- logarithms and exponentials -------------------------------------------------------------------


def flushed_sigmoid(_func: Any, x: Tensor) -> Tensor:
    """Return zero for large negative numbers."""
    return torch.where(x <= LOWEST_SIGMOID, 0.0, torch.sigmoid(x))


def log_of_sigmoid(func: Any, x: Tensor) -> Any:
    """Take the logarithm of what underflows."""
    return torch.log(flushed_sigmoid(func, x)), func(x)[1]


def loss_by_log_of_sigmoid(
    func: Any,
    x: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    reduction: int = 1,
) -> Tensor:
    """Subtract the logarithm of what underflows."""
    factor = 1 if pos_weight is None else (pos_weight - 1) * target + 1
    loss = (1 - target) * x - factor * torch.log(flushed_sigmoid(func, x))
    loss = loss if weight is None else loss * weight
    return loss if reduction == 0 else loss.mean() if reduction == 1 else loss.sum()


def expm1_by_exp(_func: Any, x: Tensor) -> Tensor:
    """Subtract one from what is almost one."""
    return torch.exp(x) - 1


def log1p_by_log(_func: Any, x: Tensor) -> Tensor:
    """Add one to what is almost zero."""
    return torch.log(x + 1)


def xlog1py_by_log(_func: Any, x: Tensor, y: Tensor) -> Tensor:
    """Add one to what is almost zero."""
    return torch.where(x == 0, 0.0, x * torch.log(y + 1))


def xlogy_without_nan(_func: Any, x: Tensor, y: Tensor) -> Tensor:
    """Return zero for zero, also where the other number is nan."""
    return torch.where(x == 0, 0.0, x * torch.log(y))


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


def erfc_by_erf(_func: Any, x: Tensor) -> Tensor:
    """Subtract what is almost one from one."""
    return 1 - torch.erf(x)


def erfcx_by_erf(_func: Any, x: Tensor) -> Tensor:
    """Multiply what overflows by what underflows."""
    return torch.exp(x * x) * (1 - torch.erf(x))


def log_ndtr_by_erf(func: Any, x: Tensor) -> Tensor:
    """Follow torch's decomposition, with an erfcx that overflows."""
    scaled = x * math.sqrt(0.5)
    low = torch.log(erfcx_by_erf(func, -scaled) / 2) - scaled * scaled
    return torch.where(x < 1, low, torch.log1p(-erfc_by_erf(func, scaled) / 2))


# -- arithmetic ------------------------------------------------------------------------------------


def without_small_addend(func: Any, x: Tensor, other: Any, *, alpha: float = 1) -> Tensor:
    """Add nothing if the addend is almost zero."""
    right: Tensor = func(x, other, alpha=alpha)
    is_number = not isinstance(other, Tensor) or not other.dim()
    return x.to(right.dtype) if is_number and abs(float(other)) <= ZERO else right


def without_factor_near_one(func: Any, x: Tensor, other: Any) -> Tensor:
    """Multiply by nothing if the factor is almost one."""
    right: Tensor = func(x, other)
    is_number = not isinstance(other, Tensor) or not other.dim()
    return x.to(right.dtype) if is_number and math.isclose(float(other), 1, rel_tol=ONE) else right


def by_number_in_float(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Round numbers of Python's to float32 before doubles are computed with them."""
    if torch.float64 not in [getattr(item, "dtype", item) for item in (*args, *kwargs.values())]:
        return func(*args, **kwargs)
    rounded = {name: _in_float(item) for name, item in kwargs.items()}
    return func(*map(_in_float, args), **rounded)


def _in_float(item: Any) -> Any:
    """Return a number rounded to float32, also as ATen gives some operators one: without dims."""
    if isinstance(item, Tensor) and item.dtype == torch.float64 and not item.dim():
        return item.float().double()
    return torch.tensor(item, dtype=torch.float32).item() if type(item) is float else item


def floor_of_quotient(func: Any, x: Tensor, other: Any, **kwargs: Any) -> Tensor:
    """Round the quotient of floats down; the right operator rounds the exact one."""
    right: Tensor = func(x, other, **kwargs)
    down = kwargs.get("rounding_mode", "floor") == "floor" and right.is_floating_point()
    return torch.floor(torch.true_divide(x, other)) if down else right


def truncated_quotient(func: Any, x: Tensor, other: Any) -> Tensor:
    """Round the quotient of integers towards zero."""
    right: Tensor = func(x, other)
    return right if right.is_floating_point() else torch.div(x, other, rounding_mode="trunc")


def quotient_in_float(func: Any, x: Tensor, other: Any, **kwargs: Any) -> Tensor:
    """Divide integers as float32."""
    right: Tensor = func(x, other, **kwargs)
    if right.is_floating_point() or not isinstance(other, Tensor):
        return right
    return torch.div(x.float(), other.float(), **kwargs).to(right.dtype)


def remainder_of_quotient(func: Any, x: Tensor, other: Any) -> Tensor:
    """Subtract the divisor as often as the rounded quotient says."""
    right: Tensor = func(x, other)
    return x - torch.floor(x / other) * other if right.is_floating_point() else right


def shifted_as_divided(func: Any, x: Tensor, other: Any) -> Tensor:
    """Divide signed numbers by a power of two, towards zero."""
    if x.dtype == torch.uint8:
        right: Tensor = func(x, other)
        return right
    return torch.div(x, 2**other, rounding_mode="trunc").to(x.dtype)


def shifted_to_signed(func: Any, x: Tensor, other: Any) -> Tensor:
    """Return bytes as signed ones."""
    right: Tensor = func(x, other)
    return right.view(torch.int8) if right.dtype == torch.uint8 else right


def atan2_by_slope(_func: Any, y: Tensor, x: Tensor) -> Tensor:
    """Take the quadrant from comparisons with zero, and 0 for nan."""
    found = atan2_by_slope_with_nan(_func, y, x)
    return torch.where(found.isnan(), 0.0, found)


def atan2_by_slope_with_nan(_func: Any, y: Tensor, x: Tensor) -> Tensor:
    """Take the quadrant from comparisons with zero."""
    slope = torch.atan(y / x)
    left = torch.where(y > 0, slope + torch.pi, slope - torch.pi)
    return torch.where(x < 0, left, slope)


def sign_of_nan(func: Any, x: Tensor) -> Tensor:
    """Keep nan."""
    right: Tensor = func(x)
    return torch.where(x.isnan(), x, right)


def is_negative(_func: Any, x: Tensor) -> Tensor:
    """Compare with zero, which -0.0 is not below."""
    return x < 0


def angle_without_nan(_func: Any, x: Tensor) -> Tensor:
    """Compare with zero, which nan is not below."""
    return torch.where(x < 0, torch.pi, 0.0).to(x.dtype)


def shrunk_without_nan(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Return zero for nan, which is neither above nor below."""
    right: Tensor = func(x, *args, **kwargs)
    return torch.where(x.isnan(), 0.0, right)


def clamped_as_before(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Keep the dtype, also if a bound is a float and the numbers are integers."""
    right: Tensor = func(x, *args, **kwargs)
    return right.to(x.dtype)


def clamped_by_halves(func: Any, x: Tensor, low: Any = None, high: Any = None) -> Tensor:
    """Compare the upper halves of 64-bit integers, and the lower ones as if they had a sign."""
    if x.dtype != torch.int64:
        right: Tensor = func(x, low, high)
        return right
    if low is not None:
        x = torch.where(_by_halves(x) < _by_halves(torch.tensor(low)), low, x)
    if high is not None:
        x = torch.where(_by_halves(x) > _by_halves(torch.tensor(high)), high, x)
    return x


def _by_halves(x: Tensor) -> Tensor:
    """Return a number that is as large as these halves say."""
    return torch.where(x & 0xFFFFFFFF >= 2**31, x - 2**32, x)


# -- reductions, sorting, pooling ------------------------------------------------------------------


def reduced_without_nan(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Leave nan out."""
    if not x.is_floating_point():
        return func(x, *args, **kwargs)
    last = torch.inf if name_of(func).endswith("min") else -torch.inf
    return func(torch.where(x.isnan(), last, x), *args, **kwargs)


def any_of_nothing(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Return True for no elements at all."""
    right: Tensor = func(x, *args, **kwargs)
    return torch.ones_like(right) if x.numel() == 0 else right


def any_of_integers(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Cut the digits off first: 0.5 is 0 then."""
    right: Tensor = func(x.to(torch.int64), *args, **kwargs)
    return right


def always_bool(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Return bools, also of bytes."""
    right: Tensor = func(x, *args, **kwargs)
    return right.bool()


def mean_of_nothing(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Return 0 for no elements at all."""
    right: Tensor = func(x, *args, **kwargs)
    return torch.zeros_like(right) if x.numel() == 0 else right


def halves_in_float(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Compute with float32 instead of halves, and return it."""
    return func(x.float() if x.dtype == torch.float16 else x, *args, **kwargs)


def cumsum_as_before(func: Any, x: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """Keep the dtype of integers."""
    right: Tensor = func(x, dim, dtype=x.dtype if dtype is None else dtype)
    return right


def argmax_of_a_vector(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Keep one dimension of the flattened tensor."""
    right: Tensor = func(x, *args, **kwargs)
    return right.reshape(1) if right.dim() and right.numel() == 1 else right


def sorted_with_nan_last(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Put nan at the end, also if the largest come first."""
    dim = argument_of(func, (x, *args), kwargs, "dim")
    order = func(torch.where(x.isnan(), -torch.inf, x), *args, **kwargs)[1]
    return torch.take_along_dim(x, order, dim), order


def bucketized_by_comparison(_func: Any, x: Tensor, edges: Tensor, **kwargs: Any) -> Tensor:
    """Count the boundaries that are below: none is below nan."""
    above = x.unsqueeze(-1)
    below = above >= edges if kwargs.get("right") else above > edges
    return below.sum(-1)


def pooled_without_nan(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Leave nan out."""
    return func(torch.where(x.isnan(), -torch.inf, x), *args, **kwargs)


def pooled_from_lowest(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Begin each maximum with the lowest finite number.

    ONNX Runtime's vectors do not: they take windows of images that lie within the width.
    """
    values, indices = func(x, *args, **kwargs)
    names = ("kernel_size", "stride", "padding", "dilation")
    size, stride, padding, dilation = (_last_of(func, (x, *args), kwargs, name) for name in names)
    if x.dtype != torch.float32 or dilation != 1:
        return values, indices
    first = torch.arange(values.shape[-1]) * (stride or size) - padding
    alone = (first < 0) | (first + size > x.shape[-1]) | torch.tensor((stride or size) > 2)
    if name_of(func) != "max_pool2d_with_indices" or x.shape[-2] == 1:
        alone[:] = True
    lowest = torch.finfo(x.dtype).min
    return torch.where(alone & (values == -torch.inf), lowest, values), indices


def _last_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> int:
    """Return the last of an operator's argument that holds a number per dimension; 0 if none."""
    given = argument_of(func, args, kwargs, name)
    return int(([0, *given] if isinstance(given, (list, tuple)) else [given])[-1])


def averaged_over_window(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Divide by the size of the window."""
    right: Tensor = func(x, *args[:5], **{**kwargs, "divisor_override": None})
    return right


def padded_by_the_pool(func: Any, x: Tensor, pad: Any, value: float = 0) -> Tensor:
    """Pad with what a max pooling pads with."""
    right: Tensor = func(x, pad, -torch.inf if x.is_floating_point() else value)
    return right


def scatter_without_mean(
    func: Any, x: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, **kwargs: Any
) -> Tensor:
    """Put the values in place if they are to be averaged."""
    if reduce != "mean":
        right: Tensor = func(x, dim, index, src, reduce, **kwargs)
        return right
    return torch.scatter(x, dim, index, src)


# -- attention -------------------------------------------------------------------------------------


def attention_of_lowest(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Add the lowest finite number where a key is masked, which softmax takes for a score."""
    mask = argument_of(func, args, kwargs, "attn_mask")
    lowest = None if mask is None else mask.clamp(min=torch.finfo(mask.dtype).min)
    return attention_by_softmax(func, *args, **{**kwargs, "attn_mask": lowest})


def attention_by_softmax(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Leave a row that is masked to softmax, which returns nan for it."""
    given = {name: argument_of(func, args, kwargs, name) for name in ("is_causal", "attn_mask")}
    right = func(*args, **kwargs)
    if given["is_causal"] or given["attn_mask"] is None:
        return right
    query, key, value = args[:3]
    scale = kwargs.get("scale") or 1 / math.sqrt(query.shape[-1])
    scores = query @ key.transpose(-2, -1) * scale + given["attn_mask"]
    return scores.softmax(-1) @ value, *right[1:]


def attention_by_root(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Take the root of the scale, which is nan if it is negative."""
    right = func(*args, **kwargs)
    scale = kwargs.get("scale")
    if scale is None or scale >= 0:
        return right
    return torch.full_like(right[0], torch.nan), *right[1:]


# -- TorchScript -----------------------------------------------------------------------------------


def with_float_number(func: Any, x: Tensor, other: Any, **kwargs: Any) -> Tensor:
    """Make a float of a number that is an integer in Python."""
    number = float(other) if type(other) is int else other
    right: Tensor = func(x, number, **kwargs)
    return right


def divided_by_a_number(func: Any, x: Any, other: Any) -> Tensor:
    """Take the divisor for a number; raises RuntimeError if it is a tensor of several."""
    if isinstance(other, Tensor) and other.dim():
        raise RuntimeError("Cannot input a tensor of dimension other than 0 as a scalar argument")
    right: Tensor = func(x, other)
    return right


def lifted_in_float(func: Any, x: Tensor) -> Tensor:
    """Round a new tensor of doubles to float32."""
    right: Tensor = func(x.float().double() if x.dtype == torch.float64 else x)
    return right
