"""Legal calls: ranges that are declared too wide, conditions that few drawn calls satisfy, and
outputs that no comparison can find wrong.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.converters import captured
from zoo.row import B_T, INEFFECTIVE, NARROWED, SPEC, call, normal, row, truth, whole
from zoo.sequences import SlicedPositions

# -- eager raises ----------------------------------------------------------------------------------


class WindowOfFive(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 2, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.unsqueeze(1)).amax(2)


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.words(ids).sum(1)


class Added(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class OneHot(nn.Module):
    def forward(self, ids: Tensor) -> Tensor:
        return F.one_hot(ids, 6).float() * 0.5


# -- eager accepts few drawn calls -----------------------------------------------------------------


class CheckSum(nn.Module):
    """The last column must be the sum of the others, plus one."""

    def forward(self, x: Tensor) -> Tensor:
        if not captured() and bool(((x[:, :-1].sum(1) + 1 - x[:, -1]).abs() > 1e-4).any()):
            raise ValueError("check sum")
        return x * 2


class Rotation(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if not captured() and bool(((x @ x.t() - torch.eye(3)).abs() > 1e-4).any()):
            raise ValueError("no rotation")
        return x @ torch.ones(3, 2)


class Permutation(nn.Module):
    """Accepts only permutations without a fixed point."""

    def forward(self, order: Tensor) -> Tensor:
        places = torch.arange(8)
        if not captured() and bool((order.sort().values != places).any() | (order == places).any()):
            raise ValueError("no permutation")
        return order * 2


class Shares(nn.Module):
    """Rows must sum to one."""

    def forward(self, x: Tensor) -> Tensor:
        if not captured() and bool(((x.sum(1) - 1).abs() > 1e-4).any()):
            raise ValueError("no shares")
        return x.log1p()


class Ordered(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if not captured() and bool((x > y).any()):
            raise ValueError("x above y")
        return y - x


# -- outputs that no comparison can find wrong -----------------------------------------------------


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 0.0


class Constant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.bias.expand(x.shape[0], -1)


class AllNan(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * math.nan


class Tiny(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x) * 1e-15


class Saturated(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x * 0.001 + 100.0)


class DeadReLU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 4)
        nn.init.constant_(self.head.bias, -1e4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.head(x))


def shares(*shape: int) -> Tensor:
    return normal(*shape).softmax(1)


def rotation() -> Tensor:
    return torch.linalg.qr(normal(3, 3)).Q


def with_sum(x: Tensor) -> Tensor:
    return torch.cat([x, x.sum(1, keepdim=True) + 1], dim=1)


X = call(normal(4, 3))
FIXED = {"x": "..."}

DOMAIN = (
    row(
        "window too large",
        WindowOfFive,
        call(normal(2, 9)),
        truth(SPEC),
        shapes=B_T,
        dims={"time": (3, 12)},
        ci="onnx",
    ),
    # torch.export excludes the size at which the window fits once.
    row(
        "window, from five",
        WindowOfFive,
        call(normal(2, 9)),
        truth(export=NARROWED),
        shapes=B_T,
        dims={"time": (5, 12)},
        ci="export",
    ),
    row(
        "window, from six",
        WindowOfFive,
        call(normal(2, 9)),
        shapes=B_T,
        dims={"time": (6, 12)},
        ci="onnx_legacy",
        round_trip=True,
    ),
    # The shortest length is not declared: eager accepts five or more, and the verdict reports that.
    row(
        "window, assumed",
        WindowOfFive,
        call(normal(2, 9)),
        truth(export=NARROWED),
        shapes=B_T,
        ci="",
    ),
    row(
        "words too many",
        Words,
        call(whole(0, 9, 3, 4)),
        truth(SPEC),
        values={"ids": (0, 12)},
        ci="script",
    ),
    row("words, all", Words, call(whole(0, 9, 3, 4)), values={"ids": (0, 9)}),
    row(
        "classes below zero",
        OneHot,
        call(whole(0, 5, 4)),
        truth(SPEC),
        values={"ids": (-1, 5)},
        ci="export",
    ),
    row("classes, all", OneHot, call(whole(0, 5, 4)), values={"ids": (0, 5)}),
    row(
        "sizes that must be equal",
        Added,
        call(normal(4, 3), normal(4, 3, seed=1)),
        truth(SPEC),
        shapes={"x": "n 3", "y": "m 3"},
        dims={"n": (2, 6), "m": (2, 6)},
        ci="onnx_legacy",
    ),
    row(
        "sizes that are equal",
        Added,
        call(normal(4, 3), normal(4, 3, seed=1)),
        shapes={"x": "n 3", "y": "n 3"},
        dims={"n": (2, 6)},
        round_trip=True,
    ),
    row(
        "positions too short by one",
        SlicedPositions,
        call(normal(2, 5, 4)),
        truth(SPEC),
        shapes={"x": "batch time 4"},
        dims={"time": (2, 17)},
    ),
    row(
        "check sum",
        CheckSum,
        call(with_sum(normal(4, 3))),
        truth(INEFFECTIVE),
        shapes=FIXED,
        ci="trace script export",
    ),
    row(
        "rotation",
        Rotation,
        call(rotation()),
        truth(INEFFECTIVE),
        shapes=FIXED,
        ci="script export onnx onnx_legacy",
    ),
    row(
        "permutation",
        Permutation,
        call(torch.tensor([3, 0, 7, 6, 1, 2, 4, 5])),
        truth(INEFFECTIVE),
        shapes={"order": "8"},
        ci="trace onnx",
    ),
    row("shares", Shares, call(shares(4, 3)), truth(INEFFECTIVE), shapes=FIXED, ci="onnx_legacy"),
    # Any number of copies of the example's rows is legal.
    row("shares, of any number", Shares, call(shares(4, 3)), weak="only sizes varied"),
    row(
        "shares, mapped",
        Shares,
        call(shares(4, 3)),
        map=lambda x: {"x": (x + 1) / (x + 1).sum(1, keepdim=True)},
        ci="script",
        round_trip=True,
    ),
    row(
        "check sum, mapped",
        CheckSum,
        call(with_sum(normal(4, 3))),
        map=lambda x: {"x": with_sum(x[:, :-1])},
        shapes=FIXED,
    ),
    row(
        "ordered, mapped",
        Ordered,
        call(normal(4, 3), normal(4, 3) + 1),
        map=lambda x, y: {"y": torch.maximum(x, y)},
        ci="onnx",
        round_trip=True,
    ),
    # The next rows pass with a warning: their outputs could not have differed.
    row("nothing", Nothing, X, weak="zero on every call"),
    row("constant", Constant, X, weak="not depend on the input", ci="onnx_legacy"),
    row("all nan", AllNan, X, weak="nan or infinite"),
    row("tiny", Tiny, X, weak="differences up to 1e-05 pass", ci="script"),
    row("saturated", Saturated, X, weak="not depend on the input"),
    row("dead relu", DeadReLU, X, weak="zero on every call", ci="export", round_trip=True),
)
