"""Build the models that the timing rows use, those with conditions as large as deployed ones."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from zoo.row import Row, call, normal, seeded


class Block(nn.Module):
    """A residual block of two 3x3 convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.second(torch.relu(self.norm(self.first(x)))))


class Cnn(nn.Module):
    """A small ResNet on 32x32 images, of about 80k parameters if it has 4 blocks."""

    def __init__(self, blocks: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(*(Block(32) for _ in range(blocks)))
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(16, 32, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0]


def mlp() -> nn.Module:
    layers = nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
    return nn.Sequential(*layers)


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


Models = dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]]

MODELS: Models = {
    "MLP": (mlp, (2, 16)),
    "CNN": (Cnn, (2, 3, 32, 32)),
    "encoder": (encoder, (2, 10, 32)),
    "LSTM": (Lstm, (2, 10, 16)),
}
# The model of issues and of the page on speed, which most rows would take too long for.
LARGER: Models = {"ten blocks": (lambda: Cnn(blocks=10), (2, 3, 32, 32))}


def build(name: str) -> tuple[nn.Module, Tensor]:
    """Return a model in eval mode and its example, the same each time."""
    torch.manual_seed(0)
    make, shape = {**MODELS, **LARGER}[name]
    return make().eval(), torch.randn(shape)


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


TRANSFORMER = "6-block transformer, 2 x 64 x 192"


def transformer() -> Row:
    """Return six blocks with 1.8 M parameters, and their example, as a row of the zoo."""
    return Row(
        name=TRANSFORMER,
        build=seeded(lambda: nn.Sequential(*(GatedBlock(192, 4) for _ in range(6)))),
        example=call(normal(2, 64, 192)),
    )
