"""Sizes that become constants, and sizes that stay sizes."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from zoo.row import (
    B_2_H_W,
    B_T,
    B_T_4,
    DIFFERS,
    NARROWED,
    RAISES,
    REFUSED,
    Blame,
    call,
    frozen_size,
    normal,
    row,
    truth,
    undecided,
)


class ViewByInt(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(int(x.shape[0]), -1) * 2


class ScaledBesideItsSize(nn.Module):
    """Reads a value and a size. The value of ``factor`` may be the size of the example."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.register_buffer("factor", torch.tensor(factor))

    def forward(self, x: Tensor) -> Tensor:
        factor = self.factor.item()
        count = len(x)
        return x * count + factor


class ScaledAndSizedOnALine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("factor", torch.tensor(3.0))

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), -1) * float(self.factor)


class ReshapeByLiteral(nn.Module):
    """Looks frozen and is not: eager itself always returns two rows."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, -1).sum(1)


class FlattenBySize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.view(x.size(0), -1))


class ZerosByInt(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, torch.zeros(int(x.size(0)), 2)], dim=1)


class ZerosBySize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, torch.zeros(x.size(0), 2, dtype=x.dtype)], dim=1)


class ArangeByInt(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.arange(int(x.shape[1]), dtype=x.dtype)


class ArangeBySize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.arange(x.shape[1], dtype=x.dtype)


class TokenByInt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.token.expand(int(x.shape[0]), 1, 4), x], dim=1)


class TokenBySize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)


class OnesByLen(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.ones(len(x), 1)


class ScaledBySqrt(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1) / math.sqrt(x.shape[1])


class MeanBySize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1) / x.shape[1]


class DividedByCommonDivisor(nn.Module):
    """Differs from x only at multiples of a prime. A trace has the example's divisor."""

    def __init__(self, prime: int) -> None:
        super().__init__()
        self.prime = prime

    def forward(self, x: Tensor) -> Tensor:
        return x / math.gcd(int(x.shape[1]), self.prime)


class LastThreeSteps(nn.Module):
    """Looks wrong below three steps and is not: a slice begins at the first one there."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, -3:].sum(1)


class SpatialSoftmax(nn.Module):
    """Flattens height and width, and restores them by their sizes."""

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        return x.reshape(b, c, h * w).softmax(-1).reshape(b, c, h, w)


class PaddedToTen(nn.Module):
    """Cuts off steps beyond ten: of one too many, the first, as -1 // 2 is -1 in Python.

    An integer division of ONNX rounds towards zero, and cuts off the last.
    """

    def forward(self, x: Tensor) -> Tensor:
        missing = 10 - x.shape[1]
        return nn.functional.pad(x, [missing // 2, missing - missing // 2])


class PaddedToTwelve(nn.Module):
    """No size that is declared has a step too many."""

    def forward(self, x: Tensor) -> Tensor:
        missing = 12 - x.shape[1]
        return nn.functional.pad(x, [missing // 2, missing - missing // 2])


SIZES = (
    row(
        "padded to ten",
        PaddedToTen,
        call(normal(3, 6)),
        truth(onnx=DIFFERS, onnx_legacy=DIFFERS),
        shapes=B_T,
        ci="onnx",
        blame=Blame(owner="translation", cause="", known=False),
    ),
    row("padded to twelve", PaddedToTwelve, call(normal(3, 6)), shapes=B_T, ci=""),
    # torch.onnx.export makes named dims static here, without a warning. With Dim.DYNAMIC it uses
    # strict capture and is faithful: a pass is right if the plugin chooses how to write the dims.
    row(
        "view by int",
        ViewByInt,
        call(normal(4, 5)),
        truth(RAISES, script=None, export=REFUSED, onnx=None),
        ci="script",
        blame=frozen_size("x.view(int(x.shape[0]), -1)"),
    ),
    row(
        "a size beside a value",
        lambda: ScaledBesideItsSize(3.0),
        call(normal(4, 5)),
        truth(DIFFERS, script=None, export=REFUSED, onnx=None),
        ci="",
        blame=frozen_size("count = len(x)"),
    ),
    row(
        "a size beside a value of its number",
        lambda: ScaledBesideItsSize(4.0),
        call(normal(4, 5)),
        truth(DIFFERS, script=None, export=REFUSED, onnx=None),
        ci="",
        blame=frozen_size("count = len(x)"),
    ),
    row(
        "a divisor at one size in the middle",
        lambda: DividedByCommonDivisor(13),
        call(normal(3, 4)),
        truth(DIFFERS, script=None, export=REFUSED, onnx=NARROWED),
        shapes=B_T,
        dims={"batch": (1, 6), "time": (1, 24)},
        ci="",
        blame=frozen_size("math.gcd(int(x.shape[1]), self.prime)"),
    ),
    row(
        "a divisor at the second size",
        lambda: DividedByCommonDivisor(37),
        call(normal(3, 40)),
        truth(DIFFERS, script=None, export=REFUSED, onnx=NARROWED),
        shapes=B_T,
        dims={"batch": (1, 6), "time": (36, 72)},
        ci="",
        blame=frozen_size("math.gcd(int(x.shape[1]), self.prime)"),
    ),
    row(
        "a divisor at a size that is not legal",
        lambda: DividedByCommonDivisor(29),
        call(normal(3, 4)),
        truth(export=REFUSED, onnx=NARROWED),
        shapes=B_T,
        dims={"batch": (1, 6), "time": (1, 24)},
        ci="",
        blame=frozen_size("math.gcd(int(x.shape[1]), self.prime)"),
    ),
    row(
        "the last three steps of a few",
        LastThreeSteps,
        call(normal(3, 8)),
        truth(export=NARROWED),
        shapes=B_T,
        dims={"batch": (1, 6), "time": (1, 24)},
        ci="",
    ),
    row(
        "a size and a value on a line",
        ScaledAndSizedOnALine,
        call(normal(4, 5)),
        truth(RAISES, script=None, export=REFUSED, onnx=None),
        ci="",
        blame=frozen_size("x.reshape(len(x), -1)"),
        refused={"export": undecided("x.reshape(len(x), -1)")},
    ),
    row(
        "view by int, named by the user",
        ViewByInt,
        call(normal(4, 5)),
        truth(RAISES, script=None, export=REFUSED, onnx=NARROWED),
        dynamic_shapes={"x": {0: torch.export.Dim("batch")}},
        ci="trace onnx",
        blame=frozen_size("x.view(int(x.shape[0]), -1)"),
    ),
    row(
        "flatten by size, hinted by the user",
        FlattenBySize,
        call(normal(4, 3, 4)),
        dynamic_shapes={"x": {0: torch.export.Dim.DYNAMIC}},
        ci="onnx",
        round_trip=True,
    ),
    row(
        "reshape by literal",
        ReshapeByLiteral,
        call(normal(4, 6)),
        truth(export=NARROWED),
        ci="export",
    ),
    row("flatten by size", FlattenBySize, call(normal(4, 3, 4)), ci="onnx_legacy", round_trip=True),
    row(
        "zeros by int",
        ZerosByInt,
        call(normal(4, 3)),
        truth(RAISES, script=None, export=REFUSED, onnx=None),
        ci="onnx_legacy",
        blame=frozen_size("torch.zeros(int(x.size(0)), 2)"),
    ),
    row("zeros by size", ZerosBySize, call(normal(4, 3)), ci="script", round_trip=True),
    row(
        "arange by int",
        ArangeByInt,
        call(normal(3, 5)),
        truth(DIFFERS, script=None, export=REFUSED, onnx=None),
        shapes=B_T,
        ci="onnx_legacy",
        blame=frozen_size("torch.arange(int(x.shape[1])"),
    ),
    row("arange by size", ArangeBySize, call(normal(3, 5)), shapes=B_T, ci="export"),
    row(
        "token by int",
        TokenByInt,
        call(normal(3, 5, 4)),
        truth(RAISES, script=None, export=REFUSED, onnx=None),
        ci="script",
        blame=frozen_size("self.token.expand(int(x.shape[0])"),
    ),
    row("token by size", TokenBySize, call(normal(3, 5, 4)), shapes=B_T_4, ci="onnx_legacy"),
    row(
        "ones by len",
        OnesByLen,
        call(normal(4, 3)),
        truth(DIFFERS, script=None, export=REFUSED, onnx=None),
        blame=frozen_size("torch.ones(len(x), 1)"),
    ),
    row(
        "scaled by sqrt",
        ScaledBySqrt,
        call(normal(3, 5)),
        truth(DIFFERS, script=None, export=REFUSED, onnx=NARROWED),
        shapes=B_T,
        ci="export",
        blame=frozen_size("math.sqrt(x.shape[1])"),
    ),
    row("mean by size", MeanBySize, call(normal(3, 5)), shapes=B_T, round_trip=True),
    row(
        "spatial softmax",
        SpatialSoftmax,
        call(normal(2, 2, 3, 5)),
        shapes=B_2_H_W,
        ci="export",
        round_trip=True,
    ),
)
