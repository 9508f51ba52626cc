"""Branches on float tensors, by where the condition stands: ternaries, comprehensions, helpers,
closures, methods, several instances of one class. Also frozen branches that change no output.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from zoo.row import *

X = call(normal(4, 3))
N = normal(4, 3)
GRID = torch.tensor([[-1.0, 0.0, 2.0], [2.0, -1.0, -1.0], [0.0, 2.0, -1.0], [-1.0, 2.0, 2.0]])

section("branches_places", "branches")


# -- where the condition stands --------------------------------------------------------------------


@branch("ternary", X, N + 1)
def forward(self, x: Tensor) -> Tensor:
    sign = 1.0 if x.sum() > 0 else -1.0  # here
    return x * sign + 1


@branch("filtered rows", X, N.abs(), -N.abs(), PYTHON, script=no_construct(), x="...")
def forward(self, x: Tensor) -> Tensor:
    kept = [one for one in x if one.sum() > 0]  # here
    return torch.stack([x.new_zeros(3), *kept]).sum(0)


# The strict capture that torch.onnx.export falls back to accepts assertions.
@row("positive, asserted", N.abs(), export=undecided())
def forward(self, x: Tensor) -> Tensor:
    """If the assertion fails, eager raises, and the artifact has nothing to be equal to."""
    assert x.min() >= 0, "negative"  # here
    return x.sqrt()


def softened(x: Tensor) -> Tensor:
    if x.max() > 2.2:
        return x.tanh()
    return x


@branch(
    "in helper, twice", call(N, N.flip(0)), call(N * 2, N), call(N, N * 2), line="if x.max() > 2.2"
)
def forward(self, x: Tensor, y: Tensor) -> Tensor:
    """One line, two places that call it."""
    return softened(x) - softened(y)


@branch(
    "in closure",
    X,
    N + 1,
    PYTHON,
    script=no_construct(),
    line="value * 2 if value.mean() > limit else value.neg()",
)
def forward(self, x: Tensor) -> Tensor:
    limit = 0.3

    def pick(value: Tensor) -> Tensor:  # here
        return value * 2 if value.mean() > limit else value.neg()

    return pick(x)


def announced(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Tensor:
        return function(*args, **kwargs)

    return wrapper


@branch(X, N * 2)
class Decorated(nn.Module):
    @announced
    def forward(self, x: Tensor) -> Tensor:
        if x.var() > 2.0:
            return x / x.var()
        return x


@branch(
    X,
    N * 2,
    refused={"export onnx": undecided("self.center * 2 if self.center < 1 else self.center")},
)
@has(center=lambda: Buffer(torch.tensor(0.5)))
class InProperty(nn.Module):
    @property
    def limit(self) -> Tensor:
        return self.center * 2 if self.center < 1 else self.center

    def forward(self, x: Tensor) -> Tensor:
        if x.amax() - x.mean() > 2 * self.limit:
            return x - x.mean()
        return x * self.limit


# -- several instances of one class ----------------------------------------------------------------


class Gate(nn.Module):
    def __init__(self, limit: float, factor: float) -> None:
        super().__init__()
        self.limit = limit
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        if x.abs().amax() > self.limit:
            return x * self.factor
        return x


row("harmless gate", X, N * 0.5, UNDECIDED, line="if x.abs().amax() > self.limit:")(
    lambda: Gate(2.0, 1.0)
)


@branch("two gates", X, N * 0.5, N * 1.5, line="if x.abs().amax() > self.limit")
@has(harmless=lambda: Gate(2.0, 1.0), harmful=lambda: Gate(2.6, 0.5))
def forward(self, x: Tensor) -> Tensor:
    """Both sides of the first gate give the same numbers, so freezing it changes nothing."""
    return self.harmful(self.harmless(x)) + 1


# -- frozen, but with the same outputs -------------------------------------------------------------


@branch("same sides", X, N + 1, UNDECIDED)
def forward(self, x: Tensor) -> Tensor:
    if x.sum() > 0:
        return x * 2
    return x + x


@branch("relu where needed, from positive", N.abs(), N, x=(-4.0, 4.0))
@branch("relu where needed", X, N.abs(), UNDECIDED)
def forward(self, x: Tensor) -> Tensor:
    """Faithful if the example has a negative number; otherwise the trace has lost the relu."""
    if x.min() < 0:
        x = x.relu()
    return x * 2


# -- conditions that depend on no tensor -----------------------------------------------------------


@row("on attributes", X)
@has(bias=True, mode="mean")
def forward(self, x: Tensor) -> Tensor:
    if self.bias and self.mode != "max":
        x = x + 1
    return x.mean(1) if self.mode == "mean" else x.sum(1)


@row("on kind", X)
def forward(self, x: Tensor) -> Tensor:
    if x.dtype == torch.float16:
        x = x.float()
    if x.dim() == 3:
        x = x.flatten(1)
    if not x.is_floating_point():
        x = x / 255
    return x * 2


@branch("on parameter", X, UNDECIDED)
@has(slope=lambda: nn.Parameter(torch.tensor(0.5)))
def forward(self, x: Tensor) -> Tensor:
    """The side taken depends on a parameter only, so it is the same at every call."""
    if self.slope > 0:
        return x * self.slope
    return x


# -- the same semantics without Python's branches --------------------------------------------------


@row("sign by where", X, N + 1)
def forward(self, x: Tensor) -> Tensor:
    return torch.where(x.mean() > 0, x * 2, x - 1)


@row("nan by where", GRID, torch.where(GRID == 0, torch.nan, GRID), x=[-1.0, 0.0, 2.0, torch.nan])
def forward(self, x: Tensor) -> Tensor:
    return torch.where(x.isnan(), torch.full_like(x, -1.0), x) * 2


@row(
    "max by cond",
    X,
    N * 1.75,
    truth(REFUSED, export=None, onnx=None),
    x=(-4.0, 4.0),
    refused={"trace script onnx_legacy": no_construct()},
)
def forward(self, x: Tensor) -> Tensor:
    return torch.cond(x.max() > 2.5, lambda x: x / x.max(), lambda x: x.clone(), (x,)) + 1


@row(
    "buffer by cond",
    X,
    N * 1.75,
    truth(REFUSED, export=None, onnx=None),
    script=no_construct("x.std() > self.limit, lambda x: (x - x.mean()) / x.std(), la"),
    refused={"trace onnx_legacy": no_construct("torch.cond(")},
)
@has(limit=Buffer(torch.tensor(1.25)))
def forward(self, x: Tensor) -> Tensor:
    return torch.cond(
        x.std() > self.limit, lambda x: (x - x.mean()) / x.std(), lambda x: x.clone(), (x,)
    )


@torch.jit.script
def softened_script(x: Tensor) -> Tensor:
    if bool(x.max() > 2.2):
        x = x.tanh()
    return x


@row("in scripted helper", X, N * 2, UNDECIDED, line="if bool(x.max() > 2.2):")
def forward(self, x: Tensor) -> Tensor:
    return softened_script(x) * 2


# The legacy exporter traces only submodules that belong to the module.
@row(
    "through scripted gate",
    X,
    N * 1.5,
    export=REFUSED,
    onnx=REFUSED,
    onnx_legacy=Blame(owner="capture", cause="unsupported construct", line="self.gate(x) + 1"),
    refused={"export onnx": undecided("if x.abs().amax() > self.limit:")},
)
@has(gate=lambda: torch.jit.script(Gate(2.6, 0.5)))
def forward(self, x: Tensor) -> Tensor:
    return self.gate(x) + 1
