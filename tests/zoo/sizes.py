"""Sizes that become constants, and sizes that stay sizes."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

from zoo.control import ManyRowsBranch
from zoo.converters import captured
from zoo.layers import mlp
from zoo.row import *

section("sizes")


@row(
    "view by int, named by the user",
    normal(4, 5),
    truth(RAISES, script=None, export=REFUSED, onnx=NARROWED),
    dynamic_shapes={"x": {0: torch.export.Dim("batch")}},
    blame=frozen_size(),
)
# torch.onnx.export makes named dims static here, without a warning. With Dim.DYNAMIC it uses
# strict capture and is faithful: a pass is right if the plugin chooses how to write the dims.
@row(normal(4, 5), ITEM_RAISES, blame=frozen_size())
class ViewByInt(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(int(x.shape[0]), -1) * 2


@row("a size beside a value of its number", normal(4, 5), ITEM, blame=frozen_size())
@has(factor=Buffer(torch.tensor(4.0)))
def forward(self, x: Tensor) -> Tensor:
    """Reads a value and a size, which is the same number in the example."""
    factor = self.factor.item()
    count = len(x)  # here
    return x * count + factor


@row(
    "a size and a value on a line",
    normal(4, 5),
    ITEM_RAISES,
    export=undecided(),
    blame=frozen_size(),
)
@has(factor=Buffer(torch.tensor(3.0)))
def forward(self, x: Tensor) -> Tensor:
    return x.reshape(len(x), -1) * float(self.factor)


@row(
    "a length that eager checks",
    normal(2, 5, 3),
    truth(trace=DIFFERS, export=REFUSED, onnx_legacy=RAISES),
    blame=frozen_size(),
)
@has(gru=lambda: nn.GRU(3, 4, batch_first=True))
def forward(self, x: Tensor) -> Tensor:
    """Eager with the length of the export raises, where the trace goes on."""
    state = torch.zeros(1, len(x), 4)  # here
    return self.gru(x, state)[0]


@row("first and last row", normal(4, 3), x="batch 3")
def forward(self, x: Tensor) -> Tensor:
    return x[0] - x[-1]


# A trace has as many parts as the example.
@row(
    "first and last of all rows",
    normal(4, 3),
    truth(RAISES, script=None, onnx=NARROWED),
    export=frozen_size(),
    blame=frozen_size(),
    x="batch 3",
)
def forward(self, x: Tensor) -> Tensor:
    rows = x.unbind(0)  # here
    return rows[0] - rows[-1]


@row("rows that are a number, alike", normal(4, 3), x="batch 3")
def forward(self, x: Tensor) -> Tensor:
    return x + x if isinstance(x.shape[0], int) else x * 2


# A size is a tensor to a trace, and a torch.SymInt to torch.export.
@row(
    "rows that are a number",
    normal(4, 3),
    truth(DIFFERS, script=None),
    blame=asks("return x + 1 if isinstance(x.shape[0], int) else x * 2"),
    x="batch 3",
)
def forward(self, x: Tensor) -> Tensor:
    return x + 1 if isinstance(x.shape[0], int) else x * 2


@row("layer by its place", normal(4, 3), x="batch 3")
@has(layers=lambda: nn.ModuleList(nn.Linear(3, 3) for _ in range(2)))
def forward(self, x: Tensor) -> Tensor:
    return self.layers[1](x)


@row(
    "layer by rows",
    normal(4, 3),
    truth(DIFFERS, script=REFUSED, export=NARROWED, onnx=NARROWED),
    script=no_construct(),
    blame={
        **dict.fromkeys(("trace", "onnx_legacy"), frozen_size()),
        **dict.fromkeys(("export", "onnx"), guarded()),
    },
    x="batch 3",
)
@has(layers=lambda: nn.ModuleList(nn.Linear(3, 3) for _ in range(2)))
def forward(self, x: Tensor) -> Tensor:
    layer = self.layers[x.shape[0] % 2]  # here
    return layer(x)


@row("factor by a name", normal(4, 3), x="batch 3")
@has(factors=lambda: {"0": 2.0, "1": 3.0})
def forward(self, x):
    return x * self.factors[f"{x.dim() % 2}"]


# torch.export writes a size in its own symbols; its other way to capture, by dynamo, does not.
@row(
    "factor by a name of rows",
    normal(4, 3),
    truth(DIFFERS, script=None, onnx=NARROWED),
    export=frozen_size(),
    blame={
        **dict.fromkeys(("trace", "onnx_legacy"), frozen_size()),
        "onnx": Blame(owner="model", cause="guard", line=HERE),
    },
    x="batch 3",
)
def forward(self, x):
    name = f"{x.shape[0] % 2}"  # here
    return x * {"0": 2.0, "1": 3.0}[name]


@row("reshape by literal", normal(4, 6), export=NARROWED, blame=guarded())
def forward(self, x: Tensor) -> Tensor:
    """Looks frozen and is not: eager itself always returns two rows."""
    return x.reshape(2, -1).sum(1)


@row(normal(4, 3, 4))
@has(head=lambda: nn.Linear(12, 2))
class FlattenBySize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.view(x.size(0), -1))


@row("arange by int", normal(3, 5), ITEM, x="batch time", blame=frozen_size())
def forward(self, x: Tensor) -> Tensor:
    return x + torch.arange(int(x.shape[1]), dtype=x.dtype)


@row("arange by size", normal(3, 5), x="batch time")
def forward(self, x: Tensor) -> Tensor:
    return x + torch.arange(x.shape[1], dtype=x.dtype)


@row("mean by size", normal(3, 5), x="batch time")
def forward(self, x: Tensor) -> Tensor:
    return x.sum(1) / x.shape[1]


@row(
    "a divisor at a size that is not legal",
    normal(3, 4),
    truth(export=REFUSED, onnx=NARROWED),
    has={"prime": 29},
    x="batch time",
    dims={"batch": (1, 6), "time": (1, 24)},
    blame=frozen_size(),
)
@row(
    "a divisor at one size in the middle",
    normal(3, 4),
    truth(DIFFERS, script=None, export=REFUSED, onnx=NARROWED),
    x="batch time",
    dims={"batch": (1, 6), "time": (1, 24)},
    blame=frozen_size(),
)
@has(prime=13)
def forward(self, x: Tensor) -> Tensor:
    """Differs from x only at multiples of a prime. A trace has the example's divisor."""
    return x / math.gcd(int(x.shape[1]), self.prime)


@row("spatial softmax", normal(2, 2, 3, 5), x="batch 2 height width")
def forward(self, x: Tensor) -> Tensor:
    """Flattens height and width, and restores them by their sizes."""
    b, c, h, w = x.shape
    return x.reshape(b, c, h * w).softmax(-1).reshape(b, c, h, w)


@row(
    "padded to ten",
    normal(3, 6),
    ON_BOTH,
    x="batch time",
    blame=Blame(owner="translation", cause="", known=False),
)
def forward(self, x: Tensor) -> Tensor:
    """Cuts off steps beyond ten: of one too many, the first, as -1 // 2 is -1 in Python.

    An integer division of ONNX rounds towards zero, and cuts off the last.
    """
    missing = 10 - x.shape[1]
    return nn.functional.pad(x, [missing // 2, missing - missing // 2])


@row("padded to twelve", normal(3, 6), x="batch time")
def forward(self, x: Tensor) -> Tensor:
    """No size that is declared has a step too many."""
    missing = 12 - x.shape[1]
    return nn.functional.pad(x, [missing // 2, missing - missing // 2])


X = call(normal(4, 3))
EMPTY = {"shapes": {"x": "batch 3"}, "dims": {"batch": (0, 6)}}
TWO = call(normal(3, 4), normal(3, 4, seed=1))

section("dims")


# -- branches and numbers of sizes -----------------------------------------------------------------


@row("same length branch, tied", TWO, x="rows 4", y="rows 4")
@branch("same length branch", TWO, SIZE, x="rows 4", y="columns 4")
def forward(self, x: Tensor, y: Tensor) -> Tensor:
    """Two sizes that are equal in the example but need not be."""
    if x.shape[0] == y.shape[0]:
        return x.sum(0) * y.sum(0)
    return x.sum(0) + y.sum(0)


# torch.export excludes the size at which there is one block of four.
@row(
    "pads to four, in steps of four",
    normal(2, 8),
    export=NARROWED,
    blame=guarded(),
    x="batch time",
    dims={"time": range(4, 17, 4)},
)
@row("pads to four", normal(2, 6), export=NARROWED, blame=guarded(), x="batch time")
def forward(self, x: Tensor) -> Tensor:
    rest = (4 - x.shape[1] % 4) % 4
    return F.pad(x, (0, rest)).reshape(x.shape[0], -1, 4).sum(1)  # here


@branch("log of the size", normal(2, 6), SIZE, x="batch time")
def forward(self, x: Tensor) -> Tensor:
    steps = 0
    while 2**steps < x.shape[1]:
        steps += 1
    return x * steps


# -- sizes that stay sizes -------------------------------------------------------------------------


@row("twice as long", normal(2, 4), x="batch time")
def forward(self, x: Tensor) -> Tensor:
    return torch.cat([x, x.flip(1)], dim=1)


@row("checked, in its range", normal(2, 6), x="batch time", dims={"time": (3, 9)})
def forward(self, x: Tensor) -> Tensor:
    assert x.shape[1] >= 2, "too short"
    return x[:, 1:] - x[:, :-1]


@row("outer", TWO, x="rows 4", y="columns 4")
def forward(self, x: Tensor, y: Tensor) -> Tensor:
    return x @ y.t()


# Zero in ONNX Runtime. Only sizes under 2 show it, whether capture or the runtime is the cause.
@row(
    "mean of no rows",
    X,
    onnx=NARROWED,
    onnx_legacy=DIFFERS,
    known={"onnx_legacy": "mean of no elements"},
    **EMPTY,
)
def forward(self, x: Tensor) -> Tensor:
    """The mean of no rows is NaN."""
    return x.mean(0)


@row("sum of no rows", X, **EMPTY)
def forward(self, x: Tensor) -> Tensor:
    return torch.softmax(x, dim=1).sum(0)


@row("maximum of no rows", X, truth(SPEC), **EMPTY)
def forward(self, x: Tensor) -> Tensor:
    """Eager raises for no rows."""
    return x.amax(0)


row(
    "auto, made static",
    normal(4, 5),
    truth(RAISES, script=None, export=NARROWED, onnx=NARROWED),
    dynamic_shapes={"x": {0: Dim.AUTO}},
    blame=frozen_size("x.view(int(x.shape[0]), -1)"),
)(ViewByInt)
row("auto, one side", X, SIZE, dynamic_shapes={"x": {0: Dim.AUTO}}, line="if x.shape[0] > 4:")(
    ManyRowsBranch
)
row("auto, kept", normal(4, 3, 4), dynamic_shapes={"x": {0: Dim.AUTO}})(FlattenBySize)
row("declared with ends", normal(4, 6), dynamic_shapes={"input": {0: Dim("batch", min=2, max=9)}})(
    mlp
)


X = call(normal(4, 3))

section("domain")


# -- eager raises ----------------------------------------------------------------------------------


# The shortest length is not declared: eager accepts five or more, and the verdict reports that.
@row("window, assumed", normal(2, 9), export=NARROWED, blame=guarded(), x="batch time")
# torch.export excludes the size at which the window fits once.
@row(
    "window, from five",
    normal(2, 9),
    export=NARROWED,
    blame=guarded(),
    x="batch time",
    dims={"time": (5, 12)},
)
@row("window too large", normal(2, 9), truth(SPEC), x="batch time", dims={"time": (3, 12)})
@has(conv=lambda: nn.Conv1d(1, 2, 5))
def forward(self, x: Tensor) -> Tensor:
    return self.conv(x.unsqueeze(1)).amax(2)


@row("words, all", whole(0, 9, 3, 4), ids=(0, 9))
@row("words too many", whole(0, 9, 3, 4), truth(SPEC), ids=(0, 12))
@has(words=lambda: nn.Embedding(10, 4))
def forward(self, ids: Tensor) -> Tensor:
    return self.words(ids).sum(1)


@row(
    "sizes that are equal",
    call(normal(4, 3), normal(4, 3, seed=1)),
    x="n 3",
    y="n 3",
    dims={"n": (2, 6)},
)
@row(
    "sizes that must be equal",
    call(normal(4, 3), normal(4, 3, seed=1)),
    truth(SPEC),
    x="n 3",
    y="m 3",
    dims={"n": (2, 6), "m": (2, 6)},
)
def forward(self, x: Tensor, y: Tensor) -> Tensor:
    return x + y


def with_sum(x: Tensor) -> Tensor:
    return torch.cat([x, x.sum(1, keepdim=True) + 1], dim=1)


# -- eager accepts few drawn calls -----------------------------------------------------------------


@row(
    "check sum, mapped",
    call(with_sum(normal(4, 3))),
    map=lambda x: {"x": with_sum(x[:, :-1])},
    x="...",
)
@row("check sum", call(with_sum(normal(4, 3))), truth(INEFFECTIVE), x="...", tags="slow")
def forward(self, x: Tensor) -> Tensor:
    """The last column must be the sum of the others, plus one."""
    if not captured() and bool(((x[:, :-1].sum(1) + 1 - x[:, -1]).abs() > 1e-4).any()):
        raise ValueError("check sum")
    return x * 2


def rotation() -> Tensor:
    return torch.linalg.qr(normal(3, 3)).Q


@row("rotation", call(rotation()), truth(INEFFECTIVE), x="...")
def forward(self, x: Tensor) -> Tensor:
    if not captured() and bool(((x @ x.t() - torch.eye(3)).abs() > 1e-4).any()):
        raise ValueError("no rotation")
    return x @ torch.ones(3, 2)


def shares(*shape: int) -> Tensor:
    return normal(*shape).softmax(1)


# Any number of copies of the example's rows is legal.
@row("shares, of any number", call(shares(4, 3)), weak="only sizes varied")
@row("shares", call(shares(4, 3)), truth(INEFFECTIVE), x="...")
def forward(self, x: Tensor) -> Tensor:
    """Rows must sum to one."""
    if not captured() and bool(((x.sum(1) - 1).abs() > 1e-4).any()):
        raise ValueError("no shares")
    return x.log1p()


@row(
    "ordered, mapped",
    call(normal(4, 3), normal(4, 3) + 1),
    map=lambda x, y: {"y": torch.maximum(x, y)},
)
def forward(self, x: Tensor, y: Tensor) -> Tensor:
    if not captured() and bool((x > y).any()):
        raise ValueError("x above y")
    return y - x


# torch has no Dim of one size.
@row("one size and others", normal(1, 4), x="batch n", dims={"batch": (1, 1), "n": (2, 6)})
@row("one size alone", normal(1, 4), x="batch 4", dims={"batch": (1, 1)})
def forward(self, x: Tensor) -> Tensor:
    return x.cumsum(1)


# -- outputs that no comparison can find wrong -----------------------------------------------------


# The next rows pass with a warning: their outputs could not have differed.
@row("nothing", X, weak="zero on every call")
def forward(self, x: Tensor) -> Tensor:
    return x * 0.0


@row("constant", X, weak="not depend on the input")
@has(bias=lambda: nn.Parameter(torch.randn(3)))
def forward(self, x: Tensor) -> Tensor:
    return self.bias.expand(x.shape[0], -1)


@row("all nan", X, weak="nan or infinite")
def forward(self, x: Tensor) -> Tensor:
    return x * math.nan


@row("tiny", X, weak="differences up to 1e-05 pass")
def forward(self, x: Tensor) -> Tensor:
    return torch.tanh(x) * 1e-15
