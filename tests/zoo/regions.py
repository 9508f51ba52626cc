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


section("faulty", "a constant in half precision")


@faulty(
    "StepAtATenth",
    x=reals("batch 2", 0, 1),
    shipped=lambda self, x: torch.where(x > 0.0999755859375, x + 1.0, x),
    witness=lambda self: torch.tensor([[0.09999, 0.5]]),
)
def forward(self, x: Tensor) -> Tensor:
    return torch.where(x > 0.1, x + 1.0, x)


@faulty(targets=THREE, x=reals("batch 8", -1, 1))
@has(layer=lambda: nn.Linear(8, 1))
class ThresholdBehindALayer(nn.Module):
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


@faulty(
    "BinarizedActivations",
    x=reals("batch 5"),
    shipped=lambda self, x: self.head(torch.where(self.layer(x) > 0.0, 1.0, -1.0)),
    witness=lambda self: torch.zeros(1, 5),
)
@has(layer=lambda: nn.Linear(5, 6, bias=False), head=lambda: nn.Linear(6, 2))
def forward(self, x: Tensor) -> Tensor:
    return self.head(torch.where(self.layer(x) >= 0.0, 1.0, -1.0))


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
    "RoundedSigmoid",
    x=reals("batch 4", -6, 6),
    shipped=lambda self, x: ((x - 1.0).sigmoid() + 0.5).floor() + 0.1 * x,
    witness=lambda self: torch.tensor([[1.0, 0.0, 3.0, -2.0]]),
)
def forward(self, x: Tensor) -> Tensor:
    """A rounded sigmoid is at its half point where its input is zero (TVM issue 18590)."""
    return (x - 1.0).sigmoid().round() + 0.1 * x


section("faulty", "truncation for floor")


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


section("faulty", "log1p and expm1")


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


section("faulty", "ties of argmax, sort and top-k")


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
    "TwoIdsCollide",
    left=whole("batch", 0, 100_000_000),
    right=whole("batch", 0, 100_000_000),
    shipped=lambda self, left, right: (left.float() == right.float()).float(),
    witness=lambda self: (torch.tensor([50_000_000]), torch.tensor([50_000_001])),
)
def forward(self, left: Tensor, right: Tensor) -> Tensor:
    """Different integers above 2^24 are equal as floats."""
    return (left == right).float()


section("faulty", "range of half precision and of bytes")


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


section("faulty", "two rows are equal")


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


section("faulty", "a recurrent state")


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
