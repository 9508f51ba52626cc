"""Branches as deployed models have them: detectors, routers, quantizers, decoders, early exits.

Many of their conditions need a rare input. Those in ``branches_held_out`` are of the same kinds.
"""

from __future__ import annotations

import enum
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.row import *

X6 = normal(4, 6)
X24 = normal(24)
WIDE = {"values": {"x": (-5.0, 5.0)}}
BOXES = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.5, 0.0, 2.0, 2.0], [5.0, 5.0, 1.0, 1.0]])
SCORES = torch.tensor([0.9, 0.6, 0.4])

section("branches_models", "deployed")


@branch(
    "suppresses overlaps",
    call(BOXES, SCORES),
    call(BOXES[:1].repeat(3, 1), SCORES),
    call(BOXES, torch.tensor([0.9, 0.02, 0.6])),
    call(BOXES + 9 * torch.eye(3, 4), SCORES),
    PYTHON,
    script=unannotated(),
    line="for i in scores",
    refused={"export onnx": undecided("if ")},
    boxes=(0.0, 12.0),
    scores=(0.0, 1.0),
)
def forward(self, boxes: Tensor, scores: Tensor) -> Tensor:
    """Non-maximum suppression, one box at a time."""
    kept: list[int] = []
    for i in scores.argsort(descending=True).tolist():  # here
        if scores[i] < 0.05:
            break
        if not kept or iou(boxes[i][None], boxes[kept]).max() < 0.5:
            kept.append(i)
    return boxes[kept]


def iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the overlaps of boxes, each a corner and a size, by pairs."""
    low = torch.maximum(boxes[:, None, :2], others[None, :, :2])
    ends = boxes[:, None, :2] + boxes[:, None, 2:], others[None, :, :2] + others[None, :, 2:]
    common = (torch.minimum(*ends) - low).clamp(min=0).prod(-1)
    areas = boxes[:, 2:].prod(-1)[:, None] + others[:, 2:].prod(-1)[None]
    return common / (areas - common).clamp(min=1e-6)


@branch(
    "routes to two",
    X6,
    climbed(X6, lambda m, x: m.gate(x).softmax(-1).amax(-1).amin()),
    climbed(X6 * 0.1, lambda m, x: margin(m.gate(x), 2).clamp(max=0.1)),
    climbed(X6 * 0.1, lambda m, x: -margin(-m.gate(x), 3).abs().sum()),
    PYTHON,
    script=no_construct(),
    line="if ",
)
@has(
    gate=lambda: nn.Linear(6, 4, bias=False),
    experts=lambda: nn.ModuleList(nn.Linear(6, 6) for _ in range(4)),
)
def forward(self, x: Tensor) -> Tensor:
    top = self.gate(x).softmax(-1).topk(2)
    chosen = top.indices
    if top.values[:, 0].amin() > 0.9:
        return x * top.values[:, :1]
    if (chosen[:, 0] == 2).all():
        return self.experts[2](x)
    if not (chosen == 3).any():
        return self.experts[0](x) + self.experts[1](x)
    return sum(expert(x) for expert in self.experts)  # here


def certainty(depth: int, model: Any, x: Tensor) -> Tensor:
    """Return how sure the model is at one exit, in the worst row, and not sure before."""
    sure = []
    for block, head in zip(model.blocks, model.heads, strict=True):
        x = x + torch.tanh(block(x))
        sure.append(head(x).softmax(-1).amax(-1).amin())
    return torch.stack([sure[depth].clamp(max=0.85), *(0.8 - item for item in sure[:depth])]).amin()


@branch("exits early", X6, *(climbed(X6, partial(certainty, depth)) for depth in range(3)), **WIDE)
@has(
    blocks=lambda: nn.ModuleList(nn.Linear(6, 6) for _ in range(3)),
    heads=lambda: nn.ModuleList(nn.Linear(6, 4) for _ in range(3)),
)
def forward(self, x: Tensor) -> Tensor:
    for block, head in zip(self.blocks, self.heads):  # noqa: B905
        x = x + torch.tanh(block(x))
        logits = head(x)
        if logits.softmax(-1).amax(-1).amin() > 0.8:
            return logits
    return logits * 0.5


@branch(
    "rejects outlier",
    X6,
    X6 + 4,
    X6 + 1.2,
    truth(STATE, script=None, export=REFUSED, onnx=REFUSED, onnx_legacy=BRANCH),
    line="if ",
    blame={"trace": moved_on()},
    **WIDE,
)
@has(mean=Buffer(torch.tensor(0.5)), spread=Buffer(torch.tensor(0.4)))
def forward(self, x: Tensor) -> Tensor:
    """Keeps a running mean, which a call that is far from it does not move."""
    level = x.mean()
    if (level - self.mean).abs() > 3 * self.spread:
        return x * 0
    self.mean.lerp_(level.detach(), 0.1)  # here
    if self.mean > 0.55:
        return x - self.mean
    return x


@branch(
    "picks level",
    X24,
    X24 / X24.std() * 1.3,
    X24 / X24.max() * 2.75,
    PYTHON,
    script=no_type(),
    line="if ",
    **WIDE,
)
def forward(self, x: Tensor) -> Tensor:
    level = round(x.std().item(), 1)  # here
    if level == 1.3:
        return x / level
    tenths = int(x.max().item() * 10)
    if tenths % 10 == 7:
        return x * tenths
    return x


def levels(way: float, model: Any, x: Tensor) -> Tensor:
    """Return how far the nets are beyond their limits; the third below it if ``way`` is 1."""
    a, b, c = (net(x).mean() for net in model.nets)
    return torch.stack([a - 0.45, b + 0.18, way * (-0.1 - c) - 0.05]).amin()


@branch(
    "nests conditions",
    X6,
    climbed(X6, lambda m, x: m.nets[0](x).mean() - 0.5 * m.nets[1](x).mean()),
    climbed(X6, partial(levels, 1.0)),
    climbed(X6, partial(levels, -1.0)),
    line="if ",
    **WIDE,
)
@has(
    nets=lambda: nn.ModuleList(
        nn.Sequential(nn.Linear(6, 8), nn.SiLU(), nn.Linear(8, 1)) for _ in range(3)
    )
)
def forward(self, x: Tensor) -> Tensor:
    a, b, c = (net(x).mean() for net in self.nets)
    if a > 0.4:
        if b > -0.2:
            if c < -0.1:
                return x * 4
            return x * 3
        return x * 2
    return x


class Mode(enum.Enum):
    GREEDY = "greedy"
    BEAM = "beam"


@branch(
    "decodes by mode",
    call(normal(3, 5), "greedy"),
    call(normal(3, 5), "beam"),
    call(normal(3, 5) * 0.01, "beam"),
    truth(BRANCH, export=RAISES),
    script=Blame(owner="capture", cause="unsupported construct", line="Mode(mode)", known=False),
    line="if ",
    blame={"export": GUARD},
    values={"mode": ["greedy", "beam"]},
    tags="slow",
)
def forward(self, logits: Tensor, mode: str) -> Tensor:
    best = logits.topk(2).values
    if Mode(mode) is Mode.BEAM:
        margin = best[..., 0] - best[..., 1]
        if margin.amax() < 0.1:
            return logits.softmax(-1)
        return logits.log_softmax(-1)
    return logits * best[..., :1]
