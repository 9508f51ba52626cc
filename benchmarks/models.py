"""Build the models that the timing rows use, each with an example of batch 2."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


class Mlp(nn.Sequential):
    """An MLP with 16 -> 64 -> 64 -> 10 features."""

    def __init__(self) -> None:
        super().__init__(
            nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
        )


class Block(nn.Module):
    """A residual block of two 3x3 convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.second(torch.relu(self.norm(self.first(x)))))


class Cnn(nn.Module):
    """A small ResNet on 32x32 images, of about 80k parameters if it has 4 blocks."""

    def __init__(self, blocks: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(*(Block(32) for _ in range(blocks)))
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Encoder(nn.Module):
    """A two-layer transformer encoder."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.encoder(x)


class Lstm(nn.Module):
    """A one-layer LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(16, 32, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lstm(x)[0]


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MLP": (Mlp, (2, 16)),
    "CNN": (Cnn, (2, 3, 32, 32)),
    "encoder": (Encoder, (2, 10, 32)),
    "LSTM": (Lstm, (2, 10, 16)),
}
# The model of issues and of the page on speed, which most rows would take too long for.
TEN_BLOCKS = "ten blocks"
LARGER: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    TEN_BLOCKS: (lambda: Cnn(blocks=10), (2, 3, 32, 32)),
}


def build(name: str) -> tuple[nn.Module, torch.Tensor]:
    """Return a model in eval mode and its example, the same each time."""
    torch.manual_seed(0)
    make, shape = {**MODELS, **LARGER}[name]
    return make().eval(), torch.randn(shape)
