"""Branches on float tensors, and numbers that decide without an ``if``.

By where the threshold is stored, how the parts of the condition are joined, and what is compared; then a
comparison that is a number, ``max``, ``min``, and a key of a dict.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.row import *

X = call(normal(4, 3))
WIDE = {"x": (-4.0, 4.0)}
N = normal(4, 3)
GRID = torch.tensor([[-1.0, 0.0, 2.0], [2.0, -1.0, -1.0], [0.0, 2.0, -1.0], [-1.0, 2.0, 2.0]])

section("branches_values", "branches")


# -- where the threshold lives ---------------------------------------------------------------------


@branch("sign of mean, positive inputs", N.abs() + 0.5, UNDECIDED, x=(0.25, 4.0), weak=UNVERIFIED)
@branch("sign of mean", X, N + 1)
def forward(self, x: Tensor) -> Tensor:
    if x.mean() > 0:
        return x * 2
    return x - 1


@dataclass(frozen=True)
class Limits:
    low: float = -1.5
    high: float = 1.5


@branch("limit in config", X, N - 2, N + 2, PYTHON, script=no_type(), line="self.config")
@has(config=Limits)
def forward(self, x: Tensor) -> Tensor:
    if x.mean() < self.config.low:  # here
        return x - self.config.low
    if x.mean() > self.config.high:
        return x * self.config.high
    return x.exp()


@branch("learned band", X, equal_rows(-1.88, 1.88, -1.88), equal_rows(-2.5, 2.5, -2.5), values=WIDE)
@has(project=lambda: nn.Linear(3, 1))
def forward(self, x: Tensor) -> Tensor:
    """A narrow band on a learned projection: few random inputs fall into it."""
    score = self.project(x).mean()
    if 1.05 < score < 1.07:
        return x * score
    return x - 1


def tilted(x: Tensor, degrees: float) -> Tensor:
    """Return another tensor of the same norm, at this angle."""
    angle = torch.deg2rad(torch.tensor(degrees))
    other = normal(*x.shape, seed=9)
    across = other - (other * x).sum() / x.square().sum() * x
    return x * angle.cos() + across / across.norm() * x.norm() * angle.sin()


@branch(
    "cosine band", call(N, normal(4, 3, seed=1)), call(N, tilted(N, 44.7)), call(N, tilted(N, 10))
)
def forward(self, x: Tensor, y: Tensor) -> Tensor:
    cosine = F.cosine_similarity(x.flatten(), y.flatten(), dim=0)
    if 0.70 < cosine < 0.72:
        return x - y
    return x + y


# -- parts, chains, nesting ------------------------------------------------------------------------


@branch(
    "chained numbers",
    X,
    N + 1,
    N + 2.4,
    equal_rows(-1.0, 0.0, 2.5),
    filled(3.0, 4, 3),
    values=WIDE,
    refused={"export onnx": undecided("top = float(x.max())")},
)
def forward(self, x: Tensor) -> Tensor:
    top = float(x.max())
    if 2.0 <= top <= 3.0 != float(x.min()):
        return -x
    return x


@branch("elif", X, N - 2, N + 1, N + 2, line="if level <")
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


@branch("same tensor", call(N, normal(4, 3, seed=1)), call(N, N.clone()))
def forward(self, x: Tensor, y: Tensor) -> Tensor:
    """A trace makes ``torch.equal`` a constant, without a warning."""
    if torch.equal(x, y):
        return x * 3
    return x - y


@branch("standardize", X, filled(0.5, 4, 3))
def forward(self, x: Tensor) -> Tensor:
    """Tests for a constant input, whose standard deviation of 0 would be divided by."""
    deviation = x.std()
    if deviation < 1e-6:
        return torch.zeros_like(x)
    return (x - x.mean()) / deviation


@branch("ascending", X, N.sort(1).values)
def forward(self, x: Tensor) -> Tensor:
    if (x[:, 1:] >= x[:, :-1]).all():
        return x[:, :1] * 2
    return x.amin(1, keepdim=True)


# NaN is no legal value here, so no legal call tells the two sides apart.
@branch("any nan, without nan", X, UNDECIDED, weak=UNVERIFIED)
@branch("any nan", GRID, torch.where(GRID == 0, torch.nan, GRID), x=[-1.0, 0.0, 2.0, torch.nan])
def forward(self, x: Tensor) -> Tensor:
    if torch.isnan(x).any():
        x = torch.nan_to_num(x, nan=-1.0)
    return x * 2


FAR = {"values": {"k": (0, 5000)}}
WIDE = {"shapes": {"x": "batch t"}, "dims": {"t": (2, 300)}}
SHORT = normal(2, 4)
FIVE, KEY = torch.tensor(5), torch.tensor(999)

section("branches_values", "branches", "numbers")


@branch("number looked up", call(SHORT, FIVE), call(SHORT, KEY), **FAR)
def forward(self, x: Tensor, k: Tensor) -> Tensor:
    return x * {3: 2.0, 999: 5.0}.get(int(k), 1.0)


@branch("a comparison as a number", call(SHORT, FIVE), call(SHORT, KEY), **FAR)
def forward(self, x: Tensor, k: Tensor) -> Tensor:
    return x * (1.0 + (k.item() == 999))


@branch("compares without effect", call(SHORT, FIVE), UNDECIDED, **FAR)
def forward(self, x: Tensor, k: Tensor) -> Tensor:
    found = k.item() == 999
    return x * max(2.0, 1.0 + found)  # here


section("branches_sizes", "branches", "numbers")


@branch(
    "size looked up",
    SHORT,
    normal(2, 13),
    STATIC,
    refused=dict.fromkeys(("export", "onnx"), frozen_size()),
    **WIDE,
)
def forward(self, x: Tensor) -> Tensor:
    return x * {13: 2.0}.get(int(x.shape[1]), 1.0)


# A trace computes the comparison of a size.
@row("a size as a number", SHORT, export=NARROWED, onnx=NARROWED, blame=decided(), **WIDE)
def forward(self, x: Tensor) -> Tensor:
    return x * (1 + (x.shape[1] > 40))


section("baked", "numbers")


@row("at least one", 0.1 * SHORT, 30 * SHORT, ITEM, blame=baked())
def forward(self, x: Tensor) -> Tensor:
    return x / max(x.abs().max().item(), 1.0)


@row("clamped instead", 0.1 * SHORT)
def forward(self, x: Tensor) -> Tensor:
    return x / x.abs().max().clamp(min=1.0)


@row("numbers of its own", SHORT)
@has(width=3, least=2, gains={2: 0.5, 3: 1.5})
def forward(self, x: Tensor) -> Tensor:
    """Its comparisons, ``max`` and keys are the same on every call."""
    gain = self.gains.get(x.dim(), 1.0) * max(self.width, self.least)
    return x * (gain + (x.dim() == self.least))
