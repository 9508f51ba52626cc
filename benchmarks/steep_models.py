"""Healthy modules that amplify rounding, for ``regions.py``: none of them may fail.

They have large slopes, cancellation, near-ties, saturation, tiny divisors and long reductions, and
predicates and half points that eager and a faithful artifact decide alike.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from region_rows import THREE, reals, steep, whole
from torch import Tensor, nn

TIME = {"batch": (1, 3), "time": (1, 16)}

# -- large slopes ----------------------------------------------------------------------------------


@steep("large slopes", targets=THREE, x=reals("batch 8", -1, 1))
class SteepSigmoid(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (1000.0 * x).sigmoid()


@steep("large slopes", x=reals("batch 8"))
class SteepTanh(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return (200.0 * self.layer(x)).tanh()


@steep("large slopes", x=reals("batch 6", -4, 4))
class SteepExponential(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (20.0 * x).exp()


@steep("large slopes", targets=THREE, x=reals("batch 10"))
class SoftmaxAtLowTemperature(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(10, 7)

    def forward(self, x: Tensor) -> Tensor:
        return (self.layer(x) / 1e-3).softmax(-1)


@steep("large slopes", x=reals("batch 5", -10, 10))
class FastSine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (100.0 * x).sin()


@steep("large slopes", x=reals("batch 6", -1.57, 1.57))
class TangentNearItsPole(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.tan()


@steep("large slopes", x=reals("batch 5", 0, 10))
class HighPower(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.pow(9.5)


@steep("large slopes", x=reals("batch 4", 0.01, 0.99))
class ChaoticMap(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        for _ in range(10):
            x = 3.9 * x * (1.0 - x)
        return x


@steep("large slopes", targets=THREE, x=reals("batch 12"))
class DeepNetWithGain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(12, 12) for _ in range(8))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = 4.0 * F.relu(layer(x)) - x
        return x


@steep("large slopes", x=reals("batch 4", -0.9999999, 0.9999999))
class InverseHyperbolicTangent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.atanh()


@steep("large slopes", x=reals("batch 4", -1, 1))
class ArcCosine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.acos() * 100.0


# -- cancellation ----------------------------------------------------------------------------------


@steep("cancellation", targets=THREE, x=reals("batch 6"))
class LargeNumberIsTakenBack(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x + 1e4) - 1e4


@steep("cancellation", b=reals("batch 3", -1000, 1000), c=reals("batch 3", -0.1, 0.1))
class QuadraticFormula(nn.Module):
    def forward(self, b: Tensor, c: Tensor) -> Tensor:
        return (-b + (b * b + 4.0 * c.abs()).sqrt()) / 2.0


@steep("cancellation", x=reals("batch 4", -1, 1))
class FiniteDifference(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (self.layers(x + 1e-3) - self.layers(x - 1e-3)) / 2e-3


@steep("cancellation", targets=THREE, x=reals("batch 16", -1000, 1000))
class VarianceOfOffsets(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x.square().mean(-1) - x.mean(-1).square()).clamp(min=0.0)


@steep("cancellation", m=reals("batch 2 2", -1, 1), y=reals("batch 2", -1, 1))
class SmallDeterminant(nn.Module):
    def forward(self, m: Tensor, y: Tensor) -> Tensor:
        (a, b), (c, d) = m[:, 0].unbind(-1), m[:, 1].unbind(-1)
        first, second = y.unbind(-1)
        x = torch.stack([d * first - b * second, a * second - c * first], -1)
        return x / ((a * d - b * c).abs() + 1e-6)[:, None]


@steep("cancellation", dims={"rows": (2, 6)}, x=reals("rows 5", -100, 100))
class DistancesByProductsEverywhere(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        squares = x.square().sum(-1)
        pairs = squares[:, None] + squares[None] - 2.0 * x @ x.t()
        return pairs.clamp(min=0.0).sqrt()


@steep("cancellation", x=reals("batch 3", 0, 1e-3))
class OneMinusCosine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (1.0 - x.cos()) / (x * x + 1e-7)


# -- tiny divisors ---------------------------------------------------------------------------------


@steep("tiny divisors", targets=THREE, x=reals("batch 4"))
class Reciprocal(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 1.0 / (x.abs() + 1e-7)


@steep("tiny divisors", x=reals("batch 4", 0, 1))
class ReciprocalRootNearZero(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.rsqrt(x + 1e-7)


@steep("tiny divisors", x=reals("batch 4", 0, 1))
class LogarithmNearZero(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(min=1e-20).log()


@steep("tiny divisors", targets=THREE, x=reals("batch 12"))
class NormalizedTinyRows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x * 1e-6, dim=-1)


@steep("tiny divisors", x=reals("batch 12"))
class LayerNormOfTinyRows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(12, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x * 1e-3)


@steep("tiny divisors", x=reals("batch 4 5 5", 0, 255))
class GroupNormOfFlatChannels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


@steep("tiny divisors", x=reals("batch 6"))
class BatchNormOfAlmostNoVariance(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.norm.running_var.fill_(1e-7)
        self.norm.running_mean.fill_(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


@steep("tiny divisors", left=reals("batch 6"), right=reals("batch 6"))
class CosineOfRows(nn.Module):
    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return F.cosine_similarity(left * 1e-3, right, dim=-1)


@steep("tiny divisors", x=reals("batch 8"))
class ScaledToTheUnitInterval(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
        return (x - low) / (high - low + 1e-6)


@steep("tiny divisors", x=reals("batch 10"))
class Kurtosis(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        centered = x - x.mean(-1, keepdim=True)
        return centered.pow(4).mean(-1) / (centered.square().mean(-1).square() + 1e-7)


# -- saturation ------------------------------------------------------------------------------------


@steep("saturation", targets=THREE, x=reals("batch 6", -120, 120))
class StableSoftplus(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.softplus(x) - F.softplus(-x)


@steep("saturation", targets=THREE, x=reals("batch 6", -200, 200))
class StableLogSumExp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.logsumexp(x, -1)


@steep("saturation", x=reals("batch 9", -300, 300))
class LogSoftmaxOfLargeScores(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.log_softmax(-1)


@steep("saturation", x=reals("batch 5", -8, 8))
class ErrorFunctionTail(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (1.0 - x.erf() * x.sign()).clamp(min=1e-4).log()


@steep("saturation", dims=TIME, x=reals("batch time 3", -30, 30))
class SaturatedLstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0]


@steep("saturation", dims=TIME, x=reals("batch time 8", -20, 20))
class AttentionWithLargeScores(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.project(x)[:, None].chunk(3, -1)
        return F.scaled_dot_product_attention(query, key, value)


@steep("saturation", x=reals("batch 6", -30, 30))
class GeluOfLargeNumbers(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x) + F.silu(x) + F.elu(x)


# -- long reductions -------------------------------------------------------------------------------


@steep("long reductions", targets=THREE, dims={"batch": (1, 2)}, x=reals("batch 4096"))
class LongSum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum(-1)


@steep("long reductions", dims={"batch": (1, 2)}, x=reals("batch 2048", 0, 1))
class LongCumulativeSum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(-1)


@steep("long reductions", dims={"batch": (1, 2)}, x=reals("batch 4096"))
class LongLogSumExp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.logsumexp(x, -1)


@steep("long reductions", dims={"batch": (1, 2)}, x=reals("batch 2048", -1, 1))
class AlternatingSum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("signs", torch.tensor([1.0, -1.0]).repeat(1024))

    def forward(self, x: Tensor) -> Tensor:
        return ((x + 100.0) * self.signs).sum(-1)


@steep("long reductions", targets=THREE, x=reals("batch 2048"))
class WideLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2048, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


@steep("long reductions", dims={"batch": (1, 2)}, x=reals("batch 16 9 9"))
class WideConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(16, 32, 5), nn.ReLU(), nn.Conv2d(32, 4, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@steep("long reductions", dims={"batch": (1, 2)}, x=reals("batch 24", 0.5, 1.5))
class LongProduct(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.prod(-1)


@steep("long reductions", dims={"batch": (1, 2)}, x=reals("batch 1000"))
class MeanAndDeviationOfALongRow(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([(x + 50.0).mean(-1), (x + 50.0).std(-1)])


# -- predicates and steps that both sides decide alike ---------------------------------------------


@steep("steps", targets=THREE, x=reals("batch 6", -20, 20))
class HalvesOfAFourth(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x * 4.0).round() / 4.0


@steep("steps", x=reals("batch 6"))
class Floors(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x * 64.0).floor() + x.trunc() + x.ceil()


@steep("steps", x=reals("batch 6", 0, 1))
class AtLeastOrMore(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x >= 0.5, 2.0 * x, torch.where(x > 0.25, -x, x))


@steep("steps", x=reals("batch 8"))
class CountOfPositives(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x > 0.0).sum(-1)


@steep("steps", targets=THREE, x=reals("batch 9"))
class FirstMaximum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.argmax(-1)


@steep("steps", x=reals("batch 9"))
class LargestThree(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.topk(3, -1).values


@steep("steps", x=reals("batch 7"))
class SortedRow(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sort(-1).values.diff(dim=-1)


@steep("steps", x=reals("batch 10"))
class ArgmaxBehindALayer(nn.Module):
    """Two outputs that nearly agree: which one is larger is rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(10, 4)
        with torch.no_grad():
            self.layer.weight[1] = self.layer.weight[0] * (1.0 + 1e-6)
            self.layer.bias[1] = self.layer.bias[0]

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).argmax(-1)


@steep("steps", targets=THREE, x=reals("batch 6"))
class SignBehindALayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(6, 16, bias=False), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.where(self.layer(x) >= 0.0, 1.0, -1.0))


@steep("steps", x=reals("batch 12"))
class QuantizedLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        return (self.layer(x) / 0.05).round().clamp(-128, 127) * 0.05


@steep("steps", x=reals("batch 4", 0, 1000))
class RemainderOfLargeNumbers(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.remainder(x - 0.125, 1.0)


@steep("steps", x=reals("batch 3", 0, 1))
class Buckets(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("edges", torch.tensor([0.125, 0.3, 0.5, 0.9]))

    def forward(self, x: Tensor) -> Tensor:
        return (x[..., None] > self.edges).sum(-1)


@steep("steps", x=reals("batch 11"))
class MaskedMeanOfPositives(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        kept = (x > 0.0).float()
        return (x * kept).sum(-1) / kept.sum(-1).clamp(min=1.0)


# -- precision that both sides lose ----------------------------------------------------------------


@steep("lost precision", targets=THREE, x=reals("batch 6", -300, 300))
class ThroughHalf(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.half().float() * 0.01


@steep("lost precision", x=reals("batch 6"))
class ThroughBfloat16(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.bfloat16().float().exp()


@steep("lost precision", ids=whole("batch 2", 0, 16_780_000))
class IdsAsFloats(nn.Module):
    def forward(self, ids: Tensor) -> Tensor:
        return ids.float().sqrt()


@steep("lost precision", y=reals("batch 3", -1, 1), x=reals("batch 3", -1, 1))
class Angles(nn.Module):
    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        return torch.atan2(y, x.abs() + 1e-3) / math.pi


@steep("lost precision", at=whole("batch", 0, 100_000))
class RotationsOfLargePositions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rates", torch.logspace(0, -2, 4))

    def forward(self, at: Tensor) -> Tensor:
        return (at.float()[:, None] * self.rates).cos()
