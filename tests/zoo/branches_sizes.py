"""Branches on sizes, ids, masks, lengths and Python arguments: all of them are whole numbers."""

from __future__ import annotations

from typing import List, Optional  # noqa: UP035  # TorchScript's words

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.row import *

X = call(normal(4, 3))
N = normal(4, 3)
IDS = torch.tensor([[0, 9, 3, 5, 3, 9], [7, 3, 7, 2, 1, 6]])
TOKENS = call(IDS)
MASK = coins(4, 3)
TIME = {"time": (2, 16)}
# A Python argument is a constant of the program, and so is the side it takes. torch.export raises
# if a call passes another one.
BAKED = truth(BRANCH, script=None, export=RAISES)
LENGTHS = {
    "shapes": {"x": "batch time", "lengths": "batch"},
    "dims": {"time": (2, 8)},
    "values": {"lengths": (1, 8)},
    "map": lambda x, lengths: {"lengths": lengths.clamp(max=x.shape[1])},
}
TWO_SIZES = {"shapes": {"x": "batch time"}, "dims": {"batch": (1, 16), "time": (1, 16)}}

section("branches_sizes", "branches")


# -- sizes -----------------------------------------------------------------------------------------


@branch("product of sizes", normal(3, 4), normal(7, 11), SIZE, **TWO_SIZES)
def forward(self, x: Tensor) -> Tensor:
    if x.shape[0] * x.shape[1] == 77:
        return x + 1
    return x * 2


# the ONNX file has no guard
@row("product of sizes, alike", normal(3, 4), export=NARROWED, blame=decided(), **TWO_SIZES)
def forward(self, x: Tensor) -> Tensor:
    if x.shape[0] * x.shape[1] == 77:
        return x + x
    return x * 2


@branch("ratio of sizes", normal(3, 4), normal(11, 7), SIZE, **TWO_SIZES)
def forward(self, x: Tensor) -> Tensor:
    if 7 * x.shape[0] == 11 * x.shape[1]:
        return x + 1
    return x * 2


MANY = {"shapes": {"x": "batch 3"}, "dims": {"batch": (1, 300)}}
# A trace reads the dict once, and torch.export has no size that could be a key.
KEY = truth(trace=DIFFERS, script=REFUSED, export=REFUSED, onnx=NARROWED, onnx_legacy=DIFFERS)
OF_KEYS = {"trace": baked(known=False), "onnx": frozen_size(known=False)}
OF_KEYS |= {"export": no_construct(), "onnx_legacy": baked(known=False)}


# The handler's side is the same: no call of the ONNX file's one size is wrong.
@row(
    "size as a key",
    normal(4, 3),
    KEY,
    trace=None,
    onnx_legacy=None,
    script=no_construct("try:"),
    blame=OF_KEYS,
    has={"scales": {137: 1.0}},
    **MANY,
)
@row("rare size as a key", normal(4, 3), KEY, script=no_construct("try:"), blame=OF_KEYS, **MANY)
@has(scales={137: 2.0})
def forward(self, x):
    """What raises is not seen: a handler may depend on any input."""
    try:
        return x * self.scales[x.shape[0]]  # here
    except KeyError:
        return x * 1.0


SCALES = {137: 2.0}


@row("rare size in a global", normal(4, 3), KEY, script=no_construct("try:"), blame=OF_KEYS, **MANY)
def forward(self, x):
    try:
        return x * SCALES[x.shape[0]]  # here
    except KeyError:
        return x * 1.0


@row("rare sizes as a key", normal(4, 3), KEY, script=UNEXPLAINED, blame=OF_KEYS, **MANY)
@has(scales={(137, 3): 2.0})
def forward(self, x):
    return x * self.scales.get((x.shape[0], x.shape[1]), 1.0)  # here


@row("text of a size, alike", normal(4, 3), has={"negated": {"n137": False}}, **MANY)
@row(
    "text of a rare size",
    normal(4, 3),
    truth(BRANCH, script=None, export=DIFFERS, onnx=DIFFERS),
    line=HERE,
    blame=dict.fromkeys(("export", "onnx"), baked(known=False)),
    **MANY,
)
@has(negated={"n137": True})
def forward(self, x):
    return -x if self.negated.get(f"n{x.shape[0]}", False) else x  # here


@row(
    "letter in a size",
    normal(4, 3),
    PYTHON,
    line=HERE,
    refused={"script": no_construct(known=False), "export onnx": no_construct(known=False)},
    **{**MANY, "dims": {"batch": (1, 40)}},
)
def forward(self, x):
    """No number tells how far a text is from another."""
    return -x if "f" in f"{x.shape[0]:x}" else x  # here


def time(size: int) -> Tensor:
    return normal(2, size, 3)


# Slicing a short time returns all of it, so the ONNX file, which has no guard, is right.
@row(
    "long time, from long",
    call(time(14)),
    call(time(6)),
    export=NARROWED,
    blame=decided(),
    x="batch time 3",
    dims=TIME,
)
@branch("long time", call(time(6)), call(time(14)), SIZE, x="batch time 3", dims=TIME)
def forward(self, x: Tensor) -> Tensor:
    if x.shape[1] > 12:
        x = x[:, -12:]
    return x.mean(1)


@branch("no rows", X, normal(0, 3), SIZE, dims={"batch": (0, 6)}, x="batch 3")
def forward(self, x: Tensor) -> Tensor:
    if x.shape[0] == 0:
        return x.new_full((3,), -1.0)
    return x.sum(0)


# torch asks for more than the line does: two rows fail too.
@branch(
    "view that fits",
    X,
    normal(5, 3),
    SIZE,
    script=no_construct("try:"),
    blame={"export": guarded("pairs = x.view(-1, 2, 3)")},
)
def forward(self, x):
    try:
        pairs = x.view(-1, 2, 3)
    except RuntimeError:  # here
        pairs = F.pad(x, (0, 0, 0, 1)).view(-1, 2, 3)
    return pairs.sum(0)


@branch(
    "match shape",
    X,
    normal(4, 1),
    normal(4, 2),
    normal(4, 6),
    STATIC,
    script=no_construct(),
    export=frozen_size("case (_, 2 | 3):"),
    line="case",
    x="batch time",
    dims={"time": (1, 6)},
)
def forward(self, x):
    match tuple(x.shape):
        case (_, 1):
            return x.squeeze(1)
        case (_, 2 | 3):
            return x.mean(1)
        case _:
            return x.amax(1)


@row("number of parts", call([N, N + 1]))
def forward(self, parts: List[Tensor]) -> Tensor:  # noqa: UP006
    if len(parts) > 1:
        return torch.cat(parts, 1)
    return parts[0]


def ids(*numbers: int, at: int = 0) -> Tensor:
    """Return the example's ids with these numbers in the first row, from this place on."""
    made = IDS.clone()
    made[0, at : at + len(numbers)] = torch.tensor(numbers)
    return made


# -- ids -------------------------------------------------------------------------------------------


@branch("prompt prefix", TOKENS, call(ids(7, 3, 8)))
@has(prompt=Buffer(torch.tensor([7, 3, 8])))
def forward(self, ids: Tensor) -> Tensor:
    if torch.equal(ids[0, :3], self.prompt):
        ids = ids[:, 3:]
    return ids.sum(1)


# -- masks and lengths -----------------------------------------------------------------------------


@branch("nothing kept", call(N, MASK), call(N, MASK & False), mask=[True, False])
def forward(self, x: Tensor, mask: Tensor) -> Tensor:
    if not mask.any():
        return torch.zeros_like(x[:, 0])
    return (x * mask).sum(1) / mask.sum()


@branch(
    "padded, from full",
    call(normal(3, 5), torch.tensor([5, 5, 5])),
    call(normal(3, 5), torch.tensor([5, 3, 1])),
    **LENGTHS,
)
@branch(
    "padded",
    call(normal(3, 5), torch.tensor([5, 3, 1])),
    call(normal(3, 5), torch.tensor([5, 5, 5])),
    UNDECIDED,
    **LENGTHS,
)
def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
    """The general side is right without padding too; the other one is wrong with padding."""
    if int(lengths.min()) < x.shape[1]:
        x = x * (torch.arange(x.shape[1]) < lengths.unsqueeze(1))
    return x.sum(1)


@row("nothing kept by where", call(N, MASK), call(N, MASK & False), mask=[True, False])
def forward(self, x: Tensor, mask: Tensor) -> Tensor:
    return (x * mask).sum(1) / mask.sum().clamp(min=1)


# -- Python arguments ------------------------------------------------------------------------------


@row(
    "many steps, varied",
    call(N, 1),
    call(N, 0),
    call(N, 3),
    BAKED,
    line=HERE,
    steps=[0, 1, 2, 3],
    blame={"export": GUARD},
)
def forward(self, x: Tensor, steps: int = 1) -> Tensor:
    for _ in range(steps):  # here
        x = x * 0.5 + 1
    return x


@row(
    "match kind",
    call(N, 0),
    call(N, 1),
    call(N, 2),
    call(N, 3),
    BAKED,
    script=no_construct(),
    line="case",
    kind=[0, 1, 2, 3],
    blame={"export": GUARD},
)
def forward(self, x, kind: int = 0):
    match kind:
        case 0:
            return x.relu()
        case 1 | 2:
            return x.tanh()
        case _:
            return x.sigmoid()


@row(
    "reduction",
    call(N, "mean"),
    call(N, "sum"),
    call(N, "max"),
    BAKED,
    line="reduction == ",
    reduction=["mean", "sum", "max"],
    blame={"export": GUARD},
)
def forward(self, x: Tensor, reduction: str = "mean") -> Tensor:
    if reduction == "mean":
        return x.mean(1)
    if reduction == "sum":
        return x.sum(1)
    return x.amax(1)


@row(
    "optional top",
    call(N, None),
    call(N, 1),
    call(N, 2),
    truth(BRANCH, script=None),
    line=HERE,
    top=[None, 1, 2],
)
def forward(self, x: Tensor, top: Optional[int] = None) -> Tensor:  # noqa: UP045
    if top is None:
        return x.sum(1)
    return x[:, :top].sum(1)


@branch(
    "match item",
    call(N, torch.tensor(0)),
    call(N, torch.tensor(1)),
    call(N, torch.tensor(2)),
    PYTHON,
    script=no_construct(),
    line="case",
    kind=(0, 2),
    refused={"export onnx": undecided()},
)
def forward(self, x, kind):
    match int(kind):
        case 0:
            return x.relu()
        case 1:
            return x.tanh()
        case _:
            return x.sigmoid()
