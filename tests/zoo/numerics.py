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
    asks,
    call,
    frozen_size,
    normal,
    row,
    truth,
    untranslated,
    whole,
)

# -- long sums -------------------------------------------------------------------------------------


class LinearThenSum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 800)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x).sum(1)


class LinearThenCumsum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 600)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x).cumsum(1)


class SumOfSine(nn.Module):
    """Terms of both signs that cancel: the sum is small."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x * 3).sum(1)


class Moments(nn.Module):
    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor, Tensor]:  # noqa: UP006
        return x.mean(1), x.var(1), x.std(1)


class Norms(nn.Module):
    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
        return torch.linalg.vector_norm(x, dim=1), torch.logsumexp(x, dim=1)


class DotOfLong(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x @ x.t()


class CumsumOfMean(nn.Module):
    """Returns the end of a walk about zero."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(1, keepdim=True)).cumsum(1)[:, -1]


class PrefixAverage(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(1) / torch.arange(1, x.shape[1] + 1)


class GlobalPool(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).sum((2, 3))


def exporting() -> bool:
    """True while trace, export and both ONNX exporters run forward; torch.jit.script says False."""
    return torch.jit.is_tracing() or torch.compiler.is_compiling()


class MeanOfMany(nn.Module):
    """More terms than any kernel adds without rounding: the last digits of equal ones go one way."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


class ManyReduced(nn.Module):
    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor, Tensor, Tensor]:  # noqa: UP006
        lengths = torch.linalg.vector_norm(x, dim=1)
        return x.cumsum(1)[:, -1], torch.logsumexp(x, dim=1), lengths, (x * x.flip(1)).sum()


class WalkOfMany(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(1, keepdim=True)).cumsum(1)


class NormsOfMany(nn.Module):
    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
        images = x.reshape(x.shape[0], 2, 100, 150)
        return F.layer_norm(x, [30000])[:, :9], F.instance_norm(images)[:, :, 0]


class ProductOfMany(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bi,bi->b", x, x.flip(1))


class MeanInHalf(nn.Module):
    """Adds in half precision where it is exported."""

    def forward(self, x: Tensor) -> Tensor:
        return x.to(torch.float16 if exporting() else torch.float32).mean(1).float()


class FusedOfMany(nn.Module):
    """Operators that sum within: each is a graph of several in ONNX."""

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor, Tensor, Tensor]:  # noqa: UP006
        variance, mean = torch.var_mean(x, dim=1)
        error = F.mse_loss(x, torch.zeros_like(x), reduction="sum")
        return variance + mean, x.nansum(1), error, F.pairwise_distance(x, x.flip(1) + 1.0)


class ErrorInHalf(nn.Module):
    """Adds up squares in half precision where it is exported."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.to(torch.float16 if exporting() else torch.float32)
        return F.mse_loss(y, torch.zeros_like(y)).float()


class SumOverOtherAxis(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], 170, 170).sum(2 if exporting() else 1)


class MeanByFrozenSize(nn.Module):
    """Divides by the number of terms that the example has."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1) / float(x.shape[1])


# -- deep stacks -----------------------------------------------------------------------------------


def stack(nonlinearity: type[nn.Module], depth: int, gain: float) -> nn.Module:
    layers = []
    for _ in range(depth):
        layer = nn.Linear(8, 8)
        nn.init.orthogonal_(layer.weight, gain)
        layers += [layer, nonlinearity()]
    return nn.Sequential(*layers)


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x)


class Residual(nn.Module):
    """Grows by a factor in every block."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(20))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + F.gelu(block(x))
        return x


class LogisticMap(nn.Module):
    """Chaos: after forty steps the last bit of the input decides the first bit of the output."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.sigmoid(x)
        for _ in range(40):
            y = 3.9 * y * (1 - y)
        return y


class TentMap(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.sigmoid(x)
        for _ in range(30):
            y = 1.97 * torch.minimum(y, 1 - y)
        return y


class PowerIteration(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("matrix", normal(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(25):
            x = x @ self.matrix
            x = x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-6)
        return x


# -- ill-conditioned -------------------------------------------------------------------------------


class NormalizedFarAway(nn.Module):
    """Mean 1000, spread of a few: the subtraction loses three digits before the division."""

    def forward(self, x: Tensor) -> Tensor:
        y = x + 1000.0
        return (y - y.mean(1, keepdim=True)) / (y.std(1, keepdim=True) + 1e-3)


class LayerNormNoEps(nn.Module):
    """At constant inputs one rounding error is divided by another."""

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x * 0.1 + 100.0, (8,), eps=1e-12)


class VarianceByMoments(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x + 30.0
        return ((y * y).mean(1) - y.mean(1) ** 2).clamp(min=0.0).sqrt()


class DistancesByProducts(nn.Module):
    """Each row has distance 0 to itself; the expanded square gives a rounding error."""

    def forward(self, x: Tensor) -> Tensor:
        square = (x * x).sum(1)
        return (square[:, None] + square[None, :] - 2 * (x @ x.t())).clamp(min=0.0).sqrt()


class SineOfLarge(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.head(x) * 1e4)


class DifferenceOfClose(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(x)
        return ((y + 100.0) - (y * 1.0001 + 100.0)) * 1e4


class LargeLogits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.head(x) * 1000.0, dim=-1)


class SharpAttention(nn.Module):
    """Large keys: attention is nearly an argmax."""

    def forward(self, q: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q * 30.0, q * 30.0, q)


# -- half precisions -------------------------------------------------------------------------------


class HalfSum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x * 0.3).sum(1)


class HalfSumInFull(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x.float() * 0.3).sum(1).to(x.dtype)


class HalfMlp(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)).to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class HalfAttention(nn.Module):
    def forward(self, q: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, q, q)


class HalfSoftmax(nn.Module):
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


class BestOfScores(Scored):
    def forward(self, x: Tensor) -> Tensor:
        return self.scores(x).argmax(1)


class BestOfProducts(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x @ x.t()).argmax(1)


class TwoBest(Scored):
    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
        found = self.scores(x).topk(2, dim=1)
        return found.values, found.indices


class SortedScores(Scored):
    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
        values, order = torch.sort(self.scores(x), dim=1, descending=True)
        return values, order


class MedianScore(Scored):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sort(self.scores(x), dim=1).values[:, 3]


class EqualScores(nn.Module):
    """All weights are the same: the scores are equal up to rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 5)
        nn.init.constant_(self.head.weight, 0.1)
        nn.init.constant_(self.head.bias, 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x).argmax(1)


class MirroredScores(nn.Module):
    """Two of the scores are the same sum in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        forth = (x * self.head.weight).sum(1)
        back = (x.flip(1) * self.head.weight.flip(1)).flip(1).cumsum(1)[:, -1]
        return (forth > back).long()


class BestBoxes(nn.Module):
    """Boxes gathered by the order of their scores, as detectors end."""

    def __init__(self) -> None:
        super().__init__()
        self.score, self.box = nn.Linear(4, 1), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
        best = self.score(x).squeeze(-1).topk(3, dim=1)
        index = best.indices.unsqueeze(-1).expand(-1, -1, 4)
        return self.box(x).gather(1, index), best.values


# -- numbers that jump -----------------------------------------------------------------------------


class IsPositive(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x.sum(1) > 0).long()


class AboveThird(nn.Module):
    """At constant inputs each of the three shares is a third, so rounding decides."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.softmax(1) > 1 / 3).sum(1)


class FloorOfScores(Scored):
    def forward(self, x: Tensor) -> Tensor:
        return (self.scores(x) * 10).floor()


class RoundedScores(Scored):
    def forward(self, x: Tensor) -> Tensor:
        return (self.scores(x) * 100).round().long()


class IntOfProduct(nn.Module):
    """A tenth, summed ten times: one, or just below."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 0.1 * 10.0 + x.cumsum(1) * 0.3).to(torch.int32)


class Quantized(Scored):
    """Rounds to a grid of 0.05."""

    def forward(self, x: Tensor) -> Tensor:
        return (self.scores(x) / 0.05).round().clamp(-128.0, 127.0) * 0.05


class QuantizedToBytes(Scored):
    def forward(self, x: Tensor) -> Tensor:
        y = self.scores(x)
        scale = y.abs().max() / 127.0 + 1e-6
        return (y / scale).round().clamp(-128.0, 127.0).to(torch.int8)


class HardGate(Scored):
    """A jump: if rounding flips the gate, the output changes by a lot."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.scores(x)
        return torch.where(y > y.mean(1, keepdim=True), y * 2, -y)


class CellOfGrid(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        place = (torch.sigmoid(x) * 6.0).floor().long().clamp(0, 5)
        return F.one_hot(place, 6).sum(1)


class NormalizedDirections(nn.Module):
    """The zero vector has no direction; epsilon decides the output there."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.normalize(x, dim=1)
        return y @ y.t()


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


# ONNX Runtime has no bfloat16 kernels on the CPU, and raises when the session is created.
NO_KERNEL = truth(onnx=REFUSED, onnx_legacy=REFUSED)

LONG = call(normal(3, 700))
MANY = call(normal(2, 30000))
X = call(normal(4, 8))

NUMERICS = (
    row("linear, then sum", LinearThenSum, X),
    row(
        "linear, then sum, of a constant",
        LinearThenSum,
        X,
        values={"x": [0.1]},
        ci="export",
        round_trip=True,
    ),
    row("linear, then cumsum", LinearThenCumsum, X, round_trip=True),
    row(
        "linear, then cumsum, of a constant",
        LinearThenCumsum,
        X,
        values={"x": [0.7]},
        ci="onnx_legacy",
    ),
    row("sum of sines", SumOfSine, LONG),
    row("moments over a long axis", Moments, LONG, ci="script", round_trip=True),
    row("norms over a long axis", Norms, LONG),
    row("products over a long axis", DotOfLong, LONG, ci="export"),
    row("mean of many", MeanOfMany, MANY, ci="onnx"),
    row("reductions of many", ManyReduced, MANY, ci=""),
    row("walk of many", WalkOfMany, MANY, ci=""),
    row("norms of many", NormsOfMany, MANY, ci=""),
    row("product of many", ProductOfMany, MANY, ci=""),
    # ONNX Runtime has no mean of float16 on the CPU: it drops the casts to float16 and back.
    row(
        "mean of many in half",
        MeanInHalf,
        MANY,
        truth(trace=DIFFERS, export=DIFFERS),
        ci="export",
        blame=asks("torch.jit.is_tracing() or torch.compiler.is_compiling()"),
    ),
    row(
        "fused sums of many",
        FusedOfMany,
        MANY,
        truth(onnx_legacy=REFUSED),
        values={"x": [1.0033620595932007]},
        ci="",
        refused={"onnx_legacy": untranslated()},
    ),
    # The legacy exporter's casts are dropped as above.
    row(
        "error of many in half",
        ErrorInHalf,
        MANY,
        truth(DIFFERS, script=None, onnx_legacy=None),
        ci="trace",
        blame=asks("torch.jit.is_tracing() or torch.compiler.is_compiling()"),
    ),
    row(
        "sum of many over another axis",
        SumOverOtherAxis,
        call(normal(2, 28900)),
        truth(DIFFERS, script=None),
        ci="onnx_legacy",
        blame=asks("torch.jit.is_tracing() or torch.compiler.is_compiling()"),
    ),
    row(
        "mean of many by a frozen size",
        MeanByFrozenSize,
        MANY,
        truth(trace=DIFFERS, export=REFUSED, onnx_legacy=DIFFERS),
        shapes={"x": "batch time"},
        dims={"time": (20000, 40000)},
        ci="trace export",
        blame=frozen_size("float(x.shape[1])"),
    ),
    row("end of a walk", CumsumOfMean, LONG),
    row("prefix averages", PrefixAverage, LONG, ci="onnx_legacy", round_trip=True),
    row("pooled convolution", GlobalPool, call(normal(2, 1, 24, 24)), ci=""),
    row(
        "long sums in double",
        lambda: LinearThenSum().double(),
        call(normal(4, 8, dtype=torch.float64)),
        ci="script",
    ),
    row(
        "log spectrum",
        LogSpectrum,
        call(normal(4, 16)),
        truth(onnx_legacy=REFUSED),
        ci="",
        refused={"onnx_legacy": untranslated()},
    ),
    row(
        "log spectrum, a little louder",
        lambda: LogSpectrum(1.0001),
        call(normal(4, 16)),
        truth(DIFFERS, script=None, onnx_legacy=REFUSED),
        ci="",
        blame=asks("torch.jit.is_tracing() or torch.compiler.is_compiling()"),
        refused={"onnx_legacy": untranslated()},
    ),
    row("deep tanh", lambda: stack(nn.Tanh, 24, 1.6), X, ci=""),
    row("deep relu", lambda: stack(nn.ReLU, 24, 1.5), X, ci=""),
    row("deep gelu", lambda: stack(nn.GELU, 20, 1.8), X, ci=""),
    row("deep sine", lambda: stack(Sine, 20, 2.0), X, ci=""),
    row("deep residual", Residual, X, ci=""),
    row("logistic map", LogisticMap, call(normal(4, 3)), ci=""),
    # Below -10, ONNX Runtime's sigmoid has no digit of the small result, which the map magnifies.
    row("tent map", TentMap, call(normal(4, 3)), values={"x": (-4.0, 4.0)}, ci=""),
    row("power iteration", PowerIteration, call(normal(4, 4)), ci=""),
    row("normalized far away", NormalizedFarAway, X, ci=""),
    row("layer norm without epsilon", LayerNormNoEps, X, ci=""),
    row("variance by moments", VarianceByMoments, LONG, ci=""),
    row("distances by products", DistancesByProducts, X, ci=""),
    row("sine of large numbers", SineOfLarge, X, ci=""),
    row("difference of close numbers", DifferenceOfClose, X, ci=""),
    row("large logits", LargeLogits, X, ci=""),
    row("sharp attention", SharpAttention, call(normal(2, 2, 5, 4)), ci=""),
    # The new exporter sums float16 to float32: another dtype than eager's.
    row(
        "half sum",
        HalfSum,
        call(normal(3, 500, dtype=torch.float16)),
        truth(onnx=DIFFERS),
        ci="onnx",
        known={"onnx": "halves become float32"},
    ),
    row("half sum in full", HalfSumInFull, call(normal(3, 500, dtype=torch.float16)), ci="script"),
    row(
        "half mlp", lambda: HalfMlp(torch.float16), call(normal(4, 64, dtype=torch.float16)), ci=""
    ),
    row(
        "half attention",
        HalfAttention,
        call(normal(2, 2, 16, 8, dtype=torch.float16)),
        ci="onnx",
        round_trip=True,
    ),
    # On strided inputs torch computes in float32, where ONNX Runtime rounds each step.
    row(
        "half attention, strided",
        HalfAttention,
        call(normal(8, 2, 16, 1, dtype=torch.float16).transpose(0, 3)),
        ci="",
    ),
    row("half softmax", HalfSoftmax, call(normal(4, 64, dtype=torch.float16)), ci=""),
    row(
        "bfloat16 sum",
        HalfSum,
        call(normal(3, 500, dtype=torch.bfloat16)),
        NO_KERNEL,
        ci="onnx",
        refused={
            "onnx": Blame(owner="runtime", cause="unsupported operator", line="(x * 0.3).sum(1)"),
            "onnx_legacy": Blame(owner="runtime", cause="unsupported operator"),
        },
    ),
    row("bfloat16 sum in full", HalfSumInFull, call(normal(3, 500, dtype=torch.bfloat16))),
    row(
        "bfloat16 mlp",
        lambda: HalfMlp(torch.bfloat16),
        call(normal(4, 64, dtype=torch.bfloat16)),
        NO_KERNEL,
        refused={
            "onnx": Blame(owner="runtime", cause="unsupported operator", line="self.body(x)"),
            "onnx_legacy": Blame(owner="runtime", cause="unsupported operator"),
        },
    ),
    row(
        "bfloat16 attention",
        HalfAttention,
        call(normal(2, 2, 16, 8, dtype=torch.bfloat16)),
        NO_KERNEL,
        ci="script onnx_legacy",
        refused={
            "onnx": Blame(
                owner="runtime",
                cause="unsupported operator",
                line="F.scaled_dot_product_attention(q, q, q)",
            ),
            "onnx_legacy": Blame(owner="runtime", cause="unsupported operator"),
        },
    ),
    row("best of scores", BestOfScores, X, ci="export"),
    row("best of products", BestOfProducts, X, ci=""),
    row("two best", TwoBest, X, ci="onnx_legacy"),
    row("sorted scores", SortedScores, X),
    row("median score", MedianScore, X, ci=""),
    row("equal scores", EqualScores, X, weak="not depend on the input", ci=""),
    row("equal scores of a constant", EqualScores, X, values={"x": [0.3]}, ci=""),
    row("mirrored scores", MirroredScores, X),
    row("best boxes", BestBoxes, call(normal(2, 6, 4)), ci="onnx_legacy"),
    row("is positive", IsPositive, LONG),
    row("above a third", AboveThird, call(normal(4, 3)), ci="script"),
    row("floor of scores", FloorOfScores, X),
    row("rounded scores", RoundedScores, X, ci=""),
    row("int of a product", IntOfProduct, call(whole(0, 20, 4, 8).float())),
    row("quantized", Quantized, X, ci="onnx_legacy"),
    row("quantized to bytes", QuantizedToBytes, X),
    row("hard gate", HardGate, X, ci="script"),
    row("cell of a grid", CellOfGrid, call(normal(4, 5))),
    row("normalized directions", NormalizedDirections, X, ci=""),
)
