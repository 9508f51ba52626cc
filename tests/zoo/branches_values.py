"""Branches on float tensors: by where the threshold is stored, how the parts of the condition are
joined, and what is compared.
"""

from __future__ import annotations

import types
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.branches import EQUAL, PYTHON, branch, filled, rows
from zoo.row import UNVERIFIED, call, no_type, normal, row, undecided

# -- where the threshold lives ---------------------------------------------------------------------


class SignOfMean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > 0:
            return x * 2
        return x - 1


class MaxAboveLiteral(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.max() > 2.5:
            x = x / x.max()
        return x + 1


class MinByItem(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        lowest = x.min().item()
        if lowest < -3.0:
            return x + 3.0
        return x.tanh()


class LimitInAttribute(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.limit = 2.75

    def forward(self, x: Tensor) -> Tensor:
        if x.abs().amax() >= self.limit:
            return x.clamp(-1.0, 1.0)
        return x * 0.5


class LimitInBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("limit", torch.tensor(1.25))

    def forward(self, x: Tensor) -> Tensor:
        if bool(x.std() > self.limit):
            return (x - x.mean()) / x.std()
        return x


@dataclass(frozen=True)
class Limits:
    low: float = -1.5
    high: float = 1.5


class LimitInConfig(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.config = Limits()

    def forward(self, x: Tensor) -> Tensor:
        if x.mean() < self.config.low:
            return x - self.config.low
        if x.mean() > self.config.high:
            return x * self.config.high
        return x.exp()


class LimitInNamespace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.config = types.SimpleNamespace(clip=types.SimpleNamespace(norm=6.5))

    def forward(self, x: Tensor) -> Tensor:
        norm = x.norm()
        if norm > self.config.clip.norm:
            x = x * (self.config.clip.norm / norm)
        return x + 1


class LearnedLimit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.limit = nn.Parameter(torch.tensor(0.85))

    def forward(self, x: Tensor) -> Tensor:
        if x.square().mean().sqrt() > self.limit + 0.5:
            return x * self.limit
        return x + self.limit


class LearnedLimitPerFeature(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.limits = nn.Parameter(torch.rand(3) + 1.0)

    def forward(self, x: Tensor) -> Tensor:
        if (x.mean(0) > self.limits).any():
            return x - self.limits
        return x * 3


class LearnedBand(nn.Module):
    """A narrow band on a learned projection: few random inputs fall into it."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        score = self.project(x).mean()
        if 1.05 < score < 1.07:
            return x * score
        return x - 1


class DeepBand(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 8)
        self.outer = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        score = self.outer(torch.tanh(self.inner(x))).amax()
        if score > 0.40:  # noqa: SIM102  # two conditions, on two lines
            if score < 0.42:
                return x + 5
        return x * 2


class NormBand(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        norm = x.norm()
        if norm > 5.0 and norm < 5.1:
            return x / norm
        return x * 2


class CosineBand(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        cosine = F.cosine_similarity(x.flatten(), y.flatten(), dim=0)
        if 0.70 < cosine < 0.72:
            return x - y
        return x + y


# -- parts, chains, nesting ------------------------------------------------------------------------


class ChainedMean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if 0.2 < x.mean() < 0.4:
            return x * 4
        return x + 4


class ChainedNumbers(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        top = float(x.max())
        if 2.0 <= top <= 3.0 != float(x.min()):
            return -x
        return x


class BothExtremes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.max() > 1.8 and x.min() < -2.4:
            return x.sign()
        return x + 1


class EitherExtreme(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.max() > 2.0 or x.min() < -2.5:
            return x * 0.1
        return x


class NotSmall(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if not bool((x.abs() < 1.0).all()):
            return x / x.abs().max()
        return x + 10


class MixedParts(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        wide = x.std() > 1.5
        if wide and (x.mean() > 0.5 or not bool((x[:, 0] < 0).any())):
            return x * 2
        return x + 1


class ThreeDeep(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            if x.max() > 2.0:
                if x[:, 0].mean() < 0:
                    return x * 5
                return x * 4
            return x * 3
        return x * 2


class ThreeDeepLearned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 1)
        self.second = nn.Linear(3, 1)
        self.third = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = x
        if self.first(x).mean() > 0.5:
            out = out + 1
            if self.second(x).mean() < 0:
                out = out * 2
                if self.third(x).amax() > 0.3:
                    out = -out
        return out


class Elif(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        level = x.mean()
        if level < -1:
            out = x + 1
        elif level < 0:
            out = x * 2
        elif level < 1:
            out = x - 3
        else:
            out = x / 4
        return out


# -- what is compared ------------------------------------------------------------------------------


class LargerMean(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if x.mean() > y.mean():
            return x - y
        return y * 2


class Dominates(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if (x > y).all():
            return x
        return x + y


class SameTensor(nn.Module):
    """A trace makes ``torch.equal`` a constant, without a warning."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if torch.equal(x, y):
            return x * 3
        return x - y


class CloseTensor(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if torch.allclose(x, y, atol=1e-2):
            return x * 3
        return x - 2 * y


class Symmetric(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if torch.equal(x, x.t()):
            return x @ x
        return x @ x.t()


class Standardize(nn.Module):
    """Tests for a constant input, whose standard deviation of 0 would be divided by."""

    def forward(self, x: Tensor) -> Tensor:
        deviation = x.std()
        if deviation < 1e-6:
            return torch.zeros_like(x)
        return (x - x.mean()) / deviation


class NothingThere(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if torch.count_nonzero(x) == 0:
            return x + 7
        return x / x.abs().sum()


class Ascending(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if (x[:, 1:] >= x[:, :-1]).all():
            return x[:, :1] * 2
        return x.amin(1, keepdim=True)


class StrongestColumn(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if int(x.sum(0).argmax()) == 2:
            return x.flip(1)
        return x


class RoundedSum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if int(x.sum()) % 3 == 1:
            return x + 1
        return x - 1


class ItemArithmetic(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        spread = x.max().item() - x.min().item()
        if spread * 2 + 1 > 10:
            return x / 10
        return x * 10


class BoolTensor(nn.Module):
    def forward(self, x: Tensor, flag: Tensor) -> Tensor:
        if bool(flag):
            return x * 2
        return x + 1


class AnyNan(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if torch.isnan(x).any():
            x = torch.nan_to_num(x, nan=-1.0)
        return x * 2


class AllFinite(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if not torch.isfinite(x).all():
            return torch.zeros_like(x)
        return x + 1


def tilted(x: Tensor, degrees: float) -> Tensor:
    """Return another tensor of the same norm, at this angle."""
    angle = torch.deg2rad(torch.tensor(degrees))
    other = normal(*x.shape, seed=9)
    across = other - (other * x).sum() / x.square().sum() * x
    return x * angle.cos() + across / across.norm() * x.norm() * angle.sin()


X = call(normal(4, 3))
WIDE = {"x": (-4.0, 4.0)}
FIXED = {"x": "..."}
N = normal(4, 3)
SYMMETRIC = normal(3, 3) + normal(3, 3).t()
GRID = torch.tensor([[-1.0, 0.0, 2.0], [2.0, -1.0, -1.0], [0.0, 2.0, -1.0], [-1.0, 2.0, 2.0]])

VALUE_BRANCHES = (
    branch("sign of mean", SignOfMean, X, call(N + 1), line="if x.mean() > 0", ci=""),
    branch(
        "sign of mean, from the other side",
        SignOfMean,
        call(N + 1),
        call(N),
        line="if x.mean() > 0",
        ci="script",
        round_trip=True,
    ),
    row(
        "sign of mean, positive inputs",
        SignOfMean,
        call(N.abs() + 0.5),
        EQUAL,
        values={"x": (0.25, 4.0)},
        weak=UNVERIFIED,
        ci="",
        refused={"export onnx": undecided("if x.mean() > 0:")},
    ),
    branch(
        "max above literal",
        MaxAboveLiteral,
        X,
        call(N * 1.75),
        line="if x.max() > 2.5",
        values=WIDE,
        ci="",
    ),
    row(
        "max above literal, out of reach",
        MaxAboveLiteral,
        X,
        EQUAL,
        values={"x": (-2.25, 2.25)},
        weak=UNVERIFIED,
        ci="onnx_legacy",
        round_trip=True,
        refused={"export onnx": undecided("if x.max() > 2.5:")},
    ),
    branch("min by item", MinByItem, X, call(N * 1.5), line="if lowest < -3.0", ci=""),
    branch(
        "limit in attribute",
        LimitInAttribute,
        X,
        call(N * 1.5),
        line="if x.abs().amax() >= self.limit",
        ci="",
    ),
    branch(
        "limit in buffer",
        LimitInBuffer,
        X,
        call(N * 1.75),
        line="if bool(x.std() > self.limit)",
        ci="",
    ),
    branch(
        "limit in config",
        LimitInConfig,
        X,
        call(N - 2),
        call(N + 2),
        line="self.config",
        expect=PYTHON,
        ci="",
        refused={"script": no_type("if x.mean() < self.config.low:")},
    ),
    branch(
        "limit in namespace",
        LimitInNamespace,
        X,
        call(N * 2),
        line="if norm > self.config.clip.norm",
        expect=PYTHON,
        ci="script",
        refused={"script": no_type("if norm > self.config.clip.norm:")},
    ),
    branch(
        "learned limit",
        LearnedLimit,
        X,
        call(N * 1.5),
        line="if x.square().mean().sqrt() > self.limit + 0.5",
        ci="",
    ),
    branch(
        "learned limit per feature",
        LearnedLimitPerFeature,
        X,
        call(N + 2),
        line="if (x.mean(0) > self.limits).any()",
        ci="",
    ),
    branch(
        "learned band",
        LearnedBand,
        X,
        call(rows(-1.88, 1.88, -1.88)),
        call(rows(-2.5, 2.5, -2.5)),
        line="if 1.05 < score < 1.07",
        values=WIDE,
        ci="",
    ),
    branch(
        "deep band",
        DeepBand,
        X,
        call(rows(3.75, -3.5, 0.5)),
        call(rows(2.0, -3.75, 2.5)),
        line="if score",
        values=WIDE,
        ci="",
    ),
    branch(
        "norm band",
        NormBand,
        X,
        call(N / N.norm() * 5.05),
        call(N * 2),
        line="if norm > 5.0 and norm < 5.1",
        ci="",
    ),
    branch(
        "cosine band",
        CosineBand,
        call(N, normal(4, 3, seed=1)),
        call(N, tilted(N, 44.7)),
        call(N, tilted(N, 10)),
        line="if 0.70 < cosine < 0.72",
        ci="",
    ),
    branch(
        "chained mean",
        ChainedMean,
        X,
        call(N - N.mean() + 0.3),
        call(N + 2),
        line="if 0.2 < x.mean() < 0.4",
        ci="",
    ),
    branch(
        "chained numbers",
        ChainedNumbers,
        X,
        call(N + 1),
        call(N + 2.4),
        call(rows(-1.0, 0.0, 2.5)),
        call(filled(3.0, 4, 3)),
        line="if 2.0 <= top <= 3.0",
        values=WIDE,
        refused={"export onnx": undecided("top = float(x.max())")},
        ci="",
    ),
    branch(
        "both extremes",
        BothExtremes,
        X,
        call(N * 1.5),
        call(N + 1),
        line="if x.max() > 1.8 and x.min() < -2.4",
        ci="onnx_legacy",
    ),
    branch(
        "either extreme",
        EitherExtreme,
        X,
        call(N + 1),
        call(N - 0.5),
        line="if x.max() > 2.0 or x.min() < -2.5",
        ci="",
    ),
    branch(
        "not small", NotSmall, X, call(N * 0.25), line="if not bool((x.abs() < 1.0).all())", ci=""
    ),
    branch(
        "mixed parts",
        MixedParts,
        X,
        call(N * 1.75 + 1),
        call(N * 1.75),
        call(N * 1.75 * torch.tensor([0.0, 1.0, 1.0]) + torch.tensor([0.5, 0.0, 0.0])),
        line="if wide and (x.mean() > 0.5 or not bool((x[:, 0] < 0).any()))",
        ci="",
    ),
    branch(
        "three deep",
        ThreeDeep,
        X,
        call(N * 0.5 + 0.5),
        call(N + 1.5),
        call(rows(-1.0, 2.5, 0.5)),
        line="if x.sum() > 0",
        ci="",
    ),
    branch(
        "three deep, learned",
        ThreeDeepLearned,
        X,
        call(rows(-1.75, 4.0, -1.75)),
        call(rows(2.5, -2.0, -3.5)),
        call(rows(3.0, 0.25, -3.75)),
        line="if self.first(x).mean() > 0.5",
        values=WIDE,
        ci="",
    ),
    branch("elif", Elif, X, call(N - 2), call(N + 1), call(N + 2), line="if level <", ci=""),
    branch(
        "larger mean",
        LargerMean,
        call(N, N.flip(0) + 0.5),
        call(N + 1, N.flip(0)),
        line="if x.mean() > y.mean()",
        ci="",
    ),
    branch(
        "dominates",
        Dominates,
        call(N, normal(4, 3, seed=1)),
        call(N, N - 0.5),
        line="if (x > y).all()",
        ci="",
    ),
    branch(
        "same tensor",
        SameTensor,
        call(N, normal(4, 3, seed=1)),
        call(N, N.clone()),
        line="if torch.equal(x, y)",
        ci="",
    ),
    branch(
        "close tensor",
        CloseTensor,
        call(N, normal(4, 3, seed=1)),
        call(N, N + 0.001),
        line="if torch.allclose(x, y, atol=1e-2)",
        ci="",
    ),
    # The general side is right for a symmetric matrix too.
    row(
        "symmetric",
        Symmetric,
        call(normal(3, 3)),
        EQUAL,
        witnesses=(call(SYMMETRIC),),
        shapes=FIXED,
        round_trip=True,
        refused={"export onnx": undecided("if torch.equal(x, x.t()):")},
    ),
    branch(
        "symmetric, from a symmetric one",
        Symmetric,
        call(SYMMETRIC),
        call(normal(3, 3)),
        line="if torch.equal(x, x.t())",
        shapes=FIXED,
        ci="",
    ),
    branch(
        "standardize", Standardize, X, call(filled(0.5, 4, 3)), line="if deviation < 1e-6", ci=""
    ),
    branch(
        "nothing there",
        NothingThere,
        X,
        call(filled(0.0, 4, 3)),
        line="if torch.count_nonzero(x) == 0",
        ci="",
    ),
    branch(
        "ascending",
        Ascending,
        X,
        call(N.sort(1).values),
        line="if (x[:, 1:] >= x[:, :-1]).all()",
        ci="",
    ),
    branch(
        "strongest column",
        StrongestColumn,
        X,
        call(N.flip(1)),
        line="if int(x.sum(0).argmax()) == 2",
        ci="",
    ),
    branch(
        "rounded sum",
        RoundedSum,
        X,
        call(N - N.mean() + 1.5 / 12),
        line="if int(x.sum()) % 3 == 1",
        ci="onnx",
    ),
    branch(
        "item arithmetic", ItemArithmetic, X, call(N * 1.5), line="if spread * 2 + 1 > 10", ci=""
    ),
    branch(
        "bool tensor",
        BoolTensor,
        call(N, torch.tensor(True)),
        call(N, torch.tensor(False)),
        line="if bool(flag)",
        values={"flag": [True, False]},
        ci="",
    ),
    branch(
        "any nan",
        AnyNan,
        call(GRID),
        call(torch.where(GRID == 0, torch.nan, GRID)),
        line="if torch.isnan(x).any()",
        values={"x": [-1.0, 0.0, 2.0, torch.nan]},
        ci="",
    ),
    # NaN is no legal value here, so no legal call tells the two sides apart.
    row(
        "any nan, without nan",
        AnyNan,
        X,
        EQUAL,
        weak=UNVERIFIED,
        ci="",
        refused={"export onnx": undecided("if torch.isnan(x).any():")},
    ),
    branch(
        "all finite",
        AllFinite,
        call(GRID),
        call(torch.where(GRID == 0, torch.inf, GRID)),
        line="if not torch.isfinite(x).all()",
        values={"x": [-1.0, 0.0, 2.0, torch.inf]},
        ci="export",
    ),
)
