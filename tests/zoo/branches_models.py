"""Branches of whole models: loops ended by data, early exits, routing, decoding, detection."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.row import *

X = call(normal(4, 3))
N = normal(4, 3)
WORDS = normal(2, 5, 16)
BOXES = normal(5, 4)
SCORES = torch.tensor([0.1, 0.9, 0.65, 0.3, 0.7])

section("branches_models", "branches")


# -- loops -----------------------------------------------------------------------------------------


@branch("halve while large", N * 1.5, X, N * 4)
def forward(self, x: Tensor) -> Tensor:
    while x.norm() > 4.0:
        x = x * 0.5
    return x + 1


@branch("fixed point", X, N * 0.05, N * 3)
@has(layer=lambda: nn.Linear(3, 3))
def forward(self, x: Tensor) -> Tensor:
    state = x
    for _ in range(10):
        new = torch.tanh(self.layer(state)) * 0.5
        change = (new - state).abs().amax()
        state = new
        if change < 0.2:
            break
    return state


@branch(
    "repeat by tensor",
    call(N, torch.tensor(2)),
    call(N, torch.tensor(0)),
    call(N, torch.tensor(1)),
    call(N, torch.tensor(3)),
    n=(0, 3),
)
def forward(self, x: Tensor, n: Tensor) -> Tensor:
    for _ in range(int(n)):  # here
        x = x * 0.5 + 1
    return x


@row(
    "repeat by mask",
    call(N, torch.tensor(2)),
    call(N, torch.tensor(0)),
    call(N, torch.tensor(3)),
    n=(0, 3),
)
def forward(self, x: Tensor, n: Tensor) -> Tensor:
    for step in range(3):
        x = torch.where(step < n, x * 0.5 + 1, x)
    return x


@branch("adds up", X, N - 40)
def forward(self, x: Tensor) -> Tensor:
    """Three turns instead of two if the mean is below -27: no ordinary call has that."""
    total = torch.zeros(())
    while bool(total < 0.9):
        total = total + 0.5 + 0.1 * torch.tanh(x.mean() / 50)
    return x * total


@branch("adds up alone", X, UNDECIDED)
def forward(self, x: Tensor) -> Tensor:
    """No input changes the number of turns."""
    total = torch.zeros(())
    while bool(total < 2):
        total = total + 1
    return x * total


@row("counts turns", X)
def forward(self, x: Tensor) -> Tensor:
    steps = 0
    while steps < x.dim():
        x = torch.tanh(x)
        steps += 1
    return x


# -- attention -------------------------------------------------------------------------------------


class Block(nn.Module):
    """Attention that clips its scores if one is too large; each block has a limit of its own."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit = limit
        self.project = nn.Linear(16, 48)
        self.inner = nn.Linear(16, 16)
        self.norm = nn.LayerNorm(16)

    def heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (2, 8)).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.project(x).chunk(3, dim=2)
        scores = self.heads(q) @ self.heads(k).transpose(2, 3) / 8**0.5
        if scores.max() > self.limit:
            scores = scores.tanh()
        mixed = (scores.softmax(3) @ self.heads(v)).transpose(1, 2).flatten(2)
        return x + torch.relu(self.inner(self.norm(mixed)))


@branch(WORDS, WORDS * 6, WORDS * 0.5, line="if scores.max() > self.limit")
class SixBlocks(nn.Module):
    def __init__(self, limits: tuple[float, ...] = (1.5, 1.5, 2.0, 2.0, 2.5, 3.0)) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(limit) for limit in limits)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


row(
    "six blocks, out of reach",
    WORDS,
    UNDECIDED,
    values={"x": (-4.0, 4.0)},
    weak=UNVERIFIED,
    tags="slow",
    line="if scores.max() > self.limit:",
)(lambda: SixBlocks((1e9,) * 6))


# -- exits and routes ------------------------------------------------------------------------------


@row(
    X,
    -N,
    N + 3,
    trace=DIFFERS,
    script=no_construct(),
    export=REFUSED,
    onnx=REFUSED,
    onnx_legacy=DIFFERS,
    blame=baked(),
)
@has(gate=lambda: nn.Linear(3, 3), experts=lambda: nn.ModuleList(nn.Linear(3, 3) for _ in range(3)))
class ExpertByIndex(nn.Module):
    """No branch: the index is a Python number, which the artifact holds as a constant."""

    def forward(self, x: Tensor) -> Tensor:
        return self.experts[self.gate(x).mean(0).argmax().item()](x)


@branch(X, -N, N + 3, line="best == ", refused={"export onnx": undecided()})
class ExpertByBranch(ExpertByIndex):
    def forward(self, x: Tensor) -> Tensor:
        best = int(self.gate(x).mean(0).argmax())  # here
        if best == 0:
            return self.experts[0](x)
        if best == 1:
            return self.experts[1](x)
        return self.experts[2](x)


@row(X, -N)
class DenseExperts(ExpertByIndex):
    def forward(self, x: Tensor) -> Tensor:
        routes = F.one_hot(self.gate(x).argmax(1), 3).to(x.dtype)
        outs = torch.stack([expert(x) for expert in self.experts], dim=1)
        return (routes.unsqueeze(2) * outs).sum(1)


# -- detection and decoding ------------------------------------------------------------------------


@branch("detections, from none", call(BOXES, SCORES * 0.5), call(BOXES, SCORES), scores=(0.0, 1.0))
@branch("detections", call(BOXES, SCORES), call(BOXES, SCORES * 0.5), UNDECIDED)
def forward(self, boxes: Tensor, scores: Tensor) -> Tensor:
    """The branch changes nothing: without it an empty result would be empty too."""
    kept = scores > 0.6
    if not kept.any():
        return boxes.new_zeros((0, 5))
    return torch.cat([boxes[kept], scores[kept].unsqueeze(1)], dim=1)


@branch(torch.tensor([[0], [1]]), torch.tensor([[2], [7]]), torch.tensor([[6], [6]]), ids=(0, 7))
@has(follower=lambda: Buffer(torch.tensor([1, 3, 2, 4, 5, 6, 7, 2])))
class Generate(nn.Module):
    """Greedy decoding with a stop token."""

    def forward(self, ids: Tensor) -> Tensor:
        for _ in range(4):
            new = self.follower[ids[:, -1]]
            ids = torch.cat([ids, new.unsqueeze(1)], dim=1)
            if (new == 2).all():
                break
        return ids


@row("generate, masked", torch.tensor([[0], [1]]), torch.tensor([[2], [7]]), ids=(0, 7))
class GenerateMasked(Generate):
    def forward(self, ids: Tensor) -> Tensor:
        for _ in range(4):
            last = ids[:, -1]
            new = torch.where(last == 2, last, self.follower[last])
            ids = torch.cat([ids, new.unsqueeze(1)], dim=1)
        return ids
