"""Dtypes, and values at the ends of their ranges."""

from __future__ import annotations

import math
from typing import Tuple  # noqa: UP035  # TorchScript's words

import torch
from torch import Tensor, nn

from zoo.row import (
    DIFFERS,
    MISTRANSLATED,
    REFUSED,
    Blame,
    call,
    coins,
    normal,
    row,
    truth,
    untranslated,
    whole,
)


class IntegerSums(nn.Module):
    """torch widens these to int64."""

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor, Tensor]:  # noqa: UP006
        return x.sum(1), x.cumsum(1), x.prod(1)


class HalfInside(nn.Module):
    """Multiplies in half precision, between floats."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.half() * 3).float()


class HalfLayerInside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 5).half()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).half()).float()


class HalfSum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x.half() + 1).float().sum(1)


class LostInHalf(nn.Module):
    """Returns what a cast to half precision loses."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where((x.half() * 2).float() == x * 2, 1.0, 0.0)


class BoolSums(nn.Module):
    def forward(self, m: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
        return m.sum(1), (m.float().mean(1) > 0.5) & ~m[:, 0]


class FloorDivision(nn.Module):
    """Rounds towards minus infinity, and the remainder has the divisor's sign."""

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
        return x // 3, x % 3


class FloatFloorDivision(nn.Module):
    """1.8 // 0.1 is 17 in torch, and the floor of 1.8 / 0.1, which is rounded, is 18."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.floor_divide(x * 0.3, 0.1)


class TrueDivision(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 4


class IntTimesFloat(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 0.5 + 1


class HalfThenFull(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x.float() * 3).exp().to(x.dtype)


class Tenth(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 0.1


class DoubleInside(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.double().pow(2).sum(1).sqrt()


class RoundsHalf(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.round(x * 2) / 2


class ComplexIn(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return torch.view_as_real(z * (1 + 2j))


class Fourier(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.rfft(x).abs()


class BitTricks(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return ((x & 3) | 8) ^ (x >> 1)


class LargeNumbers(nn.Module):
    """Cancellation leaves few digits of float32, and each runtime has other ones."""

    def forward(self, x: Tensor) -> Tensor:
        y = (x * 1000).cumsum(1)
        return y - y.mean(1, keepdim=True)


class Sign(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sign(x)


class Relu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x)


DTYPES = (
    # The legacy exporter keeps int32 in cumsum, and rounds integer division towards zero.
    row(
        "integer sums",
        IntegerSums,
        call(whole(-3, 3, 4, 5, dtype=torch.int32)),
        truth(onnx_legacy=DIFFERS),
        ci="onnx_legacy",
        known={"onnx_legacy": "legacy: cumsum of 32-bit integers"},
    ),
    row("bool sums", BoolSums, call(coins(4, 5)), ci="onnx_legacy", round_trip=True),
    row(
        "floor division",
        FloorDivision,
        call(whole(-9, 9, 4, 5)),
        truth(onnx_legacy=DIFFERS),
        ci="",
        known={"onnx_legacy": "legacy: floor division of negative integers"},
    ),
    # Both exporters take the floor of the quotient.
    row(
        "float floor division",
        FloatFloorDivision,
        call(whole(-9, 9, 4, 5).float()),
        truth(onnx=DIFFERS, onnx_legacy=DIFFERS),
        values={"x": [float(number) for number in range(-9, 10)]},
        ci="",
        known={
            "onnx": "floor_divide by way of a quotient",
            "onnx_legacy": "legacy: floor division of floats",
        },
    ),
    row("true division", TrueDivision, call(whole(-9, 9, 4, 5)), ci="script"),
    row("int times float", IntTimesFloat, call(whole(-9, 9, 4, 5, dtype=torch.int32))),
    row(
        "half",
        lambda: nn.Linear(4, 3).half(),
        call(normal(4, 4, dtype=torch.float16)),
        ci="export",
        round_trip=True,
    ),
    # ONNX Runtime leaves out the casts, and is more exact.
    row("half inside", HalfInside, call(normal(4, 8)), ci=""),
    row("half layer inside", HalfLayerInside, call(normal(4, 4)), ci=""),
    row("sum in half inside", HalfSum, call(normal(4, 8)), ci=""),
    # So it has no infinity, and loses nothing.
    row(
        "half inside overflows",
        HalfInside,
        call(normal(4, 8)),
        truth(onnx=DIFFERS, onnx_legacy=DIFFERS),
        blame=Blame(owner="runtime", cause=""),
        values={"x": (-60000.0, 60000.0)},
        ci="",
    ),
    row(
        "what half precision holds",
        LostInHalf,
        call(normal(4, 8)),
        truth(onnx=DIFFERS, onnx_legacy=DIFFERS),
        blame=Blame(owner="runtime", cause=""),
        ci="",
    ),
    row("bfloat16", HalfThenFull, call(normal(4, 4, dtype=torch.bfloat16) / 4), round_trip=True),
    row(
        "double",
        lambda: nn.Linear(4, 3).double(),
        call(normal(4, 4, dtype=torch.float64)),
        ci="onnx_legacy",
    ),
    # The new exporter writes the numbers of Python code in float32.
    row(
        "tenth in double",
        Tenth,
        call(normal(4, 4, dtype=torch.float64)),
        truth(onnx=DIFFERS),
        ci="onnx_legacy",
        known={"onnx": "numbers beside doubles are float32"},
    ),
    row("double inside", DoubleInside, call(normal(4, 4))),
    row("rounds half", RoundsHalf, call(normal(4, 4)), ci="script", round_trip=True),
    row(
        "complex in",
        ComplexIn,
        call(torch.complex(normal(4, 3), normal(4, 3, seed=1))),
        truth(onnx_legacy=REFUSED),
        ci="onnx",
        round_trip=True,
        refused={"onnx_legacy": Blame(owner="translation", cause="unsupported type")},
    ),
    row(
        "fourier",
        Fourier,
        call(normal(4, 8)),
        truth(onnx_legacy=REFUSED),
        ci="",
        refused={"onnx_legacy": untranslated()},
    ),
    row(
        "bit tricks",
        BitTricks,
        call(whole(0, 100, 4, 3)),
        truth(onnx_legacy=REFUSED),
        ci="onnx_legacy",
        refused={"onnx_legacy": untranslated()},
    ),
    row("large numbers", LargeNumbers, call(normal(4, 64)), ci=""),
    row(
        "sign of nan",
        Sign,
        call(normal(4, 3)),
        truth(onnx=DIFFERS, onnx_legacy=DIFFERS),
        values={"x": [-1.0, 0.0, 2.0, math.nan]},
        ci="onnx",
        blame=MISTRANSLATED,
        known={"onnx": "sign of nan"},
    ),
    row(
        "relu of nan",
        Relu,
        call(normal(4, 3)),
        values={"x": [-1.0, 0.0, 2.0, math.nan, math.inf, -math.inf]},
        ci="script",
    ),
)
