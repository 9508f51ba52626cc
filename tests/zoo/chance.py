"""Random numbers that follow the seed, and models that do not repeat themselves."""

from __future__ import annotations

import itertools
import random

import torch
from torch import Tensor, nn

from zoo.row import DIFFERS, REFUSED, SKIPPED, call, normal, row, truth


class AddsNoise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


class PythonChance(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * random.uniform(1.0, 2.0)


class Drops(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.head(x))


_clock = itertools.count(1)


class GlobalClock(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * next(_clock)


CHANCE = (
    row("adds noise", AddsNoise, call(normal(4, 3)), truth(onnx=SKIPPED, onnx_legacy=SKIPPED)),
    row("python chance", PythonChance, call(normal(4, 3)), truth(DIFFERS, script=REFUSED)),
    row("drops, eval", Drops, call(normal(4, 6))),
    # The legacy exporter puts the model into eval: constant, where eager varies with the seed.
    row(
        "drops, train",
        Drops,
        call(normal(4, 6)),
        truth(onnx=SKIPPED, onnx_legacy=DIFFERS),
        train=True,
        mode="train",
    ),
    row(
        "drops, train unmeant",
        Drops,
        call(normal(4, 6)),
        truth("TrainingMode"),
        train=True,
        mode="as-is",
    ),
    row("global clock", GlobalClock, call(normal(4, 3)), truth("NotRepeatable")),
)
