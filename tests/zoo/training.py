"""Training mode: left on by mistake, wanted, or without effect."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from zoo.row import call, normal, row, truth


def with_part(part: Callable[[], nn.Module], *, training: bool) -> Callable[[], nn.Module]:
    """Return a model in eval mode; ``training`` sets the mode of one part."""

    def make() -> nn.Module:
        model = nn.Sequential(nn.Linear(6, 3), part()).eval()
        model[1].train(training)
        return model

    return make


def norm() -> nn.Module:
    return nn.BatchNorm1d(3)


def drop() -> nn.Module:
    return nn.Dropout(0.5)


X = call(normal(4, 6))
UNMEANT = truth("TrainingMode")

# ``train=None`` keeps the flags that the factory set.
TRAINING = (
    row(
        "dropout left training",
        with_part(drop, training=True),
        X,
        UNMEANT,
        train=None,
        mode="as-is",
    ),
    row(
        "norm left training",
        with_part(norm, training=True),
        X,
        UNMEANT,
        train=None,
        mode="as-is",
        ci="export onnx_legacy",
    ),
    row(
        "all left training",
        with_part(norm, training=True),
        X,
        UNMEANT,
        train=True,
        mode="as-is",
        ci="script onnx",
    ),
    row(
        "none left training",
        with_part(norm, training=False),
        X,
        train=None,
        mode="as-is",
        ci="script",
        round_trip=True,
    ),
    row(
        "dropout put into eval",
        with_part(drop, training=True),
        X,
        train=True,
        ci="onnx",
        round_trip=True,
    ),
    row(
        "norm put into eval",
        with_part(norm, training=True),
        X,
        train=True,
        ci="export",
        round_trip=True,
    ),
    row("part put into eval", with_part(drop, training=True), X, train=None, round_trip=True),
    # No part of it depends on the mode.
    row(
        "training without consequence",
        lambda: nn.Linear(6, 3),
        X,
        train=True,
        mode="train",
        ci="onnx_legacy",
        round_trip=True,
    ),
)
