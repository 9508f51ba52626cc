"""Models for ``branches.py`` that were written before the search was improved, and not looked at then.

They are of the kinds of ``branch_models``: of these models only the shares of outcomes that the
search takes were read, never which ones, nor were they run while it was developed.
"""

from __future__ import annotations

import enum
import math

import torch
import torch.nn.functional as F
from branch_rows import beyond, searched
from torch import Tensor, nn
from zoo.row import normal, whole

WIDE = {"values": {"x": (-5.0, 5.0)}}
LINE = normal(16)
X6 = normal(4, 6)


# -- step functions --------------------------------------------------------------------------------


class SaturatedInt8(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        whole_numbers = (x / 0.03).round().clamp(-128, 127)
        clipped = (whole_numbers == 127).sum()
        if clipped > 4:
            return whole_numbers * 0.06
        if clipped == 3:
            return x
        return whole_numbers * 0.03


class GridCell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("cell", torch.tensor([3, -4]))

    def forward(self, x: Tensor) -> Tensor:
        cells = torch.floor(x * 2).long()
        if (cells == self.cell).all(1).any():
            return x - x.mean(0)
        return x


class Pages(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        pages = math.ceil(float(x.clamp(min=0).sum()) / 8)
        if pages > 6:
            return x / pages
        if pages == 3:
            return x * 3
        return x


class SignChanges(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        changes = (torch.sign(x[1:]) != torch.sign(x[:-1])).sum()
        if changes >= 14:
            return x.abs()
        if changes == 2:
            return -x
        return x


class Version(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        major, minor = divmod(int(x.sum() * 10), 10)
        if major == 3 and minor >= 8:
            return x + 1
        return x


# -- counts and sizes ------------------------------------------------------------------------------


class Outliers(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        far = ((x - x.mean()) / x.std()).abs() > 2.0
        if far.sum() == 4:
            return x.clamp(-2, 2)
        return x


class Crowded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        near = (torch.cdist(x, x) < 0.5).sum(1) - 1
        if near.max() == 4:
            return x.mean(0)
        if near.max() >= 7:
            return x[0]
        return x.sum(0)


class MoreOfOne(nn.Module):
    def forward(self, ids: Tensor) -> Tensor:
        if (ids == 3).sum() > (ids == 9).sum() + 5:
            return ids + 1
        return ids


class MostFrequent(nn.Module):
    def forward(self, ids: Tensor) -> Tensor:
        if ids.mode().values == 13:
            return ids - 13
        return ids


class ExpertLoad(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        load = torch.bincount(self.router(x).argmax(-1), minlength=5)
        if load.max() > 8:
            return x * 0
        if load.max() - load.min() == 0:
            return x
        return x * 0.5


class NewIds(nn.Module):
    def forward(self, ids: Tensor) -> Tensor:
        runs = torch.unique_consecutive(ids).numel()
        if runs == 4:
            return ids * 2
        return ids


class HistogramPeak(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        counts = torch.histc(x, bins=8, min=-4, max=4)
        if counts[6] > 6:
            return x - 2.5
        return x


class KeptBoxes(nn.Module):
    def forward(self, boxes: Tensor, scores: Tensor) -> Tensor:
        kept = boxes[scores > 0.8]
        if kept.shape[0] == 0:
            return boxes.mean(0)
        if kept.shape[0] > 5 and kept[:, 2].max() < 0.3:
            return kept[0]
        return kept.mean(0)


# -- indices ---------------------------------------------------------------------------------------


class BestIsLast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        sums = x.sum(1)
        if sums.argmax() == x.shape[0] - 1 and sums.argmin() == 2:
            return x.flip(0)
        return x


class ClearWinner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 5))

    def forward(self, x: Tensor) -> Tensor:
        best = self.net(x).softmax(-1).topk(2).values
        if (best[:, 0] - best[:, 1]).min() > 0.9:
            return best
        return best * 2


class RankOfFirst(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        rank = (x > x[0]).sum()
        if rank == 3:
            return x - x[0]
        return x


class FirstCrossing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        place = int((x > 2).int().argmax())
        if place == 6:
            return x[:6].sum()
        return x.sum()


# -- saturated -------------------------------------------------------------------------------------


class SigmoidChain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(6, 8), nn.Linear(8, 3)
        self.limit = 0.0

    def score(self, x: Tensor) -> Tensor:
        hidden = torch.sigmoid(12 * self.inner(x) - 8)
        return torch.sigmoid(10 * self.outer(hidden) - 5).mean()

    def forward(self, x: Tensor) -> Tensor:
        if self.score(x) > self.limit:
            return x + 1
        return x


class HardGates(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 4, 3, padding=1)
        with torch.no_grad():
            self.conv.bias += 8.0

    def forward(self, x: Tensor) -> Tensor:
        gates = F.hardsigmoid(self.conv(x)).mean((0, 2))
        if gates.min() < 0.4:
            return x * 0.5
        return x


class Undecided(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        logs = F.log_softmax(20 * self.inner(x), -1)
        entropy = -(logs.exp() * logs).sum(-1)
        if entropy.min() > 1.5:
            return entropy
        return entropy * 2


class FullGru(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 6, batch_first=True)
        self.limit = 0.0

    def score(self, x: Tensor) -> Tensor:
        return self.gru(4 * x)[1].amax()

    def forward(self, x: Tensor) -> Tensor:
        if self.score(x) > self.limit:
            return x[:, -1]
        return x.mean(1)


# -- deep ------------------------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 12), nn.SiLU(), nn.Linear(12, 6))
            for _ in range(6)
        )
        self.head = nn.Linear(6, 2)
        self.limit = 0.0

    def score(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return self.head(F.layer_norm(x, (6,)))[..., 0].amin()

    def forward(self, x: Tensor) -> Tensor:
        if self.score(x) > self.limit:
            return x * 2
        return x


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.limit = 0.0

    def score(self, x: Tensor) -> Tensor:
        return self.encoder(x).mean(1)[:, 3].amax()

    def forward(self, x: Tensor) -> Tensor:
        if self.score(x) > self.limit:
            return x.amax(1)
        return x.mean(1)


class Reconstruction(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2))
        self.decode = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 6))
        self.limit = 0.0

    def score(self, x: Tensor) -> Tensor:
        return -((self.decode(self.encode(x)) - x) / (x.abs() + 0.5)).square().mean()

    def forward(self, x: Tensor) -> Tensor:
        if self.score(x) > self.limit:
            return x
        return self.decode(self.encode(x))


class LstmBand(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 8, num_layers=2, batch_first=True)
        self.head = nn.Linear(8, 1)
        self.limit = 0.0

    def score(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1]).mean()

    def forward(self, x: Tensor) -> Tensor:
        if self.limit < self.score(x) < self.limit + 0.01:
            return x.mean(1)
        return x[:, 0]


# -- several at once -------------------------------------------------------------------------------


class ThreeColumns(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x[:, 0].mean() > 2 and x[:, 1].std() < 0.1 and (x[:, 2] < -1).all():
            return x * 2
        return x


class AllFlags(nn.Module):
    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        flags = (a.max() > 3.5).int() + (b.min() < -3.5).int() + (c.abs().mean() < 0.2).int()
        if flags == 3:
            return a
        if flags == 2:
            return b
        return c


# -- numbers and words from tensors ----------------------------------------------------------------


class State(enum.IntEnum):
    GO = 0
    SLOW = 1
    STOP = 2
    REVERSE = 3


class StateOfScores(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 4)
        with torch.no_grad():
            self.inner.bias[:] = torch.tensor([3.0, 2.0, -1.0, -1.0])

    def forward(self, x: Tensor) -> Tensor:
        state = State(int(self.inner(x).sum(0).argmax()))
        if state in (State.STOP, State.REVERSE):
            return -x
        return x


HANDLERS = {0: "keep", 1: "double", 2: "drop", 3: "clip"}


class HandlerOfSum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        handler = HANDLERS.get(int(x.sum().round()) // 10, "keep")
        if handler == "clip":
            return x.clamp(-1, 1)
        if handler == "drop":
            return x * 0
        return x


class CodeOfMean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        code = f"{float(x.mean()):.1f}"
        if code == "1.4":
            return x * 2
        return x


# -- sorted, in order, cumulative ------------------------------------------------------------------


class TrimmedMean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        core = x.flatten().sort().values[3:-3]
        if core.mean() > 1.5 and x.min() < -3:
            return x.clamp(min=0)
        return x


class Quartiles(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        low, high = torch.quantile(x, torch.tensor([0.25, 0.75]))
        if high - low < 0.05 and x.std() > 1:
            return x - x.median()
        return x


class Records(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        records = (x == x.cummax(0).values).sum()
        if records == 7:
            return x.flip(0)
        return x


class DrawDown(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        total = x.cumsum(0)
        if (total.cummax(0).values - total).max() > 22 and total[-1] > 0:
            return total
        return x


class Halting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.halt = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        chance = torch.sigmoid(self.halt(x)).squeeze(-1)
        steps = int((chance.cumsum(0) < 0.95).sum())
        if steps >= 7:
            return x.mean(0)
        return x[steps]


def spread(counts: list[int], values: list[float]) -> Tensor:
    """Return a row with each value as often as its count says."""
    return torch.tensor([v for n, v in zip(counts, values, strict=True) for _ in range(n)])


def pulled(cls: type[nn.Module], part: str, index: int, away: float, rows: int) -> Tensor:
    """Return rows on which one output of a layer is larger than all others."""
    torch.manual_seed(0)
    weight = getattr(cls(), part).weight.detach()
    direction = weight[index] - weight.mean(0)
    return (away * direction / direction.norm()).repeat(rows, 1)


def _loads() -> Tensor:
    rows = [pulled(ExpertLoad, "router", expert, 60.0, 1) for expert in range(5)]
    return torch.cat([row for row in rows for _ in range(2)])


def _open_gates() -> Tensor:
    torch.manual_seed(0)
    weight = HardGates().conv.weight.detach()[2]
    return (-14 * weight.sum(-1).sign())[:, None].repeat(3, 1, 8)


def _even() -> Tensor:
    torch.manual_seed(0)
    inner = Undecided().inner
    weight, bias = inner.weight.detach(), inner.bias.detach()
    return (torch.linalg.pinv(weight) @ -bias).repeat(4, 1)


def _clear() -> Tensor:
    torch.manual_seed(0)
    net = ClearWinner().net
    chosen = [80 * x for x in normal(400, 6)]
    with torch.no_grad():
        best = [net(x).softmax(-1).topk(2).values for x in chosen]
    row = next(x for x, two in zip(chosen, best, strict=True) if two[0] - two[1] > 0.95)
    return row.repeat(4, 1)


def _halting() -> Tensor:
    torch.manual_seed(0)
    weight = Halting().halt.weight.detach()[0]
    return (-8 * weight / weight.norm()).repeat(8, 1)


def _places() -> Tensor:
    flat = torch.zeros(10)
    flat[6] = 3.0
    return flat


POINTS = normal(12, 3, seed=1) * 2
BOXES = torch.rand(8, 4, generator=torch.Generator().manual_seed(1))
SCORES = torch.rand(8, generator=torch.Generator().manual_seed(2))
ABC = (normal(6), normal(6, seed=1), normal(6, seed=2))
FLAGS = (torch.full((6,), 4.0), torch.full((6,), -4.0))

DEVELOPED_TOO = (
    searched(
        "saturated int8",
        SaturatedInt8,
        normal(24),
        spread([6, 18], [4.5, 0.0]),
        spread([3, 21], [4.5, 0.0]),
        **WIDE,
    ),
    searched("grid cell", GridCell, normal(6, 2), torch.tensor([1.7, -1.7]).repeat(6, 1), **WIDE),
    searched("pages", Pages, LINE, torch.full((16,), 4.0), torch.full((16,), 1.3), **WIDE),
    searched(
        "sign changes",
        SignChanges,
        LINE,
        torch.tensor([1.0, -1.0]).repeat(8),
        spread([4, 4, 8], [1.0, -1.0, 1.0]),
        **WIDE,
    ),
    searched("version", Version, LINE, spread([16], [0.245]), spread([16], [0.2]), **WIDE),
    searched("outliers", Outliers, normal(40), spread([2, 2, 36], [5.0, -5.0, 0.0]), **WIDE),
    searched(
        "crowded",
        Crowded,
        POINTS,
        torch.cat([torch.zeros(5, 3), POINTS[:7] + 3]),
        torch.zeros(12, 3),
    ),
    searched("more of one", MoreOfOne, whole(0, 20, 24), torch.full((24,), 3)),
    searched("most frequent", MostFrequent, whole(0, 20, 24), torch.full((24,), 13)),
    searched(
        "expert load",
        ExpertLoad,
        normal(10, 6),
        pulled(ExpertLoad, "router", 1, 60.0, 10),
        _loads(),
    ),
    searched("new ids", NewIds, whole(0, 7, 16), torch.tensor([1, 2, 3, 4]).repeat_interleave(4)),
    searched("histogram peak", HistogramPeak, LINE, spread([8, 8], [2.5, 0.0]), **WIDE),
    searched(
        "kept boxes",
        KeptBoxes,
        (BOXES, SCORES),
        (BOXES * 0, SCORES * 0),
        (BOXES, SCORES * 0 + torch.tensor([0.9, 0.9] + 6 * [0.1])),
        (BOXES * 0, SCORES * 0 + 0.9),
        (BOXES * 0 + 0.9, SCORES * 0 + 0.9),
    ),
    searched(
        "best is last",
        BestIsLast,
        normal(7, 3),
        torch.tensor([0.0, 0, -3, 0, 0, 0, 3])[:, None].repeat(1, 3),
        torch.tensor([0.0, 0, -3, 0, 0, 3, 0])[:, None].repeat(1, 3),
        torch.tensor([0.0, -3, 0, 0, 0, 0, 3])[:, None].repeat(1, 3),
    ),
    searched("clear winner", ClearWinner, X6, _clear()),
    searched("rank of first", RankOfFirst, normal(20), spread([1, 3, 16], [1.0, 2.0, 0.0])),
    searched("first crossing", FirstCrossing, normal(10), _places(), **WIDE),
    beyond("sigmoid chain", SigmoidChain, X6, most=5.0, share=0.7),
    searched("hard gates", HardGates, normal(3, 2, 8), _open_gates()),
    searched("undecided", Undecided, 3 * X6, _even()),
    beyond("full gru", FullGru, normal(2, 6, 4), most=5.0),
    beyond("residual", Residual, X6, most=5.0),
    beyond("encoder", Encoder, normal(2, 5, 8), most=5.0),
    beyond("reconstruction", Reconstruction, X6, most=5.0),
    beyond("lstm band", LstmBand, normal(2, 6, 4), most=5.0, band=0.01),
    searched(
        "three columns",
        ThreeColumns,
        normal(5, 4),
        torch.tensor([3.0, 1.0, -2.0, 0.0]).repeat(5, 1),
        torch.tensor([3.0, 1.0, 2.0, 0.0]).repeat(5, 1),
        torch.arange(20.0).reshape(5, 4) / 4 + 0.1,
        **WIDE,
    ),
    searched(
        "all flags",
        AllFlags,
        ABC,
        (*FLAGS, torch.zeros(6)),
        (*FLAGS, torch.ones(6)),
        values=dict.fromkeys("abc", (-5.0, 5.0)),
    ),
    searched("state of scores", StateOfScores, X6, pulled(StateOfScores, "inner", 2, 60.0, 4)),
    searched(
        "handler of sum", HandlerOfSum, LINE, torch.full((16,), 2.2), torch.full((16,), 1.6), **WIDE
    ),
    searched("code of mean", CodeOfMean, LINE, torch.full((16,), 1.4), **WIDE),
    searched(
        "trimmed mean", TrimmedMean, LINE, spread([2, 14], [-4.0, 3.0]), spread([16], [3.0]), **WIDE
    ),
    searched(
        "quartiles", Quartiles, LINE, spread([2, 12, 2], [-4.0, 0.0, 4.0]), torch.zeros(16), **WIDE
    ),
    searched("records", Records, normal(10), torch.tensor([0, 1, 2, 3, 4, 5, 6, 0, 0, 0.0])),
    searched(
        "draw down",
        DrawDown,
        LINE,
        spread([7, 6, 3], [5.0, -4.0, 4.0]),
        spread([6, 10], [-5.0, 0.0]),
        **WIDE,
    ),
    searched("halting", Halting, normal(8, 6), _halting()),
)
