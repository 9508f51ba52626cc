"""Branches as deployed models have them, which were written before the search for branches was improved.

`benchmarks/branches.py` prints their figures apart. The search was measured on these models and developed on those of
``branches_deployed``, until what it missed here was read, too.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.row import *

NO_UNIQUE = Blame(owner="capture", cause="unsupported operator", line=".unique()")
X6 = normal(4, 6)
WIDE = {"values": {"x": (-5.0, 5.0)}}
PLACES = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]])

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
    anchors=("5 2", (-9.0, 9.0)),
    targets=("3 2", (-9.0, 9.0)),
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
    x=("8 4", (-9.0, 9.0)),
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


# Exported on the other path, it has the buffer that the export itself has replaced.
@branch(
    "averages over time",
    X6,
    X6 * 0 + 0.25,
    X6 * 0 + 3,
    VALUE,
    onnx_legacy=DIFFERS,
    line="if ",
    blame={"onnx_legacy": decided("if drift.amax() < 0.2:")},
)
@has(ema=Buffer(torch.full((6,), 0.25)))
def forward(self, x: Tensor) -> Tensor:
    """Keeps a running mean, and warms up."""
    drift = (x.mean(0) - self.ema).abs()
    self.ema = 0.9 * self.ema + 0.1 * x.mean(0).detach()
    if drift.amax() < 0.2:
        return x - self.ema
    if (self.ema > 0.4).all():
        return x * 2
    return x


@branch(
    "normalizes image",
    call(normal(3, 4, 4), "rgb"),
    call(normal(3, 4, 4).abs() * 90, "rgb"),
    call(normal(3, 4, 4), "gray"),
    call(normal(1, 4, 4).repeat(3, 1, 1), "gray"),
    line="if ",
    image=("3 height width", (-3.0, 255.0)),
    layout=["rgb", "gray"],
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
    ids=("2 5", (0, 39)),
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
