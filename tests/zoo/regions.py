"""Modules whose artifact differs from eager in a corner of the domain, for ``benchmarks/regions.py``.

Each has a ``forward`` (eager), a ``shipped`` one (what a faulty exporter captures, with the same
weights) and a ``witness`` (a legal call on which they differ). None has a Python ``if``. Many
mechanisms are those of public issues of PyTorch, ONNX, ONNX Runtime and other compilers; where one
was taken from a single issue, the docstring names it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.domains import NOT_ONNX, THREE, climb, faulty, reals, whole
from zoo.row import Buffer, has, section

ROW = torch.linspace(-1, 1, 6)[None]

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


section("faulty", "a selection by a threshold is lost")


@faulty(
    "OutliersAreKept",
    x=reals("batch 32"),
    shipped=lambda self, x: x * 1.0,
    witness=lambda self: torch.cat([torch.tensor([6.0]), torch.linspace(-0.2, 0.2, 31)])[None],
)
def forward(self, x: Tensor) -> Tensor:
    """A value further than 5 standard deviations from its row becomes the row's mean."""
    mean = x.mean(-1, keepdim=True)
    far = (x - mean).abs() > 4.8 * x.std(-1, keepdim=True)
    return torch.where(far, mean, x)


section("faulty", "a constant in half precision")


@faulty(
    "StepAtATenth",
    x=reals("batch 2", 0, 1),
    shipped=lambda self, x: torch.where(x > 0.0999755859375, x + 1.0, x),
    witness=lambda self: torch.tensor([[0.09999, 0.5]]),
)
def forward(self, x: Tensor) -> Tensor:
    return torch.where(x > 0.1, x + 1.0, x)


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


@faulty(
    "TwoInputsAreEqual",
    left=reals("batch 6"),
    right=reals("batch 6"),
    shipped=lambda self, left, right: torch.where(left > right, 2.0 * left + 1.0, right),
    witness=lambda self: (ROW, ROW.clone()),
)
def forward(self, left: Tensor, right: Tensor) -> Tensor:
    return torch.where(left >= right, 2.0 * left + 1.0, right)


section("faulty", "half points")


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


section("faulty", "variance in one pass")


def standardized(x: Tensor, variance: Tensor) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (variance + 1e-3).sqrt()


@faulty(
    "StandardizedWithAnOffset",
    targets=THREE,
    x=reals("batch 16", -1000, 1000),
    shipped=lambda self, x: standardized(
        x, (x.square().mean(-1, keepdim=True) - x.mean(-1, keepdim=True).square()).clamp(min=0.0)
    ),
    witness=lambda self: 900.0 + torch.linspace(-0.5, 0.5, 16)[None],
)
def forward(self, x: Tensor) -> Tensor:
    return standardized(x, (x - x.mean(-1, keepdim=True)).square().mean(-1, keepdim=True))


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
    "NaiveLogSumExp",
    targets=THREE,
    x=reals("batch 48", -85.3, 85.3),
    shipped=lambda self, x: x.exp().sum(-1).log(),
    witness=lambda self: torch.full((1, 48), 85.2),
)
def forward(self, x: Tensor) -> Tensor:
    return torch.logsumexp(x, -1)


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
    "AllMaximaAreMarked",
    x=reals("batch 9"),
    shipped=lambda self, x: (x == x.amax(-1, keepdim=True)).float(),
    witness=lambda self: torch.zeros(1, 9),
)
def forward(self, x: Tensor) -> Tensor:
    return F.one_hot(x.argmax(-1), 9).float()


section("faulty", "repeated indices")


@faulty(
    "CountsOfIds",
    targets=THREE,
    ids=whole("batch 3", 0, 39999),
    shipped=lambda self, ids: (
        torch.zeros(ids.shape[0], 40000).scatter(1, ids, torch.ones(ids.shape)).amax(-1)
    ),
    witness=lambda self: torch.tensor([[7, 39, 7]]),
)
def forward(self, ids: Tensor) -> Tensor:
    """Adding at an index twice (ONNX issue 3547)."""
    counts = torch.zeros(ids.shape[0], 40000)
    return counts.scatter_add(1, ids, torch.ones(ids.shape)).amax(-1)


section("faulty", "one special id")


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


section("faulty", "range of half precision and of bytes")


@faulty(
    "PixelsWrapAround",
    targets=THREE,
    rgb=reals("batch 3", 0, 255),
    shipped=lambda self, rgb: (
        (rgb @ self.mix).clamp(min=0.0).round().long().bitwise_and(255).float()
    ),
    witness=lambda self: torch.tensor([[255.0, 0.0, 0.0]]),
)
@has(mix=Buffer(1.0272 * torch.eye(3) - 0.0192))
def forward(self, rgb: Tensor) -> Tensor:
    return (rgb @ self.mix).clamp(0.0, 255.0).round()


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


def scaled(x: Tensor, width: Tensor) -> Tensor:
    return (x - x.amin(-1, keepdim=True)) / width


def width(x: Tensor) -> Tensor:
    return x.amax(-1, keepdim=True) - x.amin(-1, keepdim=True)


@faulty(
    "ScaledToItsRange",
    targets=THREE,
    x=reals("batch 8"),
    shipped=lambda self, x: scaled(x, width(x)),
    witness=lambda self: torch.full((1, 8), 0.7),
)
def forward(self, x: Tensor) -> Tensor:
    return scaled(x, torch.where(width(x) > 0.0, width(x), 1.0))


section("faulty", "a row is zero")


@faulty(
    "SilentFrame",
    dims={"batch": (1, 2), "time": (1, 6)},
    x=reals("batch time 5"),
    shipped=lambda self, x: x / x.abs().amax(-1, keepdim=True),
    witness=lambda self: torch.cat([torch.ones(1, 2, 5), torch.zeros(1, 1, 5)], 1),
)
def forward(self, x: Tensor) -> Tensor:
    loudest = x.abs().amax(-1, keepdim=True)
    return torch.where(loudest > 0.0, x / loudest, torch.zeros_like(x))


section("faulty", "two rows are equal")


@faulty(
    "DuplicateIsDropped",
    left=reals("batch 6"),
    right=reals("batch 6"),
    shipped=lambda self, left, right: left + right,
    witness=lambda self: (ROW, ROW.clone()),
)
def forward(self, left: Tensor, right: Tensor) -> Tensor:
    same = (left == right).all(-1, keepdim=True)
    return left + torch.where(same, torch.zeros_like(right), right)


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


section("faulty", "one element is moved")


@faulty(
    "FirstElementIsLarge",
    targets=THREE,
    x=reals("batch 9"),
    shipped=lambda self, x: x * 1.0,
    witness=lambda self: torch.cat([torch.tensor([4.5]), torch.linspace(-0.75, 1, 8)])[None],
)
def forward(self, x: Tensor) -> Tensor:
    return x * torch.where(x[:, :1] > 3.75, 0.5, 1.0)


section("faulty", "a sum crosses a threshold")


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
