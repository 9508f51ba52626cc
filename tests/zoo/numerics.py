"""Healthy models whose float32 outputs depend on the order of operations: no runtime agrees with
eager to the last digits, and none is wrong. They pass on every target that accepts them. Beside
long sums stand some that are wrong: what is allowed for rounding must not hide them.
"""

from __future__ import annotations

from typing import Tuple  # noqa: UP035  # TorchScript's words

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.row import *

# ONNX Runtime has no bfloat16 kernels on the CPU, and raises when the session is created.
NO_KERNEL = truth(onnx=REFUSED, onnx_legacy=REFUSED)
LONG = call(normal(3, 700))
MANY = call(normal(2, 30000))
X = call(normal(4, 8))

section("numerics")


# -- long sums -------------------------------------------------------------------------------------


@row("linear, then sum, of a constant", X, x=[0.1])
@row("linear, then sum", X)
@has(head=lambda: nn.Linear(8, 800))
class LinearThenSum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(x).sum(1)


row("long sums in double", normal(4, 8, dtype=torch.float64))(lambda: LinearThenSum().double())


@row("linear, then cumsum", X)
@has(head=lambda: nn.Linear(8, 600))
def forward(self, x: Tensor) -> Tensor:
    return self.head(x).cumsum(1)


@row("moments over a long axis", LONG)
def forward(self, x: Tensor) -> Tuple[Tensor, Tensor, Tensor]:  # noqa: UP006
    return x.mean(1), x.var(1), x.std(1)


@row("products over a long axis", LONG)
def forward(self, x: Tensor) -> Tensor:
    return x @ x.t()


@row("pooled convolution", normal(2, 1, 24, 24))
@has(conv=lambda: nn.Conv2d(1, 4, 3, padding=1))
def forward(self, x: Tensor) -> Tensor:
    return self.conv(x).sum((2, 3))


def exporting() -> bool:
    """True while trace, export and both ONNX exporters run forward; torch.jit.script says False."""
    return torch.jit.is_tracing() or torch.compiler.is_compiling()


@row("mean of many", MANY)
def forward(self, x: Tensor) -> Tensor:
    """More terms than any kernel adds without rounding: the last digits of equal ones go one way."""
    return x.mean(1)


@row("reductions of many", MANY, tags="slow")
def forward(self, x: Tensor) -> Tuple[Tensor, Tensor, Tensor, Tensor]:  # noqa: UP006
    lengths = torch.linalg.vector_norm(x, dim=1)
    return x.cumsum(1)[:, -1], torch.logsumexp(x, dim=1), lengths, (x * x.flip(1)).sum()


# ONNX Runtime has no mean of float16 on the CPU: it drops the casts to float16 and back.
@row(
    "mean of many in half",
    MANY,
    trace=DIFFERS,
    export=DIFFERS,
    blame=asks("torch.jit.is_tracing() or torch.compiler.is_compiling()"),
)
def forward(self, x: Tensor) -> Tensor:
    """Adds in half precision where it is exported."""
    return x.to(torch.float16 if exporting() else torch.float32).mean(1).float()


@row("fused sums of many", MANY, onnx_legacy=untranslated(), x=[1.0033620595932007])
def forward(self, x: Tensor) -> Tuple[Tensor, Tensor, Tensor, Tensor]:  # noqa: UP006
    """Operators that sum within: each is a graph of several in ONNX."""
    variance, mean = torch.var_mean(x, dim=1)
    error = F.mse_loss(x, torch.zeros_like(x), reduction="sum")
    return variance + mean, x.nansum(1), error, F.pairwise_distance(x, x.flip(1) + 1.0)


@row(
    "mean of many by a frozen size",
    MANY,
    ITEM,
    x="batch time",
    dims={"time": (20000, 40000)},
    blame=frozen_size(),
)
def forward(self, x: Tensor) -> Tensor:
    """Divides by the number of terms that the example has."""
    return x.sum(1) / float(x.shape[1])


# -- deep stacks -----------------------------------------------------------------------------------


def stack(nonlinearity: type[nn.Module], depth: int, gain: float) -> nn.Module:
    layers = []
    for _ in range(depth):
        layer = nn.Linear(8, 8)
        nn.init.orthogonal_(layer.weight, gain)
        layers += [layer, nonlinearity()]
    return nn.Sequential(*layers)


row("deep relu", X)(lambda: stack(nn.ReLU, 24, 1.5))
row("deep gelu", X)(lambda: stack(nn.GELU, 20, 1.8))


@row("logistic map", normal(4, 3), tags="slow")
def forward(self, x: Tensor) -> Tensor:
    """Chaos: after forty steps the last bit of the input decides the first bit of the output."""
    y = torch.sigmoid(x)
    for _ in range(40):
        y = 3.9 * y * (1 - y)
    return y


@row("power iteration", normal(4, 4))
@has(matrix=lambda: Buffer(normal(4, 4)))
def forward(self, x: Tensor) -> Tensor:
    for _ in range(25):
        x = x @ self.matrix
        x = x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-6)
    return x


# -- ill-conditioned -------------------------------------------------------------------------------


@row("normalized far away", X)
def forward(self, x: Tensor) -> Tensor:
    """Mean 1000, spread of a few: the subtraction loses three digits before the division."""
    y = x + 1000.0
    return (y - y.mean(1, keepdim=True)) / (y.std(1, keepdim=True) + 1e-3)


@row("layer norm without epsilon", X)
def forward(self, x: Tensor) -> Tensor:
    """At constant inputs one rounding error is divided by another."""
    return F.layer_norm(x * 0.1 + 100.0, (8,), eps=1e-12)


@row("distances by products", X)
def forward(self, x: Tensor) -> Tensor:
    """Each row has distance 0 to itself; the expanded square gives a rounding error."""
    square = (x * x).sum(1)
    return (square[:, None] + square[None, :] - 2 * (x @ x.t())).clamp(min=0.0).sqrt()


@row("large logits", X)
@has(head=lambda: nn.Linear(8, 5))
def forward(self, x: Tensor) -> Tensor:
    return torch.softmax(self.head(x) * 1000.0, dim=-1)


# -- half precisions -------------------------------------------------------------------------------


@row(
    "bfloat16 sum",
    normal(3, 500, dtype=torch.bfloat16),
    NO_KERNEL,
    onnx=Blame(owner="runtime", cause="unsupported operator", line="(x * 0.3).sum(1)"),
    onnx_legacy=Blame(owner="runtime", cause="unsupported operator"),
)
# The new exporter sums float16 to float32: another dtype than eager's.
@row(
    "half sum",
    normal(3, 500, dtype=torch.float16),
    ON_ONNX,
    known={"onnx": "halves become float32"},
)
def forward(self, x: Tensor) -> Tensor:
    return (x * 0.3).sum(1)


@row("half sum in full", normal(3, 500, dtype=torch.float16))
def forward(self, x: Tensor) -> Tensor:
    return (x.float() * 0.3).sum(1).to(x.dtype)


row("half mlp", normal(4, 64, dtype=torch.float16))(
    lambda: nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)).half()
)


# On strided inputs torch computes in float32, where ONNX Runtime rounds each step.
@row("half attention, strided", normal(8, 2, 16, 1, dtype=torch.float16).transpose(0, 3))
@row("half attention", normal(2, 2, 16, 8, dtype=torch.float16))
def forward(self, q: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, q, q)


@row("a product in half", normal(4, 16))
def forward(self, x: Tensor) -> Tensor:
    """ONNX Runtime leaves out casts around operators of which it has no kernel for half precision."""
    return (x.half() * 3).float()


# -- choices among nearly equal numbers ------------------------------------------------------------


class Scored(nn.Module):
    """Computed scores: equal only up to rounding."""

    def __init__(self, out: int = 6) -> None:
        super().__init__()
        self.head = nn.Linear(8, out)

    def scores(self, x: Tensor) -> Tensor:
        return self.head(x)


@row(X)
class BestOfScores(Scored):
    def forward(self, x: Tensor) -> Tensor:
        return self.scores(x).argmax(1)


@row(X)
class TwoBest(Scored):
    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
        found = self.scores(x).topk(2, dim=1)
        return found.values, found.indices


@row("equal scores of a constant", X, x=[0.3])
@row(X, weak="not depend on the input")
class EqualScores(nn.Module):
    """All weights are the same: the scores are equal up to rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 5)
        nn.init.constant_(self.head.weight, 0.1)
        nn.init.constant_(self.head.bias, 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x).argmax(1)


@row("mirrored scores", X)
@has(head=lambda: nn.Linear(8, 1))
def forward(self, x: Tensor) -> Tensor:
    """Two of the scores are the same sum in another order."""
    forth = (x * self.head.weight).sum(1)
    back = (x.flip(1) * self.head.weight.flip(1)).flip(1).cumsum(1)[:, -1]
    return (forth > back).long()


# -- numbers that jump -----------------------------------------------------------------------------


@row("is positive", LONG)
def forward(self, x: Tensor) -> Tensor:
    return (x.sum(1) > 0).long()


@row("above a third", normal(4, 3))
def forward(self, x: Tensor) -> Tensor:
    """At constant inputs each of the three shares is a third, so rounding decides."""
    return (x.softmax(1) > 1 / 3).sum(1)


@row("int of a product", whole(0, 20, 4, 8).float())
def forward(self, x: Tensor) -> Tensor:
    """A tenth, summed ten times: one, or just below."""
    return (x * 0.1 * 10.0 + x.cumsum(1) * 0.3).to(torch.int32)


@row(X)
class Quantized(Scored):
    """Rounds to a grid of 0.05."""

    def forward(self, x: Tensor) -> Tensor:
        return (self.scores(x) / 0.05).round().clamp(-128.0, 127.0) * 0.05


@row(X)
class HardGate(Scored):
    """A jump: if rounding flips the gate, the output changes by a lot."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.scores(x)
        return torch.where(y > y.mean(1, keepdim=True), y * 2, -y)


@row("log spectrum", normal(4, 16), onnx_legacy=untranslated())
@row(
    "log spectrum, a little louder",
    normal(4, 16),
    truth(DIFFERS, script=None),
    onnx_legacy=untranslated(),
    has={"wrong": 1.0001},
    blame=asks(),
)
@has(wrong=1.0)
def forward(self, x: Tensor) -> Tensor:
    """Where the terms cancel, the logarithm shows each algorithm's own rounding."""
    size = torch.fft.rfft(x).abs()
    if torch.jit.is_tracing() or torch.compiler.is_compiling():
        size = size * self.wrong
    return size.clamp(min=1e-5).log()
