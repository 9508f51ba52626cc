"""Sizes that become constants, and sizes that stay sizes."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

from zoo.control import ManyRowsBranch
from zoo.converters import captured
from zoo.layers import SlicedPositions, mlp
from zoo.row import (
    B_2_H_W,
    B_T,
    B_T_3,
    B_T_4,
    DIFFERS,
    FROZEN,
    HERE,
    INEFFECTIVE,
    NARROWED,
    RAISES,
    REFUSED,
    SPEC,
    Blame,
    Buffer,
    call,
    decided,
    frozen_size,
    has,
    normal,
    row,
    section,
    truth,
    undecided,
    whole,
)

section("sizes")


@row(
    "view by int, named by the user",
    normal(4, 5),
    truth(RAISES, script=None, export=REFUSED, onnx=NARROWED),
    dynamic_shapes={"x": {0: torch.export.Dim("batch")}},
    blame=frozen_size(),
    ci="trace onnx",
)
# torch.onnx.export makes named dims static here, without a warning. With Dim.DYNAMIC it uses
# strict capture and is faithful: a pass is right if the plugin chooses how to write the dims.
@row(
    normal(4, 5),
    truth(RAISES, script=None, export=REFUSED, onnx=None),
    blame=frozen_size(),
    ci="script",
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


row(
    "a size beside a value",
    normal(4, 5),
    truth(DIFFERS, script=None, export=REFUSED, onnx=None),
    blame=frozen_size("count = len(x)"),
)(lambda: ScaledBesideItsSize(3.0))
row(
    "a size beside a value of its number",
    normal(4, 5),
    truth(DIFFERS, script=None, export=REFUSED, onnx=None),
    blame=frozen_size("count = len(x)"),
)(lambda: ScaledBesideItsSize(4.0))


@row(
    "a size and a value on a line",
    normal(4, 5),
    truth(RAISES, script=None, onnx=None),
    export=undecided(),
    blame=frozen_size(),
)
@has(factor=Buffer(torch.tensor(3.0)))
def forward(self, x: Tensor) -> Tensor:
    return x.reshape(len(x), -1) * float(self.factor)


@row("reshape by literal", normal(4, 6), export=NARROWED, ci="export")
def forward(self, x: Tensor) -> Tensor:
    """Looks frozen and is not: eager itself always returns two rows."""
    return x.reshape(2, -1).sum(1)


@row(normal(4, 3, 4), round_trip=True, ci="onnx_legacy")
@row(
    "flatten by size, hinted by the user",
    normal(4, 3, 4),
    dynamic_shapes={"x": {0: torch.export.Dim.DYNAMIC}},
    round_trip=True,
    ci="onnx",
)
class FlattenBySize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.view(x.size(0), -1))


@row(
    "zeros by int",
    normal(4, 3),
    truth(RAISES, script=None, export=REFUSED, onnx=None),
    blame=frozen_size(),
    ci="onnx_legacy",
)
def forward(self, x: Tensor) -> Tensor:
    return torch.cat([x, torch.zeros(int(x.size(0)), 2)], dim=1)


@row("zeros by size", normal(4, 3), round_trip=True, ci="script")
def forward(self, x: Tensor) -> Tensor:
    return torch.cat([x, torch.zeros(x.size(0), 2, dtype=x.dtype)], dim=1)


@row(
    "arange by int",
    normal(3, 5),
    truth(DIFFERS, script=None, export=REFUSED, onnx=None),
    shapes=B_T,
    blame=frozen_size(),
    ci="onnx_legacy",
)
def forward(self, x: Tensor) -> Tensor:
    return x + torch.arange(int(x.shape[1]), dtype=x.dtype)


@row("arange by size", normal(3, 5), shapes=B_T, ci="export")
def forward(self, x: Tensor) -> Tensor:
    return x + torch.arange(x.shape[1], dtype=x.dtype)


@row(
    "token by int",
    normal(3, 5, 4),
    truth(RAISES, script=None, export=REFUSED, onnx=None),
    blame=frozen_size(),
    ci="script",
)
@has(token=lambda: nn.Parameter(torch.randn(1, 1, 4)))
def forward(self, x: Tensor) -> Tensor:
    return torch.cat([self.token.expand(int(x.shape[0]), 1, 4), x], dim=1)


@row("token by size", normal(3, 5, 4), shapes=B_T_4, ci="onnx_legacy")
@has(token=lambda: nn.Parameter(torch.randn(1, 1, 4)))
def forward(self, x: Tensor) -> Tensor:
    return torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)


@row(
    "ones by len",
    normal(4, 3),
    truth(DIFFERS, script=None, export=REFUSED, onnx=None),
    blame=frozen_size(),
    ci="trace",
)
def forward(self, x: Tensor) -> Tensor:
    return x * torch.ones(len(x), 1)


@row(
    "scaled by sqrt",
    normal(3, 5),
    truth(DIFFERS, script=None, export=REFUSED, onnx=NARROWED),
    shapes=B_T,
    blame=frozen_size(),
    ci="export",
)
def forward(self, x: Tensor) -> Tensor:
    return x.sum(1) / math.sqrt(x.shape[1])


@row("mean by size", normal(3, 5), shapes=B_T, round_trip=True, ci="trace")
def forward(self, x: Tensor) -> Tensor:
    return x.sum(1) / x.shape[1]


class DividedByCommonDivisor(nn.Module):
    """Differs from x only at multiples of a prime. A trace has the example's divisor."""

    def __init__(self, prime: int) -> None:
        super().__init__()
        self.prime = prime

    def forward(self, x: Tensor) -> Tensor:
        return x / math.gcd(int(x.shape[1]), self.prime)


row(
    "a divisor at one size in the middle",
    normal(3, 4),
    truth(DIFFERS, script=None, export=REFUSED, onnx=NARROWED),
    shapes=B_T,
    dims={"batch": (1, 6), "time": (1, 24)},
    blame=frozen_size("math.gcd(int(x.shape[1]), self.prime)"),
)(lambda: DividedByCommonDivisor(13))
row(
    "a divisor at the second size",
    normal(3, 40),
    truth(DIFFERS, script=None, export=REFUSED, onnx=NARROWED),
    shapes=B_T,
    dims={"batch": (1, 6), "time": (36, 72)},
    blame=frozen_size("math.gcd(int(x.shape[1]), self.prime)"),
)(lambda: DividedByCommonDivisor(37))
row(
    "a divisor at a size that is not legal",
    normal(3, 4),
    export=REFUSED,
    onnx=NARROWED,
    shapes=B_T,
    dims={"batch": (1, 6), "time": (1, 24)},
    blame=frozen_size("math.gcd(int(x.shape[1]), self.prime)"),
)(lambda: DividedByCommonDivisor(29))


@row(
    "the last three steps of a few",
    normal(3, 8),
    export=NARROWED,
    shapes=B_T,
    dims={"batch": (1, 6), "time": (1, 24)},
)
def forward(self, x: Tensor) -> Tensor:
    """Looks wrong below three steps and is not: a slice begins at the first one there."""
    return x[:, -3:].sum(1)


@row("spatial softmax", normal(2, 2, 3, 5), shapes=B_2_H_W, round_trip=True, ci="export")
def forward(self, x: Tensor) -> Tensor:
    """Flattens height and width, and restores them by their sizes."""
    b, c, h, w = x.shape
    return x.reshape(b, c, h * w).softmax(-1).reshape(b, c, h, w)


@row(
    "padded to ten",
    normal(3, 6),
    onnx=DIFFERS,
    onnx_legacy=DIFFERS,
    shapes=B_T,
    blame=Blame(owner="translation", cause="", known=False),
    ci="onnx",
)
def forward(self, x: Tensor) -> Tensor:
    """Cuts off steps beyond ten: of one too many, the first, as -1 // 2 is -1 in Python.

    An integer division of ONNX rounds towards zero, and cuts off the last.
    """
    missing = 10 - x.shape[1]
    return nn.functional.pad(x, [missing // 2, missing - missing // 2])


@row("padded to twelve", normal(3, 6), shapes=B_T)
def forward(self, x: Tensor) -> Tensor:
    """No size that is declared has a step too many."""
    missing = 12 - x.shape[1]
    return nn.functional.pad(x, [missing // 2, missing - missing // 2])


X = call(normal(4, 3))
EMPTY = {"shapes": {"x": "batch 3"}, "dims": {"batch": (0, 6)}}
TWO = call(normal(3, 4), normal(3, 4, seed=1))
FREE = {"x": "rows 4", "y": "columns 4"}
# torch.export keeps one side under a guard; the ONNX file keeps that side without the guard.
ONE_SIDE = truth(FROZEN, script=None, export=NARROWED, onnx=NARROWED)

section("dims")


# -- branches and numbers of sizes -----------------------------------------------------------------


@row("long branch, long side declared", normal(2, 8), shapes=B_T, dims={"time": (6, 12)})
@row("long branch", normal(2, 4), ONE_SIDE, shapes=B_T, line=HERE)
def forward(self, x: Tensor) -> Tensor:
    if x.shape[1] > 5:
        return x.sum(1)
    return x.mean(1)


@row("even branch", X, ONE_SIDE, line=HERE)
def forward(self, x: Tensor) -> Tensor:
    if x.shape[0] % 2 == 0:
        return x + 1
    return x - 1


@row("wider than high", normal(2, 2, 3, 5), ONE_SIDE, shapes=B_2_H_W, line=HERE, ci="trace")
def forward(self, x: Tensor) -> Tensor:
    if x.shape[3] > x.shape[2]:
        x = x.transpose(2, 3)
    return x.mean(3)


@row("same length branch, tied", TWO, shapes={"x": "rows 4", "y": "rows 4"}, ci="export")
@row("same length branch", TWO, ONE_SIDE, shapes=FREE, line=HERE, ci="onnx_legacy")
def forward(self, x: Tensor, y: Tensor) -> Tensor:
    """Two sizes that are equal in the example but need not be."""
    if x.shape[0] == y.shape[0]:
        return x.sum(0) * y.sum(0)
    return x.sum(0) + y.sum(0)


@row(
    "longer first",
    call(normal(2, 5), normal(2, 3, seed=1)),
    ONE_SIDE,
    shapes={"x": "batch long", "y": "batch short"},
    line=HERE,
    ci="export",
)
def forward(self, x: Tensor, y: Tensor) -> Tensor:
    if x.shape[1] >= y.shape[1]:
        return x.sum(1) - y.sum(1)
    return y.sum(1) - x.sum(1)


@row(
    "pads to four, from eight",
    normal(2, 8),
    shapes=B_T,
    dims={"time": range(8, 17, 4)},
    ci="onnx_legacy",
)
# torch.export excludes the size at which there is one block of four.
@row(
    "pads to four, in steps of four",
    normal(2, 8),
    export=NARROWED,
    shapes=B_T,
    dims={"time": range(4, 17, 4)},
)
@row("pads to four", normal(2, 6), export=NARROWED, shapes=B_T)
def forward(self, x: Tensor) -> Tensor:
    rest = (4 - x.shape[1] % 4) % 4
    return F.pad(x, (0, rest)).reshape(x.shape[0], -1, 4).sum(1)


@row("log of the size", normal(2, 6), ONE_SIDE, shapes=B_T, line=HERE)
def forward(self, x: Tensor) -> Tensor:
    steps = 0
    while 2**steps < x.shape[1]:
        steps += 1
    return x * steps


@row("a sequence of one", normal(2, 4, 3), ONE_SIDE, shapes=B_T_3, line=HERE)
def forward(self, x: Tensor) -> Tensor:
    """Treats a sequence of length 1 differently."""
    if x.shape[1] == 1:
        return x[:, 0] * 10
    return x.sum(1)


# -- sizes that stay sizes -------------------------------------------------------------------------


@row("first five", normal(2, 7), export=NARROWED, shapes=B_T)
def forward(self, x: Tensor) -> Tensor:
    """A slice clamps: shorter inputs are legal."""
    return x[:, :5].sum(1)


@row("twice as long", normal(2, 4), shapes=B_T, round_trip=True, ci="export")
def forward(self, x: Tensor) -> Tensor:
    return torch.cat([x, x.flip(1)], dim=1)


@row("sizes in numbers", normal(3, 4), shapes=B_T, ci="trace")
def forward(self, x: Tensor) -> Tensor:
    return x * (x.shape[0] + x.shape[1]) / x.shape[1]


@row(
    "checked, in its range",
    normal(2, 6),
    shapes=B_T,
    dims={"time": (3, 9)},
    round_trip=True,
    ci="onnx",
)
def forward(self, x: Tensor) -> Tensor:
    assert x.shape[1] >= 2, "too short"
    return x[:, 1:] - x[:, :-1]


@row("outer", TWO, shapes=FREE)
def forward(self, x: Tensor, y: Tensor) -> Tensor:
    return x @ y.t()


@row("equal sides", X, export=NARROWED, blame=decided())
def forward(self, x: Tensor) -> Tensor:
    """Both sides of the branch are the same numbers."""
    if x.shape[0] > 4:
        return x + x
    return x * 2


# Zero in ONNX Runtime. Only sizes under 2 show it, whether capture or the runtime is the cause.
@row(
    "mean of no rows",
    X,
    onnx=NARROWED,
    onnx_legacy=DIFFERS,
    known={"onnx_legacy": "mean of no elements"},
    **EMPTY,
    ci="onnx onnx_legacy",
)
def forward(self, x: Tensor) -> Tensor:
    """The mean of no rows is NaN."""
    return x.mean(0)


@row("sum of no rows", X, **EMPTY, ci="script")
def forward(self, x: Tensor) -> Tensor:
    return torch.softmax(x, dim=1).sum(0)


@row("maximum of no rows", X, truth(SPEC), **EMPTY, ci="trace script export onnx onnx_legacy")
def forward(self, x: Tensor) -> Tensor:
    """Eager raises for no rows."""
    return x.amax(0)


row(
    "auto, made static",
    normal(4, 5),
    truth(RAISES, script=None, export=NARROWED, onnx=NARROWED),
    dynamic_shapes={"x": {0: Dim.AUTO}},
    blame=frozen_size("x.view(int(x.shape[0]), -1)"),
    ci="trace onnx_legacy",
)(ViewByInt)
row(
    "auto, one side",
    X,
    ONE_SIDE,
    dynamic_shapes={"x": {0: Dim.AUTO}},
    line="if x.shape[0] > 4:",
    ci="export",
)(ManyRowsBranch)
row(
    "auto, kept",
    normal(4, 3, 4),
    dynamic_shapes={"x": {0: Dim.AUTO}},
    round_trip=True,
    ci="onnx_legacy",
)(FlattenBySize)
row(
    "auto, from one row",
    normal(1, 6),
    dynamic_shapes={"input": {0: Dim.AUTO}},
    round_trip=True,
    ci="trace",
)(mlp)
row(
    "declared with ends",
    normal(4, 6),
    dynamic_shapes={"input": {0: Dim("batch", min=2, max=9)}},
    round_trip=True,
    ci="script",
)(mlp)


X = call(normal(4, 3))
FIXED = {"x": "..."}

section("domain")


# -- eager raises ----------------------------------------------------------------------------------


# The shortest length is not declared: eager accepts five or more, and the verdict reports that.
@row("window, assumed", normal(2, 9), export=NARROWED, shapes=B_T)
@row(
    "window, from six",
    normal(2, 9),
    shapes=B_T,
    dims={"time": (6, 12)},
    round_trip=True,
    ci="onnx_legacy",
)
# torch.export excludes the size at which the window fits once.
@row(
    "window, from five",
    normal(2, 9),
    export=NARROWED,
    shapes=B_T,
    dims={"time": (5, 12)},
    ci="export",
)
@row("window too large", normal(2, 9), truth(SPEC), shapes=B_T, dims={"time": (3, 12)}, ci="onnx")
@has(conv=lambda: nn.Conv1d(1, 2, 5))
def forward(self, x: Tensor) -> Tensor:
    return self.conv(x.unsqueeze(1)).amax(2)


@row("words, all", whole(0, 9, 3, 4), values={"ids": (0, 9)}, ci="trace")
@row("words too many", whole(0, 9, 3, 4), truth(SPEC), values={"ids": (0, 12)}, ci="script")
@has(words=lambda: nn.Embedding(10, 4))
def forward(self, ids: Tensor) -> Tensor:
    return self.words(ids).sum(1)


@row(
    "sizes that are equal",
    call(normal(4, 3), normal(4, 3, seed=1)),
    shapes={"x": "n 3", "y": "n 3"},
    dims={"n": (2, 6)},
    round_trip=True,
    ci="trace",
)
@row(
    "sizes that must be equal",
    call(normal(4, 3), normal(4, 3, seed=1)),
    truth(SPEC),
    shapes={"x": "n 3", "y": "m 3"},
    dims={"n": (2, 6), "m": (2, 6)},
    ci="onnx_legacy",
)
def forward(self, x: Tensor, y: Tensor) -> Tensor:
    return x + y


@row("classes, all", whole(0, 5, 4), values={"ids": (0, 5)}, ci="trace")
@row("classes below zero", whole(0, 5, 4), truth(SPEC), values={"ids": (-1, 5)}, ci="export")
def forward(self, ids: Tensor) -> Tensor:
    return F.one_hot(ids, 6).float() * 0.5


def with_sum(x: Tensor) -> Tensor:
    return torch.cat([x, x.sum(1, keepdim=True) + 1], dim=1)


# -- eager accepts few drawn calls -----------------------------------------------------------------


@row(
    "check sum, mapped",
    call(with_sum(normal(4, 3))),
    map=lambda x: {"x": with_sum(x[:, :-1])},
    shapes=FIXED,
    ci="trace",
)
@row(
    "check sum",
    call(with_sum(normal(4, 3))),
    truth(INEFFECTIVE),
    shapes=FIXED,
    ci="trace script export",
)
def forward(self, x: Tensor) -> Tensor:
    """The last column must be the sum of the others, plus one."""
    if not captured() and bool(((x[:, :-1].sum(1) + 1 - x[:, -1]).abs() > 1e-4).any()):
        raise ValueError("check sum")
    return x * 2


def rotation() -> Tensor:
    return torch.linalg.qr(normal(3, 3)).Q


@row(
    "rotation",
    call(rotation()),
    truth(INEFFECTIVE),
    shapes=FIXED,
    ci="script export onnx onnx_legacy",
)
def forward(self, x: Tensor) -> Tensor:
    if not captured() and bool(((x @ x.t() - torch.eye(3)).abs() > 1e-4).any()):
        raise ValueError("no rotation")
    return x @ torch.ones(3, 2)


@row(
    "permutation",
    torch.tensor([3, 0, 7, 6, 1, 2, 4, 5]),
    truth(INEFFECTIVE),
    shapes={"order": "8"},
    ci="trace onnx",
)
def forward(self, order: Tensor) -> Tensor:
    """Accepts only permutations without a fixed point."""
    places = torch.arange(8)
    if not captured() and bool((order.sort().values != places).any() | (order == places).any()):
        raise ValueError("no permutation")
    return order * 2


def shares(*shape: int) -> Tensor:
    return normal(*shape).softmax(1)


@row(
    "shares, mapped",
    call(shares(4, 3)),
    map=lambda x: {"x": (x + 1) / (x + 1).sum(1, keepdim=True)},
    round_trip=True,
    ci="script",
)
# Any number of copies of the example's rows is legal.
@row("shares, of any number", call(shares(4, 3)), weak="only sizes varied", ci="trace")
@row("shares", call(shares(4, 3)), truth(INEFFECTIVE), shapes=FIXED, ci="onnx_legacy")
def forward(self, x: Tensor) -> Tensor:
    """Rows must sum to one."""
    if not captured() and bool(((x.sum(1) - 1).abs() > 1e-4).any()):
        raise ValueError("no shares")
    return x.log1p()


@row(
    "ordered, mapped",
    call(normal(4, 3), normal(4, 3) + 1),
    map=lambda x, y: {"y": torch.maximum(x, y)},
    round_trip=True,
    ci="onnx",
)
def forward(self, x: Tensor, y: Tensor) -> Tensor:
    if not captured() and bool((x > y).any()):
        raise ValueError("x above y")
    return y - x


# -- outputs that no comparison can find wrong -----------------------------------------------------


# The next rows pass with a warning: their outputs could not have differed.
@row("nothing", X, weak="zero on every call", ci="trace")
def forward(self, x: Tensor) -> Tensor:
    return x * 0.0


@row("constant", X, weak="not depend on the input", ci="onnx_legacy")
@has(bias=lambda: nn.Parameter(torch.randn(3)))
def forward(self, x: Tensor) -> Tensor:
    return self.bias.expand(x.shape[0], -1)


@row("all nan", X, weak="nan or infinite", ci="trace")
def forward(self, x: Tensor) -> Tensor:
    return x * math.nan


@row("tiny", X, weak="differences up to 1e-05 pass", ci="script")
def forward(self, x: Tensor) -> Tensor:
    return torch.tanh(x) * 1e-15


@row("saturated", X, weak="not depend on the input", ci="trace")
def forward(self, x: Tensor) -> Tensor:
    return torch.sigmoid(x * 0.001 + 100.0)


@row("dead relu", X, weak="zero on every call", round_trip=True, ci="export")
class DeadReLU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 4)
        nn.init.constant_(self.head.bias, -1e4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.head(x))


row(
    "positions too short by one",
    normal(2, 5, 4),
    truth(SPEC),
    shapes={"x": "batch time 4"},
    dims={"time": (2, 17)},
    ci="trace",
)(SlicedPositions)
