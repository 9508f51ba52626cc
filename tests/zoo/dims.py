"""Declared sizes, and what artifacts make of them: guards, static axes, two sizes tied into one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

from zoo.control import ManyRowsBranch
from zoo.layers import mlp
from zoo.row import (
    B_2_H_W,
    B_T,
    B_T_3,
    DIFFERS,
    FROZEN,
    NARROWED,
    RAISES,
    SPEC,
    call,
    decided,
    frozen_size,
    normal,
    row,
    truth,
)
from zoo.sizes import FlattenBySize, ViewByInt

# -- branches and numbers of sizes -----------------------------------------------------------------


class LongBranch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] > 5:
            return x.sum(1)
        return x.mean(1)


class EvenBranch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] % 2 == 0:
            return x + 1
        return x - 1


class WiderThanHigh(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[3] > x.shape[2]:
            x = x.transpose(2, 3)
        return x.mean(3)


class SameLengthBranch(nn.Module):
    """Two sizes that are equal in the example but need not be."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if x.shape[0] == y.shape[0]:
            return x.sum(0) * y.sum(0)
        return x.sum(0) + y.sum(0)


class LongerFirst(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if x.shape[1] >= y.shape[1]:
            return x.sum(1) - y.sum(1)
        return y.sum(1) - x.sum(1)


class PadsToFour(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        rest = (4 - x.shape[1] % 4) % 4
        return F.pad(x, (0, rest)).reshape(x.shape[0], -1, 4).sum(1)


class LogOfSize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        steps = 0
        while 2**steps < x.shape[1]:
            steps += 1
        return x * steps


class SingleRowSqueezed(nn.Module):
    """Treats a sequence of length 1 differently."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] == 1:
            return x[:, 0] * 10
        return x.sum(1)


# -- sizes that stay sizes -------------------------------------------------------------------------


class FirstFive(nn.Module):
    """A slice clamps: shorter inputs are legal."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :5].sum(1)


class TwiceAsLong(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, x.flip(1)], dim=1)


class SizesInNumbers(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (x.shape[0] + x.shape[1]) / x.shape[1]


class Checked(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] >= 2, "too short"
        return x[:, 1:] - x[:, :-1]


class Outer(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x @ y.t()


class EqualSides(nn.Module):
    """Both sides of the branch are the same numbers."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] > 4:
            return x + x
        return x * 2


class MeanOfRows(nn.Module):
    """The mean of no rows is NaN."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(0)


class RowsThenSum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(x, dim=1).sum(0)


class MaximumOfRows(nn.Module):
    """Eager raises for no rows."""

    def forward(self, x: Tensor) -> Tensor:
        return x.amax(0)


X = call(normal(4, 3))
EMPTY = {"shapes": {"x": "batch 3"}, "dims": {"batch": (0, 6)}}
TWO = call(normal(3, 4), normal(3, 4, seed=1))
FREE = {"x": "rows 4", "y": "columns 4"}
# torch.export keeps one side under a guard; the ONNX file keeps that side without the guard.
ONE_SIDE = truth(FROZEN, script=None, export=NARROWED, onnx=NARROWED)

DIMS = (
    row(
        "long branch",
        LongBranch,
        call(normal(2, 4)),
        ONE_SIDE,
        shapes=B_T,
        ci="",
        line="if x.shape[1] > 5:",
    ),
    row("even branch", EvenBranch, X, ONE_SIDE, ci="", line="if x.shape[0] % 2 == 0:"),
    row(
        "wider than high",
        WiderThanHigh,
        call(normal(2, 2, 3, 5)),
        ONE_SIDE,
        shapes=B_2_H_W,
        ci="trace",
        line="if x.shape[3] > x.shape[2]:",
    ),
    row(
        "same length branch",
        SameLengthBranch,
        TWO,
        ONE_SIDE,
        shapes=FREE,
        ci="onnx_legacy",
        line="if x.shape[0] == y.shape[0]:",
    ),
    row(
        "longer first",
        LongerFirst,
        call(normal(2, 5), normal(2, 3, seed=1)),
        ONE_SIDE,
        shapes={"x": "batch long", "y": "batch short"},
        ci="export",
        line="if x.shape[1] >= y.shape[1]:",
    ),
    row(
        "pads to four",
        PadsToFour,
        call(normal(2, 6)),
        truth(export=NARROWED),
        shapes=B_T,
        ci="",
    ),
    row(
        "log of the size",
        LogOfSize,
        call(normal(2, 6)),
        ONE_SIDE,
        shapes=B_T,
        ci="",
        line="while 2**steps < x.shape[1]:",
    ),
    row(
        "a sequence of one",
        SingleRowSqueezed,
        call(normal(2, 4, 3)),
        ONE_SIDE,
        shapes=B_T_3,
        ci="",
        line="if x.shape[1] == 1:",
    ),
    row(
        "auto, made static",
        ViewByInt,
        call(normal(4, 5)),
        truth(RAISES, script=None, export=NARROWED, onnx=NARROWED),
        dynamic_shapes={"x": {0: Dim.AUTO}},
        ci="trace onnx_legacy",
        blame=frozen_size("x.view(int(x.shape[0]), -1)"),
    ),
    row(
        "auto, one side",
        ManyRowsBranch,
        X,
        ONE_SIDE,
        dynamic_shapes={"x": {0: Dim.AUTO}},
        ci="export",
        line="if x.shape[0] > 4:",
    ),
    row(
        "auto, kept",
        FlattenBySize,
        call(normal(4, 3, 4)),
        dynamic_shapes={"x": {0: Dim.AUTO}},
        ci="onnx_legacy",
        round_trip=True,
    ),
    row(
        "auto, from one row",
        mlp,
        call(normal(1, 6)),
        dynamic_shapes={"input": {0: Dim.AUTO}},
        round_trip=True,
    ),
    row(
        "declared with ends",
        mlp,
        call(normal(4, 6)),
        dynamic_shapes={"input": {0: Dim("batch", min=2, max=9)}},
        ci="script",
        round_trip=True,
    ),
    row(
        "first five",
        FirstFive,
        call(normal(2, 7)),
        truth(export=NARROWED),
        shapes=B_T,
        ci="",
    ),
    row("twice as long", TwiceAsLong, call(normal(2, 4)), shapes=B_T, ci="export", round_trip=True),
    row("sizes in numbers", SizesInNumbers, call(normal(3, 4)), shapes=B_T),
    row(
        "checked, in its range",
        Checked,
        call(normal(2, 6)),
        shapes=B_T,
        dims={"time": (3, 9)},
        ci="onnx",
        round_trip=True,
    ),
    row("outer", Outer, TWO, shapes=FREE, ci=""),
    row(
        "equal sides",
        EqualSides,
        X,
        truth(export=NARROWED),
        blame=decided("if x.shape[0] > 4:"),
        ci="",
    ),
    row(
        "long branch, long side declared",
        LongBranch,
        call(normal(2, 8)),
        shapes=B_T,
        dims={"time": (6, 12)},
        ci="",
    ),
    row(
        "same length branch, tied",
        SameLengthBranch,
        TWO,
        shapes={"x": "rows 4", "y": "rows 4"},
        ci="export",
    ),
    # torch.export excludes the size at which there is one block of four.
    row(
        "pads to four, in steps of four",
        PadsToFour,
        call(normal(2, 8)),
        truth(export=NARROWED),
        shapes=B_T,
        dims={"time": range(4, 17, 4)},
        ci="",
    ),
    row(
        "pads to four, from eight",
        PadsToFour,
        call(normal(2, 8)),
        shapes=B_T,
        dims={"time": range(8, 17, 4)},
        ci="onnx_legacy",
    ),
    # Zero in ONNX Runtime. Only sizes under 2 show it, whether capture or the runtime is the cause.
    row(
        "mean of no rows",
        MeanOfRows,
        X,
        truth(onnx=NARROWED, onnx_legacy=DIFFERS),
        **EMPTY,
        ci="onnx onnx_legacy",
        known={"onnx_legacy": "mean of no elements"},
    ),
    row("sum of no rows", RowsThenSum, X, **EMPTY, ci="script"),
    row(
        "maximum of no rows",
        MaximumOfRows,
        X,
        truth(SPEC),
        **EMPTY,
        ci="trace script export onnx onnx_legacy",
    ),
)
