"""Models with conditions, as large as deployed ones, for the rows on the cost of observing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from models import Cnn
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from zoo.row import Row, seeded


class GatedBlock(nn.Module):
    """Attention and an MLP; conditions limit large scores and skip small outputs."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.project(self.before(x)).chunk(3, -1)
        )
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        if scores.max() > 2.2:
            scores = scores.tanh() * 2.2
        y = self.out((scores.softmax(-1) @ value).transpose(1, 2).flatten(2))
        if y.abs().mean() < 0.03:
            return x + y
        x = x + y
        return x + self.mlp(self.between(x))


class GatedTransformer(nn.Sequential):
    """Six blocks with 1.8 M parameters."""

    def __init__(self) -> None:
        super().__init__(*(GatedBlock(192, 4) for _ in range(6)))


class GatedCnn(Cnn):
    """The CNN of ``models``, with an early exit after each block."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
            if x.abs().max() > 50.0:
                break
        return self.head(x.mean((2, 3)))


BRANCHING: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "6-block transformer, 2 x 64 x 192": (GatedTransformer, (2, 64, 192)),
    "CNN, 2 x 3 x 96 x 96": (GatedCnn, (2, 3, 96, 96)),
    "CNN, 2 x 3 x 32 x 32": (GatedCnn, (2, 3, 32, 32)),
}


def row(name: str) -> Row:
    """Return a model and its example as a row of the zoo, the same each time."""
    make, shape = BRANCHING[name]
    return Row(
        name=name,
        build=seeded(make),
        example=lambda: ((torch.randn(shape, generator=torch.Generator().manual_seed(0)),), {}),
    )
