"""Real faults of the exporters and of ONNX Runtime, beside modules that they translate well.

Unlike the rows of ``converters.py``, the forward is the same everywhere.
"""

from __future__ import annotations

from typing import Tuple  # noqa: UP035  # TorchScript's words

import torch
from torch import Tensor, nn

from zoo.row import DIFFERS, call, normal, row, truth, whole

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


X = call(normal(4, 8))
N = call(whole(-6, 6, 4, 5))

EXPORTERS = (
    # ONNX has no atan2; what the exporter makes of it returns 0 for NaN.
    row("atan2 of nan", Angle, X, truth(onnx=DIFFERS), values={"x": "nan"}, ci="onnx"),
    row("atan2 without nan", Angle, X, ci=""),
    row("nan replaced, at the edges", WithoutNan, X, values={"x": "edges"}, ci="onnx"),
    # ONNX Runtime compares int64 as int32 there.
    row(
        "clamp of large integers",
        ClampedIntegers,
        N,
        truth(onnx=DIFFERS, onnx_legacy=DIFFERS),
        values={"n": "limits"},
        ci="onnx",
    ),
    row("large integers wrap", WrappedIntegers, N, values={"n": "limits"}, ci="trace onnx"),
    # The exporter's optimizer takes the addition of 0.0 for nothing.
    row("sign of zero", SignOfZero, X, truth(onnx=DIFFERS), values={"x": "zero"}, ci=""),
    row("sign of zero kept", SignOfZeroKept, X, values={"x": "edges"}, ci=""),
)
