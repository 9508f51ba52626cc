"""Small models for the tests of targets: one operation, one counter, one net of images; all in eval mode."""

from __future__ import annotations

import torch
from torch import nn


class Operation(nn.Module):
    """A function of one tensor, or a layer, as a model."""

    def __init__(self, run):
        super().__init__()
        self.run = run

    def forward(self, x):
        return self.run(x)


def of(run):
    return Operation(run).eval()


class Counter(nn.Module):
    """It counts its calls in a buffer."""

    def __init__(self, size=1, start=0.0):
        super().__init__()
        self.register_buffer("n", torch.full((size,), start))

    def forward(self, x):
        self.n.add_(1)
        return x * self.n[0]


def cnn():
    """Return a net of images [batch, 3, height, width]."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    return nn.Sequential(*layers).eval()
