"""Translations, wrong and right: a module that computes one thing in eager and another during
capture stands for an exporter that translates it so.

Each pair of functions is an operation and its translation. The wrong ones are bugs that exporters
and runtimes have had; the right ones compute the same numbers in another way, which is legal.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, List, Optional, Tuple  # noqa: UP035  # TorchScript's words

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.row import (
    DIFFERS,
    MISTRANSLATED,
    REFUSED,
    STRUCTURE,
    TARGETS,
    Blame,
    Row,
    asks,
    call,
    normal,
    row,
    truth,
    untranslated,
    whole,
)


def captured() -> bool:
    """Return True if the caller is being traced, scripted or exported."""
    return torch.jit.is_scripting() or torch.jit.is_tracing() or torch.compiler.is_compiling()


# Only the line with all three questions is one that a report can name.
CAPTURED = asks("torch.jit.is_scripting() or torch.jit.is_tracing()")


class Translated(nn.Module):
    def __init__(
        self, operation: Callable[[Tensor], Any], translation: Callable[[Tensor], Any]
    ) -> None:
        super().__init__()
        self.operation = operation
        self.translation = translation

    def forward(self, x: Tensor):
        if captured():
            return self.translation(x)
        return self.operation(x)


# -- numbers near zero, one, and the ends ----------------------------------------------------------


def log1p_of_small(x: Tensor) -> Tensor:
    return torch.log1p(x * 1e-6) * 1e6


def log_of_one_plus(x: Tensor) -> Tensor:
    return torch.log(1 + x * 1e-6) * 1e6


def log1p_by_series(x: Tensor) -> Tensor:
    y = x * 1e-6
    return (y - y * y / 2) * 1e6


def expm1_of_small(x: Tensor) -> Tensor:
    return torch.expm1(x * 1e-5) * 1e5


def exp_minus_one(x: Tensor) -> Tensor:
    return (torch.exp(x * 1e-5) - 1) * 1e5


def expm1_by_series(x: Tensor) -> Tensor:
    y = x * 1e-5
    return (y + y * y / 2 + y * y * y / 6) * 1e5


def logsigmoid(x: Tensor) -> Tensor:
    return F.logsigmoid(x * 40)


def log_of_sigmoid(x: Tensor) -> Tensor:
    """Return -inf if the sigmoid underflows."""
    return torch.log(torch.sigmoid(x * 40))


def negative_softplus(x: Tensor) -> Tensor:
    return -F.softplus(-x * 40)


def logsumexp_of_large(x: Tensor) -> Tensor:
    return torch.logsumexp(x * 60, dim=1)


def log_of_summed_exps(x: Tensor) -> Tensor:
    """Overflow, as the maximum is not subtracted first."""
    return (x * 60).exp().sum(1).log()


def logsumexp_from_maximum(x: Tensor) -> Tensor:
    y = x * 60
    top = y.amax(1, keepdim=True)
    return (y - top).exp().sum(1).log() + top.squeeze(1)


def log_of_value(x: Tensor) -> Tensor:
    return torch.log(x)


def log_without_sign(x: Tensor) -> Tensor:
    """Return +inf for log(0)."""
    return torch.where(x == 0, torch.full_like(x, math.inf), torch.log(x))


def log_clamped(x: Tensor) -> Tensor:
    return torch.log(x.clamp(min=1e-38))


def log_by_two(x: Tensor) -> Tensor:
    return torch.log2(x) * math.log(2.0)


def exp_of_large(x: Tensor) -> Tensor:
    return torch.exp(x * 60)


def exp_clamped(x: Tensor) -> Tensor:
    """Return the largest finite number instead of infinity."""
    return torch.exp(x * 60).clamp(max=3e38)


def exp_in_halves(x: Tensor) -> Tensor:
    return torch.exp(x * 30) * torch.exp(x * 30)


def clamped(x: Tensor) -> Tensor:
    return x.clamp(-1.0, 1.0)


def clamped_numbers(x: Tensor) -> Tensor:
    """Turn NaN into 0."""
    return torch.nan_to_num(x).clamp(-1.0, 1.0)


def clamped_from_below_first(x: Tensor) -> Tensor:
    return torch.clamp(torch.clamp(x, min=-1.0), max=1.0)


def maximum_of_row(x: Tensor) -> Tensor:
    return x.amax(1)


def maximum_of_numbers(x: Tensor) -> Tensor:
    """Ignore NaN."""
    return torch.where(x != x, torch.full_like(x, -1e30), x).amax(1)


# -- integers --------------------------------------------------------------------------------------


def tripled(x: Tensor) -> Tensor:
    return x * 3


def tripled_in_float(x: Tensor) -> Tensor:
    return (x.float() * 3).long()


def tripled_in_double(x: Tensor) -> Tensor:
    return (x.double() * 3).long()


def next_number(x: Tensor) -> Tensor:
    return x + 1


def next_number_in_float(x: Tensor) -> Tensor:
    return (x.float() + 1).long()


def next_number_in_double(x: Tensor) -> Tensor:
    return (x.double() + 1).long()


def squared(x: Tensor) -> Tensor:
    return x * x


def squared_in_int32(x: Tensor) -> Tensor:
    y = x.to(torch.int32)
    return (y * y).long()


def summed(x: Tensor) -> Tensor:
    return x.sum(1)


def summed_in_int32(x: Tensor) -> Tensor:
    return x.to(torch.int32).cumsum(1, dtype=torch.int32)[:, -1].long()


def summed_by_cumsum(x: Tensor) -> Tensor:
    return x.cumsum(1)[:, -1]


def bytes_up(x: Tensor) -> Tensor:
    return x + 100


def bytes_up_saturating(x: Tensor) -> Tensor:
    return (x.int() + 100).clamp(0, 255).to(torch.uint8)


def bytes_up_wrapping(x: Tensor) -> Tensor:
    return ((x.int() + 100) % 256).to(torch.uint8)


def flipped_maximum(x: Tensor) -> Tensor:
    return torch.maximum(x, x.flip(1))


def flipped_maximum_in_double(x: Tensor) -> Tensor:
    """Lose 2**63 - 1, which float64 cannot hold."""
    y = x.double()
    return torch.maximum(y, y.flip(1)).clamp(-9e18, 9e18).long()


def flipped_maximum_by_choice(x: Tensor) -> Tensor:
    y = x.flip(1)
    return torch.where(x > y, x, y)


def parity(x: Tensor) -> Tensor:
    return x % 2


def parity_in_float(x: Tensor) -> Tensor:
    """Find every number above 2**24 even, as every float32 there is."""
    return (x.float() % 2).long()


def parity_by_division(x: Tensor) -> Tensor:
    return x - torch.div(x, 2, rounding_mode="floor") * 2


def parity_by_and(x: Tensor) -> Tensor:
    return x & 1


# -- division and rounding -------------------------------------------------------------------------


def rounded(x: Tensor) -> Tensor:
    return torch.round(x)


def rounded_away(x: Tensor) -> Tensor:
    """Round half away from zero; torch rounds half to even."""
    return torch.sign(x) * torch.floor(x.abs() + 0.5)


def rounded_to_int(x: Tensor) -> Tensor:
    return torch.round(x).long()


def rounded_away_to_int(x: Tensor) -> Tensor:
    return (torch.sign(x) * torch.floor(x.abs() + 0.5)).long()


def rounded_half_of_int(x: Tensor) -> Tensor:
    return torch.round(x.float() / 2).long()


def rounded_up_half_of_int(x: Tensor) -> Tensor:
    return torch.floor(x.float() / 2 + 0.5).long()


def rounded_by_remainder(x: Tensor) -> Tensor:
    """Round half to even by hand."""
    low = torch.floor(x)
    gap = x - low
    up = (gap > 0.5) | ((gap == 0.5) & (torch.remainder(low, 2.0) == 1.0))
    return low + up.to(x.dtype)


def divided_to_zero(x: Tensor) -> Tensor:
    return torch.div(x, 3, rounding_mode="trunc")


def divided_down(x: Tensor) -> Tensor:
    return torch.div(x, 3, rounding_mode="floor")


def divided_by_sign(x: Tensor) -> Tensor:
    return torch.sign(x) * torch.div(x.abs(), 3, rounding_mode="floor")


def remainder_of_divisor(x: Tensor) -> Tensor:
    return torch.remainder(x, 3)


def remainder_of_dividend(x: Tensor) -> Tensor:
    return torch.fmod(x, 3)


def remainder_by_two_fmods(x: Tensor) -> Tensor:
    return torch.fmod(torch.fmod(x, 3) + 3, 3)


def truncated(x: Tensor) -> Tensor:
    return (x * 4).to(torch.int64)


def floored(x: Tensor) -> Tensor:
    """Round down, while a cast truncates."""
    return torch.floor(x * 4).to(torch.int64)


def truncated_by_sign(x: Tensor) -> Tensor:
    y = x * 4
    return (torch.sign(y) * torch.floor(y.abs())).to(torch.int64)


# -- indices ---------------------------------------------------------------------------------------


def looked_up(x: Tensor) -> Tensor:
    return (torch.arange(10) * 7)[x]


def looked_up_next(x: Tensor) -> Tensor:
    return (torch.arange(10) * 7)[(x + 1) % 10]


def looked_up_by_selection(x: Tensor) -> Tensor:
    return (torch.arange(10) * 7).index_select(0, x.reshape(-1)).reshape(x.shape)


def rolled(x: Tensor) -> Tensor:
    return torch.cat([x[:, -1:], x[:, :-1]], dim=1)


def rolled_back(x: Tensor) -> Tensor:
    return torch.cat([x[:, 1:], x[:, :1]], dim=1)


def rolled_by_index(x: Tensor) -> Tensor:
    return x[:, torch.tensor([4, 0, 1, 2, 3])]


def inclusive_sum(x: Tensor) -> Tensor:
    return x.cumsum(1)


def exclusive_sum(x: Tensor) -> Tensor:
    return x.cumsum(1) - x


def sum_by_triangle(x: Tensor) -> Tensor:
    return x @ torch.ones(5, 5).triu()


def first_of_equals(x: Tensor) -> Tensor:
    return x.argmax(1)


def last_of_equals(x: Tensor) -> Tensor:
    return x.shape[1] - 1 - x.flip(1).argmax(1)


def first_by_place(x: Tensor) -> Tensor:
    top = x == x.amax(1, keepdim=True)
    return (top.long() * torch.arange(x.shape[1], 0, -1)).argmax(1)


def first_of_rounded(x: Tensor) -> Tensor:
    return torch.round(x).argmax(1)


def last_of_rounded(x: Tensor) -> Tensor:
    return x.shape[1] - 1 - torch.round(x).flip(1).argmax(1)


def stable_order(x: Tensor) -> Tensor:
    return torch.sort(x, dim=1, stable=True).indices


def reversed_order_of_equals(x: Tensor) -> Tensor:
    return x.shape[1] - 1 - torch.sort(x.flip(1), dim=1, stable=True).indices


def stable_order_by_place(x: Tensor) -> Tensor:
    """Sort keys that the place makes distinct."""
    return torch.sort(x * 5 + torch.arange(5), dim=1).indices


# -- single elements -------------------------------------------------------------------------------


def doubled(x: Tensor) -> Tensor:
    return x * 2


def doubled_but_first(x: Tensor) -> Tensor:
    return torch.cat([x[:, :1] * 2.001, x[:, 1:] * 2], dim=1)


def doubled_but_one(x: Tensor) -> Tensor:
    """Be wrong only at the last element of the last row, by a thousandth."""
    rows = torch.arange(x.shape[0]).unsqueeze(1) == x.shape[0] - 1
    columns = torch.arange(x.shape[1]).unsqueeze(0) == x.shape[1] - 1
    return torch.where(rows & columns, x * 2.002, x * 2)


def doubled_by_sum(x: Tensor) -> Tensor:
    return x + x


def two_outputs(x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    return x.cumsum(1), torch.tanh(x)


def second_one_wrong(x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    y = torch.tanh(x)
    return x.cumsum(1), torch.cat([y[:, :-1], y[:, -1:] * 0.999], dim=1)


def two_swapped(x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    return torch.tanh(x), x.cumsum(1)


def two_by_hand(x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    return x @ torch.ones(5, 5).triu(), 2 * torch.sigmoid(2 * x) - 1


# -- decisions on rounded numbers ------------------------------------------------------------------


def reaches_one(x: Tensor) -> Tensor:
    """Compare with a number that a saturated sigmoid is rounded to."""
    return torch.sigmoid(x * 18) >= 1.0


def exceeds_one(x: Tensor) -> Tensor:
    return torch.sigmoid(x * 18) > 1.0


def is_not_below_one(x: Tensor) -> Tensor:
    return ~(torch.sigmoid(x * 18) < 1.0)


def divided_by_tenths(x: Tensor) -> Tensor:
    return torch.floor_divide(x * 0.3, 0.1)


def floor_of_quotient(x: Tensor) -> Tensor:
    """Differ from the floor division of torch where the quotient is rounded to a whole number."""
    return torch.floor(x * 0.3 / 0.1)


def cells_of_fifths(x: Tensor) -> Tensor:
    return (x / 0.4).round().long()


def cells_of_fifths_away(x: Tensor) -> Tensor:
    y = x / 0.4
    return (torch.sign(y) * torch.floor(y.abs() + 0.5)).long()


def cells_of_fifths_by_halves(x: Tensor) -> Tensor:
    y = x / 0.4
    even = (y * 0.5).round() * 2
    return torch.where((y - y.floor()) == 0.5, even, torch.floor(y + 0.5)).long()


# -- formulas --------------------------------------------------------------------------------------


def products(x: Tensor) -> Tensor:
    return x @ x.t()


def products_in_half(x: Tensor) -> Tensor:
    return (x.half() @ x.half().t()).float()


def products_by_sum(x: Tensor) -> Tensor:
    return (x.unsqueeze(1) * x.unsqueeze(0)).sum(-1)


def tanh_of_third(x: Tensor) -> Tensor:
    return torch.tanh(x / 3)


def tanh_through_half(x: Tensor) -> Tensor:
    return torch.tanh((x / 3).half().float())


def tanh_by_reciprocal(x: Tensor) -> Tensor:
    return torch.tanh(x * (1 / 3))


def layer_norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, [5], None, None, 1e-5)


def layer_norm_wide(x: Tensor) -> Tensor:
    return F.layer_norm(x, [5], None, None, 1e-3)


def layer_norm_by_hand(x: Tensor) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(((x - mean) ** 2).mean(-1, keepdim=True) + 1e-5)


def layer_norm_of_small(x: Tensor) -> Tensor:
    return F.layer_norm(x * 0.01, [5], None, None, 1e-5)


def layer_norm_without_epsilon(x: Tensor) -> Tensor:
    return F.layer_norm(x * 0.01, [5], None, None, 1e-12)


def sample_variance(x: Tensor) -> Tensor:
    return x.var(1)


def population_variance(x: Tensor) -> Tensor:
    return x.var(1, unbiased=False)


def variance_by_hand(x: Tensor) -> Tensor:
    return ((x - x.mean(1, keepdim=True)) ** 2).sum(1) / 4


def gelu(x: Tensor) -> Tensor:
    return F.gelu(x)


def gelu_by_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def gelu_by_erf(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2.0)))


def softmax_of_rows(x: Tensor) -> Tensor:
    return torch.softmax(x, dim=1)


def softmax_of_columns(x: Tensor) -> Tensor:
    return torch.softmax(x, dim=0)


def softmax_by_hand(x: Tensor) -> Tensor:
    y = (x - x.amax(1, keepdim=True)).exp()
    return y / y.sum(1, keepdim=True)


def stretched(x: Tensor) -> Tensor:
    return F.interpolate(x, size=[6, 8], mode="bilinear", align_corners=False)


def stretched_to_corners(x: Tensor) -> Tensor:
    return F.interpolate(x, size=[6, 8], mode="bilinear", align_corners=True)


def stretched_by_scale(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def padded_average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1)


def padded_average_of_present(x: Tensor) -> Tensor:
    """Divide by the number of elements without padding."""
    return F.avg_pool2d(x, 3, 1, 1, False, False)


def padded_average_by_hand(x: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(x, [1, 1, 1, 1]), 3, 1)


def leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.01)


def leakier(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.02)


def leaky_by_maximum(x: Tensor) -> Tensor:
    return torch.maximum(x, x * 0.01)


def silu(x: Tensor) -> Tensor:
    return F.silu(x)


def hard_silu(x: Tensor) -> Tensor:
    return F.hardswish(x)


def silu_by_hand(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def half_precision_free(x: Tensor) -> Tensor:
    return (x * 0.7).sum(1)


def accumulated_in_bfloat16(x: Tensor) -> Tensor:
    return (x.to(torch.bfloat16).float() * 0.7).sum(1)


def accumulated_in_double(x: Tensor) -> Tensor:
    return (x.double() * 0.7).sum(1).float()


# -- what an output is -----------------------------------------------------------------------------


def no_columns(x: Tensor) -> Tensor:
    return x[:, :0] * 2


def no_rows(x: Tensor) -> Tensor:
    return x[:0] * 2


def no_columns_by_narrow(x: Tensor) -> Tensor:
    return torch.zeros(x.shape[0], 0, dtype=x.dtype)


def in_double(x: Tensor) -> Tensor:
    return x.double() * 2


def in_single(x: Tensor) -> Tensor:
    return x * 2


def in_double_at_last(x: Tensor) -> Tensor:
    return (x * 2).double()


def fifth_in_double(x: Tensor) -> Tensor:
    return x.double() * 0.2


def fifth_in_single(x: Tensor) -> Tensor:
    return x.double() * 0.20000000298023224


def fifth_by_division(x: Tensor) -> Tensor:
    return x.double() / 5


def tanh_in_double(x: Tensor) -> Tensor:
    return torch.tanh(x.double()) + 1


def tanh_by_way_of_single(x: Tensor) -> Tensor:
    return torch.tanh(x.double()).float().double() + 1


def tanh_in_double_by_exponentials(x: Tensor) -> Tensor:
    return 2 / (1 + torch.exp(-2 * x.double()))


def in_long(x: Tensor) -> Tensor:
    return (x > 0).sum(1)


def in_int(x: Tensor) -> Tensor:
    return (x > 0).sum(1).to(torch.int32)


def in_long_by_float(x: Tensor) -> Tensor:
    return (x > 0).float().sum(1).long()


def in_bool(x: Tensor) -> Tensor:
    return x > 0


def in_bytes(x: Tensor) -> Tensor:
    return (x > 0).to(torch.uint8)


def in_bool_negated(x: Tensor) -> Tensor:
    return ~(x <= 0)


def kept_axis(x: Tensor) -> Tensor:
    return x.sum(1, keepdim=True)


def dropped_axis(x: Tensor) -> Tensor:
    """Drop an axis; the result still broadcasts against the right one."""
    return x.sum(1)


def kept_axis_later(x: Tensor) -> Tensor:
    return x.sum(1).unsqueeze(1)


def list_of_two(x: Tensor) -> List[Tensor]:  # noqa: UP006
    return [x + 1, x * 2]


def list_of_one(x: Tensor) -> List[Tensor]:  # noqa: UP006
    return [x + 1]


def list_of_three(x: Tensor) -> List[Tensor]:  # noqa: UP006
    return [x + 1, x * 2, x * 3]


def list_made_apart(x: Tensor) -> List[Tensor]:  # noqa: UP006
    found = [x + 1]
    found.append(x + x)
    return found


def with_nothing(x: Tensor) -> Tuple[Tensor, Optional[Tensor]]:  # noqa: UP006, UP045
    return x * 2, None


def with_zeros(x: Tensor) -> Tuple[Tensor, Optional[Tensor]]:  # noqa: UP006, UP045
    return x * 2, torch.zeros_like(x)


def spectrum(x: Tensor) -> Tensor:
    return torch.complex(x, x * 2) * torch.complex(x, -x + 1)


def spectrum_conjugated(x: Tensor) -> Tensor:
    return (torch.complex(x, x * 2) * torch.complex(x, -x + 1)).conj().resolve_conj()


def spectrum_by_parts(x: Tensor) -> Tensor:
    return torch.complex(x * x - 2 * x * (1 - x), 2 * x * x + x * (1 - x))


# -- the table -------------------------------------------------------------------------------------

X = call(normal(4, 5))
IMAGE = call(normal(2, 1, 3, 4))
POSITIVE = call(normal(4, 5).abs() * 3)
NANS = {"x": [-2.0, 0.5, 3.0, math.nan]}
HALVES = {"x": [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5]}
TENTHS = {"x": [float(number) for number in range(-6, 7)]}
FIFTHS = {"x": [-1.0, -0.6, -0.2, 0.0, 0.2, 0.6, 1.0, 1.4]}
EDGES = {"x": [-(2**63), -1, 0, 2**63 - 1]}


def wrong(
    name: str,
    operation: Callable[[Tensor], Any],
    translation: Callable[[Tensor], Any],
    example: Callable[[], Any] = X,
    expect: dict[str, str | None] | None = None,
    **options: Any,
) -> Row:
    made = truth(DIFFERS) if expect is None else expect
    options = {"blame": CAPTURED, **options}
    return row(name, lambda: Translated(operation, translation), example, made, **options)


def right(
    operation: Callable[[Tensor], Any],
    translation: Callable[[Tensor], Any],
    example: Callable[[], Any] = X,
    expect: dict[str, str | None] | None = None,
    **options: Any,
) -> Row:
    name = translation.__name__.replace("_", " ")
    return row(name, lambda: Translated(operation, translation), example, expect, **options)


WRONG = (
    wrong("log(1 + x) for log1p", log1p_of_small, log_of_one_plus, ci=""),
    wrong("exp(x) - 1 for expm1", expm1_of_small, exp_minus_one, ci=""),
    # The legacy exporter would have made the same of the model as it is, so the report names that.
    wrong(
        "log of sigmoid for logsigmoid",
        logsigmoid,
        log_of_sigmoid,
        blame={**dict.fromkeys(TARGETS, CAPTURED), "onnx": Blame(owner="runtime", cause="")},
        known={"onnx_legacy": "log_sigmoid of large negative numbers"},
        ci="",
    ),
    wrong("logsumexp overflows", logsumexp_of_large, log_of_summed_exps, ci=""),
    wrong(
        "infinity without its sign",
        log_of_value,
        log_without_sign,
        values={"x": [0.0, 1.0, 2.0]},
        ci="",
    ),
    wrong(
        "infinity clamped away",
        log_of_value,
        log_clamped,
        values={"x": [0.0, 1.0, 2.0]},
        ci="",
    ),
    wrong("overflow clamped", exp_of_large, exp_clamped, ci=""),
    wrong("nan dropped", clamped, clamped_numbers, values=NANS, ci=""),
    wrong("nan loses", maximum_of_row, maximum_of_numbers, values=NANS, ci=""),
    wrong(
        "integers through float32",
        tripled,
        tripled_in_float,
        call(whole(-(2**25), 2**25, 4, 5)),
        ci="",
    ),
    wrong(
        "2**24 + 1",
        next_number,
        next_number_in_float,
        call(whole(2**24 - 3, 2**24 + 3, 4, 5)),
        ci="",
    ),
    wrong("int64 wraps as int32", squared, squared_in_int32, call(whole(0, 2**20, 4, 5)), ci=""),
    wrong("sums wrap as int32", summed, summed_in_int32, call(whole(0, 2**30, 4, 5)), ci=""),
    wrong(
        "bytes saturate",
        bytes_up,
        bytes_up_saturating,
        call(whole(0, 255, 4, 5, dtype=torch.uint8)),
        ci="",
    ),
    wrong(
        "int64's ends",
        flipped_maximum,
        flipped_maximum_in_double,
        call(whole(-9, 9, 4, 5)),
        values=EDGES,
        ci="",
    ),
    wrong(
        "parity through float32",
        parity,
        parity_in_float,
        call(whole(2**24, 2**25, 4, 5)),
        ci="",
    ),
    wrong("half away from zero", rounded, rounded_away, values=HALVES, ci=""),
    wrong(
        "half away from zero, to int",
        rounded_to_int,
        rounded_away_to_int,
        values=HALVES,
        ci="export",
    ),
    wrong(
        "half up, of halved ints",
        rounded_half_of_int,
        rounded_up_half_of_int,
        call(whole(-9, 9, 4, 5)),
        ci="",
    ),
    wrong(
        "floor for truncation",
        divided_to_zero,
        divided_down,
        call(whole(-9, 9, 4, 5)),
        ci="",
    ),
    wrong(
        "sign of the remainder",
        remainder_of_divisor,
        remainder_of_dividend,
        call(whole(-9, 9, 4, 5)),
    ),
    wrong("sign of the float remainder", remainder_of_divisor, remainder_of_dividend, ci=""),
    wrong("a cast that floors", truncated, floored, ci=""),
    wrong("index shifted by one", looked_up, looked_up_next, call(whole(0, 9, 4, 5)), ci=""),
    wrong("rolled the other way", rolled, rolled_back, ci=""),
    wrong("sum without itself", inclusive_sum, exclusive_sum, ci=""),
    wrong("last of equal maxima", first_of_equals, last_of_equals, call(whole(0, 3, 4, 5)), ci=""),
    wrong("last of equal rounded maxima", first_of_rounded, last_of_rounded, ci="script"),
    wrong(">= exported as >", reaches_one, exceeds_one, ci="onnx"),
    wrong(
        "a floor of the quotient",
        divided_by_tenths,
        floor_of_quotient,
        call(whole(-6, 6, 4, 5).float()),
        values=TENTHS,
    ),
    wrong(
        "half away from zero, of quotients",
        cells_of_fifths,
        cells_of_fifths_away,
        ci="",
        values=FIFTHS,
    ),
    # Neither ONNX exporter supports a stable sort.
    wrong(
        "equals in reverse order",
        stable_order,
        reversed_order_of_equals,
        call(whole(0, 3, 4, 5)),
        truth(DIFFERS, onnx=REFUSED, onnx_legacy=REFUSED),
        ci="onnx",
        refused={"onnx": untranslated("self.translation(x)"), "onnx_legacy": untranslated()},
    ),
    wrong("first column off by a little", doubled, doubled_but_first, ci=""),
    wrong("one element off by a little", doubled, doubled_but_one, ci=""),
    wrong("one column of the second output", two_outputs, second_one_wrong, ci=""),
    wrong("two outputs swapped", two_outputs, two_swapped, ci=""),
    wrong("products in half precision", products, products_in_half, ci=""),
    wrong("tanh through half precision", tanh_of_third, tanh_through_half, ci=""),
    wrong("another epsilon", layer_norm, layer_norm_wide, ci=""),
    wrong("an epsilon left out", layer_norm_of_small, layer_norm_without_epsilon, ci=""),
    wrong("population variance", sample_variance, population_variance, ci=""),
    wrong("gelu by tanh", gelu, gelu_by_tanh, ci=""),
    wrong("softmax of the other axis", softmax_of_rows, softmax_of_columns, ci=""),
    wrong("corners aligned", stretched, stretched_to_corners, IMAGE, ci=""),
    wrong("padding does not count", padded_average, padded_average_of_present, IMAGE, ci=""),
    wrong("another slope", leaky, leakier, ci=""),
    wrong("hard silu", silu, hard_silu, ci=""),
    wrong("accumulated in bfloat16", half_precision_free, accumulated_in_bfloat16, ci=""),
    wrong("the other empty axis", no_columns, no_rows, ci=""),
    wrong("float32 for float64", in_double, in_single),
    wrong("a constant in single precision", fifth_in_double, fifth_in_single, ci="script"),
    wrong("double by way of single", tanh_in_double, tanh_by_way_of_single),
    wrong("int32 for int64", in_long, in_int, ci=""),
    wrong("uint8 for bool", in_bool, in_bytes),
    wrong("an axis dropped", kept_axis, dropped_axis, ci="onnx_legacy"),
    wrong("an output missing", list_of_two, list_of_one, expect=truth(STRUCTURE), ci="trace onnx"),
    wrong("an output too many", list_of_two, list_of_three, expect=truth(STRUCTURE), ci="script"),
    wrong(
        "zeros for None",
        with_nothing,
        with_zeros,
        expect=truth(STRUCTURE),
        ci="script export onnx_legacy",
    ),
    wrong(
        "conjugated",
        spectrum,
        spectrum_conjugated,
        expect=truth(DIFFERS, onnx_legacy=REFUSED),
        ci="",
        refused={"onnx_legacy": untranslated()},
    ),
)

RIGHT = (
    right(log1p_of_small, log1p_by_series),
    right(expm1_of_small, expm1_by_series, ci="onnx_legacy", round_trip=True),
    right(logsigmoid, negative_softplus),
    right(logsumexp_of_large, logsumexp_from_maximum, ci="script"),
    right(log_of_value, log_by_two, POSITIVE),
    right(exp_of_large, exp_in_halves, ci="export", round_trip=True),
    right(clamped, clamped_from_below_first, values=NANS),
    right(tripled, tripled_in_double, call(whole(-(2**40), 2**40, 4, 5)), ci="onnx_legacy"),
    right(
        next_number, next_number_in_double, call(whole(2**24 - 3, 2**24 + 3, 4, 5)), round_trip=True
    ),
    right(squared, squared_in_int32, call(whole(0, 2**15, 4, 5)), ci="script", round_trip=True),
    right(summed, summed_by_cumsum, call(whole(0, 2**40, 4, 5))),
    right(bytes_up, bytes_up_wrapping, call(whole(0, 255, 4, 5, dtype=torch.uint8)), ci="export"),
    right(flipped_maximum, flipped_maximum_by_choice, call(whole(-9, 9, 4, 5)), values=EDGES),
    # The new exporter itself divides integers through float32.
    right(
        parity,
        parity_by_division,
        call(whole(2**24, 2**25, 4, 5)),
        truth(onnx=DIFFERS),
        blame={"onnx": MISTRANSLATED},
        ci="onnx",
    ),
    right(parity, parity_by_and, call(whole(2**24, 2**25, 4, 5))),
    right(rounded, rounded_by_remainder, values=HALVES, ci="script"),
    right(rounded_to_int, rounded_away_to_int, values={"x": [-1.25, -0.75, 0.25, 1.75]}),
    right(divided_to_zero, divided_by_sign, call(whole(-9, 9, 4, 5)), ci="export"),
    right(divided_to_zero, divided_down, call(whole(0, 9, 4, 5))),
    right(remainder_of_divisor, remainder_by_two_fmods, call(whole(-9, 9, 4, 5)), ci="onnx_legacy"),
    right(truncated, truncated_by_sign),
    right(looked_up, looked_up_by_selection, call(whole(0, 9, 4, 5)), ci="script"),
    right(rolled, rolled_by_index),
    right(inclusive_sum, sum_by_triangle, ci="export"),
    right(first_of_equals, first_by_place, call(whole(0, 3, 4, 5))),
    right(stable_order, stable_order_by_place, call(whole(0, 3, 4, 5)), ci="onnx_legacy"),
    right(reaches_one, is_not_below_one, ci="onnx"),
    right(cells_of_fifths, cells_of_fifths_by_halves, values=FIFTHS),
    right(doubled, doubled_by_sum),
    right(two_outputs, two_by_hand, ci="script"),
    right(products, products_by_sum),
    right(tanh_of_third, tanh_by_reciprocal, ci="export"),
    right(layer_norm, layer_norm_by_hand),
    right(sample_variance, variance_by_hand, ci="onnx_legacy"),
    right(gelu, gelu_by_erf),
    right(softmax_of_rows, softmax_by_hand, ci="script"),
    right(stretched, stretched_by_scale, IMAGE),
    right(padded_average, padded_average_by_hand, IMAGE, ci="export"),
    right(leaky, leaky_by_maximum, ci=""),
    right(silu, silu_by_hand, ci="onnx_legacy"),
    right(half_precision_free, accumulated_in_double),
    right(no_columns, no_columns_by_narrow, weak="empty on every call", ci="script"),
    right(in_double, in_double_at_last),
    right(fifth_in_double, fifth_by_division),
    right(tanh_in_double, tanh_in_double_by_exponentials, ci="onnx"),
    right(in_long, in_long_by_float, ci="export"),
    right(in_bool, in_bool_negated),
    right(kept_axis, kept_axis_later, ci="onnx_legacy"),
    right(list_of_two, list_made_apart),
    right(
        spectrum,
        spectrum_by_parts,
        expect=truth(onnx_legacy=REFUSED),
        ci="onnx onnx_legacy",
        round_trip=True,
        refused={"onnx_legacy": untranslated()},
    ),
)

CONVERTERS = (*WRONG, *RIGHT)
