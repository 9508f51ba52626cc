"""One reproduction of each known defect of another package (diagnosis/known_defects.py).

Not rows of the zoo: each is of one target, and says which defect the report has to name. ``values``
are the numbers that a call may hold, if the example's own range would not show the defect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf, nan
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention as attention


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """A module that fails because of a defect, and the call on which it does.

    ``ci``: CI runs it. ``options`` are arguments of ``check_export``.
    """

    defect: str
    build: Callable[[], nn.Module]
    call: tuple[Any, ...]
    ci: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


class Of(nn.Module):
    """Calls a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function(*args)


class TimesASquare(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.shape[0] ** 2


class TimesARounded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * round(x.shape[0] / 2)


class SevenDividedBy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 7 // x


class Shifted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)


class Assigns(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        y[0] = 0.1
        return x + y


class ByShare(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (1 / x.shape[0])


def shows(
    defect: str, module: Callable[[], nn.Module], *call: Any, ci: bool = False
) -> Reproduction:
    """Return the reproduction of a defect that a module shows."""
    return Reproduction(defect=defect, build=lambda: module().eval(), call=call, ci=ci)


def of(defect: str, function: Callable[..., Any], *call: Any, ci: bool = False) -> Reproduction:
    """Return the reproduction of a defect that one expression shows."""
    return shows(defect, lambda: Of(function), *call, ci=ci)


def t(*numbers: Any, dtype: torch.dtype | None = None) -> Tensor:
    """Return a vector."""
    return torch.tensor(numbers, dtype=dtype)


U8, F16 = torch.uint8, torch.float16
NEGATIVE = t(-7, -5, 3)
DOUBLES = t(1.0, 2.0, 0.5, dtype=torch.float64)
QUERY = torch.arange(8.0).reshape(1, 1, 2, 4) / 8
IMAGE = torch.tensor([[[[nan, 1.0], [2.0, 3.0]]]])

UPSTREAM: tuple[Reproduction, ...] = (
    shows("script: a power of integers is a float", TimesASquare, t(1, 2, 3), ci=True),
    shows("script: round returns a float", TimesARounded, t(1, 2, 3, 4, 5)),
    shows("script: a number divided by a tensor", SevenDividedBy, t(2, 3), ci=True),
    shows("script: new doubles are float32", Shifted, DOUBLES),
    shows("script: a double that is assigned is float32", Assigns, DOUBLES),
    shows("trace: numbers made of sizes are float32", ByShare, DOUBLES),
    of("floor_divide by way of a quotient", lambda x: x // 0.1, t(1.0, 0.5, 0.3), ci=True),
    of("remainder by way of a quotient", lambda x: x % 0.1, t(1.0, 0.5, 0.3)),
    of(
        "floor division of large integers",
        lambda x, y: torch.div(x, y, rounding_mode="floor"),
        t(2**25 + 1, -7),
        t(1, 2),
    ),
    of("bytes that are shifted become signed", lambda x: x << 1, t(1, 200, dtype=U8)),
    of("atan2 to the left, and of nan", torch.atan2, t(0.0, 1.0), t(-1.0, -1.0)),
    of("angle of nan", torch.angle, t(nan, -1.0, 2.0)),
    of("sign of nan", torch.sign, t(nan, -1.0, 2.0)),
    of("sign bit of minus zero", torch.signbit, t(-0.0, -1.0, 2.0)),
    of("logaddexp overflows", torch.logaddexp, t(89.0, 0.0), t(0.0, 0.0)),
    of("logaddexp2 overflows", torch.logaddexp2, t(189.0, 0.0), t(0.0, 0.0)),
    of("logcumsumexp underflows", lambda x: x.logcumsumexp(0), t(-100.0, 0.0, 89.0)),
    of("log1p of small numbers", lambda x: torch.log1p(x) / x, t(1e-8, 0.5)),
    of("expm1 of small numbers", lambda x: torch.expm1(x) / x, t(1e-8, 0.5)),
    of("xlog1py of small numbers", torch.special.xlog1py, t(1e8, 1.0), t(1e-8, 0.5)),
    of("xlogy of zero and nan", torch.xlogy, t(0.0, 1.0), t(nan, 2.0)),
    of("erfc of large numbers", lambda x: torch.erfc(x) * 1e12, t(5.0, 6.0)),
    of("erfcx of large numbers", torch.special.erfcx, t(0.0, 1.0, 20.0)),
    of("log_ndtr of negative numbers", torch.special.log_ndtr, t(-30.0, 0.0)),
    of(
        "scatter_reduce with mean does not reduce",
        lambda x, i, v: x.scatter_reduce(0, i, v, "mean"),
        t(1.0, 2.0, 3.0),
        t(0, 2, 1),
        t(5.0, 7.0, 0.5),
        ci=True,
    ),
    of(
        "argmax of all, with its dimension kept",
        lambda x: x.argmax(keepdim=True),
        torch.tensor([[1.0, 3.0], [2.0, 0.0]]),
    ),
    of("halves become float32", lambda x: x.sum(1), torch.tensor([[1.0, 2.0]], dtype=F16)),
    of(
        "numbers beside doubles are float32",
        lambda x: (
            x * 0.1,
            torch.addcmul(x, x, x, value=0.1),
            x.clamp(max=1.1),
            x.masked_fill(x > 1, 0.1),
            torch.full_like(x, 0.1) - x,
            torch.lerp(x, x * 2, 0.1),
            torch.nn.functional.layer_norm(x, (2,), eps=0.1),
        ),
        t(1.0, 2.0, dtype=torch.float64),
    ),
    of("attention with a negative scale", lambda q: attention(q, q, q, scale=-1.0), QUERY),
    of(
        "attention with a row of minus infinity",
        lambda q, mask: attention(q, q, q, attn_mask=mask),
        QUERY,
        torch.tensor([[-inf, -inf], [0.0, -inf]]),
    ),
    of(
        "attention with a row that is False",
        lambda q, mask: attention(q, q, q, attn_mask=mask),
        QUERY,
        torch.tensor([[False, False], [True, False]]),
    ),
    of("all of bytes is a bool", lambda x: x.all(), t(1, 0, dtype=U8)),
    of("any of no elements", lambda x: x[:0].any(), t(1.0, 2.0)),
    of(
        "average with a divisor of its own",
        lambda x: nn.functional.avg_pool2d(x, 2, divisor_override=3),
        torch.ones(1, 1, 2, 2),
    ),
    of("a small addend is dropped", lambda x: torch.log(x + 1e-8), t(0.0, 1.0), ci=True),
    of("a factor next to one is dropped", lambda x: (x * 1.000001 - x) * 1e6, t(1.0, 2.0)),
    of("legacy: right shift of negative numbers", lambda x: x >> 1, NEGATIVE, ci=True),
    of("legacy: floor division of negative integers", lambda x: x // 3, NEGATIVE),
    of("legacy: floor division of floats", lambda x: x // 0.1, t(1.0, 0.5, 0.3)),
    of("legacy: atan2 to the left, and of two zeros", torch.atan2, t(0.0, 1.0), t(0.0, 2.0)),
    of("legacy: any of numbers below one", lambda x: x.any(), t(0.5, 0.0)),
    of("legacy: cumsum of 32-bit integers", lambda x: x.cumsum(0), t(1, 2, dtype=torch.int32)),
    of("legacy: clamp of integers to floats", lambda x: x.clamp(-1.5, 2.5), NEGATIVE),
    of("legacy: shrinking nan", nn.functional.hardshrink, t(nan, 1.0, -2.0)),
    of(
        "legacy: bucketize of nan",
        lambda x: torch.bucketize(x, torch.tensor([0.0, 1.0])),
        t(nan, 0.5, 2.0),
    ),
    of(
        "sigmoid of large negative numbers",
        lambda x: torch.log(torch.sigmoid(x)),
        t(-50.0, 0.0, 3.0),
    ),
    of("log_sigmoid of large negative numbers", nn.functional.logsigmoid, t(-50.0, 0.0, 3.0)),
    of(
        "binary cross entropy of large negative logits",
        nn.functional.binary_cross_entropy_with_logits,
        t(-50.0, 0.0, 3.0),
        t(1.0, 1.0, 0.0),
    ),
    of("max and min drop nan", lambda x: x.amax(0), t(1.0, nan, 3.0)),
    of("max pooling of nan", lambda x: nn.functional.max_pool2d(x, 2), IMAGE),
    of(
        "max pooling of minus infinity",
        lambda x: nn.functional.max_pool2d(x, 3, 1, 1),
        torch.tensor([[0.0] * 6, *[[-inf] * 6] * 5]).expand(1, 1, 6, 6).contiguous(),
    ),
    of("nan is sorted last", lambda x: x.sort(descending=True), t(1.0, nan, 3.0, -5.0)),
    of("clamp of large integers", lambda n: n.clamp(-5, 5), t(2**31, 2**40, -(2**32), 3)),
    of("mean of no elements", lambda x: x[:0].mean(), t(1.0, 2.0)),
    of(
        "padding by the pooling after it",
        lambda x: nn.functional.max_pool2d(nn.functional.pad(x, (1, 1, 1, 1)), 3, 1),
        -torch.ones(1, 1, 3, 3),
    ),
)
