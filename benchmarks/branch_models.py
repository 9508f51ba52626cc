"""Models for ``branches.py`` on which the search for branches was developed.

Their conditions have no useful gradient, or need several things at once: step functions, counts,
indices, saturated and deep networks, numbers and words computed from tensors.
``branch_models_held_out`` has others of the same kinds, on which the search was only measured.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from branch_rows import beyond, searched
from torch import Tensor, nn
from zoo.row import normal, whole

WIDE = {"values": {"x": (-5.0, 5.0)}}
N = normal(4, 3)
LINE = normal(16)


# -- step functions --------------------------------------------------------------------------------


class RoundedLevel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        level = torch.round(x.mean() * 4)
        if level == 7:
            return x + 1
        if level < -9:
            return x * 2
        return x


class FloorBucket(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        bucket = int(torch.floor(x.abs().max() / 0.4))
        if bucket == 11:
            return x.tanh()
        if bucket < 2:
            return x * 10
        return x


class CeiledNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        steps = torch.ceil(x.norm() * 3).item()
        if steps % 11 == 5:
            return x / x.norm()
        if steps > 45:
            return x.sign()
        return x


class SignVotes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        votes = torch.sign(x).sum()
        if 9 <= votes <= 12:
            return x.relu()
        if votes == -14:
            return -x
        return x


# -- counts and sizes ------------------------------------------------------------------------------


class CountAbove(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        count = (x > 1.5).sum()
        if count == 7:
            return x.clamp(max=1.5)
        if count > 9:
            if count < 12:
                return x - 1.5
            return x / 2
        return x


class CountsPerRow(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        small = (x.abs() < 0.05).sum(-1)
        if (small == 3).any() and (small == 0).any():
            return x.sign()
        return x


class DistinctIds(nn.Module):
    def forward(self, ids: Tensor) -> Tensor:
        distinct = torch.unique(ids).numel()
        if distinct == 2:
            return ids + 1
        if distinct >= 21:
            return ids * 2
        return ids


class BalancedLabels(nn.Module):
    def forward(self, labels: Tensor) -> Tensor:
        counts = torch.bincount(labels, minlength=5)
        if counts.max() - counts.min() <= 1:
            return labels.float() / 5
        if counts[3] == 9:
            return labels.float() * 2
        return labels.float()


class FoundAbove(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        places = (x > 2).nonzero()
        if places.shape[0] > 10:
            return x[places[:, 0]].sum(0)
        if len(places) == 4:
            return x.mean(0)
        return x.sum(0)


# -- indices ---------------------------------------------------------------------------------------


class RareClass(nn.Module):
    """The bias makes one class win only far from the usual inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.classify = nn.Linear(6, 24)
        with torch.no_grad():
            self.classify.bias[17] -= 3.0

    def forward(self, x: Tensor) -> Tensor:
        scores = self.classify(x).mean(0)
        if scores.argmax() == 17:
            return x * 2
        return x


class SameWinner(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        winners = x.argmin(1)
        if (winners == winners[0]).all() and winners[0] == 4:
            return x - x[:, 4:5]
        return x


class TopThree(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("wanted", torch.tensor([1, 4, 9]))

    def forward(self, x: Tensor) -> Tensor:
        best = x.topk(3).indices.sort().values
        if torch.equal(best, self.wanted):
            return x.cumsum(0)
        return x


# -- saturated -------------------------------------------------------------------------------------


class UndecidedGate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(10 * self.gate(x))
        if gate.min() > 0.35 and gate.max() < 0.65:
            return x * gate.mean()
        return x * gate.max()


class SaturatedTanh(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 8), nn.Linear(8, 5)
        self.limit = 0.0

    def score(self, x: Tensor) -> Tensor:
        return torch.tanh(6 * self.second(torch.tanh(8 * self.first(x)))).mean()

    def forward(self, x: Tensor) -> Tensor:
        if self.score(x) > self.limit:
            return x + 1
        return x


class DeadRelu6(nn.Module):
    """The bias keeps every unit at zero for usual inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        with torch.no_grad():
            self.conv.bias -= 6.0

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.conv(x))
        if y.amax((2, 3)).max() > 5.5:
            return y
        return y + 1


class ClippedGate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 4)
        with torch.no_grad():
            self.inner.bias -= 7.0

    def forward(self, x: Tensor) -> Tensor:
        gate = F.hardtanh(self.inner(x))
        if gate.mean() > -0.3:
            return x.abs()
        return x


class FlatSoftmax(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.softmax(30 * self.inner(x), -1)
        if weights.amax() < 0.4:
            return x.mean(-1)
        return weights.sum(-1)


# -- deep ------------------------------------------------------------------------------------------


class DeepMlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        widths = (6, 16, 16, 16, 16)
        parts = [
            part
            for one, other in zip(widths, widths[1:], strict=False)
            for part in (nn.Linear(one, other), nn.GELU())
        ]
        self.net = nn.Sequential(*parts, nn.Linear(16, 3))
        self.limit = 0.0

    def score(self, x: Tensor) -> Tensor:
        return self.net(x).max()

    def forward(self, x: Tensor) -> Tensor:
        if self.score(x) > self.limit:
            return self.net(x) * 2
        return self.net(x)


class DeepConv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(2, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 4, 3, padding=1),
        )
        self.limit = 0.0

    def score(self, x: Tensor) -> Tensor:
        return self.net(x).mean((2, 3)).amin()

    def forward(self, x: Tensor) -> Tensor:
        if self.score(x) > self.limit:
            return x.mean((2, 3)) * 3
        return x.amax((2, 3))


class AttentionPeak(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before = nn.LayerNorm(8)
        self.first = nn.MultiheadAttention(8, 2, batch_first=True)
        self.second = nn.MultiheadAttention(8, 2, batch_first=True)
        self.limit = 0.0

    def score(self, x: Tensor) -> Tensor:
        h = self.before(x)
        h = h + self.first(h, h, h, need_weights=False)[0]
        return self.second(3 * h, 3 * h, h)[1].amax()

    def forward(self, x: Tensor) -> Tensor:
        if self.score(x) > self.limit:
            return x.mean(1)
        return x[:, 0]


class NormBand(nn.Module):
    """A band that has to be met from outside, behind three normalized layers."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            *(part for _ in range(3) for part in (nn.Linear(6, 6), nn.LayerNorm(6), nn.Tanh())),
            nn.Linear(6, 1),
        )
        self.limit = 0.0

    def score(self, x: Tensor) -> Tensor:
        return self.net(x).mean()

    def forward(self, x: Tensor) -> Tensor:
        score = self.score(x)
        if score > self.limit:
            if score < self.limit + 0.02:
                return x - 1
            return x + 1
        return x


# -- several at once -------------------------------------------------------------------------------


class MeanAndSpread(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > 1 and x.std() < 0.6 and x[0, 0] < 0:
            return x - x.mean()
        return x


class TwoJudges(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
        self.other = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
        self.limit = 0.0

    def score(self, x: Tensor) -> Tensor:
        return torch.minimum(self.one(x).min(), self.other(x).min())

    def only_one(self, x: Tensor) -> Tensor:
        return self.one(x).min() - self.other(x).min()

    def forward(self, x: Tensor) -> Tensor:
        if self.one(x).min() > self.limit and self.other(x).min() > self.limit:
            return x * 2
        return x


# -- numbers and words from tensors ----------------------------------------------------------------


class Level(enum.Enum):
    LOW = 0
    MIDDLE = 1
    HIGH = 2
    TOP = 3


class LevelOfSum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        level = Level(int((x.sum() / 10).clamp(0, 3)))
        if level is Level.TOP:
            return x * 3
        if level == Level.HIGH:
            return x * 2
        return x


class WordOfTemperature(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        warmest = x.max().item()
        word = "hot" if warmest > 4.5 else "cold" if warmest < -2 else "mild"
        if word == "hot" and x.min() > 3:
            return x - 3
        if word == "cold":
            return x + 2
        return x


WORDS = {0: "go", 1: "stop", 2: "wait"}


class WordOfIndex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 3)
        with torch.no_grad():
            self.inner.bias[1] -= 2.5

    def forward(self, x: Tensor) -> Tensor:
        word = WORDS[int(self.inner(x).sum(0).argmax())]
        if word == "stop":
            return torch.zeros_like(x)
        return x


# -- sorted, in order, cumulative ------------------------------------------------------------------


class MedianAgainstMean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.median() > 1.2 and x.mean() < 0:
            return x.clamp(min=0)
        return x


class HighQuantile(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if torch.quantile(x, 0.8) < -1 and x.max() > 4:
            return x.clamp(max=1)
        return x


class SortedGap(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        ordered = x.sort().values
        if (ordered[1:] - ordered[:-1]).max() > 7:
            return ordered
        return x


class CrossingPlace(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        below = int((x.cumsum(0) < 8).sum())
        if below == 5:
            return x[:5].sum()
        if below == 0:
            return x[0]
        return x.sum()


class Survival(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        alive = (1 - x).cumprod(0)
        if 0.5 < alive[-1] < 0.55:
            return alive
        return 1 - alive


class Trips(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        state, trips = torch.zeros(()), 0
        for value in x.unbind():
            state = 0.8 * state + value
            if state > 6:
                trips += 1
                state = torch.zeros(())
        if trips >= 3:
            return x * 0
        return x


# -- integers --------------------------------------------------------------------------------------


class Stuttering(nn.Module):
    def forward(self, ids: Tensor) -> Tensor:
        if (ids[1:] == ids[:-1]).sum() == 5:
            return ids * 2
        return ids


class Ascending(nn.Module):
    def forward(self, ids: Tensor) -> Tensor:
        if (ids[1:] >= ids[:-1]).all() and ids[0] > 5 and ids[-1] > ids[0]:
            return ids - ids[0]
        return ids


class Checksum(nn.Module):
    def forward(self, ids: Tensor) -> Tensor:
        if ids.sum() == 100:
            return ids + 1
        return ids


class EvenIds(nn.Module):
    def forward(self, ids: Tensor) -> Tensor:
        if (ids % 2 == 0).all() and ids.max() > 40:
            return ids // 2
        return ids


# -- through Python --------------------------------------------------------------------------------


class Spelled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        text = "".join("ab"[int(value > 0)] for value in x)
        if text == "aabbabaa":
            return x * 2
        return x


class Percent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if f"{x.mean().item():.0%}" == "137%":
            return x * 2
        return x


class SortedList(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        values = sorted(x.tolist())
        if values[3] > 1.5 and values[0] < -2:
            return x.relu()
        return x


class CountedInPython(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        high = 0
        for value in x.unbind():
            if value > 1.3:
                high += 1
        if high == 6:
            return x - 1.3
        return x


class FilteredList(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        low = [value for value in x.tolist() if value < -1.5]
        if len(low) == 7:
            return x + 1.5
        return x


class BestOfList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 5)
        with torch.no_grad():
            self.inner.bias[3] -= 3.0

    def forward(self, x: Tensor) -> Tensor:
        scores = self.inner(x).sum(0)
        best = max(range(5), key=lambda index: float(scores[index]))
        if best == 3:
            return x * 2
        return x


# -- buckets and neighbours ------------------------------------------------------------------------


class Buckets(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("edges", torch.tensor([-2.0, -0.5, 0.5, 2.0]))

    def forward(self, x: Tensor) -> Tensor:
        counts = torch.bincount(torch.bucketize(x, self.edges), minlength=5)
        if counts[4] == 6:
            return x - 2
        return x


class GradeOfMean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("edges", torch.tensor([-3.0, -2.0, -1.0, 1.0, 2.0, 3.0]))

    def forward(self, x: Tensor) -> Tensor:
        grade = int(torch.searchsorted(self.edges, x.mean()))
        if grade == 5:
            return x / 2
        if grade == 0:
            return x * 2
        return x


class OwnCentres(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centres", 2 * normal(4, 3, seed=3))

    def forward(self, x: Tensor) -> Tensor:
        nearest = torch.cdist(x, self.centres).argmin(1)
        if nearest.unique().numel() == 4:
            return x * 2
        return x


class KeptNumber(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        kept = x[x > 1.2]
        if kept.numel() == 5:
            return kept.sum()
        return x.sum()


# -- of several numbers ----------------------------------------------------------------------------


class Opposite(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if F.cosine_similarity(x, y, 0) < -0.97 and x.norm() > 5:
            return x - y
        return x + y


class NarrowFar(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.std() < 1e-2 and x.mean() > 2.5:
            return x - x.mean()
        return x


class LargestIsNegative(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        place = x.abs().argmax()
        if place == 7 and x[7] < 0:
            return -x
        return x


class Determinant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if torch.linalg.det(x) > 12:
            return x.T
        return x


class Pooled(nn.Module):
    """A recurrent layer, fused kernels, and a clamped score."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(4, 6, batch_first=True)
        self.head = nn.Linear(6, 1)
        self.limit = 0.0

    def score(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(3 * x)[0].amax(1)).clamp(-2, 2).amin()

    def forward(self, x: Tensor) -> Tensor:
        if self.score(x) > self.limit:
            return x.mean(1)
        return x[:, -1]


class HardSwishNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            *(nn.Conv1d(2, 6, 3, padding=1), nn.BatchNorm1d(6), nn.Hardswish()),
            *(nn.Conv1d(6, 6, 3, padding=1), nn.BatchNorm1d(6), nn.Hardswish()),
            nn.Conv1d(6, 1, 1),
        )
        self.limit = 0.0

    def score(self, x: Tensor) -> Tensor:
        return self.net(x).amax(2).mean()

    def forward(self, x: Tensor) -> Tensor:
        if self.score(x) > self.limit:
            return x * 0.5
        return x


# -- without any slope -----------------------------------------------------------------------------


class Peaked(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        counts = torch.histc(x, bins=10, min=-5, max=5)
        if counts.max() >= 10:
            return x - x.mean()
        if (counts == 0).sum() == 2:
            return x * 2
        return x


class Repeated(nn.Module):
    def forward(self, ids: Tensor) -> Tensor:
        if ids.unique(return_counts=True)[1].max() == 9:
            return ids * 2
        return ids


class FewRuns(nn.Module):
    def forward(self, ids: Tensor) -> Tensor:
        runs = torch.unique_consecutive(ids).numel()
        if 2 <= runs <= 3:
            return ids * 2
        return ids


class UsualFirst(nn.Module):
    def forward(self, ids: Tensor) -> Tensor:
        if ids.mode().values == ids[0] and ids[0] == 17:
            return ids - 17
        return ids


class DistinctList(nn.Module):
    def forward(self, ids: Tensor) -> Tensor:
        if len(set(ids.tolist())) == 5:
            return ids * 2
        return ids


class SpecialIds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("special", torch.tensor([3, 8, 11]))

    def forward(self, ids: Tensor) -> Tensor:
        if torch.isin(ids, self.special).sum() == 6:
            return ids + 1
        return ids


class SmallSteps(nn.Module):
    def forward(self, ids: Tensor) -> Tensor:
        if ids.diff().abs().max() <= 3 and ids[-1] - ids[0] > 8:
            return ids - ids[0]
        return ids


class WholeNumbers(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if (x.round() == x).sum() == 4:
            return x * 2
        return x


class Permutation(nn.Module):
    def forward(self, ids: Tensor) -> Tensor:
        if (ids.bincount(minlength=6) == 1).all():
            return ids.flip(0)
        return ids


class Triangle(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.tril().equal(x) and x.diagonal().min() > 1:
            return x.inverse()
        return x


class Symmetric(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if (x == x.T).all() and x[0, 1] > 0.5:
            return x @ x
        return x


class TopHeavy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        best = x.topk(4).values.sum()
        if best - x.sum() > 20 and best < 9:
            return x.relu()
        return x


# -- deeper ----------------------------------------------------------------------------------------


class SigmoidStack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 10), nn.Linear(10, 10), nn.Linear(10, 2)])
        self.limit = 0.0

    def score(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.sigmoid(9 * layer(x) - 2)
        return x[:, 0].mean()

    def forward(self, x: Tensor) -> Tensor:
        if self.score(x) > self.limit:
            return x * 2
        return x


class ConvResidual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ELU(), nn.Conv2d(4, 2, 1)
            )
            for _ in range(4)
        )
        self.limit = 0.0

    def score(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + 0.7 * block(x)
        return (x[:, 0] - x[:, 1]).mean()

    def forward(self, x: Tensor) -> Tensor:
        if self.score(x) > self.limit:
            return x * 2
        return x


class TwoGru(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 8, num_layers=2, batch_first=True, bidirectional=True)
        self.limit = 0.0

    def score(self, x: Tensor) -> Tensor:
        return self.gru(2 * x)[0].mean(1)[:, 2].amin()

    def forward(self, x: Tensor) -> Tensor:
        if self.score(x) > self.limit:
            return x[:, 0]
        return x[:, -1]


class GruBand(TwoGru):
    def forward(self, x: Tensor) -> Tensor:
        score = self.score(x)
        if score > self.limit and score < self.limit + 0.01:
            return x[:, 0]
        return x[:, -1]


class PreNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 16, 0.0, F.gelu, batch_first=True, norm_first=True),
            3,
            norm=nn.LayerNorm(8),
            enable_nested_tensor=False,
        )
        self.head = nn.Linear(8, 4)
        self.limit = 0.0

    def score(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x)).softmax(-1)[..., 1].mean()

    def forward(self, x: Tensor) -> Tensor:
        if self.score(x) > self.limit:
            return x.mean(1)
        return x[:, 0]


class SmallError(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Linear(8, 5), nn.Softplus(), nn.Linear(5, 2))
        self.up = nn.Sequential(nn.Linear(2, 5), nn.Softplus(), nn.Linear(5, 8))
        self.limit = 0.0

    def score(self, x: Tensor) -> Tensor:
        return F.cosine_similarity(self.up(self.down(x)), x, -1).amin()

    def forward(self, x: Tensor) -> Tensor:
        if self.score(x) > self.limit:
            return x
        return self.up(self.down(x))


class TokenGru(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 6)
        self.gru = nn.GRU(6, 8, batch_first=True)
        self.head = nn.Linear(8, 1)
        self.limit = 0.0

    def score(self, ids: Tensor) -> Tensor:
        return self.head(self.gru(self.embed(ids)[None])[1]).squeeze()

    def forward(self, ids: Tensor) -> Tensor:
        if self.score(ids) > self.limit:
            return ids * 2
        return ids


class TokenAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.places = nn.Embedding(30, 8), nn.Parameter(torch.randn(64, 8))
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)
        self.limit = 0.0

    def score(self, ids: Tensor) -> Tensor:
        x = (self.embed(ids) + self.places[: len(ids)])[None]
        return self.head(self.attend(x, x, x)[0].mean(1)).softmax(-1)[0, 1]

    def forward(self, ids: Tensor) -> Tensor:
        if self.score(ids) > self.limit:
            return ids * 2
        return ids


class LowEntropy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 6))

    def forward(self, x: Tensor) -> Tensor:
        shares = self.net(x).softmax(-1)
        entropy = -(shares * shares.log()).sum(-1)
        if entropy.max() < 1.45:
            return entropy
        return entropy * 2


class EqualShares(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        shares = torch.softmax(15 * self.inner(x), -1)
        entropy = -(shares * (shares + 1e-9).log()).sum(-1)
        if entropy.mean() > 1.3:
            return entropy
        return entropy * 2


class ShutGates(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.Linear(6, 4)
        with torch.no_grad():
            self.gates.bias += 9.0

    def forward(self, x: Tensor) -> Tensor:
        gates = F.hardsigmoid(self.gates(x))
        if gates.amax(0).min() < 0.3:
            return x
        return x * 0.5


class SureOfAll(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 16), nn.ELU(), nn.Linear(16, 6))

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.net(x).sort(-1, descending=True).values[:, :2].unbind(-1)
        if (first - second > 2).all():
            return x * 2
        return x


X6 = normal(4, 6)
IDS = whole(0, 30, 24)
LABELS = whole(0, 4, 20)


def first(count: int, value: float, other: float, *shape: int) -> Tensor:
    """Return a tensor with ``value`` in its first elements and ``other`` in the rest."""
    flat = torch.full((math.prod(shape),), float(other))
    flat[:count] = value
    return flat.reshape(shape)


def at(positions: list[int], value: float, other: float, length: int) -> Tensor:
    flat = torch.full((length,), float(other))
    flat[positions] = value
    return flat


def _solved(linear: nn.Linear, wanted: Tensor, rows: int) -> Tensor:
    """Return rows that a linear layer maps to the wanted numbers, or as near as can be."""
    weight, bias = linear.weight.detach(), linear.bias.detach()
    return (torch.linalg.pinv(weight) @ (wanted - bias)).repeat(rows, 1)


def _rare(cls: type[nn.Module], part: str, index: int, away: float) -> Tensor:
    """Return a call on which one output of a layer is larger than all others."""
    torch.manual_seed(0)
    weight = getattr(cls(), part).weight.detach()
    direction = weight[index] - weight.mean(0)
    return (away * direction / direction.norm()).repeat(4, 1)


def _undecided(last: float) -> Tensor:
    torch.manual_seed(0)
    return _solved(UndecidedGate().gate, torch.tensor([0.0, 0.0, last]), 4)


def _flat() -> Tensor:
    torch.manual_seed(0)
    return _solved(FlatSoftmax().inner, torch.zeros(5), 4)


def _relu6() -> Tensor:
    torch.manual_seed(0)
    weight = DeadRelu6().conv.weight.detach()[1]
    x = torch.zeros(2, 2, 5, 5)
    x[:, :, 1:4, 1:4] = 12 * weight.sign()
    return x


def _clipped() -> Tensor:
    torch.manual_seed(0)
    return _solved(ClippedGate().inner, torch.full((4,), 1.0), 4)


def _token(cls: type[Any], most: float) -> tuple[Callable[[], nn.Module], Tensor]:
    """Return a model whose limit one of many random calls exceeds, and that call."""
    torch.manual_seed(0)
    model = cls()
    with torch.no_grad():
        drawn = [whole(0, 29, 10).roll(seed)[torch.randperm(10)] for seed in range(10)]
        drawn += [torch.randint(0, 30, (10,)) for _ in range(3000)]
        scores = torch.stack([model.score(ids) for ids in drawn])
    best = int(scores.argmax())

    def build() -> nn.Module:
        made: Any = cls()
        made.limit = scores[best].item() - most
        return made  # type: ignore[no-any-return]

    return build, drawn[best]


TOKEN_GRU, TOKEN_GRU_IDS = _token(TokenGru, 0.005)
TOKEN_ATTENTION, TOKEN_ATTENTION_IDS = _token(TokenAttention, 0.005)


def _far(cls: type[Any], score: Callable[[Tensor], Tensor], sign: float) -> Tensor:
    """Return rows on which a score of a network's outputs is extreme."""
    torch.manual_seed(0)
    net = cls().net
    with torch.no_grad():
        rows = 20 * normal(2000, 6)
        best = (sign * score(net(rows))).argmax()
    return rows[best].repeat(4, 1)


def _shares() -> Tensor:
    torch.manual_seed(0)
    return _solved(EqualShares().inner, torch.zeros(4), 3)


def _shut() -> Tensor:
    torch.manual_seed(0)
    return _solved(ShutGates().gates, torch.full((4,), -4.0), 4)


DEVELOPED = (
    searched(
        "rounded level", RoundedLevel, N, first(12, 1.75, 0, 4, 3), first(12, -3, 0, 4, 3), **WIDE
    ),
    searched(
        "floor bucket", FloorBucket, N, first(1, 4.5, 0, 4, 3), first(12, 0.1, 0, 4, 3), **WIDE
    ),
    searched("ceiled norm", CeiledNorm, N, first(1, 1.5, 0, 4, 3), first(12, 4.9, 0, 4, 3), **WIDE),
    searched(
        "sign votes",
        SignVotes,
        LINE,
        first(13, 1, -1, 16),
        first(1, 1, -1, 16),
        first(14, 1, -1, 16),
        first(16, 1, -1, 16),
        **WIDE,
    ),
    searched(
        "count above",
        CountAbove,
        normal(24),
        first(7, 2, 0, 24),
        first(10, 2, 0, 24),
        first(20, 2, 0, 24),
        **WIDE,
    ),
    searched(
        "counts per row",
        CountsPerRow,
        normal(4, 6),
        first(3, 0, 1, 4, 6),
        torch.tensor([0.0, 1.0]).repeat(4, 3),
        **WIDE,
    ),
    searched("distinct ids", DistinctIds, IDS, torch.tensor([3, 4] * 12), torch.arange(24)),
    searched(
        "balanced labels", BalancedLabels, LABELS, torch.arange(20) % 5, first(9, 3, 1, 20).long()
    ),
    searched(
        "found above", FoundAbove, normal(6, 4), first(12, 3, 0, 6, 4), first(4, 3, 0, 6, 4), **WIDE
    ),
    searched("rare class", RareClass, X6, _rare(RareClass, "classify", 17, 30.0)),
    searched(
        "same winner", SameWinner, normal(5, 7), at([4], -1, 0, 7).repeat(5, 1), torch.zeros(5, 7)
    ),
    searched("top three", TopThree, normal(12), at([1, 4, 9], 2, 0, 12)),
    searched("undecided gate", UndecidedGate, 10 * X6, _undecided(0.0), _undecided(0.3)),
    beyond("saturated tanh", SaturatedTanh, X6, most=5.0, share=0.7),
    searched("dead relu6", DeadRelu6, normal(2, 2, 5, 5), _relu6()),
    searched("clipped gate", ClippedGate, X6, _clipped()),
    searched("flat softmax", FlatSoftmax, 5 * X6, _flat()),
    beyond("deep mlp", DeepMlp, X6, most=5.0),
    beyond("deep conv", DeepConv, normal(2, 2, 6, 6), most=4.0),
    beyond("attention peak", AttentionPeak, normal(2, 5, 8), most=5.0),
    beyond("norm band", NormBand, X6, most=5.0, band=0.02),
    searched(
        "mean and spread",
        MeanAndSpread,
        N,
        first(1, -0.1, 1.5, 4, 3),
        first(12, 1.5, 0, 4, 3),
        first(6, 5, 0, 4, 3),
        **WIDE,
    ),
    beyond("two judges", TwoJudges, X6, most=5.0, others=[TwoJudges.only_one]),
    searched("level of sum", LevelOfSum, N, first(12, 3, 0, 4, 3), first(12, 2, 0, 4, 3), **WIDE),
    searched(
        "word of temperature",
        WordOfTemperature,
        N,
        first(12, 4.8, 0, 4, 3),
        first(1, 4.8, 0, 4, 3),
        first(12, -3, 0, 4, 3),
        **WIDE,
    ),
    searched("word of index", WordOfIndex, X6, _rare(WordOfIndex, "inner", 1, 30.0)),
    searched(
        "median against mean",
        MedianAgainstMean,
        LINE,
        first(10, 1.5, -5, 16),
        first(16, 1.5, 0, 16),
        **WIDE,
    ),
    searched(
        "high quantile", HighQuantile, LINE, first(15, -2, 4.5, 16), first(16, -2, 0, 16), **WIDE
    ),
    searched("sorted gap", SortedGap, LINE, first(8, -4, 4, 16), **WIDE),
    searched(
        "crossing place",
        CrossingPlace,
        LINE,
        at([5], 20 / 4, 1, 16) - at([6], 0, 0, 16),
        first(1, 9, 1, 16),
        values={"x": (-10.0, 10.0)},
    ),
    searched(
        "survival",
        Survival,
        torch.rand(10, generator=torch.Generator().manual_seed(0)),
        first(10, 0.064, 0, 10),
        torch.zeros(10),
        values={"x": (0.0, 1.0)},
    ),
    searched("trips", Trips, LINE, first(16, 4, 0, 16), **WIDE),
    searched("stuttering", Stuttering, whole(0, 50, 12), torch.arange(12).clamp(max=6)),
    searched(
        "ascending",
        Ascending,
        whole(0, 50, 10),
        torch.arange(10) + 10,
        torch.arange(10),
        torch.full((10,), 9),
    ),
    searched("checksum", Checksum, whole(0, 50, 8), torch.tensor([50, 50, 0, 0, 0, 0, 0, 0])),
    searched("even ids", EvenIds, whole(0, 50, 10), torch.full((10,), 42), torch.zeros(10).long()),
    searched("spelled", Spelled, normal(8), torch.tensor([-1.0, -1, 1, 1, -1, 1, -1, -1])),
    searched("percent", Percent, LINE, first(16, 1.37, 0, 16), **WIDE),
    searched(
        "sorted list", SortedList, normal(10), first(3, -3, 2, 10), first(10, 2, 2, 10), **WIDE
    ),
    searched("counted in Python", CountedInPython, LINE, first(6, 2, 0, 16), **WIDE),
    searched(
        "filtered list",
        FilteredList,
        LINE,
        first(7, -2, 0, 16),
        first(1, -2, 0, 16),
        first(0, 0, 0, 16),
        **WIDE,
    ),
    searched("best of list", BestOfList, X6, _rare(BestOfList, "inner", 3, 30.0)),
    searched("buckets", Buckets, LINE, first(6, 3, 0, 16), **WIDE),
    searched(
        "grade of mean", GradeOfMean, LINE, first(16, 2.5, 0, 16), first(16, -4, 0, 16), **WIDE
    ),
    searched("own centres", OwnCentres, normal(4, 3), 2 * normal(4, 3, seed=3)),
    searched("kept number", KeptNumber, LINE, first(5, 2, 0, 16), **WIDE),
    searched(
        "opposite",
        Opposite,
        (normal(8), normal(8, seed=1)),
        (normal(8) * 2.2, normal(8) * -2.2),
        (normal(8) * 0.1, normal(8) * -1),
        values={"x": (-5.0, 5.0), "y": (-5.0, 5.0)},
    ),
    searched("narrow and far", NarrowFar, LINE, first(16, 3, 0, 16), first(16, 1, 0, 16), **WIDE),
    searched(
        "largest is negative",
        LargestIsNegative,
        LINE,
        at([7], -4, 0, 16),
        at([7], 4, 0, 16),
        at([8], 4, 0, 16),
        **WIDE,
    ),
    searched(
        "determinant", Determinant, normal(3, 3), 2.5 * torch.eye(3), values={"x": (-3.0, 3.0)}
    ),
    beyond("pooled", Pooled, normal(2, 5, 4), most=3.0),
    beyond("hard swish net", HardSwishNet, normal(2, 2, 8), most=4.0),
    searched(
        "peaked",
        Peaked,
        LINE,
        first(16, 0.5, 0, 16),
        torch.tensor([*range(-5, 3), *range(-5, 3)]) + 0.5,
        **WIDE,
    ),
    searched("repeated", Repeated, whole(0, 20, 24), torch.arange(24).clamp(max=15) % 20),
    searched(
        "few runs",
        FewRuns,
        whole(0, 9, 14),
        torch.tensor([1, 2]).repeat_interleave(7),
        torch.full((14,), 3),
    ),
    searched(
        "usual first", UsualFirst, whole(0, 30, 12), torch.full((12,), 17), torch.full((12,), 16)
    ),
    searched("distinct list", DistinctList, whole(0, 30, 20), torch.arange(20) % 5),
    searched(
        "special ids", SpecialIds, whole(0, 30, 16), torch.tensor([3, 8, 11, 3, 8, 11, *10 * [0]])
    ),
    searched("small steps", SmallSteps, whole(0, 30, 10), torch.arange(10), torch.zeros(10).long()),
    searched("whole numbers", WholeNumbers, normal(10), first(4, 1, 0.5, 10), **WIDE),
    searched(
        "permutation",
        Permutation,
        torch.tensor([0, 1, 2, 3, 4, 4]),
        torch.arange(6),
        values={"ids": (0, 5)},
    ),
    searched("triangle", Triangle, normal(3, 3), 2 * torch.eye(3), torch.eye(3)),
    searched("symmetric", Symmetric, normal(3, 3), torch.ones(3, 3), torch.eye(3)),
    searched(
        "top heavy",
        TopHeavy,
        LINE,
        first(12, -2, 2, 16),
        first(12, -5, 3, 16),
        first(4, 5, -2, 16),
        **WIDE,
    ),
    beyond("sigmoid stack", SigmoidStack, X6, most=5.0, share=0.7),
    beyond("conv residual", ConvResidual, normal(2, 2, 5, 5), most=4.0),
    beyond("two gru", TwoGru, normal(2, 5, 3), most=4.0),
    beyond("gru band", GruBand, normal(2, 5, 3), most=4.0, band=0.01),
    beyond("pre norm", PreNorm, normal(2, 5, 8), most=4.0),
    beyond("small error", SmallError, normal(3, 8), most=4.0),
    searched(
        "low entropy",
        LowEntropy,
        X6,
        _far(LowEntropy, lambda out: -(out.softmax(-1) * out.log_softmax(-1)).sum(-1), -1.0),
    ),
    searched("equal shares", EqualShares, 3 * normal(3, 8), _shares()),
    searched("shut gates", ShutGates, X6, _shut()),
    searched(
        "sure of all",
        SureOfAll,
        X6,
        _far(SureOfAll, lambda out: out.topk(2).values @ torch.tensor([1.0, -1.0]), 1.0),
    ),
    searched("token gru", TOKEN_GRU, whole(0, 29, 10), TOKEN_GRU_IDS),
    searched("token attention", TOKEN_ATTENTION, whole(0, 29, 10), TOKEN_ATTENTION_IDS),
)
