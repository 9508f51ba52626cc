"""Branches as deployed models have them, which were written before the search for branches was improved.

`benchmarks/branches.py` prints their figures apart. The search was measured on these models and developed on those of
``branches_deployed``, until what it missed here was read, too.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.row import (
    BRANCH,
    DIFFERS,
    NUMBER,
    PYTHON,
    REFUSED,
    VALUE,
    Blame,
    Buffer,
    OfModel,
    baked,
    branch,
    call,
    climbed,
    has,
    margin,
    moved_on,
    no_type,
    normal,
    section,
    truth,
    unannotated,
    undecided,
    untranslated,
    whole,
)

NO_UNIQUE = Blame(owner="capture", cause="unsupported operator", line=".unique()")
X6 = normal(4, 6)
WIDE = {"values": {"x": (-5.0, 5.0)}}
PLACES = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]])
LOUD = torch.ones(10, 3)

section("branches_models", "held-out")


@branch(
    "matches anchors",
    call(normal(5, 2), normal(3, 2, seed=2)),
    call(normal(5, 2), normal(3, 2, seed=2) + 8),
    call(torch.cat([PLACES + 0.1, PLACES[:2]]), PLACES),
    call(torch.cat([PLACES[:2] + 0.1, PLACES - 5]), PLACES),
    PYTHON,
    script=NO_UNIQUE,
    line="if ",
    shapes={"anchors": "5 2", "targets": "3 2"},
    values={"anchors": (-9.0, 9.0), "targets": (-9.0, 9.0)},
)
def forward(self, anchors: Tensor, targets: Tensor) -> Tensor:
    """Each anchor goes to the target that it is nearest to, if that is near enough."""
    nearest = torch.cdist(anchors, targets).min(1)
    matched = nearest.values < 0.5
    if not matched.any():
        return anchors * 0
    found = nearest.indices[matched].unique()
    if len(found) == len(targets):
        return anchors * 2
    return anchors + matched.sum()


def evenly(model: Any, x: Tensor) -> Tensor:
    """Return by how much each expert is ahead for its two tokens."""
    logits = model.gate(x)
    return torch.stack(
        [margin(logits[2 * place : 2 * place + 2], place) for place in range(3)]
    ).amin()


@branch(
    "drops overflow",
    normal(6, 5),
    climbed(normal(6, 5), lambda m, x: margin(m.gate(x), 1)),
    climbed(normal(6, 5), evenly),
    line="if ",
    shapes={"x": "6 5"},
    **WIDE,
)
@has(gate=lambda: nn.Linear(5, 3, bias=False))
def forward(self, x: Tensor) -> Tensor:
    """Routes each token to one expert, which takes so many tokens and no more."""
    shares = self.gate(x).softmax(-1)
    chosen = F.one_hot(shares.argmax(-1), 3)
    place = chosen.cumsum(0) * chosen
    dropped = (place > 4).sum()
    if dropped > 0:
        x = x / (1 + dropped)
    if (chosen.sum(0) == 2).all():
        return x * 3
    return x * shares.amax(-1, keepdim=True)


def clear_at_last(model: Any, x: Tensor) -> Tensor:
    """Return how clear the large model is, as long as the small one is not."""
    best = model.large(x).softmax(-1).topk(2).values
    clear = (best[:, 0] - best[:, 1]).amin().clamp(max=0.3)
    return clear - model.small(x[:1]).square().sum()


@branch(
    "asks a larger model",
    X6,
    climbed(X6, lambda m, x: m.small(x).softmax(-1).amax(-1).amin()),
    climbed(X6, clear_at_last),
    line="if ",
    **WIDE,
)
@has(
    small=lambda: nn.Linear(6, 4),
    large=lambda: nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 4)),
)
def forward(self, x: Tensor) -> Tensor:
    shares = self.small(x).softmax(-1)
    entropy = -(shares * shares.log()).sum(-1)
    if entropy.max() < 0.7:
        return shares
    best = self.large(x).softmax(-1).topk(2).values
    if (best[:, 0] - best[:, 1]).amin() > 0.25:
        return best[:, :1] * x
    return x * 0.1


@branch("sets zero point", X6, X6.abs(), -X6.abs(), torch.cat([X6, -X6]), line="if zero")
def forward(self, x: Tensor) -> Tensor:
    low, high = x.min().clamp(max=0.0), x.max().clamp(min=0.0)
    scale = (high - low).clamp(min=1e-5) / 255
    zero = torch.round(-low / scale)
    if zero == 0:
        return (x / scale).round()
    if zero == 255:
        return -(x / scale).round()
    if zero == 128:
        return (x / scale + 128).round() / 2
    return (x / scale + zero).floor()


def spells(labels: tuple[int, ...], model: Any, x: Tensor) -> Tensor:
    """Return by how much these labels are ahead."""
    logits = model.head(x)
    return torch.stack(
        [margin(row, label) for row, label in zip(logits, labels, strict=True)]
    ).amin()


@branch(
    "collapses repeats",
    normal(8, 4),
    climbed(normal(8, 4), partial(spells, (0, 0, 0, 0, 0, 0, 0, 0))),
    climbed(normal(8, 4), partial(spells, (0, 3, 3, 0, 1, 1, 0, 0))),
    climbed(normal(8, 4), partial(spells, (0, 0, 2, 2, 0, 0, 4, 4))),
    climbed(normal(8, 4), partial(spells, (1, 3, 1, 2, 3, 1, 4, 1))),
    PYTHON,
    script=unannotated(),
    line="if ",
    shapes={"x": "8 4"},
    values={"x": (-9.0, 9.0)},
)
@has(head=lambda: nn.Linear(4, 5))
def forward(self, x: Tensor) -> Tensor:
    """Greedy decoding of frames: repeats and blanks fall out."""
    text: list[int] = []
    last = 0
    for label in self.head(x).argmax(-1).tolist():  # here
        if label != last and label != 0:
            text.append(label)
        last = label
    if not text:
        return x * 0
    if text == [3, 1]:
        return x * 2
    if len(text) >= 6:
        return x[:, :2]
    return x


@branch(
    "reads prompt",
    torch.tensor([101, 7, 102, 9, 4, 8]),
    torch.tensor([50, 7, 102, 9, 4, 8]),
    torch.tensor([101, 7, 102, 9, 102, 8]),
    torch.tensor([101, 7, 102, 102, 4, 8]),
    PYTHON,
    script=no_type(),
    line="if ",
    values={"ids": (0, 120)},
)
def forward(self, ids: Tensor) -> Tensor:
    if ids[0] != 101:
        ids = F.pad(ids, (1, 0), value=101)  # here
    ends = (ids == 102).nonzero().flatten()
    if len(ends) == 2:
        if ends[1] - ends[0] == 1:
            return ids[: int(ends[0])]
        return ids[int(ends[0]) :]
    return ids


def quiet_at(*places: int) -> Tensor:
    """Return loud frames that are quiet at these places."""
    return LOUD.index_fill(0, torch.tensor(places), 0.01)


@branch(
    "hears speech",
    call(quiet_at(0, 1, 5, 6)),
    call(quiet_at(0, 1, 2, 3, 4, 5, 6, 7)),
    LOUD,
    call(quiet_at(1, 3, 5, 7, 9)),
    NUMBER,
    line="if ",
    blame=dict.fromkeys(("trace", "onnx_legacy"), baked()),
    shapes={"frames": "10 3"},
)
def forward(self, frames: Tensor) -> Tensor:
    energy = frames.square().mean(-1).add(1e-8).log10() * 10
    voiced = energy > -3.0
    if voiced.sum() < 3:
        return frames * 0
    edges = (voiced[1:] ^ voiced[:-1]).sum()
    if edges == 0:
        return frames
    if edges >= 8:
        return frames.cumsum(0)
    first = int(voiced.float().argmax())  # here
    return frames[first:]


def surrounded(model: Any, x: Tensor) -> Tensor:
    """Return by how much the labels are one long segment, then another label, then the first."""
    logits = model.net(x)[0].mT
    ends = torch.cat([logits[:8], logits[10:]])
    return torch.minimum(margin(ends, 0), margin(logits[8:10], 2))


def thirds(model: Any, x: Tensor) -> Tensor:
    """Return by how much the labels are three segments of one length."""
    logits = model.net(x)[0].mT.view(3, 4, 3)
    return torch.stack([margin(part, place) for place, part in enumerate(logits)]).amin()


@branch(
    "merges segments",
    normal(1, 2, 12),
    climbed(normal(1, 2, 12), lambda m, x: margin(m.net(x)[0].mT, 1)),
    climbed(normal(1, 2, 12), surrounded),
    climbed(normal(1, 2, 12), thirds),
    line="if ",
    shapes={"x": "1 2 12"},
    **WIDE,
)
@has(net=lambda: nn.Conv1d(2, 3, 3, padding=1))
def forward(self, x: Tensor) -> Tensor:
    labels = self.net(x)[0].argmax(0)
    values, counts = torch.unique_consecutive(labels, return_counts=True)
    if len(values) == 1:
        return x.mean(-1)
    if counts.max() >= 6 and values[0] == values[-1]:
        return x.amax(-1)
    return x.sum(-1)


@branch(
    "uses codebook",
    normal(8, 3),
    normal(8, 3) * 0.01 + 2,
    OfModel(lambda m: m.codes[[0, 1, 2, 3, 4, 5, 0, 1]]),
    OfModel(lambda m: m.codes[[0, 1, 2, 3, 0, 1, 2, 3]]),
    OfModel(lambda m: m.codes[[0, 1, 2, 3, 0, 1, 2, 3]] * 1.8),
    PYTHON,
    script=NO_UNIQUE,
    line="if ",
    shapes={"x": "8 3"},
    values={"x": (-6.0, 6.0)},
)
@has(codes=lambda: Buffer(torch.randn(6, 3) * 2))
def forward(self, x: Tensor) -> Tensor:
    far = torch.cdist(x, self.codes)
    used = far.argmin(-1).unique()
    if used.numel() <= 1:
        return x * 0
    if used.numel() == 6:
        return self.codes[far.argmin(-1)]
    if far.amin(-1).max() < 0.7:
        return x * 2
    return x


class ReadsPosition(nn.Module):
    """A transformer that treats one class apart."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        shares = self.head(self.encoder(x).mean(1)).softmax(-1)
        if (shares.argmax(-1) == 3).all():
            if shares[:, 3].amin() > 0.35:
                return x * 2
            return x * 1.5
        return x


def just_third(model: Any, x: Tensor) -> Tensor:
    """Return by how much the class that is treated apart is ahead, up to a little."""
    return margin(model.head(model.encoder(x).mean(1)), 3).clamp(max=0.05)


def surely_third(model: Any, x: Tensor) -> Tensor:
    """Return the share of that class."""
    return model.head(model.encoder(x).mean(1)).softmax(-1)[:, 3].amin()


branch(
    normal(2, 4, 8),
    climbed(normal(2, 4, 8), just_third),
    climbed(normal(2, 4, 8), surely_third),
    line="if ",
    **WIDE,
)(ReadsPosition)


@branch(
    "holds limits",
    normal(3, 4),
    climbed(normal(3, 4), lambda m, x: m.out(torch.tanh(m.inner(x))).amin()),
    climbed(normal(3, 4), lambda m, x: -m.out(torch.tanh(m.inner(x))).square().sum().sqrt()),
    line="if drive",
    **WIDE,
)
@has(inner=lambda: nn.Linear(4, 6), out=lambda: nn.Linear(6, 3))
def forward(self, x: Tensor) -> Tensor:
    """A controller whose outputs are at their limits, all or none."""
    drive = F.hardtanh(16 * self.out(torch.tanh(self.inner(x))))
    if drive.amin() >= 1.0:
        return drive * 2
    if drive.abs().amax() < 0.9:
        return drive / 2
    return drive


@branch("sets gain", X6, X6 * 0, X6 / X6.abs().max() * 3, X6 * 0.001, line="if ")
def forward(self, x: Tensor) -> Tensor:
    peak = x.abs().max().item()
    if peak == 0.0:
        return x
    level = int(20 * torch.log10(torch.tensor(peak)).item())
    if level == 9:
        return x / 3
    if level < -30:
        return x * 30
    return x * 1.5


@branch(
    "clips percentile",
    normal(20),
    normal(20) * 0.01,
    normal(20).abs() * 4,
    normal(20).exp() * -2,
    normal(20) * 5,
    line="if ",
    shapes={"x": "20"},
    values={"x": (-9.0, 9.0)},
)
def forward(self, x: Tensor) -> Tensor:
    low, high = x.quantile(0.05), x.quantile(0.95)
    if high - low < 0.5:
        return x * 0
    if high > 3.0 and low > -0.5:
        return x.clamp(max=high)
    if x.median() > x.mean() + 0.6:
        return x - x.median()
    return x


# Exported on the other path, it has the buffer that the export itself has replaced.
@branch(
    "averages over time",
    X6,
    X6 * 0 + 0.25,
    X6 * 0 + 3,
    VALUE,
    onnx_legacy=DIFFERS,
    line="if ",
    blame={"onnx_legacy": replace(moved_on(), known=False)},
)
@has(ema=Buffer(torch.full((6,), 0.25)))
def forward(self, x: Tensor) -> Tensor:
    """Keeps a running mean, and warms up."""
    drift = (x.mean(0) - self.ema).abs()
    self.ema = 0.9 * self.ema + 0.1 * x.mean(0).detach()  # here
    if drift.amax() < 0.2:
        return x - self.ema
    if (self.ema > 0.4).all():
        return x * 2
    return x


def far_apart(model: Any, x: Tensor) -> Tensor:
    """Return how far the best is above, the worst below, in proportion."""
    scores = model.head(x).mean(0).sort().values
    return torch.minimum(scores[-1] + 4.2 * scores[0], -0.32 - scores[0])


def one_above(model: Any, x: Tensor) -> Tensor:
    """Return how far the best is above the worst, which is near zero."""
    scores = model.head(x).mean(0).sort().values
    return (scores[-1] - 4.2 * scores[0].abs()).clamp(max=0.3) - (scores[0] + 0.1).abs()


@branch(
    "breaks ties",
    X6,
    climbed(X6, lambda m, x: -leading(m, x)),
    climbed(X6, far_apart),
    climbed(X6, one_above),
    PYTHON,
    script=unannotated(),
    line="if ",
    refused={"export onnx": undecided()},
    **WIDE,
)
@has(head=lambda: nn.Linear(6, 4))
def forward(self, x: Tensor) -> Tensor:
    scores = sorted(self.head(x).mean(0).tolist(), reverse=True)  # here
    if scores[0] - scores[1] < 0.02:
        return x.flip(0)
    if scores[0] > 4 * abs(scores[-1]) and scores[-1] < -0.3:
        return x[:1]
    return x


def leading(model: Any, x: Tensor) -> Tensor:
    """Return by how much the best class leads."""
    best = model.head(x).mean(0).topk(2).values
    return best[0] - best[1]


@branch(
    "relaxes",
    X6,
    X6 * 0.01,
    X6 * 4,
    line="if steps",
    values={"x": (-9.0, 9.0)},
    refused={"export onnx": undecided()},
)
def forward(self, x: Tensor) -> Tensor:
    steps = 0
    energy = x.square().sum()
    while energy > 1.0:  # here
        x = x - 0.3 * x.tanh()
        energy = x.square().sum()
        steps += 1
        if steps == 20:
            return x * 0
    if steps == 0:
        return x + 1
    return x


@branch(
    "normalizes image",
    call(normal(3, 4, 4), "rgb"),
    call(normal(3, 4, 4).abs() * 90, "rgb"),
    call(normal(3, 4, 4), "gray"),
    call(normal(1, 4, 4).repeat(3, 1, 1), "gray"),
    line="if ",
    shapes={"image": "3 height width"},
    values={"layout": ["rgb", "gray"], "image": (-3.0, 255.0)},
)
def forward(self, image: Tensor, layout: str) -> Tensor:
    if image.max() > 10.0:
        image = image / 255
    if layout == "gray":
        weights = image.mean((1, 2))
        if (weights.max() - weights.min()) < 0.01:
            return image[:1]
        return image.mean(0, keepdim=True)
    if image.min() >= 0:
        return (image - 0.5) / 0.25
    return image


def settles(last: int, model: Any, x: Tensor) -> Tensor:
    """Return how little the state moves at a frame, as long as it moves before."""
    state, moves = torch.zeros(1, 5), []
    for frame in x[: last + 1].unbind(0):
        before, state = state, model.cell(frame[None], state)
        moves.append((state - before).square().sum())
    return torch.stack([-moves[-1], *(move.clamp(max=0.1) for move in moves[:-1])]).sum()


@branch(
    "stops listening",
    normal(8, 3),
    climbed(normal(8, 3), partial(settles, 0)),
    climbed(normal(8, 3), partial(settles, 3)),
    line="if ",
    shapes={"x": "8 3"},
    **WIDE,
)
@has(cell=lambda: nn.GRUCell(3, 5))
def forward(self, x: Tensor) -> Tensor:
    state = torch.zeros(1, 5)
    heard = 0
    for frame in x.unbind(0):
        before, state = state, self.cell(frame[None], state)
        heard += 1
        if (state - before).norm() < 0.1:
            break
    if heard == 1:
        return state * 0
    if heard < 6:
        return state * 2
    return state


@branch(
    "attends sparsely",
    normal(4, 3),
    torch.eye(4, 3) - 1,
    torch.tensor([[1.0, 0, 0], [-1, 1, 1], [-1, 1, 1], [-1, 1, 1]]),
    normal(4, 3).abs(),
    truth(BRANCH, script=None, export=REFUSED, onnx=REFUSED),
    onnx_legacy=untranslated(),
    line="if ",
    shapes={"x": "4 3"},
    ci="onnx_legacy",
)
def forward(self, x: Tensor) -> Tensor:
    scores = ((x @ x.mT) / 2).fill_diagonal_(-1.0)
    shut = scores < 0.0
    if shut.all(-1).any():
        return x * 0
    if shut.float().mean() > 0.45:
        scores = scores.masked_fill(shut, 0.0)
    if not shut[0, 1:].any():
        return x.mean(0)
    return scores.softmax(-1) @ x


@branch(
    "buckets distance",
    call(normal(6), normal(6, seed=1)),
    call(normal(6), normal(6)),
    call(normal(6), normal(6) + 8),
    call(normal(6), normal(6) + torch.tensor([10.0, 0, 0, 0, 0, 0])),
    line="if ",
    shapes={"x": "6", "y": "6"},
    values={"x": (-20.0, 20.0), "y": (-20.0, 20.0)},
    refused={"export onnx": undecided()},
)
def forward(self, x: Tensor, y: Tensor) -> Tensor:
    far = (x - y).norm()
    bucket = int(torch.floor(torch.log2(far + 1)))  # here
    if bucket == 0:
        return x
    if bucket == 4:
        return x - y
    edges = torch.tensor([0.5, 1.0, 2.0, 8.0])
    if torch.bucketize((x[0] - y[0]).abs(), edges) == 4:
        return y
    return x + y


def nearest_ids(place: int | None, model: Any) -> Tensor:
    """Return rows of the one id whose class is ahead most; or whose best class is largest."""
    logits = model.net(model.embed.weight)
    if place is None:
        return torch.full((2, 5), int(logits.amax(-1).argmax()))
    ahead = torch.stack([margin(row, place) for row in logits])
    return torch.full((2, 5), int(ahead.argmax()))


@branch(
    "scores text",
    whole(0, 39, 2, 5),
    *(OfModel(partial(nearest_ids, place)) for place in (0, None)),
    line="if ",
    shapes={"ids": "2 5"},
    values={"ids": (0, 39)},
)
@has(
    embed=lambda: nn.EmbeddingBag(40, 6),
    net=lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)),
)
def forward(self, ids: Tensor) -> Tensor:
    logits = self.net(self.embed(ids))
    labels = logits.argmax(-1)
    if (labels == 0).all():
        return ids * 0
    if logits.max() > 0.4:
        return ids + 1
    return ids


def ordered(places: tuple[int, ...], model: Any, x: Tensor) -> Tensor:
    """Return how far the classes are in this order."""
    scores = model.head(x).mean(0)[list(places)]
    return (scores[:-1] - scores[1:]).amin()


@branch(
    "orders three",
    normal(3, 5),
    climbed(normal(3, 5), partial(ordered, (2, 0, 1))),
    climbed(normal(3, 5), partial(ordered, (1, 2, 0))),
    climbed(normal(3, 5), partial(ordered, (1, 0, 2))),
    PYTHON,
    script=unannotated(),
    line="if order",
    **WIDE,
)
@has(head=lambda: nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)))
def forward(self, x: Tensor) -> Tensor:
    order = self.head(x).mean(0).argsort(descending=True).tolist()  # here
    if order == [2, 0, 1]:
        return x * 2
    if order[0] == 1 and order[-1] == 0:
        return x * 3
    return x
