"""Branches on sizes, ids, masks, lengths and Python arguments: all of them are whole numbers."""

from __future__ import annotations

from typing import List, Optional  # noqa: UP035  # TorchScript's words

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.row import (
    B_T,
    B_T_3,
    BRANCH,
    EQUAL,
    GUARD,
    HERE,
    NARROWED,
    PYTHON,
    RAISES,
    REFUSED,
    SIZE,
    Blame,
    Buffer,
    branch,
    call,
    coins,
    decided,
    decides_by_size,
    frozen_size,
    has,
    no_construct,
    normal,
    row,
    section,
    truth,
    undecided,
)

X = call(normal(4, 3))
N = normal(4, 3)
IDS = torch.tensor([[0, 9, 3, 5, 3, 9], [7, 3, 7, 2, 1, 6]])
TOKENS = call(IDS)
MASK = coins(4, 3)
IDS_FIXED = {"ids": "..."}
IDS_TIME = {"ids": "batch time"}
TIME = {"time": (2, 16)}
# A loop over a size, or a size as a number: static, or refused if the size is declared to vary.
STATIC = truth(trace=BRANCH, export=REFUSED, onnx=NARROWED, onnx_legacy=BRANCH)
# A Python argument is a constant of the program, and so is the side it takes. torch.export raises
# if a call passes another one.
BAKED = truth(BRANCH, script=None, export=RAISES)
LENGTHS = {
    "shapes": {"x": "batch time", "lengths": "batch"},
    "dims": {"time": (2, 8)},
    "values": {"lengths": (1, 8)},
    "map": lambda x, lengths: {"lengths": lengths.clamp(max=x.shape[1])},
}
TWO_SIZES = {"shapes": B_T, "dims": {"batch": (1, 16), "time": (1, 16)}}

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


def time(size: int) -> Tensor:
    return normal(2, size, 3)


@row(
    "long time, kept short",
    call(time(6)),
    shapes=B_T_3,
    dims={"time": (2, 12)},
    round_trip=True,
    ci="script",
)
# Slicing a short time returns all of it, so the ONNX file, which has no guard, is right.
@row(
    "long time, from long",
    call(time(14)),
    call(time(6)),
    export=NARROWED,
    blame=decided(),
    shapes=B_T_3,
    dims=TIME,
)
@branch("long time", call(time(6)), call(time(14)), SIZE, shapes=B_T_3, dims=TIME)
def forward(self, x: Tensor) -> Tensor:
    if x.shape[1] > 12:
        x = x[:, -12:]
    return x.mean(1)


@branch("odd time", call(time(6)), call(time(5)), SIZE, shapes=B_T_3, dims=TIME)
def forward(self, x: Tensor) -> Tensor:
    if x.shape[1] % 2:
        return x[:, :-1].sum(1)
    return x.sum(1)


# len(x) is a Python number: the size becomes static.
@branch("only row", X, normal(1, 3), STATIC, export=decides_by_size())
def forward(self, x: Tensor) -> Tensor:
    if len(x) == 1:
        return x * 10
    return x - x.mean(0)


@branch("many elements", call(time(4)), call(time(6)), SIZE, shapes=B_T_3, dims=TIME)
def forward(self, x: Tensor) -> Tensor:
    if x.numel() > 30:
        return x / x.numel()
    return x.tanh()


@branch(
    "large grid",
    normal(2, 3, 5, 6),
    normal(2, 3, 8, 9),
    SIZE,
    shapes={"x": "batch 3 height width"},
    dims={"height": (4, 12), "width": (4, 12)},
)
def forward(self, x: Tensor) -> Tensor:
    high, wide = x.shape[2], x.shape[3]
    if high * wide >= 64:
        return x.amax((2, 3))
    return x.mean((2, 3))


@branch(
    "portrait",
    normal(2, 3, 4, 6),
    normal(2, 3, 6, 4),
    SIZE,
    shapes={"x": "batch 3 height width"},
    dims={"height": (3, 8), "width": (3, 8)},
)
def forward(self, x: Tensor) -> Tensor:
    if x.shape[2] > x.shape[3]:
        x = x.transpose(2, 3)
    return x.cumsum(3).sum(2).amax(2)


@branch(
    "same times",
    call(time(6), time(4)),
    call(time(4), time(4)),
    SIZE,
    shapes={"q": "batch n 3", "k": "batch m 3"},
    dims={"n": (2, 8), "m": (2, 8)},
)
def forward(self, q: Tensor, k: Tensor) -> Tensor:
    if q.shape[1] == k.shape[1]:
        return (q * k).sum(1)
    return q.sum(1) - k.sum(1)


@row(
    "halved",
    call(time(6)),
    call(time(12)),
    export=NARROWED,
    blame=decided(),
    shapes=B_T_3,
    dims=TIME,
)
def forward(self, x: Tensor) -> Tensor:
    """Sums a long input in two halves, which gives the same numbers."""
    if x.shape[1] > 8:
        return x[:, :4].sum(1) + x[:, 4:].sum(1)
    return x.sum(1)


@branch(
    "no rows", X, normal(0, 3), SIZE, dims={"batch": (0, 6)}, shapes={"x": "batch 3"}, ci="export"
)
def forward(self, x: Tensor) -> Tensor:
    if x.shape[0] == 0:
        return x.new_full((3,), -1.0)
    return x.sum(0)


@branch(
    "long and positive, from long",
    call(time(8) + 1),
    call(time(8) - 1),
    call(time(4)),
    shapes=B_T_3,
    dims=TIME,
)
@branch(
    "long and positive",
    call(time(4)),
    call(time(8) + 1),
    call(time(8) - 1),
    SIZE,
    shapes=B_T_3,
    dims=TIME,
)
def forward(self, x: Tensor) -> Tensor:
    if x.shape[1] > 6 and x.sum() > 0:
        return x.sum(1) * 2
    return x.sum(1) - 1


@branch(
    "chunks",
    call(time(8)),
    call(time(4)),
    call(time(6)),
    call(time(12)),
    STATIC,
    export=frozen_size(),
    shapes=B_T_3,
    dims=TIME,
)
def forward(self, x: Tensor) -> Tensor:
    """The last one may be cut short, which is the same on both sides: one chunk more is not."""
    parts = []
    for start in range(0, x.shape[1], 4):  # here
        end = min(x.shape[1], start + 4)
        parts.append(x[:, start:end].cumsum(1))
    return torch.cat(parts, 1)


@branch(
    "windows",
    call(time(6)),
    call(time(4)),
    call(time(12)),
    STATIC,
    export=frozen_size(),
    shapes=B_T_3,
    dims=TIME,
    ci="onnx",
)
def forward(self, x: Tensor) -> Tensor:
    total = torch.zeros_like(x[:, 0])
    for start in range(0, x.shape[1], 4):  # here
        total = total + x[:, start : start + 4].amax(1)
    return total


# torch asks for more than the line does: two rows fail too.
@branch(
    "view that fits",
    X,
    normal(5, 3),
    SIZE,
    script=no_construct("try:"),
    blame={"export": decided(known=False)},
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
    shapes=B_T,
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


@row("kind of shape", X, round_trip=True, ci="trace")
def forward(self, x: Tensor) -> Tensor:
    """The side taken is the same at every call."""
    if x.dim() == 2 and x.shape[1] == 3:
        return x.sum(1)
    return x.flatten(1)


@row("number of parts", call([N, N + 1]), round_trip=True, ci="onnx_legacy")
def forward(self, parts: List[Tensor]) -> Tensor:  # noqa: UP006
    if len(parts) > 1:
        return torch.cat(parts, 1)
    return parts[0]


@row("long time, sliced", call(time(6)), call(time(14)), shapes=B_T_3, dims=TIME)
def forward(self, x: Tensor) -> Tensor:
    kept = torch.arange(x.shape[1]) >= x.shape[1] - 12
    return (x * kept.unsqueeze(1)).sum(1) / kept.sum()


def ids(*numbers: int, at: int = 0) -> Tensor:
    """Return the example's ids with these numbers in the first row, from this place on."""
    made = IDS.clone()
    made[0, at : at + len(numbers)] = torch.tensor(numbers)
    return made


# -- ids -------------------------------------------------------------------------------------------


@branch("prompt prefix", TOKENS, call(ids(7, 3, 8)), ci="trace")
@has(prompt=Buffer(torch.tensor([7, 3, 8])))
def forward(self, ids: Tensor) -> Tensor:
    if torch.equal(ids[0, :3], self.prompt):
        ids = ids[:, 3:]
    return ids.sum(1)


@branch("token count", TOKENS, call(ids(5, 5, 5, 5)))
def forward(self, ids: Tensor) -> Tensor:
    if (ids == 5).sum() > 3:
        return ids.amax(1)
    return ids.amin(1)


@branch(
    "ends in eos",
    TOKENS,
    torch.tensor([[1, 4, 2], [3, 5, 2]]),
    shapes=IDS_TIME,
    dims={"time": (2, 8)},
)
def forward(self, ids: Tensor) -> Tensor:
    if (ids[:, -1] == 2).all():
        return ids[:, :-1].sum(1)
    return ids.sum(1) * 10


@branch("begins with bos", TOKENS, call(ids(1)), ci="script")
@has(words=lambda: nn.Embedding(10, 4))
def forward(self, ids: Tensor) -> Tensor:
    if ids[0, 0] == 1:
        ids = ids[:, 1:]
    return self.words(ids).sum(1)


@branch("pair somewhere", TOKENS, call(ids(7, 4, at=2)))
def forward(self, ids: Tensor) -> Tensor:
    if ((ids[:, :-1] == 7) & (ids[:, 1:] == 4)).any():
        return ids + 100
    return ids


@branch(
    "distinct ids",
    IDS[:, :4],
    torch.arange(8).view(2, 4),
    PYTHON,
    script=Blame(
        owner="capture",
        cause="unsupported operator",
        line="if ids.unique().numel() == ids.numel():",
    ),
    shapes=IDS_FIXED,
)
def forward(self, ids: Tensor) -> Tensor:
    if ids.unique().numel() == ids.numel():
        return ids.sort(1).values
    return ids * 2


@branch(
    "stuck tail",
    TOKENS,
    torch.tensor([[1, 4, 4], [3, 5, 5]]),
    shapes=IDS_TIME,
    dims={"time": (2, 8)},
)
def forward(self, ids: Tensor) -> Tensor:
    if torch.equal(ids[:, -1], ids[:, -2]):
        return ids[:, :-1].sum(1)
    return ids.sum(1)


@branch("palindrome", TOKENS, torch.tensor([[3, 4, 3]]), shapes=IDS_TIME, dims={"time": (2, 8)})
def forward(self, ids: Tensor) -> Tensor:
    if torch.equal(ids, ids.flip(1)):
        return ids * 0 - 1
    return ids


@branch("outside vocabulary", TOKENS, call(ids(11)), values={"ids": (0, 12)})
@has(known=lambda: nn.Embedding(10, 4), rare=lambda: nn.Embedding(4, 4))
def forward(self, ids: Tensor) -> Tensor:
    if int(ids.max()) > 9:
        return self.rare(ids % 4).sum(1)
    return self.known(ids.clamp(max=9)).sum(1)


@branch("check digit", TOKENS, call(ids(1)))
@has(factors=Buffer(torch.tensor([3, 1, 4, 1, 5, 9])))
def forward(self, ids: Tensor) -> Tensor:
    if int((ids * self.factors).sum()) % 11 == 4:
        return ids + 1
    return ids - 1


@branch(
    "bytes or shares",
    normal(2, 4, 5).sigmoid() * 255,
    normal(2, 4, 5).sigmoid(),
    values={"image": (0.0, 255.0)},
)
def forward(self, image: Tensor) -> Tensor:
    """Scales an image in 0..255 to 0..1, and leaves one that is already in 0..1."""
    if image.max() > 1:
        image = image / 255
    return image.mean((1, 2))


@row("token count by where", TOKENS, call(ids(5, 5, 5, 5)), ci="onnx_legacy")
def forward(self, ids: Tensor) -> Tensor:
    return torch.where((ids == 5).sum() > 3, ids.amax(1), ids.amin(1))


@row(
    "pair by cond",
    TOKENS,
    call(ids(7, 4, at=2)),
    truth(REFUSED, export=None, onnx=None),
    round_trip=True,
    refused={"trace script onnx_legacy": no_construct()},
    ci="trace onnx onnx_legacy",
)
def forward(self, ids: Tensor) -> Tensor:
    found = ((ids[:, :-1] == 7) & (ids[:, 1:] == 4)).any()
    return torch.cond(found, lambda ids: ids + 100, lambda ids: ids.clone(), (ids,))  # here


# -- masks and lengths -----------------------------------------------------------------------------


@branch(
    "nothing kept",
    call(N, MASK),
    call(N, MASK & False),
    values={"mask": [True, False]},
    ci="onnx_legacy",
)
def forward(self, x: Tensor, mask: Tensor) -> Tensor:
    if not mask.any():
        return torch.zeros_like(x[:, 0])
    return (x * mask).sum(1) / mask.sum()


@branch("something masked, from nothing", call(N, MASK | True), call(N, MASK))
@branch("something masked", call(N, MASK), call(N, MASK | True), EQUAL, ci="trace")
def forward(self, x: Tensor, mask: Tensor) -> Tensor:
    if bool((~mask).any()):
        x = x.masked_fill(~mask, -100.0)
    return x.softmax(1)


@branch(
    "same masks",
    call(N, MASK, ~MASK),
    call(N, MASK, MASK.clone()),
    values={"left": [True, False], "right": [True, False]},
)
def forward(self, x: Tensor, left: Tensor, right: Tensor) -> Tensor:
    if torch.equal(left, right):
        return x * left
    return x * (left.to(x.dtype) - 2 * right.to(x.dtype))


@branch(
    "padded, from full",
    call(normal(3, 5), torch.tensor([5, 5, 5])),
    call(normal(3, 5), torch.tensor([5, 3, 1])),
    **LENGTHS,
    ci="onnx",
)
@branch(
    "padded",
    call(normal(3, 5), torch.tensor([5, 3, 1])),
    call(normal(3, 5), torch.tensor([5, 5, 5])),
    EQUAL,
    **LENGTHS,
)
def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
    """The general side is right without padding too; the other one is wrong with padding."""
    if int(lengths.min()) < x.shape[1]:
        x = x * (torch.arange(x.shape[1]) < lengths.unsqueeze(1))
    return x.sum(1)


@branch(
    "short lengths",
    call(normal(3, 5), torch.tensor([5, 3, 2])),
    call(normal(3, 5), torch.tensor([1, 2, 2])),
    call(normal(3, 5), torch.tensor([1, 2, 4])),
    **LENGTHS,
)
def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
    short = lengths < 3
    if bool(short.all()) or int(short.sum()) == 2:
        return x.sum(1)
    return x.sum(1) / lengths


@row("nothing kept by where", call(N, MASK), call(N, MASK & False), values={"mask": [True, False]})
def forward(self, x: Tensor, mask: Tensor) -> Tensor:
    return (x * mask).sum(1) / mask.sum().clamp(min=1)


@row(
    "padded by mask",
    call(normal(3, 5), torch.tensor([5, 3, 1])),
    call(normal(3, 5), torch.tensor([5, 5, 5])),
    **LENGTHS,
)
def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
    return (x * (torch.arange(x.shape[1]) < lengths.unsqueeze(1))).sum(1)


# -- Python arguments ------------------------------------------------------------------------------


@row(
    "many steps, varied",
    call(N, 1),
    call(N, 0),
    call(N, 3),
    BAKED,
    line=HERE,
    values={"steps": [0, 1, 2, 3]},
    blame={"export": GUARD},
    ci="export",
)
@row("many steps", X)
def forward(self, x: Tensor, steps: int = 1) -> Tensor:
    for _ in range(steps):  # here
        x = x * 0.5 + 1
    return x


@row(
    "step limit",
    call(N, 4),
    call(N, 5),
    call(N, 18),
    BAKED,
    line="if k",
    values={"k": [3, 4, 5, 18]},
    blame={"export": GUARD},
)
def forward(self, x: Tensor, k: int = 4) -> Tensor:
    if k > 17:
        return x * 17
    if k % 2 == 1:
        return -x
    return x + 1


@row(
    "match kind",
    call(N, 0),
    call(N, 1),
    call(N, 2),
    call(N, 3),
    BAKED,
    script=no_construct(),
    line="case",
    values={"kind": [0, 1, 2, 3]},
    blame={"export": GUARD},
    ci="onnx",
)
def forward(self, x, kind: int = 0):
    match kind:
        case 0:
            return x.relu()
        case 1 | 2:
            return x.tanh()
        case _:
            return x.sigmoid()


@row("reduction, always the same", call(N, "sum"), round_trip=True, ci="export")
@row(
    "reduction",
    call(N, "mean"),
    call(N, "sum"),
    call(N, "max"),
    BAKED,
    line="reduction == ",
    values={"reduction": ["mean", "sum", "max"]},
    blame={"export": GUARD},
)
def forward(self, x: Tensor, reduction: str = "mean") -> Tensor:
    if reduction == "mean":
        return x.mean(1)
    if reduction == "sum":
        return x.sum(1)
    return x.amax(1)


@branch("flag, then value", call(N, True), call(N + 1, True))
def forward(self, x: Tensor, clip: bool = True) -> Tensor:
    if clip and x.max() > 2.0:
        return x.clamp(max=1.0)
    return x


@row(
    "optional top",
    call(N, None),
    call(N, 1),
    call(N, 2),
    truth(BRANCH, script=None),
    line=HERE,
    values={"top": [None, 1, 2]},
    ci="export",
)
def forward(self, x: Tensor, top: Optional[int] = None) -> Tensor:  # noqa: UP045
    if top is None:
        return x.sum(1)
    return x[:, :top].sum(1)


@branch("limit given", call(N, 0.25), call(N + 1, 0.25), ci="export")
def forward(self, x: Tensor, limit: float = 0.5) -> Tensor:
    if x.mean() > limit:
        return x * 2
    return x


@branch(
    "match item",
    call(N, torch.tensor(0)),
    call(N, torch.tensor(1)),
    call(N, torch.tensor(2)),
    PYTHON,
    script=no_construct(),
    line="case",
    values={"kind": (0, 2)},
    refused={"export onnx": undecided()},
    ci="script",
)
def forward(self, x, kind):
    match int(kind):
        case 0:
            return x.relu()
        case 1:
            return x.tanh()
        case _:
            return x.sigmoid()
