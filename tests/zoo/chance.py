"""Random numbers: from eager's stream, from another one, or frozen during the export."""

from __future__ import annotations

import random
from typing import Tuple  # noqa: UP035  # TorchScript's words

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.converters import CAPTURED, captured
from zoo.row import (
    DIFFERS,
    EVAL_MODE,
    REFUSED,
    SKIPPED,
    STRUCTURE,
    Blame,
    baked,
    call,
    no_construct,
    no_type,
    normal,
    row,
    truth,
)

# -- faithful: the artifact draws what eager draws -------------------------------------------------


class AddsNoise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


class NormalNoise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.randn(x.shape[0], 3)


class Sampled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.bernoulli(torch.sigmoid(x)) * x


class DropsByDefault(nn.Module):
    """F.dropout defaults to training=True: random in eval mode too, in eager and artifact."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5)


class Drops(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.head(x))


class NoiseBeside(nn.Module):
    """One output is random, the other is not."""

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
        return x + torch.rand_like(x), x * 2


class NoiseIntoNothing(nn.Module):
    """Draws random numbers that cancel out."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.0 * torch.rand_like(x)


class RandomShapeOnly(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.ones_like(torch.rand_like(x))


# -- frozen: a number that was drawn during the export ---------------------------------------------


class SeedsItself(nn.Module):
    """Always draws the same numbers: a random projection that need not be stored."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def forward(self, x: Tensor) -> Tensor:
        torch.manual_seed(self.seed)
        return x + torch.randn(3)


class PythonChance(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * random.uniform(1.0, 2.0)


class PythonChoice(nn.Module):
    def forward(self, x):
        return x * random.choice([1.0, 2.0, 3.0, 5.0, 7.0, 11.0, 13.0])


class NumpyChance(nn.Module):
    def forward(self, x):
        return x + float(np.random.rand())  # noqa: NPY002  # the stream that seeds reach


class DrawnOnce(nn.Module):
    """``item()`` makes a Python number of a draw: a constant of the trace."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rand(1).item()


class FrozenNoise(nn.Module):
    """A converter that keeps the numbers drawn during the export."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.full((1, 3), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        if captured():
            return x + self.kept
        return x + torch.rand(1, 3)


# -- random, and wrong in a way that randomness does not explain -----------------------------------


class NoiseInDouble(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x + torch.rand_like(x)
        if captured():
            return y.double()
        return y


class NoiseOneColumnShort(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x + torch.rand_like(x)
        if captured():
            return y[:, 1:]
        return y


class NoiseBesideWrong(nn.Module):
    """The second output is not random, and wrong."""

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
        noisy = x + torch.rand_like(x)
        if captured():
            return noisy, x * 2.01
        return noisy, x * 2


class NoiseAsAPair(nn.Module):
    def forward(self, x):
        y = x + torch.rand_like(x)
        if captured():
            return y, x
        return y


class WiderNoise(nn.Module):
    """Other numbers from the same stream: visible if the artifact uses eager's stream."""

    def forward(self, x: Tensor) -> Tensor:
        if captured():
            return x + 2 * torch.rand_like(x)
        return x + torch.rand_like(x)


class OtherKindOfNoise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if captured():
            return x + torch.randn_like(x)
        return x + torch.rand_like(x)


X = call(normal(4, 3))
# ONNX Runtime has its own random stream, so values cannot be compared.
STREAM = truth(onnx=SKIPPED, onnx_legacy=SKIPPED)
# Exporters drop the call that seeds.
SEEDED = Blame(owner="model", cause="own seed", line="torch.manual_seed(self.seed)")

CHANCE = (
    row("adds noise", AddsNoise, X, STREAM, round_trip=True),
    row("normal noise", NormalNoise, X, STREAM),
    row("sampled", Sampled, X, STREAM, ci="script", round_trip=True),
    row("drops by default", DropsByDefault, X, STREAM, ci="export", round_trip=True),
    row("noise beside", NoiseBeside, X, STREAM, ci="trace onnx_legacy"),
    row("noise into nothing", NoiseIntoNothing, X, ci="onnx", round_trip=True),
    row("random shape only", RandomShapeOnly, X, ci="onnx_legacy", round_trip=True),
    row("drops, eval", Drops, call(normal(4, 6))),
    # The legacy exporter puts the model into eval mode: constant, but eager varies with the seed.
    row(
        "drops, train",
        Drops,
        call(normal(4, 6)),
        truth(onnx=SKIPPED, onnx_legacy=DIFFERS),
        train=True,
        mode="train",
        ci="onnx_legacy",
        blame=EVAL_MODE,
    ),
    row(
        "drops, train unmeant",
        Drops,
        call(normal(4, 6)),
        truth("TrainingMode"),
        train=True,
        mode="as-is",
        ci="trace script export onnx onnx_legacy",
    ),
    # Exporters drop the call that seeds; a script keeps it.
    row(
        "seeds itself with 0",
        lambda: SeedsItself(0),
        X,
        truth(DIFFERS, script=None),
        blame=SEEDED,
    ),
    row(
        "seeds itself with 7",
        lambda: SeedsItself(7),
        X,
        truth(DIFFERS, script=None),
        ci="",
        blame=SEEDED,
    ),
    row(
        "python chance",
        PythonChance,
        X,
        truth(DIFFERS, script=REFUSED),
        blame=baked("random.uniform(1.0, 2.0)"),
        refused={"script": no_construct("x * random.uniform(1.0, 2.0)")},
    ),
    row(
        "python choice",
        PythonChoice,
        X,
        truth(DIFFERS, script=REFUSED),
        blame=baked("random.choice("),
        refused={
            "script": no_construct("x * random.choice([1.0, 2.0, 3.0, 5.0, 7.0, 11.0, 13.0])")
        },
    ),
    row(
        "numpy chance",
        NumpyChance,
        X,
        truth(DIFFERS, script=REFUSED),
        ci="onnx",
        blame=baked("np.random.rand()"),
        refused={"script": no_construct("x + float(np.random.rand())")},
    ),
    row(
        "drawn once",
        DrawnOnce,
        X,
        truth(trace=DIFFERS, onnx=SKIPPED, onnx_legacy=DIFFERS),
        ci="trace export",
        blame=baked("torch.rand(1).item()"),
    ),
    row("frozen noise", FrozenNoise, X, truth(DIFFERS), ci="export", blame=CAPTURED),
    row("noise in double", NoiseInDouble, X, truth(DIFFERS), blame=CAPTURED),
    row(
        "noise one column short",
        NoiseOneColumnShort,
        X,
        truth(DIFFERS),
        ci="onnx_legacy",
        blame=CAPTURED,
    ),
    row("noise beside, wrong", NoiseBesideWrong, X, truth(DIFFERS), ci="", blame=CAPTURED),
    row(
        "noise as a pair",
        NoiseAsAPair,
        X,
        truth(STRUCTURE, script=REFUSED),
        ci="trace script export onnx onnx_legacy",
        blame=CAPTURED,
        refused={"script": no_type("y")},
    ),
    row(
        "wider noise",
        WiderNoise,
        X,
        truth(DIFFERS, onnx=SKIPPED, onnx_legacy=SKIPPED),
        ci="script onnx_legacy",
        blame=CAPTURED,
    ),
    row(
        "other kind of noise",
        OtherKindOfNoise,
        X,
        truth(DIFFERS, onnx=SKIPPED, onnx_legacy=SKIPPED),
        ci="onnx",
        blame=CAPTURED,
    ),
)
