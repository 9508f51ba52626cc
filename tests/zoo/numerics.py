"""Healthy models whose float32 outputs depend on the order of operations: no runtime agrees with
eager to the last digits, and none is wrong. They pass on every target that accepts them. Beside
long sums stand some that are wrong: what is allowed for rounding must not hide them.
"""

from __future__ import annotations

from typing import Tuple  # noqa: UP035  # TorchScript's words

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.row import (
    DIFFERS,
    REFUSED,
    Blame,
    Buffer,
    asks,
    call,
    frozen_size,
    has,
    normal,
    row,
    section,
    truth,
    untranslated,
    whole,
)

# ONNX Runtime has no bfloat16 kernels on the CPU, and raises when the session is created.
NO_KERNEL = truth(onnx=REFUSED, onnx_legacy=REFUSED)
LONG = call(normal(3, 700))
MANY = call(normal(2, 30000))
X = call(normal(4, 8))

section("numerics")


# -- long sums -------------------------------------------------------------------------------------


@row("linear, then sum, of a constant", X, values={"x": [0.1]}, round_trip=True, ci="export")
@row("linear, then sum", X, ci="trace")
class LinearThenSum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 800)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x).sum(1)


row("long sums in double", normal(4, 8, dtype=torch.float64), ci="script")(
    lambda: LinearThenSum().double()
)


@row("linear, then cumsum, of a constant", X, values={"x": [0.7]}, ci="onnx_legacy")
@row("linear, then cumsum", X, round_trip=True, ci="trace")
@has(head=lambda: nn.Linear(8, 600))
def forward(self, x: Tensor) -> Tensor:
    return self.head(x).cumsum(1)


@row("sum of sines", LONG, ci="trace")
def forward(self, x: Tensor) -> Tensor:
    """Terms of both signs that cancel: the sum is small."""
    return torch.sin(x * 3).sum(1)


@row("moments over a long axis", LONG, round_trip=True, ci="script")
def forward(self, x: Tensor) -> Tuple[Tensor, Tensor, Tensor]:  # noqa: UP006
    return x.mean(1), x.var(1), x.std(1)


@row("norms over a long axis", LONG, ci="trace")
def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    return torch.linalg.vector_norm(x, dim=1), torch.logsumexp(x, dim=1)


@row("products over a long axis", LONG, ci="export")
def forward(self, x: Tensor) -> Tensor:
    return x @ x.t()


@row("end of a walk", LONG, ci="trace")
def forward(self, x: Tensor) -> Tensor:
    """Returns the end of a walk about zero."""
    return (x - x.mean(1, keepdim=True)).cumsum(1)[:, -1]


@row("prefix averages", LONG, round_trip=True, ci="onnx_legacy")
def forward(self, x: Tensor) -> Tensor:
    return x.cumsum(1) / torch.arange(1, x.shape[1] + 1)


@row("pooled convolution", normal(2, 1, 24, 24))
@has(conv=lambda: nn.Conv2d(1, 4, 3, padding=1))
def forward(self, x: Tensor) -> Tensor:
    return self.conv(x).sum((2, 3))


def exporting() -> bool:
    """True while trace, export and both ONNX exporters run forward; torch.jit.script says False."""
    return torch.jit.is_tracing() or torch.compiler.is_compiling()


@row("mean of many", MANY, ci="onnx")
def forward(self, x: Tensor) -> Tensor:
    """More terms than any kernel adds without rounding: the last digits of equal ones go one way."""
    return x.mean(1)


@row("reductions of many", MANY)
def forward(self, x: Tensor) -> Tuple[Tensor, Tensor, Tensor, Tensor]:  # noqa: UP006
    lengths = torch.linalg.vector_norm(x, dim=1)
    return x.cumsum(1)[:, -1], torch.logsumexp(x, dim=1), lengths, (x * x.flip(1)).sum()


@row("walk of many", MANY)
def forward(self, x: Tensor) -> Tensor:
    return (x - x.mean(1, keepdim=True)).cumsum(1)


@row("norms of many", MANY)
def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    images = x.reshape(x.shape[0], 2, 100, 150)
    return F.layer_norm(x, [30000])[:, :9], F.instance_norm(images)[:, :, 0]


@row("product of many", MANY)
def forward(self, x: Tensor) -> Tensor:
    return torch.einsum("bi,bi->b", x, x.flip(1))


# ONNX Runtime has no mean of float16 on the CPU: it drops the casts to float16 and back.
@row(
    "mean of many in half",
    MANY,
    trace=DIFFERS,
    export=DIFFERS,
    blame=asks("torch.jit.is_tracing() or torch.compiler.is_compiling()"),
    ci="export",
)
def forward(self, x: Tensor) -> Tensor:
    """Adds in half precision where it is exported."""
    return x.to(torch.float16 if exporting() else torch.float32).mean(1).float()


@row("fused sums of many", MANY, onnx_legacy=untranslated(), values={"x": [1.0033620595932007]})
def forward(self, x: Tensor) -> Tuple[Tensor, Tensor, Tensor, Tensor]:  # noqa: UP006
    """Operators that sum within: each is a graph of several in ONNX."""
    variance, mean = torch.var_mean(x, dim=1)
    error = F.mse_loss(x, torch.zeros_like(x), reduction="sum")
    return variance + mean, x.nansum(1), error, F.pairwise_distance(x, x.flip(1) + 1.0)


# The legacy exporter's casts are dropped as above.
@row(
    "error of many in half",
    MANY,
    truth(DIFFERS, script=None, onnx_legacy=None),
    blame=asks("torch.jit.is_tracing() or torch.compiler.is_compiling()"),
    ci="trace",
)
def forward(self, x: Tensor) -> Tensor:
    """Adds up squares in half precision where it is exported."""
    y = x.to(torch.float16 if exporting() else torch.float32)
    return F.mse_loss(y, torch.zeros_like(y)).float()


@row(
    "sum of many over another axis",
    normal(2, 28900),
    truth(DIFFERS, script=None),
    blame=asks("torch.jit.is_tracing() or torch.compiler.is_compiling()"),
    ci="onnx_legacy",
)
def forward(self, x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], 170, 170).sum(2 if exporting() else 1)


@row(
    "mean of many by a frozen size",
    MANY,
    trace=DIFFERS,
    export=REFUSED,
    onnx_legacy=DIFFERS,
    shapes={"x": "batch time"},
    dims={"time": (20000, 40000)},
    blame=frozen_size(),
    ci="trace export",
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


row("deep tanh", X)(lambda: stack(nn.Tanh, 24, 1.6))
row("deep relu", X)(lambda: stack(nn.ReLU, 24, 1.5))
row("deep gelu", X)(lambda: stack(nn.GELU, 20, 1.8))


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x)


row("deep sine", X)(lambda: stack(Sine, 20, 2.0))


@row("deep residual", X)
@has(blocks=lambda: nn.ModuleList(nn.Linear(8, 8) for _ in range(20)))
def forward(self, x: Tensor) -> Tensor:
    """Grows by a factor in every block."""
    for block in self.blocks:
        x = x + F.gelu(block(x))
    return x


@row("logistic map", normal(4, 3))
def forward(self, x: Tensor) -> Tensor:
    """Chaos: after forty steps the last bit of the input decides the first bit of the output."""
    y = torch.sigmoid(x)
    for _ in range(40):
        y = 3.9 * y * (1 - y)
    return y


# Below -10, ONNX Runtime's sigmoid has no digit of the small result, which the map magnifies.
@row("tent map", normal(4, 3), values={"x": (-4.0, 4.0)})
def forward(self, x: Tensor) -> Tensor:
    y = torch.sigmoid(x)
    for _ in range(30):
        y = 1.97 * torch.minimum(y, 1 - y)
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


@row("variance by moments", LONG)
def forward(self, x: Tensor) -> Tensor:
    y = x + 30.0
    return ((y * y).mean(1) - y.mean(1) ** 2).clamp(min=0.0).sqrt()


@row("distances by products", X)
def forward(self, x: Tensor) -> Tensor:
    """Each row has distance 0 to itself; the expanded square gives a rounding error."""
    square = (x * x).sum(1)
    return (square[:, None] + square[None, :] - 2 * (x @ x.t())).clamp(min=0.0).sqrt()


@row("sine of large numbers", X)
@has(head=lambda: nn.Linear(8, 4))
def forward(self, x: Tensor) -> Tensor:
    return torch.sin(self.head(x) * 1e4)


@row("difference of close numbers", X)
@has(head=lambda: nn.Linear(8, 4))
def forward(self, x: Tensor) -> Tensor:
    y = self.head(x)
    return ((y + 100.0) - (y * 1.0001 + 100.0)) * 1e4


@row("large logits", X)
@has(head=lambda: nn.Linear(8, 5))
def forward(self, x: Tensor) -> Tensor:
    return torch.softmax(self.head(x) * 1000.0, dim=-1)


@row("sharp attention", normal(2, 2, 5, 4))
def forward(self, q: Tensor) -> Tensor:
    """Large keys: attention is nearly an argmax."""
    return F.scaled_dot_product_attention(q * 30.0, q * 30.0, q)


# -- half precisions -------------------------------------------------------------------------------


@row(
    "bfloat16 sum",
    normal(3, 500, dtype=torch.bfloat16),
    NO_KERNEL,
    onnx=Blame(owner="runtime", cause="unsupported operator", line="(x * 0.3).sum(1)"),
    onnx_legacy=Blame(owner="runtime", cause="unsupported operator"),
    ci="onnx",
)
# The new exporter sums float16 to float32: another dtype than eager's.
@row(
    "half sum",
    normal(3, 500, dtype=torch.float16),
    onnx=DIFFERS,
    known={"onnx": "halves become float32"},
    ci="onnx",
)
def forward(self, x: Tensor) -> Tensor:
    return (x * 0.3).sum(1)


@row("bfloat16 sum in full", normal(3, 500, dtype=torch.bfloat16), ci="trace")
@row("half sum in full", normal(3, 500, dtype=torch.float16), ci="script")
def forward(self, x: Tensor) -> Tensor:
    return (x.float() * 0.3).sum(1).to(x.dtype)


class HalfMlp(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)).to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


row("half mlp", normal(4, 64, dtype=torch.float16))(lambda: HalfMlp(torch.float16))
row(
    "bfloat16 mlp",
    normal(4, 64, dtype=torch.bfloat16),
    NO_KERNEL,
    onnx=Blame(owner="runtime", cause="unsupported operator", line="self.body(x)"),
    onnx_legacy=Blame(owner="runtime", cause="unsupported operator"),
    ci="trace",
)(lambda: HalfMlp(torch.bfloat16))


@row(
    "bfloat16 attention",
    normal(2, 2, 16, 8, dtype=torch.bfloat16),
    NO_KERNEL,
    onnx=Blame(
        owner="runtime",
        cause="unsupported operator",
        line="F.scaled_dot_product_attention(q, q, q)",
    ),
    onnx_legacy=Blame(owner="runtime", cause="unsupported operator"),
    ci="script onnx_legacy",
)
# On strided inputs torch computes in float32, where ONNX Runtime rounds each step.
@row("half attention, strided", normal(8, 2, 16, 1, dtype=torch.float16).transpose(0, 3))
@row("half attention", normal(2, 2, 16, 8, dtype=torch.float16), round_trip=True, ci="onnx")
def forward(self, q: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, q, q)


@row("half softmax", normal(4, 64, dtype=torch.float16))
def forward(self, x: Tensor) -> Tensor:
    return torch.softmax(x * 4, dim=-1)


# -- choices among nearly equal numbers ------------------------------------------------------------


class Scored(nn.Module):
    """Computed scores: equal only up to rounding."""

    def __init__(self, out: int = 6) -> None:
        super().__init__()
        self.head = nn.Linear(8, out)

    def scores(self, x: Tensor) -> Tensor:
        return self.head(x)


@row(X, ci="export")
class BestOfScores(Scored):
    def forward(self, x: Tensor) -> Tensor:
        return self.scores(x).argmax(1)


@row("best of products", X)
def forward(self, x: Tensor) -> Tensor:
    return (x @ x.t()).argmax(1)


@row(X, ci="onnx_legacy")
class TwoBest(Scored):
    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
        found = self.scores(x).topk(2, dim=1)
        return found.values, found.indices


@row(X, ci="trace")
class SortedScores(Scored):
    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
        values, order = torch.sort(self.scores(x), dim=1, descending=True)
        return values, order


@row(X)
class MedianScore(Scored):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sort(self.scores(x), dim=1).values[:, 3]


@row("equal scores of a constant", X, values={"x": [0.3]})
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


@row("mirrored scores", X, ci="trace")
@has(head=lambda: nn.Linear(8, 1))
def forward(self, x: Tensor) -> Tensor:
    """Two of the scores are the same sum in another order."""
    forth = (x * self.head.weight).sum(1)
    back = (x.flip(1) * self.head.weight.flip(1)).flip(1).cumsum(1)[:, -1]
    return (forth > back).long()


@row("best boxes", normal(2, 6, 4), ci="onnx_legacy")
@has(score=lambda: nn.Linear(4, 1), box=lambda: nn.Linear(4, 4))
def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    """Boxes gathered by the order of their scores, as detectors end."""
    best = self.score(x).squeeze(-1).topk(3, dim=1)
    index = best.indices.unsqueeze(-1).expand(-1, -1, 4)
    return self.box(x).gather(1, index), best.values


# -- numbers that jump -----------------------------------------------------------------------------


@row("is positive", LONG, ci="trace")
def forward(self, x: Tensor) -> Tensor:
    return (x.sum(1) > 0).long()


@row("above a third", normal(4, 3), ci="script")
def forward(self, x: Tensor) -> Tensor:
    """At constant inputs each of the three shares is a third, so rounding decides."""
    return (x.softmax(1) > 1 / 3).sum(1)


@row(X, ci="trace")
class FloorOfScores(Scored):
    def forward(self, x: Tensor) -> Tensor:
        return (self.scores(x) * 10).floor()


@row(X)
class RoundedScores(Scored):
    def forward(self, x: Tensor) -> Tensor:
        return (self.scores(x) * 100).round().long()


@row("int of a product", whole(0, 20, 4, 8).float(), ci="trace")
def forward(self, x: Tensor) -> Tensor:
    """A tenth, summed ten times: one, or just below."""
    return (x * 0.1 * 10.0 + x.cumsum(1) * 0.3).to(torch.int32)


@row(X, ci="onnx_legacy")
class Quantized(Scored):
    """Rounds to a grid of 0.05."""

    def forward(self, x: Tensor) -> Tensor:
        return (self.scores(x) / 0.05).round().clamp(-128.0, 127.0) * 0.05


@row(X, ci="trace")
class QuantizedToBytes(Scored):
    def forward(self, x: Tensor) -> Tensor:
        y = self.scores(x)
        scale = y.abs().max() / 127.0 + 1e-6
        return (y / scale).round().clamp(-128.0, 127.0).to(torch.int8)


@row(X, ci="script")
class HardGate(Scored):
    """A jump: if rounding flips the gate, the output changes by a lot."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.scores(x)
        return torch.where(y > y.mean(1, keepdim=True), y * 2, -y)


@row("cell of a grid", normal(4, 5), ci="trace")
def forward(self, x: Tensor) -> Tensor:
    place = (torch.sigmoid(x) * 6.0).floor().long().clamp(0, 5)
    return F.one_hot(place, 6).sum(1)


@row("normalized directions", X)
def forward(self, x: Tensor) -> Tensor:
    """The zero vector has no direction; epsilon decides the output there."""
    y = F.normalize(x, dim=1)
    return y @ y.t()


@row(normal(4, 16), onnx_legacy=untranslated())
class LogSpectrum(nn.Module):
    """Where the terms cancel, the logarithm shows each algorithm's own rounding."""

    def __init__(self, wrong: float = 1.0) -> None:
        super().__init__()
        self.wrong = wrong

    def forward(self, x: Tensor) -> Tensor:
        size = torch.fft.rfft(x).abs()
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            size = size * self.wrong
        return size.clamp(min=1e-5).log()


row(
    "log spectrum, a little louder",
    normal(4, 16),
    truth(DIFFERS, script=None),
    onnx_legacy=untranslated(),
    blame=asks("torch.jit.is_tracing() or torch.compiler.is_compiling()"),
)(lambda: LogSpectrum(1.0001))
