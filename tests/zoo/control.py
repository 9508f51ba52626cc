"""Loops and branches on sizes and on values."""

from __future__ import annotations

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.row import (
    B_T,
    B_T_3,
    FROZEN,
    NARROWED,
    REFUSED,
    UNVERIFIED,
    call,
    coins,
    frozen_size,
    no_construct,
    normal,
    row,
    truth,
    undecided,
    whole,
)


class LoopOverTime(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            h = h * 0.5 + x[:, t]
        return h


class LoopOverRows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        rows = []
        for one in x:
            rows.append(one.cumsum(0))  # noqa: PERF401  # the loop is the point
        return torch.stack(rows)


class CellOverTime(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.shape[0], 4)
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
        return h


class Unrolled(nn.Module):
    """A loop whose count is a constant of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x)) + x
        return x


class ManyRowsBranch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] > 4:
            return x * 2
        return x + 1


class OneRowBranch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] == 1:
            return x * 3
        return x + 1


class OddTimePad(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] % 2 == 1:
            x = F.pad(x, (0, 1))
        return x.reshape(x.shape[0], -1, 2).sum(-1)


class LastThree(nn.Module):
    """Slicing clamps: eager takes shorter sequences too."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, -3:].sum(1)


class SqueezeAll(nn.Module):
    """Drops the batch axis too if it is 1. Exporters that assume a size above 1 keep it."""

    def forward(self, x: Tensor) -> Tensor:
        return x.squeeze() * 2


class SqueezeLast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.squeeze(-1) * 2


class SumBranch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x * 2
        return x - 1


class EquivalentBranch(nn.Module):
    """If nothing is masked, both sides are the same."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        if bool(mask.all()):
            return x
        return x.masked_fill(~mask, -1.0)


class AllMaskBranch(nn.Module):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        if bool(mask.all()):
            return x.mean(1)
        return (x * mask).sum(1)


class TokenBranch(nn.Module):
    def forward(self, ids: Tensor) -> Tensor:
        total = ids.sum(1)
        if (ids == 0).any():
            total = total + 100
        return total


class WhileLarge(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        while bool(x.abs().max() > 0.5):
            x = x / 2
        return x


class WhereInstead(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x.sum() > 0, x * 2, x - 1)


class CondInstead(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda x: x * 2, lambda x: x - 1, (x,))


class PresentMask(nn.Module):
    """A branch on whether an argument is given, not on its values."""

    def forward(self, x: Tensor, mask: Optional[Tensor] = None) -> Tensor:  # noqa: UP045
        if mask is not None:
            x = x.masked_fill(mask == 0, 0.0)
        return x.sum(1)


CONTROL = (
    row(
        "loop over time",
        LoopOverTime,
        call(normal(2, 5, 3)),
        truth(FROZEN, script=None, export=REFUSED, onnx=NARROWED),
        shapes=B_T_3,
        dims={"time": (5, 9)},
        ci="",
        line="for t in range(x.shape[1]):",
        refused={"export": frozen_size("for t in range(x.shape[1]):")},
    ),
    row(
        "loop over rows",
        LoopOverRows,
        call(normal(4, 3)),
        truth(FROZEN, script=None, export=REFUSED, onnx=NARROWED),
        ci="onnx",
        line="for one in x:",
        refused={"export": frozen_size()},
    ),
    row(
        "cell over time",
        CellOverTime,
        call(normal(2, 4, 3)),
        truth(FROZEN, script=None, export=REFUSED, onnx=NARROWED),
        shapes=B_T_3,
        ci="",
        line="for t in range(x.shape[1]):",
        refused={"export": frozen_size("for t in range(x.shape[1]):")},
    ),
    row("cell over fixed time", CellOverTime, call(normal(2, 4, 3)), ci="script"),
    row("unrolled", Unrolled, call(normal(3, 4)), round_trip=True),
    row(
        "many rows branch",
        ManyRowsBranch,
        call(normal(4, 3)),
        truth(FROZEN, script=None, export=NARROWED, onnx=NARROWED),
        ci="script",
        round_trip=True,
        line="if x.shape[0] > 4:",
    ),
    row(
        "many rows branch, one side declared",
        ManyRowsBranch,
        call(normal(6, 3)),
        shapes={"x": "batch 3"},
        dims={"batch": (5, 8)},
    ),
    # 0/1 specialization: torch assumes that a dynamic size is neither 0 nor 1, and keeps that side.
    row(
        "one row branch",
        OneRowBranch,
        call(normal(4, 3)),
        truth(FROZEN, script=None, export=NARROWED, onnx=NARROWED),
        ci="export",
        line="if x.shape[0] == 1:",
    ),
    row(
        "one row branch, from one row",
        OneRowBranch,
        call(normal(1, 3)),
        truth(FROZEN, script=None, export=NARROWED, onnx=NARROWED),
        ci="",
        line="if x.shape[0] == 1:",
    ),
    # The ONNX file has no guard: it pads an even time too, and its Reshape then fails.
    row(
        "odd time pad",
        OddTimePad,
        call(normal(2, 5)),
        truth(FROZEN, script=None, export=NARROWED, onnx=NARROWED),
        shapes=B_T,
        ci="trace",
        line="if x.shape[1] % 2 == 1:",
    ),
    # torch.export excludes the size at which half the time is 1.
    row(
        "even time only",
        OddTimePad,
        call(normal(2, 6)),
        truth(export=NARROWED),
        shapes=B_T,
        dims={"time": range(2, 11, 2)},
        ci="",
    ),
    row(
        "even time from four",
        OddTimePad,
        call(normal(2, 6)),
        shapes=B_T,
        dims={"time": range(4, 11, 2)},
        ci="export",
        round_trip=True,
    ),
    row(
        "last three",
        LastThree,
        call(normal(2, 5)),
        truth(export=NARROWED),
        shapes=B_T,
        ci="onnx_legacy",
    ),
    row("squeeze all", SqueezeAll, call(normal(4, 3, 1)), ci=""),
    row("squeeze last", SqueezeLast, call(normal(4, 3, 1))),
    row(
        "sum branch",
        SumBranch,
        call(normal(4, 3)),
        truth(trace=FROZEN, export=REFUSED, onnx=REFUSED, onnx_legacy=FROZEN),
        ci="",
        line="if x.sum() > 0:",
    ),
    row(
        "sum branch, one side filtered",
        SumBranch,
        call(normal(4, 3).abs()),
        truth(export=REFUSED, onnx=REFUSED),
        filter=lambda x: bool(x.sum() > 0),
        weak=UNVERIFIED,
        ci="",
        refused={"export onnx": undecided("if x.sum() > 0:")},
    ),
    row(
        "sum branch, one side by values",
        SumBranch,
        call(normal(4, 3).abs()),
        truth(export=REFUSED, onnx=REFUSED),
        values={"x": (0.5, 2.0)},
        weak=UNVERIFIED,
        ci="",
        refused={"export onnx": undecided("if x.sum() > 0:")},
    ),
    row(
        "equivalent branch",
        EquivalentBranch,
        call(normal(4, 3), coins(4, 3)),
        truth(export=REFUSED, onnx=REFUSED),
        ci="",
        refused={"export onnx": undecided("if bool(mask.all()):")},
    ),
    row(
        "all mask branch",
        AllMaskBranch,
        call(normal(4, 3), coins(4, 3)),
        truth(trace=FROZEN, export=REFUSED, onnx=REFUSED, onnx_legacy=FROZEN),
        ci="onnx",
        line="if bool(mask.all()):",
    ),
    row(
        "token branch",
        TokenBranch,
        call(whole(0, 9, 4, 5)),
        truth(trace=FROZEN, export=REFUSED, onnx=REFUSED, onnx_legacy=FROZEN),
        ci="onnx_legacy",
        line="if (ids == 0).any():",
    ),
    row(
        "while large",
        WhileLarge,
        call(normal(4, 3)),
        truth(trace=FROZEN, export=REFUSED, onnx=REFUSED, onnx_legacy=FROZEN),
        ci="export",
        line="while bool(x.abs().max() > 0.5):",
    ),
    row("where instead", WhereInstead, call(normal(4, 3))),
    row(
        "cond instead",
        CondInstead,
        call(normal(4, 3)),
        truth(REFUSED, export=None, onnx=None),
        ci="trace script onnx onnx_legacy",
        round_trip=True,
        refused={
            "trace script onnx_legacy": no_construct(
                "torch.cond(x.sum() > 0, lambda x: x * 2, lambda x: x - 1, (x"
            )
        },
    ),
    row("present mask, absent", PresentMask, call(normal(4, 3)), ci=""),
    row(
        "present mask, given",
        PresentMask,
        call(normal(4, 3), coins(4, 3).long()),
        ci="onnx_legacy",
        round_trip=True,
    ),
)
