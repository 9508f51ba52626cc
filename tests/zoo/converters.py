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

from zoo.row import *

# Only the line with all three questions is one that a report can name.
CAPTURED = asks("torch.jit.is_scripting() or torch.jit.is_tracing()")
X = call(normal(4, 5))
POSITIVE = call(normal(4, 5).abs() * 3)
NANS = {"x": [-2.0, 0.5, 3.0, math.nan]}
HALVES = {"x": [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5]}
TENTHS = {"x": [float(number) for number in range(-6, 7)]}
EDGES = {"x": [-(2**63), -1, 0, 2**63 - 1]}

section("converters")


def captured() -> bool:
    """Return True if the caller is being traced, scripted or exported."""
    return torch.jit.is_scripting() or torch.jit.is_tracing() or torch.compiler.is_compiling()


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


def wrong(operation: Callable[[Tensor], Any], *given: Any, **fields: Any) -> Callable[[Any], Any]:
    """Add a row whose artifact computes the function that this decorates in place of another."""
    return _translated(operation, truth(DIFFERS), *given, **{"blame": CAPTURED, **fields})


def right(operation: Callable[[Tensor], Any], *given: Any, **fields: Any) -> Callable[[Any], Any]:
    """Add a row whose artifact computes the same by the function that this decorates."""
    return _translated(operation, *given, **fields)


def _translated(operation: Any, *given: Any, **fields: Any) -> Callable[[Any], Any]:
    example = () if any(callable(each) or isinstance(each, Tensor) for each in given) else (X,)

    def add(translation: Callable[[Tensor], Any]) -> Any:
        name = translation.__name__.replace("_", " ")
        names = (*operation.__code__.co_names, *translation.__code__.co_names)
        make = row(*given, *example, **{"name": name, "names": names, **fields})
        make(lambda: Translated(operation, translation))
        return translation

    return add


# -- numbers near zero, one, and the ends ----------------------------------------------------------


def log1p_of_small(x: Tensor) -> Tensor:
    return torch.log1p(x * 1e-6) * 1e6


@wrong(log1p_of_small, "log(1 + x) for log1p")
def log_of_one_plus(x: Tensor) -> Tensor:
    return torch.log(1 + x * 1e-6) * 1e6


@right(log1p_of_small)
def log1p_by_series(x: Tensor) -> Tensor:
    y = x * 1e-6
    return (y - y * y / 2) * 1e6


def logsigmoid(x: Tensor) -> Tensor:
    return F.logsigmoid(x * 40)


# The legacy exporter would have made the same of the model as it is, so the report names that.
@wrong(
    logsigmoid,
    "log of sigmoid for logsigmoid",
    blame={**dict.fromkeys(TARGETS, CAPTURED), "onnx": Blame(owner="runtime", cause="")},
    known={
        "onnx": "sigmoid of large negative numbers",
        "onnx_legacy": "log_sigmoid of large negative numbers",
    },
)
def log_of_sigmoid(x: Tensor) -> Tensor:
    """Return -inf if the sigmoid underflows."""
    return torch.log(torch.sigmoid(x * 40))


@right(logsigmoid)
def negative_softplus(x: Tensor) -> Tensor:
    return -F.softplus(-x * 40)


def logsumexp_of_large(x: Tensor) -> Tensor:
    return torch.logsumexp(x * 60, dim=1)


@wrong(logsumexp_of_large, "logsumexp overflows")
def log_of_summed_exps(x: Tensor) -> Tensor:
    """Overflow, as the maximum is not subtracted first."""
    return (x * 60).exp().sum(1).log()


@right(logsumexp_of_large)
def logsumexp_from_maximum(x: Tensor) -> Tensor:
    y = x * 60
    top = y.amax(1, keepdim=True)
    return (y - top).exp().sum(1).log() + top.squeeze(1)


def log_of_value(x: Tensor) -> Tensor:
    return torch.log(x)


@wrong(log_of_value, "infinity without its sign", values={"x": [0.0, 1.0, 2.0]})
def log_without_sign(x: Tensor) -> Tensor:
    """Return +inf for log(0)."""
    return torch.where(x == 0, torch.full_like(x, math.inf), torch.log(x))


@right(log_of_value, POSITIVE)
def log_by_two(x: Tensor) -> Tensor:
    return torch.log2(x) * math.log(2.0)


def clamped(x: Tensor) -> Tensor:
    return x.clamp(-1.0, 1.0)


@wrong(clamped, "nan dropped", values=NANS)
def clamped_numbers(x: Tensor) -> Tensor:
    """Turn NaN into 0."""
    return torch.nan_to_num(x).clamp(-1.0, 1.0)


@right(clamped, values=NANS)
def clamped_from_below_first(x: Tensor) -> Tensor:
    return torch.clamp(torch.clamp(x, min=-1.0), max=1.0)


# -- integers --------------------------------------------------------------------------------------


def tripled(x: Tensor) -> Tensor:
    return x * 3


@wrong(tripled, "integers through float32", whole(-(2**25), 2**25, 4, 5))
def tripled_in_float(x: Tensor) -> Tensor:
    return (x.float() * 3).long()


@right(tripled, whole(-(2**40), 2**40, 4, 5))
def tripled_in_double(x: Tensor) -> Tensor:
    return (x.double() * 3).long()


def squared(x: Tensor) -> Tensor:
    return x * x


@right(squared, whole(0, 2**15, 4, 5))
@wrong(squared, "int64 wraps as int32", whole(0, 2**20, 4, 5))
def squared_in_int32(x: Tensor) -> Tensor:
    y = x.to(torch.int32)
    return (y * y).long()


def flipped_maximum(x: Tensor) -> Tensor:
    return torch.maximum(x, x.flip(1))


@wrong(flipped_maximum, "int64's ends", whole(-9, 9, 4, 5), values=EDGES)
def flipped_maximum_in_double(x: Tensor) -> Tensor:
    """Lose 2**63 - 1, which float64 cannot hold."""
    y = x.double()
    return torch.maximum(y, y.flip(1)).clamp(-9e18, 9e18).long()


@right(flipped_maximum, whole(-9, 9, 4, 5), values=EDGES)
def flipped_maximum_by_choice(x: Tensor) -> Tensor:
    y = x.flip(1)
    return torch.where(x > y, x, y)


def parity(x: Tensor) -> Tensor:
    return x % 2


# The new exporter itself divides integers through float32.
@right(
    parity,
    whole(2**24, 2**25, 4, 5),
    truth(onnx=DIFFERS),
    blame={"onnx": MISTRANSLATED},
    known={"onnx": "floor division of large integers"},
)
def parity_by_division(x: Tensor) -> Tensor:
    return x - torch.div(x, 2, rounding_mode="floor") * 2


@right(parity, whole(2**24, 2**25, 4, 5))
def parity_by_and(x: Tensor) -> Tensor:
    return x & 1


# -- division and rounding -------------------------------------------------------------------------


def rounded(x: Tensor) -> Tensor:
    return torch.round(x)


@wrong(rounded, "half away from zero", values=HALVES)
def rounded_away(x: Tensor) -> Tensor:
    """Round half away from zero; torch rounds half to even."""
    return torch.sign(x) * torch.floor(x.abs() + 0.5)


@right(rounded, values=HALVES)
def rounded_by_remainder(x: Tensor) -> Tensor:
    """Round half to even by hand."""
    low = torch.floor(x)
    gap = x - low
    up = (gap > 0.5) | ((gap == 0.5) & (torch.remainder(low, 2.0) == 1.0))
    return low + up.to(x.dtype)


def divided_to_zero(x: Tensor) -> Tensor:
    return torch.div(x, 3, rounding_mode="trunc")


@right(divided_to_zero, whole(0, 9, 4, 5))
@wrong(divided_to_zero, "floor for truncation", whole(-9, 9, 4, 5))
def divided_down(x: Tensor) -> Tensor:
    return torch.div(x, 3, rounding_mode="floor")


def remainder_of_divisor(x: Tensor) -> Tensor:
    return torch.remainder(x, 3)


@wrong(remainder_of_divisor, "sign of the remainder", whole(-9, 9, 4, 5))
def remainder_of_dividend(x: Tensor) -> Tensor:
    return torch.fmod(x, 3)


@right(remainder_of_divisor, whole(-9, 9, 4, 5))
def remainder_by_two_fmods(x: Tensor) -> Tensor:
    return torch.fmod(torch.fmod(x, 3) + 3, 3)


def truncated(x: Tensor) -> Tensor:
    return (x * 4).to(torch.int64)


@wrong(truncated, "a cast that floors")
def floored(x: Tensor) -> Tensor:
    """Round down, while a cast truncates."""
    return torch.floor(x * 4).to(torch.int64)


@right(truncated)
def truncated_by_sign(x: Tensor) -> Tensor:
    y = x * 4
    return (torch.sign(y) * torch.floor(y.abs())).to(torch.int64)


# -- indices ---------------------------------------------------------------------------------------


def first_of_equals(x: Tensor) -> Tensor:
    return x.argmax(1)


@wrong(first_of_equals, "last of equal maxima", whole(0, 3, 4, 5))
def last_of_equals(x: Tensor) -> Tensor:
    return x.shape[1] - 1 - x.flip(1).argmax(1)


@right(first_of_equals, whole(0, 3, 4, 5))
def first_by_place(x: Tensor) -> Tensor:
    top = x == x.amax(1, keepdim=True)
    return (top.long() * torch.arange(x.shape[1], 0, -1, device=x.device)).argmax(1)


def stable_order(x: Tensor) -> Tensor:
    return torch.sort(x, dim=1, stable=True).indices


# Neither ONNX exporter supports a stable sort.
@wrong(
    stable_order,
    "equals in reverse order",
    whole(0, 3, 4, 5),
    truth(DIFFERS, onnx=REFUSED, onnx_legacy=REFUSED),
    onnx=untranslated("self.translation(x)"),
    onnx_legacy=untranslated(),
)
def reversed_order_of_equals(x: Tensor) -> Tensor:
    return x.shape[1] - 1 - torch.sort(x.flip(1), dim=1, stable=True).indices


@right(stable_order, whole(0, 3, 4, 5))
def stable_order_by_place(x: Tensor) -> Tensor:
    """Sort keys that the place makes distinct."""
    return torch.sort(x * 5 + torch.arange(5, device=x.device), dim=1).indices


# -- single elements -------------------------------------------------------------------------------


def doubled(x: Tensor) -> Tensor:
    return x * 2


@wrong(doubled, "one element off by a little")
def doubled_but_one(x: Tensor) -> Tensor:
    """Be wrong only at the last element of the last row, by a thousandth."""
    rows = torch.arange(x.shape[0], device=x.device).unsqueeze(1) == x.shape[0] - 1
    columns = torch.arange(x.shape[1], device=x.device).unsqueeze(0) == x.shape[1] - 1
    return torch.where(rows & columns, x * 2.002, x * 2)


@right(doubled)
def doubled_by_sum(x: Tensor) -> Tensor:
    return x + x


def two_outputs(x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    return x.cumsum(1), torch.tanh(x)


@wrong(two_outputs, "one column of the second output")
def second_one_wrong(x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    y = torch.tanh(x)
    return x.cumsum(1), torch.cat([y[:, :-1], y[:, -1:] * 0.999], dim=1)


@right(two_outputs)
def two_by_hand(x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    return x @ torch.ones(5, 5, device=x.device).triu(), 2 * torch.sigmoid(2 * x) - 1


# -- decisions on rounded numbers ------------------------------------------------------------------


def reaches_one(x: Tensor) -> Tensor:
    """Compare with a number that a saturated sigmoid is rounded to."""
    return torch.sigmoid(x * 18) >= 1.0


@wrong(reaches_one, ">= exported as >")
def exceeds_one(x: Tensor) -> Tensor:
    return torch.sigmoid(x * 18) > 1.0


@right(reaches_one)
def is_not_below_one(x: Tensor) -> Tensor:
    return ~(torch.sigmoid(x * 18) < 1.0)


def divided_by_tenths(x: Tensor) -> Tensor:
    return torch.floor_divide(x * 0.3, 0.1)


@wrong(divided_by_tenths, "a floor of the quotient", whole(-6, 6, 4, 5).float(), values=TENTHS)
def floor_of_quotient(x: Tensor) -> Tensor:
    """Differ from the floor division of torch where the quotient is rounded to a whole number."""
    return torch.floor(x * 0.3 / 0.1)


# -- formulas --------------------------------------------------------------------------------------


def products(x: Tensor) -> Tensor:
    return x @ x.t()


@wrong(products, "products in half precision")
def products_in_half(x: Tensor) -> Tensor:
    return (x.half() @ x.half().t()).float()


@right(products)
def products_by_sum(x: Tensor) -> Tensor:
    return (x.unsqueeze(1) * x.unsqueeze(0)).sum(-1)


def layer_norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, [5], None, None, 1e-5)


@wrong(layer_norm, "another epsilon")
def layer_norm_wide(x: Tensor) -> Tensor:
    return F.layer_norm(x, [5], None, None, 1e-3)


@right(layer_norm)
def layer_norm_by_hand(x: Tensor) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(((x - mean) ** 2).mean(-1, keepdim=True) + 1e-5)


# -- what an output is -----------------------------------------------------------------------------


def no_columns(x: Tensor) -> Tensor:
    return x[:, :0] * 2


@wrong(no_columns, "the other empty axis")
def no_rows(x: Tensor) -> Tensor:
    return x[:0] * 2


@right(no_columns, weak="empty on every call")
def no_columns_by_narrow(x: Tensor) -> Tensor:
    return x.new_zeros(x.shape[0], 0)


def in_double(x: Tensor) -> Tensor:
    return x.double() * 2


@wrong(in_double, "float32 for float64")
def in_single(x: Tensor) -> Tensor:
    return x * 2


@right(in_double)
def in_double_at_last(x: Tensor) -> Tensor:
    return (x * 2).double()


def tanh_in_double(x: Tensor) -> Tensor:
    return torch.tanh(x.double()) + 1


@wrong(tanh_in_double, "double by way of single")
def tanh_by_way_of_single(x: Tensor) -> Tensor:
    return torch.tanh(x.double()).float().double() + 1


@right(tanh_in_double)
def tanh_in_double_by_exponentials(x: Tensor) -> Tensor:
    return 2 / (1 + torch.exp(-2 * x.double()))


def in_long(x: Tensor) -> Tensor:
    return (x > 0).sum(1)


@wrong(in_long, "int32 for int64")
def in_int(x: Tensor) -> Tensor:
    return (x > 0).sum(1).to(torch.int32)


@right(in_long)
def in_long_by_float(x: Tensor) -> Tensor:
    return (x > 0).float().sum(1).long()


def in_bool(x: Tensor) -> Tensor:
    return x > 0


@wrong(in_bool, "uint8 for bool")
def in_bytes(x: Tensor) -> Tensor:
    return (x > 0).to(torch.uint8)


def list_of_two(x: Tensor) -> List[Tensor]:  # noqa: UP006
    return [x + 1, x * 2]


@wrong(list_of_two, "an output missing", truth(STRUCTURE))
def list_of_one(x: Tensor) -> List[Tensor]:  # noqa: UP006
    return [x + 1]


@right(list_of_two)
def list_made_apart(x: Tensor) -> List[Tensor]:  # noqa: UP006
    found = [x + 1]
    found.append(x + x)
    return found


def with_nothing(x: Tensor) -> Tuple[Tensor, Optional[Tensor]]:  # noqa: UP006, UP045
    return x * 2, None


@wrong(with_nothing, "zeros for None", truth(STRUCTURE))
def with_zeros(x: Tensor) -> Tuple[Tensor, Optional[Tensor]]:  # noqa: UP006, UP045
    return x * 2, torch.zeros_like(x)


def spectrum(x: Tensor) -> Tensor:
    return torch.complex(x, x * 2) * torch.complex(x, -x + 1)


@wrong(spectrum, "conjugated", truth(DIFFERS), onnx_legacy=untranslated())
def spectrum_conjugated(x: Tensor) -> Tensor:
    return (torch.complex(x, x * 2) * torch.complex(x, -x + 1)).conj().resolve_conj()


@right(spectrum, onnx_legacy=untranslated())
def spectrum_by_parts(x: Tensor) -> Tensor:
    return torch.complex(x * x - 2 * x * (1 - x), 2 * x * x + x * (1 - x))
