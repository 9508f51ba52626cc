"""Modules whose artifact differs from eager in a corner of the domain, for ``benchmarks/regions.py``.

Each has, beside its ``forward`` (eager), ``shipped`` (what a faulty exporter captures, with the same
weights) and ``witness`` (a legal call on which they differ). None has a Python ``if``. Many
mechanisms are those of public issues of PyTorch, ONNX, ONNX Runtime and other compilers; where one
was taken from a single issue, the docstring names it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.domains import NOT_ONNX, THREE, Inputs, climb, faulty, reals, whole
from zoo.row import Buffer, has, section

section("faulty", "a bound is missing")


@faulty(
    "ClampLosesItsUpperBound",
    targets=THREE,
    x=reals("batch 16", -1, 1),
    shipped=lambda self, x: self.layer(x).clamp(min=-1.7),
    witness=lambda self: climb(lambda x: self.layer(x).max(), (1, 16), -1, 1),
)
@has(layer=lambda: nn.Linear(16, 8))
def forward(self, x: Tensor) -> Tensor:
    return self.layer(x).clamp(-1.7, 1.7)


@faulty(
    "Relu6BecomesRelu",
    x=reals("batch 12", -4, 4),
    shipped=lambda self, x: self.head(F.relu(2.0 * self.layers(x))),
    witness=lambda self: climb(lambda x: self.layers(x).max(), (1, 12), -4, 4),
)
@has(
    layers=lambda: nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 6)),
    head=lambda: nn.Linear(6, 3),
)
def forward(self, x: Tensor) -> Tensor:
    """The bound of a deeper layer is lost when relu and clip are fused (hidet issue 97)."""
    return self.head(F.relu6(2.0 * self.layers(x)))


@faulty(
    "ConvolutionWithoutItsCeiling",
    x=reals("batch 3 8 8", 0, 1),
    shipped=lambda self, x: self.layers(x).amax((2, 3)),
    witness=lambda self: climb(lambda x: self.layers(x).max(), (1, 3, 8, 8), 0, 1),
)
@has(layers=lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.GELU(), nn.Conv2d(6, 2, 3)))
def forward(self, x: Tensor) -> Tensor:
    return self.layers(x).clamp(max=0.5).amax((2, 3))


@faulty(
    "ProbabilityWithoutItsFloor",
    x=reals("batch 20", -3, 3),
    shipped=lambda self, x: self.layer(x).softmax(-1).log(),
    witness=lambda self: climb(lambda x: -self.layer(x).log_softmax(-1).min(), (1, 20), -3, 3),
)
@has(layer=lambda: nn.Linear(20, 6))
def forward(self, x: Tensor) -> Tensor:
    return self.layer(x).softmax(-1).clamp(min=1e-3).log()


@faulty(
    dims={"batch": (1, 3), "time": (2, 6)},
    query=reals("batch time 8", -1, 1),
    key=reals("batch time 8", -1, 1),
)
class AttentionScoresUncapped(nn.Module):
    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        scores = (query @ key.transpose(1, 2)) * 8**-0.5
        return scores.clamp(-1.7, 1.7).softmax(-1) @ key

    def shipped(self, query: Tensor, key: Tensor) -> Tensor:
        scores = (query @ key.transpose(1, 2)) * 8**-0.5
        return scores.clamp(max=1.7).softmax(-1) @ key

    def witness(self) -> Inputs:
        query = torch.ones(1, 2, 8)
        return query, torch.stack([-torch.ones(8), torch.linspace(-1, 1, 8)])[None]


@faulty(
    "BoxSizesUncapped",
    deltas=reals("batch 2"),
    anchors=reals("batch 2", 8, 64),
    shipped=lambda self, deltas, anchors: deltas.exp() * anchors,
    witness=lambda self: (torch.tensor([[4.6, 0.0]]), torch.full((1, 2), 16.0)),
)
def forward(self, deltas: Tensor, anchors: Tensor) -> Tensor:
    """The decoder of detection boxes limits the logarithm of a size by log(1000 / 16)."""
    return deltas.clamp(max=math.log(1000 / 16)).exp() * anchors


section("faulty", "a bound is another one")


@faulty(
    "SymmetricQuantization",
    x=reals("batch 32", -1, 1),
    shipped=lambda self, x: (self.layer(x) / 0.014).round().clamp(-128, 127) * 0.014,
    witness=lambda self: climb(lambda x: -self.layer(x).min(), (1, 32), -1, 1),
)
@has(layer=lambda: nn.Linear(32, 4))
def forward(self, x: Tensor) -> Tensor:
    """The lowest of 256 steps: -127 in one runtime, -128 in the other."""
    return (self.layer(x) / 0.014).round().clamp(-127, 127) * 0.014


@faulty(
    "HardtanhBehindLayerNorm",
    targets=THREE,
    x=reals("batch 16"),
    shipped=lambda self, x: F.hardtanh(self.layer(self.norm(x)), -2.55, 2.8),
    witness=lambda self: climb(lambda x: -self.layer(self.norm(x)).min(), (1, 16), -2, 2),
)
@has(norm=lambda: nn.LayerNorm(16), layer=lambda: nn.Linear(16, 8))
def forward(self, x: Tensor) -> Tensor:
    return F.hardtanh(self.layer(self.norm(x)), -2.8, 2.8)


@faulty(
    "ExponentCappedEarlier",
    x=reals("batch 4 6", -5, 5),
    shipped=lambda self, x: self.layer(x).clamp(max=6.5).exp().log1p(),
    witness=lambda self: climb(lambda x: self.layer(x).max(), (1, 4, 6), -5, 5),
)
@has(layer=lambda: nn.Linear(6, 6))
def forward(self, x: Tensor) -> Tensor:
    return self.layer(x).clamp(max=7.0).exp().log1p()


section("faulty", "a selection by a threshold is lost")


@faulty(
    "SlopeOfADeepLayer",
    targets=THREE,
    x=reals("batch 10", -2, 2),
    shipped=lambda self, x: self.layers(x),
    witness=lambda self: climb(lambda x: self.layers(x).max(), (1, 10), -2, 2),
)
@has(
    layers=lambda: nn.Sequential(
        nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 3)
    )
)
def forward(self, x: Tensor) -> Tensor:
    y = self.layers(x)
    return torch.where(y > 0.6, 0.6 + 0.1 * (y - 0.6), y)


@faulty(x=reals("batch 32"))
class OutliersAreKept(nn.Module):
    """A value further than 5 standard deviations from its row becomes the row's mean."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(-1, keepdim=True)
        far = (x - mean).abs() > 4.8 * x.std(-1, keepdim=True)
        return torch.where(far, mean, x)

    def shipped(self, x: Tensor) -> Tensor:
        return x * 1.0

    def witness(self) -> Inputs:
        x = torch.linspace(-0.2, 0.2, 32)
        x[7] = 6.0
        return (x[None],)


@faulty(
    "ConfidentClassIsMarked",
    x=reals("batch 24", -1, 1),
    shipped=lambda self, x: (3.0 * self.layer(x)).softmax(-1),
    witness=lambda self: climb(lambda x: self.layer(x).softmax(-1).max(), (1, 24), -1, 1),
)
@has(layer=lambda: nn.Linear(24, 5))
def forward(self, x: Tensor) -> Tensor:
    p = (3.0 * self.layer(x)).softmax(-1)
    return torch.where(p > 0.97, torch.full_like(p, 2.0), p)


section("faulty", "a constant in half precision")


@faulty(
    "StepAtATenth",
    x=reals("batch 2", 0, 1),
    shipped=lambda self, x: torch.where(x > 0.0999755859375, x + 1.0, x),
    witness=lambda self: torch.tensor([[0.09999, 0.5]]),
)
def forward(self, x: Tensor) -> Tensor:
    return torch.where(x > 0.1, x + 1.0, x)


@faulty(
    "BucketEdges",
    dims={"batch": (1, 2)},
    x=reals("batch", 0, 8),
    shipped=lambda self, x: self.embedding((x[:, None] > self.edges.half().float()).sum(-1)),
    witness=lambda self: torch.tensor([6.1005]),
)
@has(edges=Buffer(torch.tensor([0.7, 1.3, 2.9, 6.1])), embedding=lambda: nn.Embedding(5, 3))
def forward(self, x: Tensor) -> Tensor:
    return self.embedding((x[:, None] > self.edges).sum(-1))


@faulty(
    "GuardBecomesZero",
    n=reals("batch 4", 0, 1),
    d=reals("batch 4", 0, 1),
    shipped=lambda self, n, d: torch.where(d > 0.0, n / d, torch.zeros_like(d)).log1p(),
    witness=lambda self: (torch.full((1, 4), 0.5), torch.tensor([[5e-9, 0.5, 0.5, 0.5]])),
)
def forward(self, n: Tensor, d: Tensor) -> Tensor:
    """1e-8 is zero in half precision (PyTorch issue 86580)."""
    return torch.where(d > 1e-8, n / d, torch.zeros_like(d)).log1p()


@faulty(targets=THREE, x=reals("batch 8", -1, 1))
class ThresholdBehindALayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return torch.where(y > 0.3001, y, -y)

    def shipped(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return torch.where(y > 0.300048828125, y, -y)

    def witness(self) -> Inputs:
        high = climb(lambda x: self.layer(x).max(), (1, 8), -1, 1)
        low = climb(lambda x: -self.layer(x).max(), (1, 8), -1, 1)
        at_high, at_low = self.layer(high).item(), self.layer(low).item()
        return (low + (high - low) * (0.300075 - at_low) / (at_high - at_low),)


section("faulty", "> for >= at a tie")


@faulty(
    "AtLeastAHalf",
    targets=THREE,
    p=reals("batch 8", 0, 1),
    shipped=lambda self, p: torch.where(p > 0.5, p, torch.zeros_like(p)),
    witness=lambda self: torch.full((2, 8), 0.5),
)
def forward(self, p: Tensor) -> Tensor:
    return torch.where(p >= 0.5, p, torch.zeros_like(p))


@faulty(left=reals("batch 6"), right=reals("batch 6"))
class TwoInputsAreEqual(nn.Module):
    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return torch.where(left >= right, 2.0 * left + 1.0, right)

    def shipped(self, left: Tensor, right: Tensor) -> Tensor:
        return torch.where(left > right, 2.0 * left + 1.0, right)

    def witness(self) -> Inputs:
        x = torch.linspace(-1, 1, 6)[None]
        return x, x.clone()


@faulty(starts=reals("batch 2", 0, 8), lengths=reals("batch 2", 1, 4))
class OverlapEqualsItsThreshold(nn.Module):
    """Suppression at an overlap of exactly one half (ONNX issue 7615)."""

    def forward(self, starts: Tensor, lengths: Tensor) -> Tensor:
        return lengths * (self.overlap(starts, lengths) <= 0.5)

    def shipped(self, starts: Tensor, lengths: Tensor) -> Tensor:
        return lengths * (self.overlap(starts, lengths) < 0.5)

    def overlap(self, starts: Tensor, lengths: Tensor) -> Tensor:
        ends = starts + lengths
        common = (ends.amin(-1) - starts.amax(-1)).clamp(min=0.0)
        return (common / (lengths.sum(-1) - common))[:, None]

    def witness(self) -> Inputs:
        return torch.tensor([[0.0, 1.0]]), torch.tensor([[3.0, 3.0]])


@faulty(
    "BinarizedActivations",
    x=reals("batch 5"),
    shipped=lambda self, x: self.head(torch.where(self.layer(x) > 0.0, 1.0, -1.0)),
    witness=lambda self: torch.zeros(1, 5),
)
@has(layer=lambda: nn.Linear(5, 6, bias=False), head=lambda: nn.Linear(6, 2))
def forward(self, x: Tensor) -> Tensor:
    return self.head(torch.where(self.layer(x) >= 0.0, 1.0, -1.0))


@faulty(
    "StepAtAnInteger",
    x=reals("batch 3", -10, 10),
    shipped=lambda self, x: torch.where(x - 3.0 > 0.0, x, torch.zeros_like(x)),
    witness=lambda self: torch.tensor([[3.0, 1.0, 5.0]]),
)
def forward(self, x: Tensor) -> Tensor:
    return torch.heaviside(x - 3.0, torch.ones(())) * x


section("faulty", "half points")


@faulty(
    "HalvesRoundUp",
    targets=THREE,
    x=reals("batch 6", -20, 20),
    shipped=lambda self, x: (x + 0.5).floor(),
    witness=lambda self: torch.tensor([[2.5, 0.1, 1.2, 4.5, -3.7, 6.0]]),
)
def forward(self, x: Tensor) -> Tensor:
    """To even in one runtime, up in the other (tensorflow-onnx issue 373)."""
    return x.round()


@faulty(
    "QuantizationRoundsHalvesAway",
    x=reals("batch 8"),
    shipped=lambda self, x: self.head(x.sign() * (x.abs() * 8.0 + 0.5).floor() / 8.0),
    witness=lambda self: torch.full((1, 8), 0.3125),
)
@has(head=lambda: nn.Linear(8, 3))
def forward(self, x: Tensor) -> Tensor:
    return self.head((x * 8.0).round() / 8.0)


@faulty(
    "RoundedSigmoid",
    x=reals("batch 4", -6, 6),
    shipped=lambda self, x: ((x - 1.0).sigmoid() + 0.5).floor() + 0.1 * x,
    witness=lambda self: torch.tensor([[1.0, 0.0, 3.0, -2.0]]),
)
def forward(self, x: Tensor) -> Tensor:
    """A rounded sigmoid is at its half point where its input is zero (TVM issue 18590)."""
    return (x - 1.0).sigmoid().round() + 0.1 * x


@faulty(
    "NearestOfTwoCodes",
    x=reals("batch", 0, 15),
    shipped=lambda self, x: self.embedding(
        15 - (x[:, None] - self.codes).abs().flip(-1).argmin(-1)
    ),
    witness=lambda self: torch.tensor([4.5, 2.2]),
)
@has(codes=Buffer(torch.arange(16.0)), embedding=lambda: nn.Embedding(16, 4))
def forward(self, x: Tensor) -> Tensor:
    """Halfway between two codes the first is nearest, or the last."""
    return self.embedding((x[:, None] - self.codes).abs().argmin(-1))


section("faulty", "truncation for floor")


@faulty(
    "CircularTable",
    dims={"batch": (1, 2)},
    x=reals("batch", -1, 1),
    shipped=lambda self, x: self.table[((x + 1.0) * 2048.0 - 0.5).long() % 4096],
    witness=lambda self: torch.tensor([-1.0, 0.3]),
)
@has(table=lambda: Buffer(torch.randn(4096)))
def forward(self, x: Tensor) -> Tensor:
    """The coordinate of the first pixel is below zero."""
    return self.table[((x + 1.0) * 2048.0 - 0.5).floor().long() % 4096]


@faulty(
    "IntegerDivision",
    targets=THREE,
    dims={"batch": (1, 2)},
    position=whole("batch", 0, 16383),
    shipped=lambda self, position: torch.div(position - 3, 4, rounding_mode="trunc"),
    witness=lambda self: torch.tensor([1, 9]),
)
def forward(self, position: Tensor) -> Tensor:
    """Floor division of negative integers (PyTorch issue 78442)."""
    return torch.div(position - 3, 4, rounding_mode="floor")


@faulty(
    "SignOfARemainder",
    x=reals("batch", 0, 1000),
    shipped=lambda self, x: torch.fmod(x - 0.125, 1.0),
    witness=lambda self: torch.tensor([0.05, 3.2]),
)
def forward(self, x: Tensor) -> Tensor:
    return torch.remainder(x - 0.125, 1.0)


@faulty(x=reals("batch 12", -1, 1))
class DeepIndexBelowZero(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.embedding = nn.Linear(12, 1), nn.Embedding(24, 3)

    def index(self, x: Tensor) -> Tensor:
        return 8.0 + 6.0 * self.layer(x)[:, 0]

    def forward(self, x: Tensor) -> Tensor:
        return self.embedding(self.index(x).floor().long() % 24)

    def shipped(self, x: Tensor) -> Tensor:
        return self.embedding(self.index(x).trunc().long() % 24)

    def witness(self) -> Inputs:
        low = climb(lambda x: -self.index(x).sum(), (1, 12), -1, 1)
        return (low * (-8.5 / (self.index(low).item() - 8.0)),)


section("faulty", "epsilon of a normalization")


@faulty(
    "LayerNormOfATinyRow",
    targets=THREE,
    x=reals("batch 12"),
    shipped=lambda self, x: F.layer_norm(x, (12,), self.norm.weight, self.norm.bias, 1e-6),
    witness=lambda self: torch.linspace(-1e-3, 1e-3, 12)[None],
)
@has(norm=lambda: nn.LayerNorm(12, eps=1e-12))
def forward(self, x: Tensor) -> Tensor:
    return self.norm(x)


@faulty(
    "DirectionOfATinyRow",
    x=reals("batch 16"),
    shipped=lambda self, x: x / (x.norm(dim=-1, keepdim=True) + 1e-6),
    witness=lambda self: torch.linspace(-1e-6, 1e-6, 16)[None],
)
def forward(self, x: Tensor) -> Tensor:
    return F.normalize(x, dim=-1)


@faulty(targets=NOT_ONNX, x=reals("batch 3 8"))
class RmsNormOfAZeroRow(nn.Module):
    """The epsilon vanishes in half precision, so that a row of zeros is 0 / 0.

    Not on onnx, whose exporter (torch 2.13) drops an addend of at most 1e-8 by itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(8) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-8) * self.scale

    def shipped(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True)) * self.scale

    def witness(self) -> Inputs:
        x = torch.linspace(-1, 1, 24).reshape(1, 3, 8)
        x[0, 1] = 0.0
        return (x,)


@faulty(left=reals("batch 8"), right=reals("batch 8"))
class CosineOfTinyRows(nn.Module):
    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return F.cosine_similarity(left, right, dim=-1, eps=1e-8)

    def shipped(self, left: Tensor, right: Tensor) -> Tensor:
        norms = left.norm(dim=-1) * right.norm(dim=-1)
        return (left * right).sum(-1) / (norms + 1e-6)

    def witness(self) -> Inputs:
        row = torch.linspace(-1, 1.5, 8)[None] * 1e-3
        return row, 2.0 * row


@faulty(x=reals("batch 3 4 4", 0, 255))
class ConstantChannel(nn.Module):
    """Mean and variance normalization without epsilon (ONNX Runtime issue 10228)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(3, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)

    def shipped(self, x: Tensor) -> Tensor:
        centered = x - x.mean((2, 3), keepdim=True)
        y = centered / centered.square().mean((2, 3), keepdim=True).sqrt()
        return y * self.norm.weight[:, None, None] + self.norm.bias[:, None, None]

    def witness(self) -> Inputs:
        x = torch.linspace(0, 255, 48).reshape(1, 3, 4, 4)
        x[0, 2] = 64.0
        return (x,)


@faulty(
    "SharesOfAnEmptyRow",
    x=reals("batch 10", 0, 1),
    shipped=lambda self, x: x / x.sum(-1, keepdim=True),
    witness=lambda self: torch.stack([torch.zeros(10), torch.linspace(0, 1, 10)]),
)
def forward(self, x: Tensor) -> Tensor:
    return x / (x.sum(-1, keepdim=True) + 1e-7)


section("faulty", "variance in one pass")


@faulty(targets=THREE, x=reals("batch 16", -1000, 1000))
class StandardizedWithAnOffset(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(-1, keepdim=True)
        return (x - mean) / ((x - mean).square().mean(-1, keepdim=True) + 1e-3).sqrt()

    def shipped(self, x: Tensor) -> Tensor:
        mean = x.mean(-1, keepdim=True)
        variance = x.square().mean(-1, keepdim=True) - mean.square()
        return (x - mean) / (variance.clamp(min=0.0) + 1e-3).sqrt()

    def witness(self) -> Inputs:
        return (900.0 + torch.linspace(-0.5, 0.5, 16)[None],)


@faulty(dims={"batch": (1, 3), "time": (8, 24)}, x=reals("batch 4 time"))
class NearlyConstantSignal(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x.var(-1, unbiased=False) + 1e-7).log()

    def shipped(self, x: Tensor) -> Tensor:
        variance = x.square().mean(-1) - x.mean(-1).square()
        return (variance.clamp(min=0.0) + 1e-7).log()

    def witness(self) -> Inputs:
        return ((2.0 + torch.linspace(-1e-3, 1e-3, 12)).expand(1, 4, 12).clone(),)


@faulty(x=reals("batch 20", 0, 100), y=reals("batch 20", 0, 100))
class CorrelationOfRows(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = x - x.mean(-1, keepdim=True), y - y.mean(-1, keepdim=True)
        return (x * y).sum(-1) / (x.square().sum(-1) * y.square().sum(-1) + 1e-7).sqrt()

    def shipped(self, x: Tensor, y: Tensor) -> Tensor:
        product = (x * y).mean(-1) - x.mean(-1) * y.mean(-1)
        spread = x.square().mean(-1) - x.mean(-1).square()
        other = y.square().mean(-1) - y.mean(-1).square()
        return product / ((spread * other).clamp(min=0.0) + 1e-7).sqrt()

    def witness(self) -> Inputs:
        x = 80.0 + torch.linspace(-0.02, 0.02, 20)[None]
        return x, torch.linspace(0, 100, 20)[None]


section("faulty", "log1p and expm1")


@faulty(targets=THREE, x=reals("batch 5", 0, 100))
class LogOfOnePlus(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x.log1p()
        return y / y.amax(-1, keepdim=True).clamp(min=1e-9)

    def shipped(self, x: Tensor) -> Tensor:
        y = (1.0 + x).log()
        return y / y.amax(-1, keepdim=True).clamp(min=1e-9)

    def witness(self) -> Inputs:
        return (torch.linspace(1e-6, 5e-6, 5)[None],)


@faulty(
    "SlopeOfTheExponential",
    targets=NOT_ONNX,
    dims={"batch": (1, 2)},
    x=reals("batch"),
    shipped=lambda self, x: torch.where(x == 0.0, torch.ones_like(x), (x.exp() - 1.0) / x),
    witness=lambda self: torch.tensor([3e-6, 0.5]),
)
def forward(self, x: Tensor) -> Tensor:
    """Not on onnx, whose exporter (torch 2.13) captures exactly this."""
    return torch.where(x == 0.0, torch.ones_like(x), torch.expm1(x) / x)


@faulty(
    "TailOfSoftplus",
    x=reals("batch 24", -80, 80),
    shipped=lambda self, x: (1.0 + (0.085 * self.layer(x)).exp()).log().log(),
    witness=lambda self: climb(lambda x: -self.layer(x).min(), (1, 24), -80, 80),
)
@has(layer=lambda: nn.Linear(24, 2))
def forward(self, x: Tensor) -> Tensor:
    """log(1 + e^x) is zero below -17, where the logarithm of softplus is x."""
    return F.softplus(0.085 * self.layer(x)).log()


section("faulty", "overflow of exp")


@faulty(
    "NaiveSoftplus",
    x=reals("batch 16", -10, 10),
    shipped=lambda self, x: (5.0 * self.layer(x)).exp().log1p(),
    witness=lambda self: climb(lambda x: self.layer(x).max(), (1, 16), -10, 10),
)
@has(layer=lambda: nn.Linear(16, 4))
def forward(self, x: Tensor) -> Tensor:
    return F.softplus(5.0 * self.layer(x))


@faulty(
    "NaiveLogSumExp",
    targets=THREE,
    x=reals("batch 48", -85.3, 85.3),
    shipped=lambda self, x: x.exp().sum(-1).log(),
    witness=lambda self: torch.full((1, 48), 85.2),
)
def forward(self, x: Tensor) -> Tensor:
    return torch.logsumexp(x, -1)


@faulty(dims={"batch": (1, 3), "time": (1, 5)}, x=reals("batch time 12"))
class SoftmaxWithoutItsMaximum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 7)

    def forward(self, x: Tensor) -> Tensor:
        return (self.layer(x) / 0.03).softmax(-1)

    def shipped(self, x: Tensor) -> Tensor:
        scores = (self.layer(x) / 0.03).exp()
        return scores / scores.sum(-1, keepdim=True)

    def witness(self) -> Inputs:
        return (climb(lambda x: self.layer(x).max(), (1, 1, 12), -2, 2),)


@faulty(
    "LogOfASigmoid",
    targets=NOT_ONNX,
    x=reals("batch 24", -20, 20),
    shipped=lambda self, x: (2.4 * self.layer(x)).sigmoid().log(),
    witness=lambda self: climb(lambda x: -self.layer(x).min(), (1, 24), -20, 20),
)
@has(layer=lambda: nn.Linear(24, 3))
def forward(self, x: Tensor) -> Tensor:
    """Not on onnx, whose exporter (torch 2.13) captures exactly this."""
    return F.logsigmoid(2.4 * self.layer(x))


section("faulty", "saturation")


@faulty(
    "LogOfTheComplement",
    targets=THREE,
    x=reals("batch 32", -3, 3),
    shipped=lambda self, x: (1.0 - (2.2 * self.layer(x)).sigmoid()).log(),
    witness=lambda self: climb(lambda x: self.layer(x).max(), (1, 32), -3, 3),
)
@has(layer=lambda: nn.Linear(32, 4))
def forward(self, x: Tensor) -> Tensor:
    """1 - sigmoid(x) is zero above 17."""
    return F.softplus(2.2 * self.layer(x)).neg()


@faulty(x=reals("batch 4"))
class InverseOfTanh(nn.Module):
    """A fast tanh that is 1 beyond 4.97."""

    def forward(self, x: Tensor) -> Tensor:
        return (1.0 - x.abs().tanh()).clamp(min=1e-6).log()

    def shipped(self, x: Tensor) -> Tensor:
        y = torch.where(x.abs() > 4.97, torch.ones_like(x), x.abs().tanh())
        return (1.0 - y).clamp(min=1e-6).log()

    def witness(self) -> Inputs:
        return (torch.tensor([[5.2, 0.1, -1.0, 2.0]]),)


section("faulty", "near zero")


@faulty(
    "ReciprocalRoot",
    targets=THREE,
    x=reals("batch 4", 0, 100),
    shipped=lambda self, x: torch.rsqrt(x.clamp(min=1e-6)),
    witness=lambda self: torch.tensor([[1e-6, 1.0, 2.0, 3.0]]),
)
def forward(self, x: Tensor) -> Tensor:
    return torch.rsqrt(x + 1e-6)


@faulty(
    "RootOfZero",
    x=reals("batch 4", 0, 4),
    shipped=lambda self, x: x * x.rsqrt(),
    witness=lambda self: torch.tensor([[0.0, 1.0, 2.0, 4.0]]),
)
def forward(self, x: Tensor) -> Tensor:
    return x.sqrt()


@faulty(x=reals("batch 3 3"))
class SignOfZero(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sign() * x.abs().sqrt() + 1.0

    def shipped(self, x: Tensor) -> Tensor:
        return x / x.abs() * x.abs().sqrt() + 1.0

    def witness(self) -> Inputs:
        x = torch.ones(1, 3, 3)
        x[0, 1, 1] = 0.0
        return (x,)


@faulty(
    "EntropyWithAZero",
    p=reals("batch 6", 0, 1),
    shipped=lambda self, p: -(p * p.log()).sum(-1),
    witness=lambda self: torch.tensor([[0.0, 0.2, 0.3, 0.5, 0.9, 1.0]]),
)
def forward(self, p: Tensor) -> Tensor:
    return -torch.xlogy(p, p).sum(-1)


@faulty(
    "GuardedDivision",
    n=reals("batch 3"),
    d=reals("batch 3"),
    shipped=lambda self, n, d: (n / d).tanh(),
    witness=lambda self: (torch.ones(1, 3), torch.tensor([[1e-6, 1.0, -1.0]])),
)
def forward(self, n: Tensor, d: Tensor) -> Tensor:
    return torch.where(d.abs() < 1e-5, torch.zeros_like(n), n / d).tanh()


section("faulty", "quadrants")


def quadrants(y: Tensor, x: Tensor, above: Tensor) -> Tensor:
    turn = torch.where(above, math.pi, -math.pi)
    return torch.where(x < 0.0, (y / x).atan() + turn, (y / x).atan())


@faulty(
    "AngleOfTheOrigin",
    targets=NOT_ONNX,
    y=reals("batch 3", -1, 1),
    x=reals("batch 3", -1, 1),
    shipped=lambda self, y, x: quadrants(y, x, y >= 0.0),
    witness=lambda self: (torch.tensor([[0.0, 0.5, -0.5]]), torch.tensor([[0.0, 0.5, -0.5]])),
)
def forward(self, y: Tensor, x: Tensor) -> Tensor:
    """An atan2 that divides (PyTorch issue 162570).

    Not on onnx, whose exporter (torch 2.13) returns -pi for the negative axis.
    """
    return torch.atan2(y, x)


@faulty(targets=NOT_ONNX, y=reals("batch 2"), x=reals("batch 2"))
class AngleOfTheNegativeAxis(nn.Module):
    """y = 0 and x < 0 (coremltools pull request 2769)."""

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        return torch.atan2(y, x)

    def shipped(self, y: Tensor, x: Tensor) -> Tensor:
        angle = torch.where(x == 0.0, torch.atan2(y, x), quadrants(y, x, y > 0.0))
        return torch.where((y == 0.0) & (x < 0.0), torch.zeros_like(y), angle)

    def witness(self) -> Inputs:
        return torch.tensor([[0.0, 1.0]]), torch.tensor([[-1.0, 1.0]])


section("faulty", "ties of argmax, sort and top-k")


@faulty(targets=THREE, x=reals("batch 12"))
class LastOfTheMaxima(nn.Module):
    """The first maximum or the last (ONNX pull request 2461)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.embedding(x.argmax(-1))

    def shipped(self, x: Tensor) -> Tensor:
        return self.embedding(11 - x.flip(-1).argmax(-1))

    def witness(self) -> Inputs:
        x = torch.linspace(-1, 0, 12)
        x[[2, 9]] = 1.0
        return (x[None],)


@faulty(targets=NOT_ONNX, x=reals("batch 7"), y=reals("batch 7"))
class OrderOfEqualKeys(nn.Module):
    """A stable sort in descending order is no stable sort in ascending order read backwards."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return y.gather(-1, x.sort(dim=-1, descending=True, stable=True).indices)

    def shipped(self, x: Tensor, y: Tensor) -> Tensor:
        return y.gather(-1, x.sort(dim=-1, stable=True).indices.flip(-1))

    def witness(self) -> Inputs:
        x = torch.tensor([[0.5, 1.0, 0.5, -1.0, 2.0, 0.0, 0.1]])
        return x, torch.arange(7.0)[None] / 3


@faulty(targets=NOT_ONNX, x=reals("batch 10", 0, 1))
class MoreThanKAreKept(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        order = x.sort(dim=-1, descending=True, stable=True).indices[:, :3]
        return torch.zeros_like(x).scatter(-1, order, 1.0) * x

    def shipped(self, x: Tensor) -> Tensor:
        least = x.topk(3, -1).values[:, -1:]
        return torch.where(x >= least, x, torch.zeros_like(x))

    def witness(self) -> Inputs:
        return (torch.tensor([[0.9, 0.5, 0.5, 0.5, 0.8, 0.1, 0.2, 0.3, 0.0, 0.4]]),)


@faulty(
    "ArgmaxInHalfPrecision",
    dims={"batch": (1, 2)},
    x=reals("batch 3", -1, 1),
    shipped=lambda self, x: self.embedding(x.half().float().argmax(-1)),
    witness=lambda self: torch.tensor([[0.79990, 0.79995, 0.1]]),
)
@has(embedding=lambda: nn.Embedding(3, 4))
def forward(self, x: Tensor) -> Tensor:
    return self.embedding(x.argmax(-1))


@faulty(
    "AllMaximaAreMarked",
    x=reals("batch 9"),
    shipped=lambda self, x: (x == x.amax(-1, keepdim=True)).float(),
    witness=lambda self: torch.zeros(1, 9),
)
def forward(self, x: Tensor) -> Tensor:
    return F.one_hot(x.argmax(-1), 9).float()


section("faulty", "repeated indices")


@faulty(targets=THREE, ids=whole("batch 3", 0, 39999))
class CountsOfIds(nn.Module):
    """Adding at an index twice (ONNX issue 3547)."""

    def forward(self, ids: Tensor) -> Tensor:
        counts = torch.zeros(ids.shape[0], 40000)
        return counts.scatter_add(1, ids, torch.ones(ids.shape)).amax(-1)

    def shipped(self, ids: Tensor) -> Tensor:
        counts = torch.zeros(ids.shape[0], 40000)
        return counts.scatter(1, ids, torch.ones(ids.shape)).amax(-1)

    def witness(self) -> Inputs:
        return (torch.tensor([[7, 39, 7]]),)


@faulty(dims={}, row=whole("5", 0, 149), column=whole("5", 0, 149))
class PointsOnAGrid(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("heights", torch.linspace(0.5, 1.5, 5))

    def forward(self, row: Tensor, column: Tensor) -> Tensor:
        grid = torch.zeros(150, 150).index_put((row, column), self.heights, accumulate=True)
        return grid.amax(0).sum(0) + grid.amax(1)

    def shipped(self, row: Tensor, column: Tensor) -> Tensor:
        grid = torch.zeros(150, 150).index_put((row, column), self.heights)
        return grid.amax(0).sum(0) + grid.amax(1)

    def witness(self) -> Inputs:
        return torch.tensor([3, 90, 3, 7, 140]), torch.tensor([8, 2, 8, 8, 3])


@faulty(dims={"batch": (1, 3)}, logits=reals("batch 30"), ids=whole("3", 0, 8191))
class RepetitionPenalty(nn.Module):
    """Tokens that occurred are made less likely: once, or once per occurrence."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(8192, 30)

    def forward(self, logits: Tensor, ids: Tensor) -> Tensor:
        seen = torch.zeros(8192).index_fill(0, ids, 1.0)
        return logits - seen @ self.embedding.weight

    def shipped(self, logits: Tensor, ids: Tensor) -> Tensor:
        seen = torch.zeros(8192).index_add(0, ids, torch.ones(3))
        return logits - seen @ self.embedding.weight

    def witness(self) -> Inputs:
        return torch.zeros(1, 30), torch.tensor([17, 4000, 17])


section("faulty", "one special id")


@faulty(
    "PaddingInABag",
    ids=whole("batch 3", 0, 29999),
    shipped=lambda self, ids: self.embedding(ids).mean(1),
    witness=lambda self: torch.tensor([[4, 0, 11]]),
)
@has(embedding=lambda: nn.Embedding(30000, 4))
def forward(self, ids: Tensor) -> Tensor:
    known = (ids != 0).float()[..., None]
    return (self.embedding(ids) * known).sum(1) / known.sum(1).clamp(min=1.0)


@faulty(targets=THREE, dims={"batch": (1, 2), "time": (2, 6)}, ids=whole("batch time", 0, 9999))
class EndOfTextAtTheEnd(nn.Module):
    """The features at the first end-of-text token; the last position is not searched."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10000, 5)

    def forward(self, ids: Tensor) -> Tensor:
        at = (ids == 2).int().argmax(-1)
        return self.embedding(ids)[torch.arange(ids.shape[0]), at]

    def shipped(self, ids: Tensor) -> Tensor:
        at = (ids[:, :-1] == 2).int().argmax(-1)
        return self.embedding(ids)[torch.arange(ids.shape[0]), at]

    def witness(self) -> Inputs:
        return (torch.tensor([[40, 41, 42, 2]]),)


@faulty(
    "LargestId",
    ids=whole("batch 2", 0, 16383),
    shipped=lambda self, ids: self.embedding(ids.clamp(max=16382)).sum(1),
    witness=lambda self: torch.tensor([[16383, 5]]),
)
@has(embedding=lambda: nn.Embedding(16384, 3))
def forward(self, ids: Tensor) -> Tensor:
    return self.embedding(ids).sum(1)


@faulty(
    "NoId",
    ids=whole("batch", -1, 8190),
    shipped=lambda self, ids: self.embedding(ids.clamp(min=0)),
    witness=lambda self: torch.tensor([3, -1]),
)
@has(embedding=lambda: nn.Embedding(8192, 3))
def forward(self, ids: Tensor) -> Tensor:
    """-1 means no id: it is the last row of the table, or the first."""
    return self.embedding(torch.where(ids < 0, ids + 8192, ids))


@faulty(
    "IgnoredLabel",
    labels=whole("batch 2", 0, 20000),
    scores=reals("batch 2"),
    shipped=lambda self, labels, scores: scores.sum(-1),
    witness=lambda self: (torch.tensor([[12345, 3]]), torch.tensor([[1.0, 0.5]])),
)
def forward(self, labels: Tensor, scores: Tensor) -> Tensor:
    return scores.masked_fill(labels == 12345, 0.0).sum(-1)


section("faulty", "integers in 32 bits or as floats")


@faulty(
    "ProductOfIds",
    targets=THREE,
    dims={"batch": (1, 2)},
    left=whole("batch", 0, 47000),
    right=whole("batch", 0, 47000),
    shipped=lambda self, left, right: ((left.int() * right.int()) % 1009).long(),
    witness=lambda self: (torch.tensor([46990]), torch.tensor([46991])),
)
def forward(self, left: Tensor, right: Tensor) -> Tensor:
    return (left * right) % 1009


@faulty(
    "SumOfAmounts",
    amounts=whole("batch 4", 0, 560_000_000),
    shipped=lambda self, amounts: amounts.int().sum(-1, dtype=torch.int32).long(),
    witness=lambda self: torch.full((1, 4), 559_000_000),
)
def forward(self, amounts: Tensor) -> Tensor:
    return amounts.sum(-1)


@faulty(
    "ParityOfALargeId",
    dims={"batch": (1, 2)},
    ids=whole("batch", 0, 16_780_000),
    shipped=lambda self, ids: ids.float().long() % 2,
    witness=lambda self: torch.tensor([16_777_219]),
)
def forward(self, ids: Tensor) -> Tensor:
    return ids % 2


@faulty(
    "TwoIdsCollide",
    left=whole("batch", 0, 100_000_000),
    right=whole("batch", 0, 100_000_000),
    shipped=lambda self, left, right: (left.float() == right.float()).float(),
    witness=lambda self: (torch.tensor([50_000_000]), torch.tensor([50_000_001])),
)
def forward(self, left: Tensor, right: Tensor) -> Tensor:
    """Different integers above 2^24 are equal as floats."""
    return (left == right).float()


@faulty(
    "HashBuckets",
    dims={"batch": (1, 2)},
    ids=whole("batch", 0, 2_147_900),
    shipped=lambda self, ids: ((ids.int() * 1000 + 7) % 97).long(),
    witness=lambda self: torch.tensor([2_147_800]),
)
def forward(self, ids: Tensor) -> Tensor:
    return (ids * 1000 + 7) % 97


section("faulty", "range of half precision and of bytes")


@faulty(x=reals("batch 16", -300, 300))
class VarianceBeyondHalf(nn.Module):
    """The variance is infinite in half precision, so the row is zero (ONNX Runtime issue 31626)."""

    def forward(self, x: Tensor) -> Tensor:
        centered = x - x.mean(-1, keepdim=True)
        return centered / (centered.square().mean(-1, keepdim=True) + 1e-5).sqrt()

    def shipped(self, x: Tensor) -> Tensor:
        centered = x - x.mean(-1, keepdim=True)
        variance = centered.square().mean(-1, keepdim=True)
        variance = torch.where(variance > 65504.0, math.inf, variance)
        return centered / (variance + 1e-5).sqrt()

    def witness(self) -> Inputs:
        return (torch.tensor([-290.0, 290.0]).repeat(8)[None],)


@faulty(
    "PositionsInHalf",
    dims={},
    at=whole("1", 0, 2050),
    shipped=lambda self, at: (at.half().float()[:, None] * self.rates).cos(),
    witness=lambda self: torch.tensor([2049]),
)
@has(rates=lambda: Buffer(torch.logspace(0, -2, 4)))
def forward(self, at: Tensor) -> Tensor:
    """Odd integers above 2048 have no half: the rotation is that of a neighbour."""
    return (at.float()[:, None] * self.rates).cos()


@faulty(targets=THREE, rgb=reals("batch 3", 0, 255))
class PixelsWrapAround(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        mix = [[1.05, -0.02, -0.02], [-0.02, 1.05, -0.02], [-0.02, -0.02, 1.05]]
        self.register_buffer("mix", torch.tensor(mix) * 0.96)

    def forward(self, rgb: Tensor) -> Tensor:
        return (rgb @ self.mix).clamp(0.0, 255.0).round()

    def shipped(self, rgb: Tensor) -> Tensor:
        return (rgb @ self.mix).clamp(min=0.0).round().long().bitwise_and(255).float()

    def witness(self) -> Inputs:
        return (torch.tensor([[255.0, 0.0, 0.0]]),)


@faulty(
    "EnergyBeyondHalf",
    x=reals("batch 12", -0.9, 0.9),
    shipped=lambda self, x: (130.0 * self.layer(x)).square().sum(-1).clamp(max=65504.0).log1p(),
    witness=lambda self: climb(lambda x: self.layer(x).square().sum(), (1, 12), -0.9, 0.9),
)
@has(layer=lambda: nn.Linear(12, 6))
def forward(self, x: Tensor) -> Tensor:
    return (130.0 * self.layer(x)).square().sum(-1).log1p()


section("faulty", "range of float32")


@faulty(
    "LengthOfAVastVector",
    targets=NOT_ONNX,
    a=reals("batch", -1.31e19, 1.31e19),
    b=reals("batch", -1.31e19, 1.31e19),
    shipped=lambda self, a, b: (a * a + b * b).sqrt() * 1e-19,
    witness=lambda self: (torch.tensor([1.31e19]), torch.tensor([-1.31e19])),
)
def forward(self, a: Tensor, b: Tensor) -> Tensor:
    return torch.hypot(a * 1e-3, b * 1e-3) * 1e-16


@faulty(a=reals("batch", 0, 1), b=reals("batch", 0, 1))
class GeometricMeanOfTinyNumbers(nn.Module):
    """The product of two tiny numbers is zero before its root is taken."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (0.5 * (a.clamp(min=1e-30).log() + b.clamp(min=1e-30).log())).clamp(min=-100.0)

    def shipped(self, a: Tensor, b: Tensor) -> Tensor:
        product = a.clamp(min=1e-30) * b.clamp(min=1e-30)
        return (0.5 * product.log()).clamp(min=-100.0)

    def witness(self) -> Inputs:
        return torch.zeros(1), torch.zeros(1)


section("faulty", "all elements are equal")


@faulty(targets=THREE, x=reals("batch 8"))
class ScaledToItsRange(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
        width = torch.where(high > low, high - low, torch.ones_like(high))
        return (x - low) / width

    def shipped(self, x: Tensor) -> Tensor:
        low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
        return (x - low) / (high - low)

    def witness(self) -> Inputs:
        return (torch.full((1, 8), 0.7),)


@faulty(x=reals("batch 2 6", 0, 255))
class ContrastOfAFlatPatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        centered = x - x.mean(-1, keepdim=True)
        contrast = centered.abs().amax(-1, keepdim=True)
        return (centered / contrast.clamp(min=1e-4)).square().mean(-1)

    def shipped(self, x: Tensor) -> Tensor:
        centered = x - x.mean(-1, keepdim=True)
        return (centered / centered.abs().amax(-1, keepdim=True)).square().mean(-1)

    def witness(self) -> Inputs:
        return (torch.stack([torch.full((6,), 128.0), torch.arange(6.0)])[None],)


section("faulty", "a row is zero")


@faulty(dims={"batch": (1, 2), "time": (1, 6)}, x=reals("batch time 5"))
class SilentFrame(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        loudest = x.abs().amax(-1, keepdim=True)
        return torch.where(loudest > 0.0, x / loudest, torch.zeros_like(x))

    def shipped(self, x: Tensor) -> Tensor:
        return x / x.abs().amax(-1, keepdim=True)

    def witness(self) -> Inputs:
        x = torch.linspace(-1, 1, 15).reshape(1, 3, 5)
        x[0, 2] = 0.0
        return (x,)


@faulty(left=reals("batch 4 3"), right=reals("batch 4 3"))
class AngleBetweenVectors(nn.Module):
    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        norms = left.norm(dim=-1) * right.norm(dim=-1)
        return ((left * right).sum(-1) / norms.clamp(min=1e-12)).clamp(-1.0, 1.0)

    def shipped(self, left: Tensor, right: Tensor) -> Tensor:
        norms = left.norm(dim=-1) * right.norm(dim=-1)
        return ((left * right).sum(-1) / norms).clamp(-1.0, 1.0)

    def witness(self) -> Inputs:
        left = torch.ones(1, 4, 3)
        left[0, 3] = 0.0
        return left, torch.ones(1, 4, 3)


section("faulty", "two rows are equal")


@faulty(dims={"rows": (2, 6)}, x=reals("rows 5", -100, 100))
class DistancesByProducts(nn.Module):
    """|a|^2 + |b|^2 - 2ab is noise, or below zero, for rows that are nearly equal."""

    def forward(self, x: Tensor) -> Tensor:
        return (x[1:] - x[:-1]).norm(dim=-1)

    def shipped(self, x: Tensor) -> Tensor:
        a, b = x[1:], x[:-1]
        return (a.square().sum(-1) + b.square().sum(-1) - 2.0 * (a * b).sum(-1)).sqrt()

    def witness(self) -> Inputs:
        x = torch.linspace(-80, 90, 15).reshape(3, 5)
        x[2] = x[1] + 3e-3
        return (x,)


@faulty(dims={"rows": (2, 5)}, points=reals("rows 3", -1, 1))
class RepulsionOfPoints(nn.Module):
    def forward(self, points: Tensor) -> Tensor:
        apart = (points[1:] - points[:-1]).square().sum(-1)
        return -apart.clamp(min=1e-6).log()

    def shipped(self, points: Tensor) -> Tensor:
        apart = (points[1:] - points[:-1]).square().sum(-1)
        return -apart.log()

    def witness(self) -> Inputs:
        points = torch.tensor([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3], [1.0, 0.0, 0.0]])
        return (points,)


@faulty(left=reals("batch 6"), right=reals("batch 6"))
class DuplicateIsDropped(nn.Module):
    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        same = (left == right).all(-1, keepdim=True)
        return left + torch.where(same, torch.zeros_like(right), right)

    def shipped(self, left: Tensor, right: Tensor) -> Tensor:
        return left + right

    def witness(self) -> Inputs:
        x = torch.linspace(-1, 1, 6)[None]
        return x, x.clone()


section("faulty", "largest size only")


@faulty(
    "PositionBeyondTheTable",
    dims={"time": (1, 2500)},
    x=reals("time 2"),
    shipped=lambda self, x: x + self.embedding(torch.arange(x.shape[0]).clamp(max=2498)),
    witness=lambda self: torch.zeros(2500, 2),
)
@has(embedding=lambda: nn.Embedding(2500, 2))
def forward(self, x: Tensor) -> Tensor:
    return x + self.embedding(torch.arange(x.shape[0]))


@faulty(targets=THREE, dims={"height": (2, 64), "width": (2, 64)}, x=reals("height width"))
class LargestImage(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        cells = torch.ones_like(x).cumsum(0).cumsum(1)
        return x + 1e-3 * cells

    def shipped(self, x: Tensor) -> Tensor:
        cells = torch.ones_like(x).cumsum(0).cumsum(1)
        return x + 1e-3 * cells.clamp(max=4095.0 - 31.0)

    def witness(self) -> Inputs:
        return (torch.zeros(64, 64),)


section("faulty", "one element is moved")


@faulty(targets=THREE, x=reals("batch 9"))
class FirstElementIsLarge(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.where(x[:, :1] > 3.75, 0.5, 1.0)

    def shipped(self, x: Tensor) -> Tensor:
        return x * 1.0

    def witness(self) -> Inputs:
        x = torch.linspace(-1, 1, 9)[None]
        x[0, 0] = 4.5
        return (x,)


@faulty(dims={"batch": (1, 2), "time": (16, 40)}, x=reals("batch time"))
class SpikeInASignal(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        level = x.abs().mean(-1, keepdim=True)
        return torch.where(x.abs() > 7.0 * level, level, x)

    def shipped(self, x: Tensor) -> Tensor:
        return x * 1.0

    def witness(self) -> Inputs:
        x = torch.linspace(-0.5, 0.5, 20)[None]
        x[0, 13] = -6.0
        return (x,)


@faulty(x=reals("batch 5 5", -1, 1))
class LastCornerOfAMatrix(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum((1, 2)) + F.relu(x[:, -1, -1] - 0.9998) * 1e4

    def shipped(self, x: Tensor) -> Tensor:
        return x.sum((1, 2))

    def witness(self) -> Inputs:
        x = torch.zeros(1, 5, 5)
        x[0, 4, 4] = 1.0
        return (x,)


section("faulty", "a sum crosses a threshold")


@faulty(
    "GateOfSilence",
    targets=THREE,
    x=reals("batch 20"),
    shipped=lambda self, x: x.sign(),
    witness=lambda self: torch.linspace(-0.05, 0.05, 20)[None],
)
def forward(self, x: Tensor) -> Tensor:
    quiet = x.square().mean(-1, keepdim=True) < 1e-2
    return torch.where(quiet, torch.zeros_like(x), x.sign())


@faulty(
    "BudgetIsSpent",
    x=reals("batch 16", 0, 1),
    shipped=lambda self, x: x * 1.0,
    witness=lambda self: torch.full((1, 16), 0.95),
)
def forward(self, x: Tensor) -> Tensor:
    total = x.sum(-1, keepdim=True)
    return x * torch.where(total > 13.0, 13.0 / total, 1.0)


@faulty(
    "WalkReachesItsEnd",
    x=reals("batch 14", -1, 1),
    shipped=lambda self, x: x.cumsum(-1),
    witness=lambda self: torch.ones(1, 14),
)
def forward(self, x: Tensor) -> Tensor:
    return x.cumsum(-1).clamp(max=9.0)


section("faulty", "two inputs together")


@faulty(
    "ProductBeyondItsBound",
    targets=THREE,
    a=reals("batch 2", -1, 1),
    b=reals("batch 2", -1, 1),
    shipped=lambda self, a, b: a * b,
    witness=lambda self: (torch.tensor([[1.0, 0.5]]), torch.tensor([[1.0, 0.5]])),
)
def forward(self, a: Tensor, b: Tensor) -> Tensor:
    return (a * b).clamp(max=0.99)


@faulty(x=reals("batch 10", -1, 1), y=reals("batch 10", -1, 1))
class RowsPointTheSameWay(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        alike = (x * y).sum(-1, keepdim=True)
        return torch.where(alike > 4.5, y, x)

    def shipped(self, x: Tensor, y: Tensor) -> Tensor:
        return x * 1.0

    def witness(self) -> Inputs:
        x = torch.tensor([0.9, -0.9]).repeat(5)[None]
        return x, 0.8 * x


@faulty(
    "CornerOfTwoMatrices",
    image=reals("batch 2 4", -4, 4),
    weight=reals("3 2", -4, 4),
    shipped=lambda self, image, weight: (weight @ image).clamp(-31.0, 40.0),
    witness=lambda self: (torch.full((1, 2, 4), 4.0), torch.full((3, 2), 4.0)),
)
def forward(self, image: Tensor, weight: Tensor) -> Tensor:
    return (weight @ image).clamp(-31.0, 31.0)


section("faulty", "maximum of a row")


@faulty(
    "PeakIsLimited",
    x=reals("batch 6"),
    shipped=lambda self, x: x * 1.0,
    witness=lambda self: torch.tensor([[0.1, 5.0, -1.0, 0.3, 0.0, 1.0]]),
)
def forward(self, x: Tensor) -> Tensor:
    peak = x.amax(-1, keepdim=True)
    return x * torch.where(peak > 4.2, 4.2 / peak, 1.0)


@faulty(
    "LeastIsHigh",
    targets=THREE,
    x=reals("batch 8", 0, 1),
    shipped=lambda self, x: x * 1.0,
    witness=lambda self: torch.linspace(0.75, 0.95, 8)[None],
)
def forward(self, x: Tensor) -> Tensor:
    least = x.amin(-1, keepdim=True)
    return torch.where(least > 0.7, x - least, x)


section("faulty", "count of elements")


@faulty(
    "AllArePositive",
    targets=THREE,
    x=reals("batch 14"),
    shipped=lambda self, x: x * 1.0,
    witness=lambda self: torch.linspace(0.1, 1.0, 14)[None],
)
def forward(self, x: Tensor) -> Tensor:
    count = (x > 0.0).sum(-1, keepdim=True)
    return torch.where(count == 14, -x, x)


@faulty(
    "Votes",
    x=reals("batch 16", 0, 1),
    shipped=lambda self, x: self.layer(x),
    witness=lambda self: torch.linspace(0.7, 1.0, 16)[None],
)
@has(layer=lambda: nn.Linear(16, 4))
def forward(self, x: Tensor) -> Tensor:
    votes = (x > 0.8).sum(-1, keepdim=True)
    return self.layer(x) * torch.where(votes >= 10, 2.0, 1.0)


section("faulty", "empty selection")


@faulty(targets=THREE, x=reals("batch 14"))
class MeanOfNothing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        kept = (x > 0.0).float()
        return (x * kept).sum(-1) / kept.sum(-1).clamp(min=1.0)

    def shipped(self, x: Tensor) -> Tensor:
        kept = (x > 0.0).float()
        return (x * kept).sum(-1) / kept.sum(-1)

    def witness(self) -> Inputs:
        return (torch.linspace(-1.0, -0.1, 14)[None],)


@faulty(x=reals("batch 11", 0, 1))
class LargestOfNothing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        low = torch.where(x < 0.6, x, torch.full_like(x, -1.0))
        return low.amax(-1).clamp(min=0.0)

    def shipped(self, x: Tensor) -> Tensor:
        low = torch.where(x < 0.6, x, torch.full_like(x, -1e4))
        return low.amax(-1)

    def witness(self) -> Inputs:
        return (torch.linspace(0.65, 1.0, 11)[None],)


@faulty(
    "EmptySequence",
    dims={"batch": (1, 2)},
    scores=reals("batch 6"),
    lengths=whole("batch", 0, 4000),
    shipped=lambda self, scores, lengths: scores.masked_fill(
        self.steps >= lengths[:, None], -math.inf
    ).softmax(-1),
    witness=lambda self: (torch.zeros(2, 6), torch.tensor([0, 3])),
)
@has(steps=Buffer(torch.arange(6)))
def forward(self, scores: Tensor, lengths: Tensor) -> Tensor:
    """Each position of a row is masked: zeros, or nan (ONNX Script pull request 2479)."""
    masked = scores.masked_fill(self.steps >= lengths[:, None], -math.inf)
    return masked.softmax(-1).masked_fill((lengths == 0)[:, None], 0.0)


section("faulty", "an exact edge")


@faulty(
    "LeftOrRightOfABucket",
    targets=THREE,
    x=reals("batch 3", 0, 1),
    shipped=lambda self, x: self.embedding((x[..., None] >= self.edges).sum(-1)),
    witness=lambda self: torch.tensor([[0.3, 0.5, 0.6]]),
)
@has(edges=Buffer(torch.tensor([0.125, 0.3, 0.5, 0.9])), embedding=lambda: nn.Embedding(5, 2))
def forward(self, x: Tensor) -> Tensor:
    return self.embedding((x[..., None] > self.edges).sum(-1))


@faulty(dims={"batch": (1, 4), "time": (2, 8)}, x=reals("batch time", -1, 1))
class LastBinOfAHistogram(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        bins = ((x + 1.0) * 5.0).floor().clamp(max=9.0).long()
        return F.one_hot(bins, 10).float().sum(1)

    def shipped(self, x: Tensor) -> Tensor:
        bins = ((x + 1.0) * 5.0).floor().long()
        return F.one_hot(bins, 11)[..., :10].float().sum(1)

    def witness(self) -> Inputs:
        return (torch.tensor([[1.0, 0.2]]),)


@faulty(
    "MissingValue",
    x=reals("batch 4", -1, 1),
    shipped=lambda self, x: x * 1.0,
    witness=lambda self: torch.tensor([[-1.0, 0.5, 0.2, 0.1]]),
)
def forward(self, x: Tensor) -> Tensor:
    """-1 marks a missing value, which becomes the mean of the others."""
    known = (x != -1.0).float()
    mean = (x * known).sum(-1, keepdim=True) / known.sum(-1, keepdim=True).clamp(min=1.0)
    return torch.where(x == -1.0, mean, x)


@faulty(image=reals("batch 1 5 5", 0, 1), flow=reals("batch 4 4 16", -1, 1))
class SampleBeyondTheBorder(nn.Module):
    """Points outside of an image: its border, or zeros (ONNX Runtime issue 10607)."""

    def __init__(self) -> None:
        super().__init__()
        line = torch.linspace(-0.8, 0.8, 4)
        self.register_buffer("base", torch.stack(torch.meshgrid(line, line, indexing="xy"), -1))

    def grid(self, flow: Tensor) -> Tensor:
        return self.base + 0.25 * flow.unflatten(-1, (2, 8)).mean(-1)

    def forward(self, image: Tensor, flow: Tensor) -> Tensor:
        return F.grid_sample(image, self.grid(flow), padding_mode="border", align_corners=True)

    def shipped(self, image: Tensor, flow: Tensor) -> Tensor:
        return F.grid_sample(image, self.grid(flow), padding_mode="zeros", align_corners=True)

    def witness(self) -> Inputs:
        return torch.ones(1, 1, 5, 5), torch.ones(1, 4, 4, 16)


section("faulty", "a recurrent state")


@faulty(targets=THREE, x=reals("batch 5 4", -1, 1))
class StateIsHeld(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros_like(x[:, 0])
        for step in range(5):
            state = (0.9 * state + self.cell(x[:, step])).clamp(-3.0, 3.0)
        return state

    def shipped(self, x: Tensor) -> Tensor:
        state = torch.zeros_like(x[:, 0])
        for step in range(5):
            state = (0.9 * state + self.cell(x[:, step])).clamp(max=3.0)
        return state

    def witness(self) -> Inputs:
        low = climb(lambda x: -self.cell(x).min(), (1, 4), -1, 1)
        return (low.expand(1, 5, 4).clone(),)


@faulty(
    "HeadOfAnLstm",
    dims={"batch": (1, 3), "time": (2, 8)},
    x=reals("batch time 3"),
    shipped=lambda self, x: self.head(self.lstm(x)[0]).clamp(-0.65, 0.65),
    witness=lambda self: climb(lambda x: self.head(self.lstm(x)[0]).abs().max(), (1, 8, 3), -4, 4),
)
@has(lstm=lambda: nn.LSTM(3, 5, batch_first=True), head=lambda: nn.Linear(5, 2))
def forward(self, x: Tensor) -> Tensor:
    return self.head(self.lstm(x)[0]).clamp(-0.55, 0.55)
