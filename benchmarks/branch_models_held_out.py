"""Models for ``branches.py`` on which the search for branches was measured and not developed.

They are of the kinds of ``branch_models``. Of these models only the shares of outcomes that the
search takes were read while it was developed, never which ones.
"""

from __future__ import annotations

import enum
from typing import Any

import torch
import torch.nn.functional as F
from branch_rows import beyond, searched
from torch import Tensor, nn
from zoo.row import normal, whole

WIDE = {"values": {"x": (-5.0, 5.0)}}
LINE = normal(16)
X6 = normal(4, 6)


# -- step functions --------------------------------------------------------------------------------


class Truncated(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if torch.trunc(x.sum() / 3) == -6:
            return x * 2
        return x


class Hour(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        hour = int(x.mean() * 12) % 24
        if hour == 23:
            return x + 1
        if hour == 6:
            return x - 1
        return x


class NearlyWhole(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if (x - x.round()).abs().max() < 0.05 and x.abs().sum() > 5:
            return x.round()
        return x


class Switched(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        on = torch.heaviside(x - 1, torch.zeros(()))
        if on.sum() == 8:
            return on
        return x


class Cells(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if torch.floor(x[0]) == torch.ceil(x[1]) and x[2].round() == -3:
            return x * 2
        return x


class OddSigns(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        signs = x.sign()
        if signs.prod() < 0 and signs.sum() == 10:
            return signs
        return x


# -- counts ----------------------------------------------------------------------------------------


class LongestRun(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        best = run = 0
        for value in x.tolist():
            run = run + 1 if value > 0.3 else 0
            best = max(best, run)
        if best == 9:
            return x * 2
        return x


class ClosePairs(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        close = ((x[None] - x[:, None]).abs() < 0.02).sum()
        if close == x.shape[0] + 4:
            return x * 2
        return x


class AboveMean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if (x > x.mean()).sum() == 3:
            return x - x.mean()
        return x


class SameSigns(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if ((x > 0) == (y > 0)).all():
            return x * y
        return x + y


class OneOfBoth(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if torch.logical_xor(x > 1, y > 1).sum() == 8:
            return x - y
        return x + y


class OnlyFirst(nn.Module):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        if mask[0] and not mask[1:].any():
            return x[:1].sum()
        if mask.sum() == 10:
            return (x * mask).sum()
        return x.sum()


class DeadUnits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        alive = torch.count_nonzero(F.relu(self.inner(x)))
        if alive < 9:
            return x * 2
        if alive > 24:
            return x / 2
        return x


# -- indices ---------------------------------------------------------------------------------------


class Ends(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        order = x.argsort()
        if order[0] == 3 and order[-1] == 8:
            return x[order]
        return x


class SumOfPlaces(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if torch.topk(x, 2).indices.sum() == 25:
            return x * 2
        return x


class Decoded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 7)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.head(x).argmax(-1)
        if tokens[2] == 5 and tokens[0] == 1:
            return x[:2]
        return x[2:]


class AllBlank(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 5))

    def forward(self, x: Tensor) -> Tensor:
        if (self.head(x).argmax(-1) == 3).all():
            return x * 0
        return x


class OneWinner(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.max(0).indices.unique().numel() == 1:
            return x.max(0).values
        return x.mean(0)


class BestRow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.net(x).squeeze(-1)
        place = torch.sort(scores, descending=True).indices[0]
        if place == 7 and scores[place] > 0.5:
            return x[7]
        return x[0]


# -- saturated -------------------------------------------------------------------------------------


class NearZero(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        if torch.tanh(30 * self.inner(x)).abs().amax() < 0.5:
            return x * 2
        return x


class HalfOpen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 4)
        self.limit = 0.0

    def score(self, x: Tensor) -> Tensor:
        return F.hardsigmoid(8 * self.inner(x)).mean()

    def forward(self, x: Tensor) -> Tensor:
        score = self.score(x)
        if score > self.limit and score < self.limit + 0.01:
            return x * 2
        return x


class AllAtTop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        if F.relu6(4 * self.inner(x)).amin() > 5.9:
            return x * 2
        return x


class RareUnits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        if torch.clamp(self.inner(x).mean(0) - 4, 0, 1).prod() > 0.2:
            return x * 2
        return x


class Directions(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        n = F.normalize(x, dim=-1)
        if n[0] @ n[1] > 0.98 and n[2] @ n[3] < -0.9:
            return n
        return x


# -- deep ------------------------------------------------------------------------------------------


class SkipMlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(6))
        self.limit = 0.0

    def score(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + F.relu(layer(x))
        return (x[:, :4] - x[:, 4:]).amin()

    def forward(self, x: Tensor) -> Tensor:
        if self.score(x) > self.limit:
            return x * 2
        return x


class Upsampled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.ConvTranspose2d(2, 4, 2, stride=2), nn.LeakyReLU(0.1), nn.Conv2d(4, 1, 3)
        )
        self.limit = 0.0

    def score(self, x: Tensor) -> Tensor:
        return torch.tanh(self.net(x)).mean((1, 2, 3)).amin()

    def forward(self, x: Tensor) -> Tensor:
        if self.score(x) > self.limit:
            return x * 2
        return x


class Pooling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(6))
        self.keys, self.head = nn.Linear(6, 6), nn.Linear(6, 1)
        self.limit = 0.0

    def score(self, x: Tensor) -> Tensor:
        shares = (self.keys(x) @ self.query).softmax(-1)
        return self.head((shares[..., None] * x).sum(1)).amin()

    def forward(self, x: Tensor) -> Tensor:
        if self.score(x) > self.limit:
            return x.amax(1)
        return x.amin(1)


class RnnNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(3, 8, batch_first=True)
        self.limit = 0.0

    def score(self, x: Tensor) -> Tensor:
        return -self.rnn(x)[1].square().mean((0, 2)).amax()

    def forward(self, x: Tensor) -> Tensor:
        if self.score(x) > self.limit:
            return x[:, 0]
        return x[:, -1]


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(6) for _ in range(2))
        self.times = nn.ModuleList(nn.Linear(5, 5) for _ in range(2))
        self.widths = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))
        self.limit = 0.0

    def score(self, x: Tensor) -> Tensor:
        for norm, time, width in zip(self.norms, self.times, self.widths, strict=True):
            x = x + F.gelu(time(norm(x).mT)).mT
            x = x + F.gelu(width(x))
        return x.mean(1)[:, 0].amin()

    def forward(self, x: Tensor) -> Tensor:
        score = self.score(x)
        if score > self.limit:
            if score < self.limit + 0.02:
                return x.mean(1)
            return x.amax(1)
        return x[:, 0]


class Bag(nn.Module):
    """Nothing can be differentiated with respect to the ids."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 6)
        self.net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
        self.limit = 0.0

    def score(self, ids: Tensor) -> Tensor:
        return self.net(self.embed(ids).mean(0)).squeeze()

    def forward(self, ids: Tensor) -> Tensor:
        if self.score(ids) > self.limit:
            return ids * 2
        return ids


class Attended(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)
        self.limit = 0.0

    def score(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x + self.attend(x, x, x)[0])).softmax(-1)[..., 2].amin()

    def forward(self, x: Tensor) -> Tensor:
        if self.score(x) > self.limit:
            return x.mean(1)
        return x.amax(1)


# -- several at once -------------------------------------------------------------------------------


class FourNumbers(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x[0] > 3 and x[1] < -3 and x[2].abs() < 0.1 and x[3] + x[4] > 6:
            return x * 2
        return x


class NestedNets(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList(
            nn.Sequential(nn.Linear(6, 8), nn.SiLU(), nn.Linear(8, 1)) for _ in range(3)
        )
        self.limit = 0.0

    def score(self, x: Tensor) -> Tensor:
        return torch.stack([net(x).mean() for net in self.nets]).amin()

    def forward(self, x: Tensor) -> Tensor:
        if self.nets[0](x).mean() > self.limit:
            if self.nets[1](x).mean() > self.limit:
                if self.nets[2](x).mean() > self.limit:
                    return x * 3
                return x * 2
            return x + 1
        return x


class FarApart(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if x.mean() > y.mean() + 2 and x.std() < y.std() / 4:
            return x - y
        return x + y


class Neither(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.max() > -1 or x.min() < -2 or x.std() < 0.2:
            return x
        return x * 2


# -- numbers and words from tensors ----------------------------------------------------------------


class Alarm(enum.Flag):
    HOT = enum.auto()
    LOUD = enum.auto()
    CLOSE = enum.auto()


class Alarms(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        alarms = Alarm(0)
        if x.max() > 4:
            alarms |= Alarm.HOT
        if x.abs().mean() > 2.5:
            alarms |= Alarm.LOUD
        if alarms == Alarm.HOT | Alarm.LOUD:
            return x * 0
        return x


class Digits(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        label = "".join(str(int(value)) for value in x.round().clamp(0, 3))
        if label.startswith("30"):
            return x * 2
        return x


class Bits(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if format(int(x.sum()), "b") == "101101":
            return x * 2
        return x


class Table(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        key = (int(x[0] > 2), int(x[1] > 2))
        if key == (1, 1):
            return x * 2
        return x


# -- sorted, in order, cumulative ------------------------------------------------------------------


class WellApart(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sort().values.diff().min() > 0.5:
            return x * 2
        return x


class ThirdSmallest(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.kthvalue(3).values > 2 and x.min() < -2:
            return x * 2
        return x


class LateMedian(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if torch.quantile(x, 0.5) > torch.quantile(x[:6], 0.9) + 2:
            return x * 2
        return x


class Swinging(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.cumsum(0).abs().max() < 3 and x.abs().mean() > 2:
            return x * 2
        return x


class Nucleus(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        kept = (x.softmax(0).sort(descending=True).values.cumsum(0) < 0.9).sum()
        if kept == 1:
            return x.max()
        if kept >= 13:
            return x.mean()
        return x.sum()


class LastIsLowest(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if torch.cummin(x, 0).values[-1] == x[-1] and x[-1] < -3.5 and x[0] < -3:
            return x * 2
        return x


class Smoothed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        state, first = 0.0, -1
        for step, value in enumerate(x.tolist()):
            state = 0.7 * state + 0.3 * value
            if state > 1.5 and first < 0:
                first = step
        if first == 5:
            return x[5:]
        return x


# -- witnesses -------------------------------------------------------------------------------------


def row(*parts: tuple[int, float]) -> Tensor:
    """Return a row with each value as often as its count says."""
    return torch.tensor([value for count, value in parts for _ in range(count)])


def _drawn(cls: type[Any], wanted: Any, *shape: int) -> Tensor:
    """Return random numbers of which a fresh model says that they are wanted."""
    torch.manual_seed(0)
    model = cls()
    with torch.no_grad():
        for seed in range(20_000):
            x = normal(*shape, seed=seed) * (1 + seed % 7)
            if wanted(model, x):
                return x
    raise AssertionError(f"nothing found for {cls.__name__}")


def _solved(cls: type[Any], wanted: float, rows: int) -> Tensor:
    torch.manual_seed(0)
    inner = cls().inner
    weight, bias = inner.weight.detach(), inner.bias.detach()
    return (torch.linalg.pinv(weight) @ (wanted - bias)).repeat(rows, 1)


def _decoded() -> Tensor:
    first = _drawn(Decoded, lambda m, x: m.head(x).argmax(-1)[0] == 1, 4, 6)
    third = _drawn(Decoded, lambda m, x: m.head(x).argmax(-1)[2] == 5, 4, 6)
    return torch.stack([first[0], first[1], third[2], third[3]])


def _bag() -> tuple[float, Tensor]:
    torch.manual_seed(0)
    model = Bag()
    with torch.no_grad():
        drawn = [
            torch.randint(0, 20, (8,), generator=torch.Generator().manual_seed(seed))
            for seed in range(4000)
        ]
        scores = torch.stack([model.score(ids) for ids in drawn])
    best = int(scores.argmax())
    return scores[best].item() - 0.02, drawn[best]


BAG_LIMIT, BAG_IDS = _bag()


def _limited_bag() -> nn.Module:
    model = Bag()
    model.limit = BAG_LIMIT
    return model


def _winner() -> Tensor:
    x = normal(6, 4)
    x[2] = 4.0
    return x


def _places(*places: int) -> Tensor:
    x = torch.zeros(16)
    for place in places:
        x[place] = 4.0
    return x


def _ends(low: int, high: int) -> Tensor:
    x = torch.zeros(12)
    x[low], x[high] = -4.0, 4.0
    return x


TEN = (normal(10), normal(10, seed=1))
BOTH = {"values": {"x": (-5.0, 5.0), "y": (-5.0, 5.0)}}
MASK = torch.arange(12) % 2 == 0

HELD_OUT = (
    searched("truncated", Truncated, LINE, row((16, -1.2)), **WIDE),
    searched("hour", Hour, LINE, row((16, 1.95)), row((16, 0.53)), row((16, 0.1)), **WIDE),
    searched("nearly whole", NearlyWhole, LINE, row((16, 1.0)), row((16, 0.0)), **WIDE),
    searched("switched", Switched, LINE, row((8, 2.0), (8, 0.0)), **WIDE),
    searched(
        "cells",
        Cells,
        normal(6),
        torch.tensor([1.5, 0.5, -3.1, 0, 0, 0]),
        torch.tensor([1.5, 0.5, 3.1, 0, 0, 0]),
        **WIDE,
    ),
    searched(
        "odd signs",
        OddSigns,
        LINE,
        row((13, 1.0), (3, -1.0)),
        row((15, 1.0), (1, -1.0)),
        row((16, 1.0)),
        **WIDE,
    ),
    searched("longest run", LongestRun, LINE, row((9, 1.0), (7, 0.0)), **WIDE),
    searched(
        "close pairs", ClosePairs, normal(12), torch.tensor([0, 0, 1, 1, *range(2, 10)]) * 1.0
    ),
    searched("above mean", AboveMean, LINE, row((3, 4.0), (13, 0.0)), **WIDE),
    searched("same signs", SameSigns, TEN, (TEN[0], TEN[0])),
    searched("one of both", OneOfBoth, TEN, (row((8, 2.0), (2, 0.0)), row((10, 0.0))), **BOTH),
    searched(
        "only first",
        OnlyFirst,
        (normal(12), MASK),
        (normal(12), torch.arange(12) == 0),
        (normal(12), torch.arange(12) < 10),
        (normal(12), torch.arange(12) > 0),
    ),
    searched(
        "dead units",
        DeadUnits,
        X6,
        _drawn(DeadUnits, lambda m, x: (m.inner(x) > 0).sum() < 9, 4, 6),
        _drawn(DeadUnits, lambda m, x: (m.inner(x) > 0).sum() > 24, 4, 6),
    ),
    searched("ends", Ends, normal(12), _ends(3, 8), _ends(3, 7), _ends(2, 8), **WIDE),
    searched("sum of places", SumOfPlaces, LINE, _places(12, 13), **WIDE),
    searched(
        "decoded",
        Decoded,
        X6,
        _decoded(),
        _drawn(
            Decoded,
            lambda m, x: m.head(x).argmax(-1)[2] == 5 and m.head(x).argmax(-1)[0] != 1,
            4,
            6,
        ),
    ),
    searched(
        "all blank",
        AllBlank,
        X6,
        _drawn(AllBlank, lambda m, x: (m.head(x[:1]).argmax(-1) == 3).all(), 1, 6).repeat(4, 1),
    ),
    searched("one winner", OneWinner, normal(6, 4), _winner(), **WIDE),
    searched(
        "best row",
        BestRow,
        normal(10, 4),
        _drawn(BestRow, lambda m, x: m.net(x).argmax() == 7 and m.net(x).max() > 0.5, 10, 4),
        _drawn(
            BestRow,
            lambda m, x: m.net(x * 0.01).argmax() == 7 and m.net(x * 0.01).max() < 0.5,
            10,
            4,
        )
        * 0.01,
        normal(10, 4).flip(0),
    ),
    searched("near zero", NearZero, X6, _solved(NearZero, 0.0, 4)),
    beyond("half open", HalfOpen, X6, most=5.0, share=0.6, band=0.01),
    searched("all at top", AllAtTop, X6, _solved(AllAtTop, 3.0, 4)),
    searched("rare units", RareUnits, X6, _solved(RareUnits, 5.5, 4)),
    searched(
        "directions",
        Directions,
        normal(4, 3),
        torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, -1, 0]]),
        torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0]]),
    ),
    beyond("skip mlp", SkipMlp, normal(3, 8), most=4.0),
    beyond("upsampled", Upsampled, normal(2, 2, 4, 4), most=4.0),
    beyond("pooling", Pooling, normal(2, 5, 6), most=4.0),
    beyond("rnn norm", RnnNorm, normal(2, 6, 3), most=4.0),
    beyond("mixer", Mixer, normal(2, 5, 6), most=4.0, band=0.02),
    searched("bag", _limited_bag, whole(0, 19, 8), BAG_IDS),
    beyond("attended", Attended, normal(2, 4, 8), most=4.0),
    searched(
        "four numbers",
        FourNumbers,
        normal(6),
        torch.tensor([4.0, -4, 0, 4, 4, 0]),
        torch.tensor([4.0, -4, 0, 0, 4, 0]),
        torch.tensor([4.0, -4, 1, 0, 4, 0]),
        torch.tensor([4.0, 4, 1, 0, 4, 0]),
        **WIDE,
    ),
    beyond(
        "nested nets",
        NestedNets,
        X6,
        most=5.0,
        others=[
            lambda m, x: m.nets[0](x).mean() - m.nets[1](x).mean(),
            lambda m, x: (
                torch.minimum(m.nets[0](x).mean(), m.nets[1](x).mean()) - m.nets[2](x).mean()
            ),
        ],
    ),
    searched(
        "far apart",
        FarApart,
        TEN,
        (row((10, 3.0)), row((5, -4.0), (5, 4.0))),
        (row((5, 0.0), (5, 5.0)), row((10, -3.0))),
        **BOTH,
    ),
    searched(
        "neither",
        Neither,
        LINE,
        row((8, -1.2), (8, -1.9)),
        row((8, -1.2), (8, -4.0)),
        row((16, -1.5)),
        row((8, -1.2), (8, 4.0)),
        **WIDE,
    ),
    searched(
        "alarms",
        Alarms,
        LINE,
        row((8, 4.5), (8, -4.5)),
        row((16, -4.5)),
        row((1, 4.5), (15, 0.0)),
        **WIDE,
    ),
    searched("digits", Digits, normal(6), torch.tensor([3.0, 0, 0, 0, 0, 0]), **WIDE),
    searched("bits", Bits, LINE, row((16, 45.5 / 16)), **WIDE),
    searched("table", Table, normal(6), torch.tensor([3.0, 3, 0, 0, 0, 0]), **WIDE),
    searched("well apart", WellApart, normal(8), torch.arange(8) - 3.5, **WIDE),
    searched(
        "third smallest", ThirdSmallest, LINE, row((2, -4.0), (14, 4.0)), row((16, 4.0)), **WIDE
    ),
    searched("late median", LateMedian, LINE, row((6, -4.0), (10, 4.0)), **WIDE),
    searched(
        "swinging",
        Swinging,
        LINE,
        torch.tensor([2.5, -2.5]).repeat(8),
        row((16, 0.0)),
        row((16, 1.0)),
        **WIDE,
    ),
    searched("nucleus", Nucleus, LINE, row((2, 5.0), (14, -5.0)), row((16, 0.0)), **WIDE),
    searched(
        "last is lowest",
        LastIsLowest,
        LINE,
        row((1, -3.5), (14, 0.0), (1, -4.0)),
        row((15, 0.0), (1, -4.0)),
        row((15, 0.0), (1, -1.0)),
        row((15, 0.0), (1, 1.0)),
        **WIDE,
    ),
    searched("smoothed", Smoothed, normal(12), row((3, -1.0), (9, 3.0)), **WIDE),
)
