"""Healthy modules that amplify rounding, for ``benchmarks/regions.py``: none of them may fail.

They have large slopes, cancellation, near-ties, saturation, tiny divisors and long reductions, and
predicates and half points that eager and a faithful artifact decide alike.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.domains import THREE, reals, steep, whole
from zoo.row import Buffer, has, section

TIME = {"batch": (1, 3), "time": (1, 16)}


section("steep", "large slopes")


@steep("SteepSigmoid", targets=THREE, x=reals("batch 8", -1, 1))
def forward(self, x: Tensor) -> Tensor:
    return (1000.0 * x).sigmoid()


@steep("SteepTanh", x=reals("batch 8"))
@has(layer=lambda: nn.Linear(8, 8))
def forward(self, x: Tensor) -> Tensor:
    return (200.0 * self.layer(x)).tanh()


@steep("SteepExponential", x=reals("batch 6", -4, 4))
def forward(self, x: Tensor) -> Tensor:
    return (20.0 * x).exp()


@steep("SoftmaxAtLowTemperature", targets=THREE, x=reals("batch 10"))
@has(layer=lambda: nn.Linear(10, 7))
def forward(self, x: Tensor) -> Tensor:
    return (self.layer(x) / 1e-3).softmax(-1)


@steep("FastSine", x=reals("batch 5", -10, 10))
def forward(self, x: Tensor) -> Tensor:
    return (100.0 * x).sin()


@steep("TangentNearItsPole", x=reals("batch 6", -1.57, 1.57))
def forward(self, x: Tensor) -> Tensor:
    return x.tan()


@steep("HighPower", x=reals("batch 5", 0, 10))
def forward(self, x: Tensor) -> Tensor:
    return x.pow(9.5)


@steep("ChaoticMap", x=reals("batch 4", 0.01, 0.99))
def forward(self, x: Tensor) -> Tensor:
    for _ in range(10):
        x = 3.9 * x * (1.0 - x)
    return x


@steep("DeepNetWithGain", targets=THREE, x=reals("batch 12"))
@has(layers=lambda: nn.ModuleList(nn.Linear(12, 12) for _ in range(8)))
def forward(self, x: Tensor) -> Tensor:
    for layer in self.layers:
        x = 4.0 * F.relu(layer(x)) - x
    return x


@steep("InverseHyperbolicTangent", x=reals("batch 4", -0.9999999, 0.9999999))
def forward(self, x: Tensor) -> Tensor:
    return x.atanh()


@steep("ArcCosine", x=reals("batch 4", -1, 1))
def forward(self, x: Tensor) -> Tensor:
    return x.acos() * 100.0


section("steep", "cancellation")


@steep("LargeNumberIsTakenBack", targets=THREE, x=reals("batch 6"))
def forward(self, x: Tensor) -> Tensor:
    return (x + 1e4) - 1e4


@steep("QuadraticFormula", b=reals("batch 3", -1000, 1000), c=reals("batch 3", -0.1, 0.1))
def forward(self, b: Tensor, c: Tensor) -> Tensor:
    return (-b + (b * b + 4.0 * c.abs()).sqrt()) / 2.0


@steep("FiniteDifference", x=reals("batch 4", -1, 1))
@has(layers=lambda: nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1)))
def forward(self, x: Tensor) -> Tensor:
    return (self.layers(x + 1e-3) - self.layers(x - 1e-3)) / 2e-3


@steep("VarianceOfOffsets", targets=THREE, x=reals("batch 16", -1000, 1000))
def forward(self, x: Tensor) -> Tensor:
    return (x.square().mean(-1) - x.mean(-1).square()).clamp(min=0.0)


@steep("SmallDeterminant", m=reals("batch 2 2", -1, 1), y=reals("batch 2", -1, 1))
def forward(self, m: Tensor, y: Tensor) -> Tensor:
    (a, b), (c, d) = m[:, 0].unbind(-1), m[:, 1].unbind(-1)
    first, second = y.unbind(-1)
    x = torch.stack([d * first - b * second, a * second - c * first], -1)
    return x / ((a * d - b * c).abs() + 1e-6)[:, None]


@steep("DistancesByProductsEverywhere", dims={"rows": (2, 6)}, x=reals("rows 5", -100, 100))
def forward(self, x: Tensor) -> Tensor:
    squares = x.square().sum(-1)
    pairs = squares[:, None] + squares[None] - 2.0 * x @ x.t()
    return pairs.clamp(min=0.0).sqrt()


@steep("OneMinusCosine", x=reals("batch 3", 0, 1e-3))
def forward(self, x: Tensor) -> Tensor:
    return (1.0 - x.cos()) / (x * x + 1e-7)


section("steep", "tiny divisors")


@steep("Reciprocal", targets=THREE, x=reals("batch 4"))
def forward(self, x: Tensor) -> Tensor:
    return 1.0 / (x.abs() + 1e-7)


@steep("ReciprocalRootNearZero", x=reals("batch 4", 0, 1))
def forward(self, x: Tensor) -> Tensor:
    return torch.rsqrt(x + 1e-7)


@steep("LogarithmNearZero", x=reals("batch 4", 0, 1))
def forward(self, x: Tensor) -> Tensor:
    return x.clamp(min=1e-20).log()


@steep("NormalizedTinyRows", targets=THREE, x=reals("batch 12"))
def forward(self, x: Tensor) -> Tensor:
    return F.normalize(x * 1e-6, dim=-1)


@steep("LayerNormOfTinyRows", x=reals("batch 12"))
@has(norm=lambda: nn.LayerNorm(12, eps=1e-12))
def forward(self, x: Tensor) -> Tensor:
    return self.norm(x * 1e-3)


@steep("GroupNormOfFlatChannels", x=reals("batch 4 5 5", 0, 255))
@has(norm=lambda: nn.GroupNorm(2, 4))
def forward(self, x: Tensor) -> Tensor:
    return self.norm(x)


@steep(x=reals("batch 6"))
class BatchNormOfAlmostNoVariance(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.norm.running_var.fill_(1e-7)
        self.norm.running_mean.fill_(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


@steep("CosineOfRows", left=reals("batch 6"), right=reals("batch 6"))
def forward(self, left: Tensor, right: Tensor) -> Tensor:
    return F.cosine_similarity(left * 1e-3, right, dim=-1)


@steep("ScaledToTheUnitInterval", x=reals("batch 8"))
def forward(self, x: Tensor) -> Tensor:
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    return (x - low) / (high - low + 1e-6)


@steep("Kurtosis", x=reals("batch 10"))
def forward(self, x: Tensor) -> Tensor:
    centered = x - x.mean(-1, keepdim=True)
    return centered.pow(4).mean(-1) / (centered.square().mean(-1).square() + 1e-7)


section("steep", "saturation")


@steep("StableSoftplus", targets=THREE, x=reals("batch 6", -120, 120))
def forward(self, x: Tensor) -> Tensor:
    return F.softplus(x) - F.softplus(-x)


@steep("StableLogSumExp", targets=THREE, x=reals("batch 6", -200, 200))
def forward(self, x: Tensor) -> Tensor:
    return torch.logsumexp(x, -1)


@steep("LogSoftmaxOfLargeScores", x=reals("batch 9", -300, 300))
def forward(self, x: Tensor) -> Tensor:
    return x.log_softmax(-1)


@steep("ErrorFunctionTail", x=reals("batch 5", -8, 8))
def forward(self, x: Tensor) -> Tensor:
    return (1.0 - x.erf() * x.sign()).clamp(min=1e-4).log()


@steep("SaturatedLstm", dims=TIME, x=reals("batch time 3", -30, 30))
@has(lstm=lambda: nn.LSTM(3, 6, batch_first=True))
def forward(self, x: Tensor) -> Tensor:
    return self.lstm(x)[0]


@steep("AttentionWithLargeScores", dims=TIME, x=reals("batch time 8", -20, 20))
@has(project=lambda: nn.Linear(8, 24))
def forward(self, x: Tensor) -> Tensor:
    query, key, value = self.project(x)[:, None].chunk(3, -1)
    return F.scaled_dot_product_attention(query, key, value)


@steep("GeluOfLargeNumbers", x=reals("batch 6", -30, 30))
def forward(self, x: Tensor) -> Tensor:
    return F.gelu(x) + F.silu(x) + F.elu(x)


section("steep", "long reductions")


@steep("LongSum", targets=THREE, dims={"batch": (1, 2)}, x=reals("batch 4096"))
def forward(self, x: Tensor) -> Tensor:
    return x.sum(-1)


@steep("LongCumulativeSum", dims={"batch": (1, 2)}, x=reals("batch 2048", 0, 1))
def forward(self, x: Tensor) -> Tensor:
    return x.cumsum(-1)


@steep("LongLogSumExp", dims={"batch": (1, 2)}, x=reals("batch 4096"))
def forward(self, x: Tensor) -> Tensor:
    return torch.logsumexp(x, -1)


@steep("AlternatingSum", dims={"batch": (1, 2)}, x=reals("batch 2048", -1, 1))
@has(signs=lambda: Buffer(torch.tensor([1.0, -1.0]).repeat(1024)))
def forward(self, x: Tensor) -> Tensor:
    return ((x + 100.0) * self.signs).sum(-1)


@steep("WideLayer", targets=THREE, x=reals("batch 2048"))
@has(layer=lambda: nn.Linear(2048, 8))
def forward(self, x: Tensor) -> Tensor:
    return self.layer(x)


@steep("WideConvolution", dims={"batch": (1, 2)}, x=reals("batch 16 9 9"))
@has(layers=lambda: nn.Sequential(nn.Conv2d(16, 32, 5), nn.ReLU(), nn.Conv2d(32, 4, 5)))
def forward(self, x: Tensor) -> Tensor:
    return self.layers(x)


@steep("LongProduct", dims={"batch": (1, 2)}, x=reals("batch 24", 0.5, 1.5))
def forward(self, x: Tensor) -> Tensor:
    return x.prod(-1)


@steep("MeanAndDeviationOfALongRow", dims={"batch": (1, 2)}, x=reals("batch 1000"))
def forward(self, x: Tensor) -> Tensor:
    return torch.stack([(x + 50.0).mean(-1), (x + 50.0).std(-1)])


section("steep", "steps")


@steep("HalvesOfAFourth", targets=THREE, x=reals("batch 6", -20, 20))
def forward(self, x: Tensor) -> Tensor:
    return (x * 4.0).round() / 4.0


@steep("Floors", x=reals("batch 6"))
def forward(self, x: Tensor) -> Tensor:
    return (x * 64.0).floor() + x.trunc() + x.ceil()


@steep("AtLeastOrMore", x=reals("batch 6", 0, 1))
def forward(self, x: Tensor) -> Tensor:
    return torch.where(x >= 0.5, 2.0 * x, torch.where(x > 0.25, -x, x))


@steep("CountOfPositives", x=reals("batch 8"))
def forward(self, x: Tensor) -> Tensor:
    return (x > 0.0).sum(-1)


@steep("FirstMaximum", targets=THREE, x=reals("batch 9"))
def forward(self, x: Tensor) -> Tensor:
    return x.argmax(-1)


@steep("LargestThree", x=reals("batch 9"))
def forward(self, x: Tensor) -> Tensor:
    return x.topk(3, -1).values


@steep("SortedRow", x=reals("batch 7"))
def forward(self, x: Tensor) -> Tensor:
    return x.sort(-1).values.diff(dim=-1)


@steep(x=reals("batch 10"))
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


@steep("SignBehindALayer", targets=THREE, x=reals("batch 6"))
@has(layer=lambda: nn.Linear(6, 16, bias=False), head=lambda: nn.Linear(16, 2))
def forward(self, x: Tensor) -> Tensor:
    return self.head(torch.where(self.layer(x) >= 0.0, 1.0, -1.0))


@steep("QuantizedLayer", x=reals("batch 12"))
@has(layer=lambda: nn.Linear(12, 6))
def forward(self, x: Tensor) -> Tensor:
    return (self.layer(x) / 0.05).round().clamp(-128, 127) * 0.05


@steep("RemainderOfLargeNumbers", x=reals("batch 4", 0, 1000))
def forward(self, x: Tensor) -> Tensor:
    return torch.remainder(x - 0.125, 1.0)


@steep("Buckets", x=reals("batch 3", 0, 1))
@has(edges=Buffer(torch.tensor([0.125, 0.3, 0.5, 0.9])))
def forward(self, x: Tensor) -> Tensor:
    return (x[..., None] > self.edges).sum(-1)


@steep("MaskedMeanOfPositives", x=reals("batch 11"))
def forward(self, x: Tensor) -> Tensor:
    kept = (x > 0.0).float()
    return (x * kept).sum(-1) / kept.sum(-1).clamp(min=1.0)


section("steep", "lost precision")


@steep("ThroughHalf", targets=THREE, x=reals("batch 6", -300, 300))
def forward(self, x: Tensor) -> Tensor:
    return x.half().float() * 0.01


@steep("ThroughBfloat16", x=reals("batch 6"))
def forward(self, x: Tensor) -> Tensor:
    return x.bfloat16().float().exp()


@steep("IdsAsFloats", ids=whole("batch 2", 0, 16_780_000))
def forward(self, ids: Tensor) -> Tensor:
    return ids.float().sqrt()


@steep("Angles", y=reals("batch 3", -1, 1), x=reals("batch 3", -1, 1))
def forward(self, y: Tensor, x: Tensor) -> Tensor:
    return torch.atan2(y, x.abs() + 1e-3) / math.pi


@steep("RotationsOfLargePositions", at=whole("batch", 0, 100_000))
@has(rates=lambda: Buffer(torch.logspace(0, -2, 4)))
def forward(self, at: Tensor) -> Tensor:
    return (at.float()[:, None] * self.rates).cos()
