"""Branches on sizes, ids, masks, lengths and Python arguments: all of them are whole numbers."""

from __future__ import annotations

from typing import List, Optional  # noqa: UP035  # TorchScript's words

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.branches import EQUAL, PYTHON, SIZE, branch
from zoo.row import (
    B_T,
    B_T_3,
    BRANCH,
    GUARD,
    NARROWED,
    RAISES,
    REFUSED,
    Blame,
    call,
    coins,
    decided,
    decides_by_size,
    frozen_size,
    no_construct,
    normal,
    row,
    truth,
    undecided,
)

# -- sizes -----------------------------------------------------------------------------------------


class ProductOfSizes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] * x.shape[1] == 77:
            return x + 1
        return x * 2


class ProductOfSizesAlike(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] * x.shape[1] == 77:
            return x + x
        return x * 2


class RatioOfSizes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if 7 * x.shape[0] == 11 * x.shape[1]:
            return x + 1
        return x * 2


class LongTime(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] > 12:
            x = x[:, -12:]
        return x.mean(1)


class OddTime(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] % 2:
            return x[:, :-1].sum(1)
        return x.sum(1)


class OnlyRow(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if len(x) == 1:
            return x * 10
        return x - x.mean(0)


class ManyElements(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.numel() > 30:
            return x / x.numel()
        return x.tanh()


class LargeGrid(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        high, wide = x.shape[2], x.shape[3]
        if high * wide >= 64:
            return x.amax((2, 3))
        return x.mean((2, 3))


class Portrait(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2] > x.shape[3]:
            x = x.transpose(2, 3)
        return x.cumsum(3).sum(2).amax(2)


class SameTimes(nn.Module):
    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        if q.shape[1] == k.shape[1]:
            return (q * k).sum(1)
        return q.sum(1) - k.sum(1)


class Halved(nn.Module):
    """Sums a long input in two halves, which gives the same numbers."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] > 8:
            return x[:, :4].sum(1) + x[:, 4:].sum(1)
        return x.sum(1)


class NoRows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] == 0:
            return x.new_full((3,), -1.0)
        return x.sum(0)


class LongAndPositive(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] > 6 and x.sum() > 0:
            return x.sum(1) * 2
        return x.sum(1) - 1


class Chunks(nn.Module):
    """The last one may be cut short, which is the same on both sides: one chunk more is not."""

    def forward(self, x: Tensor) -> Tensor:
        parts = []
        for start in range(0, x.shape[1], 4):
            end = min(x.shape[1], start + 4)
            parts.append(x[:, start:end].cumsum(1))
        return torch.cat(parts, 1)


class Windows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros_like(x[:, 0])
        for start in range(0, x.shape[1], 4):
            total = total + x[:, start : start + 4].amax(1)
        return total


class ViewThatFits(nn.Module):
    def forward(self, x):
        try:
            pairs = x.view(-1, 2, 3)
        except RuntimeError:
            pairs = F.pad(x, (0, 0, 0, 1)).view(-1, 2, 3)
        return pairs.sum(0)


class MatchShape(nn.Module):
    def forward(self, x):
        match tuple(x.shape):
            case (_, 1):
                return x.squeeze(1)
            case (_, 2 | 3):
                return x.mean(1)
            case _:
                return x.amax(1)


class KindOfShape(nn.Module):
    """The side taken is the same at every call."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 2 and x.shape[1] == 3:
            return x.sum(1)
        return x.flatten(1)


class NumberOfParts(nn.Module):
    def forward(self, parts: List[Tensor]) -> Tensor:  # noqa: UP006
        if len(parts) > 1:
            return torch.cat(parts, 1)
        return parts[0]


class LongTimeSliced(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        kept = torch.arange(x.shape[1]) >= x.shape[1] - 12
        return (x * kept.unsqueeze(1)).sum(1) / kept.sum()


# -- ids -------------------------------------------------------------------------------------------


class PromptPrefix(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("prompt", torch.tensor([7, 3, 8]))

    def forward(self, ids: Tensor) -> Tensor:
        if torch.equal(ids[0, :3], self.prompt):
            ids = ids[:, 3:]
        return ids.sum(1)


class TokenCount(nn.Module):
    def forward(self, ids: Tensor) -> Tensor:
        if (ids == 5).sum() > 3:
            return ids.amax(1)
        return ids.amin(1)


class EndsInEos(nn.Module):
    def forward(self, ids: Tensor) -> Tensor:
        if (ids[:, -1] == 2).all():
            return ids[:, :-1].sum(1)
        return ids.sum(1) * 10


class BeginsWithBos(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 4)

    def forward(self, ids: Tensor) -> Tensor:
        if ids[0, 0] == 1:
            ids = ids[:, 1:]
        return self.words(ids).sum(1)


class PairSomewhere(nn.Module):
    def forward(self, ids: Tensor) -> Tensor:
        if ((ids[:, :-1] == 7) & (ids[:, 1:] == 4)).any():
            return ids + 100
        return ids


class DistinctIds(nn.Module):
    def forward(self, ids: Tensor) -> Tensor:
        if ids.unique().numel() == ids.numel():
            return ids.sort(1).values
        return ids * 2


class StuckTail(nn.Module):
    def forward(self, ids: Tensor) -> Tensor:
        if torch.equal(ids[:, -1], ids[:, -2]):
            return ids[:, :-1].sum(1)
        return ids.sum(1)


class Palindrome(nn.Module):
    def forward(self, ids: Tensor) -> Tensor:
        if torch.equal(ids, ids.flip(1)):
            return ids * 0 - 1
        return ids


class OutsideVocabulary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.known = nn.Embedding(10, 4)
        self.rare = nn.Embedding(4, 4)

    def forward(self, ids: Tensor) -> Tensor:
        if int(ids.max()) > 9:
            return self.rare(ids % 4).sum(1)
        return self.known(ids.clamp(max=9)).sum(1)


class CheckDigit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("factors", torch.tensor([3, 1, 4, 1, 5, 9]))

    def forward(self, ids: Tensor) -> Tensor:
        if int((ids * self.factors).sum()) % 11 == 4:
            return ids + 1
        return ids - 1


class BytesOrShares(nn.Module):
    """Scales an image in 0..255 to 0..1, and leaves one that is already in 0..1."""

    def forward(self, image: Tensor) -> Tensor:
        if image.max() > 1:
            image = image / 255
        return image.mean((1, 2))


class TokenCountByWhere(nn.Module):
    def forward(self, ids: Tensor) -> Tensor:
        return torch.where((ids == 5).sum() > 3, ids.amax(1), ids.amin(1))


class PairByCond(nn.Module):
    def forward(self, ids: Tensor) -> Tensor:
        found = ((ids[:, :-1] == 7) & (ids[:, 1:] == 4)).any()
        return torch.cond(found, lambda ids: ids + 100, lambda ids: ids.clone(), (ids,))


# -- masks and lengths -----------------------------------------------------------------------------


class NothingKept(nn.Module):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        if not mask.any():
            return torch.zeros_like(x[:, 0])
        return (x * mask).sum(1) / mask.sum()


class SomethingMasked(nn.Module):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        if bool((~mask).any()):
            x = x.masked_fill(~mask, -100.0)
        return x.softmax(1)


class SameMasks(nn.Module):
    def forward(self, x: Tensor, left: Tensor, right: Tensor) -> Tensor:
        if torch.equal(left, right):
            return x * left
        return x * (left.to(x.dtype) - 2 * right.to(x.dtype))


class Padded(nn.Module):
    """The general side is right without padding too; the other one is wrong with padding."""

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        if int(lengths.min()) < x.shape[1]:
            x = x * (torch.arange(x.shape[1]) < lengths.unsqueeze(1))
        return x.sum(1)


class ShortLengths(nn.Module):
    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        short = lengths < 3
        if bool(short.all()) or int(short.sum()) == 2:
            return x.sum(1)
        return x.sum(1) / lengths


class NothingKeptByWhere(nn.Module):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return (x * mask).sum(1) / mask.sum().clamp(min=1)


class PaddedByMask(nn.Module):
    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return (x * (torch.arange(x.shape[1]) < lengths.unsqueeze(1))).sum(1)


# -- Python arguments ------------------------------------------------------------------------------


class ManySteps(nn.Module):
    def forward(self, x: Tensor, steps: int = 1) -> Tensor:
        for _ in range(steps):
            x = x * 0.5 + 1
        return x


class StepLimit(nn.Module):
    def forward(self, x: Tensor, k: int = 4) -> Tensor:
        if k > 17:
            return x * 17
        if k % 2 == 1:
            return -x
        return x + 1


class MatchKind(nn.Module):
    def forward(self, x, kind: int = 0):
        match kind:
            case 0:
                return x.relu()
            case 1 | 2:
                return x.tanh()
            case _:
                return x.sigmoid()


class Reduction(nn.Module):
    def forward(self, x: Tensor, reduction: str = "mean") -> Tensor:
        if reduction == "mean":
            return x.mean(1)
        if reduction == "sum":
            return x.sum(1)
        return x.amax(1)


class FlagThenValue(nn.Module):
    def forward(self, x: Tensor, clip: bool = True) -> Tensor:
        if clip and x.max() > 2.0:
            return x.clamp(max=1.0)
        return x


class OptionalTop(nn.Module):
    def forward(self, x: Tensor, top: Optional[int] = None) -> Tensor:  # noqa: UP045
        if top is None:
            return x.sum(1)
        return x[:, :top].sum(1)


class LimitGiven(nn.Module):
    def forward(self, x: Tensor, limit: float = 0.5) -> Tensor:
        if x.mean() > limit:
            return x * 2
        return x


class MatchItem(nn.Module):
    def forward(self, x, kind):
        match int(kind):
            case 0:
                return x.relu()
            case 1:
                return x.tanh()
            case _:
                return x.sigmoid()


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


def time(size: int) -> Tensor:
    return normal(2, size, 3)


def ids(*numbers: int, at: int = 0) -> Tensor:
    """Return the example's ids with these numbers in the first row, from this place on."""
    made = IDS.clone()
    made[0, at : at + len(numbers)] = torch.tensor(numbers)
    return made


TWO_SIZES = {"shapes": B_T, "dims": {"batch": (1, 16), "time": (1, 16)}}

SIZE_BRANCHES = (
    branch(
        "product of sizes",
        ProductOfSizes,
        call(normal(3, 4)),
        call(normal(7, 11)),
        line="if x.shape[0] * x.shape[1] == 77",
        expect=SIZE,
        **TWO_SIZES,
        ci="",
    ),
    row(
        "product of sizes, alike",
        ProductOfSizesAlike,
        call(normal(3, 4)),
        truth(export=NARROWED),  # the ONNX file has no guard
        blame=decided("if x.shape[0] * x.shape[1] == 77:"),
        **TWO_SIZES,
        ci="",
    ),
    branch(
        "ratio of sizes",
        RatioOfSizes,
        call(normal(3, 4)),
        call(normal(11, 7)),
        line="if 7 * x.shape[0] == 11 * x.shape[1]",
        expect=SIZE,
        **TWO_SIZES,
        ci="",
    ),
    branch(
        "long time",
        LongTime,
        call(time(6)),
        call(time(14)),
        line="if x.shape[1] > 12",
        expect=SIZE,
        shapes=B_T_3,
        dims=TIME,
        ci="",
    ),
    # Slicing a short time returns all of it, so the ONNX file, which has no guard, is right.
    row(
        "long time, from long",
        LongTime,
        call(time(14)),
        truth(export=NARROWED),
        blame=decided("if x.shape[1] > 12:"),
        witnesses=(call(time(6)),),
        shapes=B_T_3,
        dims=TIME,
        ci="",
    ),
    row(
        "long time, kept short",
        LongTime,
        call(time(6)),
        shapes=B_T_3,
        dims={"time": (2, 12)},
        ci="script",
        round_trip=True,
    ),
    row(
        "long time, sliced",
        LongTimeSliced,
        call(time(6)),
        witnesses=(call(time(14)),),
        shapes=B_T_3,
        dims=TIME,
        ci="",
    ),
    branch(
        "odd time",
        OddTime,
        call(time(6)),
        call(time(5)),
        line="if x.shape[1] % 2",
        expect=SIZE,
        shapes=B_T_3,
        dims=TIME,
        ci="",
    ),
    # len(x) is a Python number: the size becomes static.
    branch(
        "only row",
        OnlyRow,
        X,
        call(normal(1, 3)),
        line="if len(x) == 1",
        expect=STATIC,
        ci="",
        refused={"export": decides_by_size("if len(x) == 1:")},
    ),
    branch(
        "many elements",
        ManyElements,
        call(time(4)),
        call(time(6)),
        line="if x.numel() > 30",
        expect=SIZE,
        shapes=B_T_3,
        dims=TIME,
        ci="",
    ),
    branch(
        "large grid",
        LargeGrid,
        call(normal(2, 3, 5, 6)),
        call(normal(2, 3, 8, 9)),
        line="if high * wide >= 64",
        expect=SIZE,
        shapes={"x": "batch 3 height width"},
        dims={"height": (4, 12), "width": (4, 12)},
        ci="",
    ),
    branch(
        "portrait",
        Portrait,
        call(normal(2, 3, 4, 6)),
        call(normal(2, 3, 6, 4)),
        line="if x.shape[2] > x.shape[3]",
        expect=SIZE,
        shapes={"x": "batch 3 height width"},
        dims={"height": (3, 8), "width": (3, 8)},
        ci="",
    ),
    branch(
        "same times",
        SameTimes,
        call(time(6), time(4)),
        call(time(4), time(4)),
        line="if q.shape[1] == k.shape[1]",
        expect=SIZE,
        shapes={"q": "batch n 3", "k": "batch m 3"},
        dims={"n": (2, 8), "m": (2, 8)},
        ci="",
    ),
    row(
        "halved",
        Halved,
        call(time(6)),
        truth(export=NARROWED),
        blame=decided("if x.shape[1] > 8:"),
        witnesses=(call(time(12)),),
        shapes=B_T_3,
        dims=TIME,
        ci="",
    ),
    branch(
        "no rows",
        NoRows,
        X,
        call(normal(0, 3)),
        line="if x.shape[0] == 0",
        expect=SIZE,
        dims={"batch": (0, 6)},
        shapes={"x": "batch 3"},
        ci="export",
    ),
    branch(
        "long and positive",
        LongAndPositive,
        call(time(4)),
        call(time(8) + 1),
        call(time(8) - 1),
        line="if x.shape[1] > 6 and x.sum() > 0",
        expect=SIZE,
        shapes=B_T_3,
        dims=TIME,
        ci="",
    ),
    branch(
        "long and positive, from long",
        LongAndPositive,
        call(time(8) + 1),
        call(time(8) - 1),
        call(time(4)),
        line="if x.shape[1] > 6 and x.sum() > 0",
        shapes=B_T_3,
        dims=TIME,
        ci="",
    ),
    branch(
        "chunks",
        Chunks,
        call(time(8)),
        call(time(4)),
        call(time(6)),
        call(time(12)),
        line="for start in range(0, x.shape[1], 4)",
        expect=STATIC,
        shapes=B_T_3,
        dims=TIME,
        ci="",
        refused={"export": frozen_size("for start in range(0, x.shape[1], 4):")},
    ),
    branch(
        "windows",
        Windows,
        call(time(6)),
        call(time(4)),
        call(time(12)),
        line="for start in range(0, x.shape[1], 4)",
        expect=STATIC,
        shapes=B_T_3,
        dims=TIME,
        ci="onnx",
        refused={"export": frozen_size("for start in range(0, x.shape[1], 4):")},
    ),
    branch(
        "view that fits",
        ViewThatFits,
        X,
        call(normal(5, 3)),
        line="except RuntimeError",
        expect=SIZE | {"script": REFUSED},
        ci="",
        refused={
            "script": no_construct("try:"),
            # torch asks for more than the line does: two rows fail too.
            "export": decided("except RuntimeError", known=False),
        },
    ),
    branch(
        "match shape",
        MatchShape,
        X,
        call(normal(4, 1)),
        call(normal(4, 2)),
        call(normal(4, 6)),
        line="case",
        expect=STATIC | {"script": REFUSED},
        shapes=B_T,
        dims={"time": (1, 6)},
        ci="",
        refused={
            "script": no_construct("match tuple(x.shape):"),
            "export": frozen_size("case (_, 2 | 3):"),
        },
    ),
    row("kind of shape", KindOfShape, X, round_trip=True),
    row("number of parts", NumberOfParts, call([N, N + 1]), ci="onnx_legacy", round_trip=True),
    branch(
        "prompt prefix",
        PromptPrefix,
        TOKENS,
        call(ids(7, 3, 8)),
        line="if torch.equal(ids[0, :3], self.prompt)",
    ),
    branch(
        "token count",
        TokenCount,
        TOKENS,
        call(ids(5, 5, 5, 5)),
        line="if (ids == 5).sum() > 3",
        ci="",
    ),
    branch(
        "ends in eos",
        EndsInEos,
        TOKENS,
        call(torch.tensor([[1, 4, 2], [3, 5, 2]])),
        line="if (ids[:, -1] == 2).all()",
        shapes=IDS_TIME,
        dims={"time": (2, 8)},
        ci="",
    ),
    branch(
        "begins with bos",
        BeginsWithBos,
        TOKENS,
        call(ids(1)),
        line="if ids[0, 0] == 1",
        ci="script",
    ),
    branch(
        "pair somewhere",
        PairSomewhere,
        TOKENS,
        call(ids(7, 4, at=2)),
        line="if ((ids[:, :-1] == 7) & (ids[:, 1:] == 4)).any()",
        ci="",
    ),
    branch(
        "distinct ids",
        DistinctIds,
        call(IDS[:, :4]),
        call(torch.arange(8).view(2, 4)),
        line="if ids.unique().numel() == ids.numel()",
        expect=PYTHON,
        shapes=IDS_FIXED,
        ci="",
        refused={
            "script": Blame(
                owner="capture",
                cause="unsupported operator",
                line="if ids.unique().numel() == ids.numel():",
            )
        },
    ),
    branch(
        "stuck tail",
        StuckTail,
        TOKENS,
        call(torch.tensor([[1, 4, 4], [3, 5, 5]])),
        line="if torch.equal(ids[:, -1], ids[:, -2])",
        shapes=IDS_TIME,
        dims={"time": (2, 8)},
        ci="",
    ),
    branch(
        "palindrome",
        Palindrome,
        TOKENS,
        call(torch.tensor([[3, 4, 3]])),
        line="if torch.equal(ids, ids.flip(1))",
        shapes=IDS_TIME,
        dims={"time": (2, 8)},
        ci="",
    ),
    branch(
        "outside vocabulary",
        OutsideVocabulary,
        TOKENS,
        call(ids(11)),
        line="if int(ids.max()) > 9",
        values={"ids": (0, 12)},
        ci="",
    ),
    branch(
        "check digit",
        CheckDigit,
        TOKENS,
        call(ids(1)),
        line="if int((ids * self.factors).sum()) % 11 == 4",
        ci="",
    ),
    branch(
        "bytes or shares",
        BytesOrShares,
        call(normal(2, 4, 5).sigmoid() * 255),
        call(normal(2, 4, 5).sigmoid()),
        line="if image.max() > 1",
        values={"image": (0.0, 255.0)},
        ci="",
    ),
    row(
        "token count by where",
        TokenCountByWhere,
        TOKENS,
        witnesses=(call(ids(5, 5, 5, 5)),),
        ci="onnx_legacy",
    ),
    row(
        "pair by cond",
        PairByCond,
        TOKENS,
        truth(REFUSED, export=None, onnx=None),
        witnesses=(call(ids(7, 4, at=2)),),
        ci="trace onnx onnx_legacy",
        round_trip=True,
        refused={
            "trace script onnx_legacy": no_construct(
                "torch.cond(found, lambda ids: ids + 100, lambda ids: ids.clo"
            )
        },
    ),
    branch(
        "nothing kept",
        NothingKept,
        call(N, MASK),
        call(N, MASK & False),
        line="if not mask.any()",
        values={"mask": [True, False]},
        ci="onnx_legacy",
    ),
    row(
        "nothing kept by where",
        NothingKeptByWhere,
        call(N, MASK),
        witnesses=(call(N, MASK & False),),
        values={"mask": [True, False]},
        ci="",
    ),
    row(
        "something masked",
        SomethingMasked,
        call(N, MASK),
        EQUAL,
        witnesses=(call(N, MASK | True),),
        refused={"export onnx": undecided("if bool((~mask).any()):")},
    ),
    branch(
        "something masked, from nothing",
        SomethingMasked,
        call(N, MASK | True),
        call(N, MASK),
        line="if bool((~mask).any())",
        ci="",
    ),
    branch(
        "same masks",
        SameMasks,
        call(N, MASK, ~MASK),
        call(N, MASK, MASK.clone()),
        line="if torch.equal(left, right)",
        values={"left": [True, False], "right": [True, False]},
        ci="",
    ),
    row(
        "padded",
        Padded,
        call(normal(3, 5), torch.tensor([5, 3, 1])),
        EQUAL,
        witnesses=(call(normal(3, 5), torch.tensor([5, 5, 5])),),
        **LENGTHS,
        ci="",
        refused={"export onnx": undecided("if int(lengths.min()) < x.shape[1]:")},
    ),
    branch(
        "padded, from full",
        Padded,
        call(normal(3, 5), torch.tensor([5, 5, 5])),
        call(normal(3, 5), torch.tensor([5, 3, 1])),
        line="if int(lengths.min()) < x.shape[1]",
        **LENGTHS,
        ci="onnx",
    ),
    row(
        "padded by mask",
        PaddedByMask,
        call(normal(3, 5), torch.tensor([5, 3, 1])),
        witnesses=(call(normal(3, 5), torch.tensor([5, 5, 5])),),
        **LENGTHS,
        ci="",
    ),
    branch(
        "short lengths",
        ShortLengths,
        call(normal(3, 5), torch.tensor([5, 3, 2])),
        call(normal(3, 5), torch.tensor([1, 2, 2])),
        call(normal(3, 5), torch.tensor([1, 2, 4])),
        line="if bool(short.all()) or int(short.sum()) == 2",
        **LENGTHS,
        ci="",
    ),
    row("many steps", ManySteps, X, ci=""),
    row(
        "many steps, varied",
        ManySteps,
        call(N, 1),
        BAKED,
        witnesses=(call(N, 0), call(N, 3)),
        line="for _ in range(steps)",
        values={"steps": [0, 1, 2, 3]},
        ci="export",
        blame={"export": GUARD},
    ),
    row(
        "step limit",
        StepLimit,
        call(N, 4),
        BAKED,
        witnesses=(call(N, 5), call(N, 18)),
        line="if k",
        values={"k": [3, 4, 5, 18]},
        ci="",
        blame={"export": GUARD},
    ),
    row(
        "match kind",
        MatchKind,
        call(N, 0),
        BAKED | {"script": REFUSED},
        witnesses=(call(N, 1), call(N, 2), call(N, 3)),
        line="case",
        values={"kind": [0, 1, 2, 3]},
        ci="onnx",
        blame={"export": GUARD},
        refused={"script": no_construct("match kind:")},
    ),
    row(
        "reduction",
        Reduction,
        call(N, "mean"),
        BAKED,
        witnesses=(call(N, "sum"), call(N, "max")),
        line="reduction == ",
        values={"reduction": ["mean", "sum", "max"]},
        ci="",
        blame={"export": GUARD},
    ),
    row("reduction, always the same", Reduction, call(N, "sum"), ci="export", round_trip=True),
    branch(
        "flag, then value",
        FlagThenValue,
        call(N, True),
        call(N + 1, True),
        line="if clip and x.max() > 2.0",
        ci="",
    ),
    row(
        "optional top",
        OptionalTop,
        call(N, None),
        truth(BRANCH, script=None),
        witnesses=(call(N, 1), call(N, 2)),
        line="if top is None",
        values={"top": [None, 1, 2]},
        ci="export",
    ),
    branch(
        "limit given",
        LimitGiven,
        call(N, 0.25),
        call(N + 1, 0.25),
        line="if x.mean() > limit",
        ci="export",
    ),
    branch(
        "match item",
        MatchItem,
        call(N, torch.tensor(0)),
        call(N, torch.tensor(1)),
        call(N, torch.tensor(2)),
        line="case",
        expect=PYTHON,
        values={"kind": (0, 2)},
        ci="script",
        refused={
            "script": no_construct("match int(kind):"),
            "export onnx": undecided("match int(kind):"),
        },
    ),
)
