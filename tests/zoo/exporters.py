"""Real faults of the exporters and of ONNX Runtime, beside modules that they translate well.

Unlike the rows of ``converters.py``, the forward is the same everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Tuple  # noqa: UP035  # TorchScript's words

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.row import (
    DIFFERS,
    MISTRANSLATED,
    REFUSED,
    Blame,
    Example,
    call,
    normal,
    row,
    truth,
    untranslated,
    whole,
)

# -- constants next to zero and one ----------------------------------------------------------------


class Share(nn.Module):
    """Divides by a sum that may be zero."""

    def __init__(self, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        sizes = x.abs()
        return sizes / (sizes.sum(1, keepdim=True) + self.epsilon)


class LogOfShifted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.log(x.abs() + 1e-8)


class NearlyOnce(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 1.000001


# -- formulas that lose digits or overflow ---------------------------------------------------------


class Expm1OfSmall(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.expm1(x * 1e-5) * 1e5


class Log1pOfSmall(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.log1p(x.abs() * 1e-6) * 1e6


class LogSigmoid(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.logsigmoid(x)


class LossOfLogits(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(x, torch.ones_like(x), reduction="none")


class LossOfProbabilities(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.binary_cross_entropy(torch.sigmoid(x), torch.full_like(x, 0.5))


class SoftMaximum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.logaddexp(x, x.flip(1))


class SoftMaximumOfRow(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.logsumexp(x, 1)


# -- signs, quotients, types -----------------------------------------------------------------------


class LeftOfCenter(nn.Module):
    """The angle of a point on the left half of the axis, where a relu left the other side zero."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.atan2(torch.relu(x), -1 - x.abs())


class RightOfCenter(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.atan2(torch.relu(x), 1 + x.abs())


class Tenths(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x // 0.1


class Halves(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x // 0.5


class Magnitude(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.abs()


class AnyOfRow(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.any(1)


# -- special values that the user declares ---------------------------------------------------------


class Angle(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.atan2(x, torch.ones_like(x))


class WithoutNan(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        known = torch.where(torch.isnan(x), torch.zeros_like(x), x)
        return torch.softmax(known.clamp(-3.0, 3.0), 1)


class ClampedIntegers(nn.Module):
    def forward(self, n: Tensor) -> Tensor:
        return n.clamp(-5, 5)


class WrappedIntegers(nn.Module):
    def forward(self, n: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
        return n * 3 + 1, n % 7


class SignOfZero(nn.Module):
    """The sum of -0.0 and 0.0 is 0.0; without the addition the sign shows."""

    def forward(self, x: Tensor) -> Tensor:
        return 1 / (x + 0.0)


class SignOfZeroKept(nn.Module):
    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
        return 1 / x, torch.sqrt(x.abs())


class ToBoth(nn.Module):
    """Two projections of two arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(8, 4)
        self.other = nn.Linear(8, 4)

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        return self.one(q) - 2 * self.other(k)


def same(tensor: Tensor, *names: str) -> Callable[[], Example]:
    """Return a factory of a call that gives one tensor for all arguments of these names."""
    return lambda: ((), dict.fromkeys(names, tensor.clone()))


ONE_TWICE = Blame(owner="capture", cause="one tensor twice")
X = call(normal(4, 8))
SEQUENCE = normal(2, 3, 8)
ATTENTION = partial(nn.MultiheadAttention, 8, 2, batch_first=True)
QKV = ("query", "key", "value")
N = call(whole(-6, 6, 4, 5))

HALF = call(normal(4, 8, dtype=torch.float16))
DOUBLE = call(normal(4, 8, dtype=torch.float64))
ON_ONNX = truth(onnx=DIFFERS)
ON_BOTH = truth(onnx=DIFFERS, onnx_legacy=DIFFERS)
# The older exporter does not know the operator.
OR_REFUSED = truth(onnx=DIFFERS, onnx_legacy=REFUSED)

# torch.export gives a tensor that stands at two places one input; a trace does not.
TAKEN_FOR_ONE = truth(export=DIFFERS, onnx=DIFFERS)

EXPORTERS = (
    row(
        "one tensor twice",
        ToBoth,
        same(normal(4, 8), "q", "k"),
        TAKEN_FOR_ONE,
        blame=ONE_TWICE,
        ci="trace export",
    ),
    row(
        "one tensor always twice",
        ToBoth,
        same(normal(4, 8), "q", "k"),
        map=lambda q: {"k": q},
        ci="export",
    ),
    row("equal tensors", ToBoth, call(normal(4, 8), normal(4, 8)), ci="export"),
    row(
        "attention to itself",
        ATTENTION,
        same(SEQUENCE, *QKV),
        TAKEN_FOR_ONE,
        blame=ONE_TWICE,
        ci="",
    ),
    row(
        "attention to itself, always",
        ATTENTION,
        same(SEQUENCE, *QKV),
        map=lambda query: {"key": query, "value": query},
        ci="",
    ),
    # The exporter's optimizer takes a constant within 1e-8 of zero for zero, and one within a
    # hundred thousandth of one for one.
    row(
        "epsilon of 1e-8",
        lambda: Share(1e-8),
        X,
        ON_ONNX,
        ci="onnx",
        known={"onnx": "a small addend is dropped"},
    ),
    row("epsilon of 1e-6", lambda: Share(1e-6), X, ci=""),
    row(
        "logarithm with 1e-8",
        LogOfShifted,
        X,
        ON_ONNX,
        ci="",
        known={"onnx": "a small addend is dropped"},
    ),
    row(
        "factor next to one",
        NearlyOnce,
        DOUBLE,
        ON_ONNX,
        blame={"onnx": MISTRANSLATED},
        ci="",
    ),
    # It translates them as exp(x) - 1 and log(1 + x).
    row(
        "expm1 of small",
        Expm1OfSmall,
        X,
        OR_REFUSED,
        ci="",
        known={"onnx": "expm1 of small numbers"},
        refused={"onnx_legacy": untranslated()},
    ),
    row(
        "log1p of small",
        Log1pOfSmall,
        X,
        ON_BOTH,
        ci="",
        blame=MISTRANSLATED,
        known={"onnx": "log1p of small numbers"},
    ),
    # As log(sigmoid(x)), which is -inf from about -18 on.
    row(
        "logsigmoid",
        LogSigmoid,
        X,
        ON_BOTH,
        ci="",
        known={
            "onnx": "log_sigmoid of large negative numbers",
            "onnx_legacy": "log_sigmoid of large negative numbers",
        },
    ),
    row(
        "loss of logits",
        LossOfLogits,
        X,
        ON_BOTH,
        ci="",
        blame=MISTRANSLATED,
        known={"onnx": "binary cross entropy of large negative logits"},
    ),
    # ONNX Runtime's sigmoid is 0 below -18, and the logarithm of 0 counts as -100.
    row(
        "loss of probabilities",
        LossOfProbabilities,
        X,
        OR_REFUSED,
        ci="",
        known={"onnx": "sigmoid of large negative numbers"},
        refused={"onnx_legacy": untranslated()},
    ),
    # As log(exp(x) + exp(y)), which is infinite from 89 on.
    row(
        "logaddexp",
        SoftMaximum,
        X,
        OR_REFUSED,
        ci="onnx",
        known={"onnx": "logaddexp overflows"},
        refused={"onnx_legacy": untranslated()},
    ),
    row("logsumexp", SoftMaximumOfRow, X, ci=""),
    # atan2(0, -1) is pi; the translation returns -pi.
    row(
        "atan2 to the left",
        LeftOfCenter,
        X,
        ON_BOTH,
        ci="",
        known={
            "onnx": "atan2 to the left, and of nan",
            "onnx_legacy": "legacy: atan2 to the left, and of two zeros",
        },
    ),
    row("atan2 to the right", RightOfCenter, X, ci=""),
    # 1.0 // 0.1 is 9, because 0.1 is a little more than a tenth.
    row(
        "quotient rounded up",
        Tenths,
        X,
        ON_BOTH,
        ci="",
        known={
            "onnx": "floor_divide by way of a quotient",
            "onnx_legacy": "legacy: floor division of floats",
        },
    ),
    row(
        "quotient that is exact", Halves, X, truth(onnx_legacy=DIFFERS), ci="", blame=MISTRANSLATED
    ),
    # The new exporter computes it in float32, and leaves it so.
    row(
        "magnitude of half",
        Magnitude,
        HALF,
        ON_ONNX,
        ci="onnx",
        known={"onnx": "halves become float32"},
    ),
    row("magnitude", Magnitude, DOUBLE, ci=""),
    # The older exporter casts to an integer first.
    row("any of floats", AnyOfRow, X, truth(onnx_legacy=DIFFERS), ci="", blame=MISTRANSLATED),
    # ONNX has no atan2; what the exporter makes of it returns 0 for NaN.
    row(
        "atan2 of nan",
        Angle,
        X,
        truth(onnx=DIFFERS),
        values={"x": "nan"},
        ci="onnx",
        known={"onnx": "atan2 to the left, and of nan"},
    ),
    row("atan2 without nan", Angle, X, ci=""),
    row("nan replaced, at the edges", WithoutNan, X, values={"x": "edges"}, ci=""),
    # ONNX Runtime compares int64 as int32 there.
    row(
        "clamp of large integers",
        ClampedIntegers,
        N,
        truth(onnx=DIFFERS, onnx_legacy=DIFFERS),
        values={"n": "limits"},
        ci="onnx",
        known={"onnx": "clamp of large integers", "onnx_legacy": "clamp of large integers"},
    ),
    row("large integers wrap", WrappedIntegers, N, values={"n": "limits"}, ci="trace onnx"),
    # The exporter's optimizer takes the addition of 0.0 for nothing.
    row(
        "sign of zero",
        SignOfZero,
        X,
        truth(onnx=DIFFERS),
        values={"x": "zero"},
        known={"onnx": "a small addend is dropped"},
        ci="",
    ),
    row("sign of zero kept", SignOfZeroKept, X, values={"x": "edges"}, ci=""),
)
