"""Healthy modules that amplify rounding, for ``benchmarks/regions.py``: none of them may fail.

They have large slopes, cancellation, near-ties, saturation, tiny divisors and long reductions, and
predicates and half points that eager and a faithful artifact decide alike.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.domains import THREE, reals, steep, whole
from zoo.row import Buffer, has, section

TIME = {"batch": (1, 3), "time": (1, 16)}


section("steep", "large slopes")


@steep("SoftmaxAtLowTemperature", targets=THREE, x=reals("batch 10"))
@has(layer=lambda: nn.Linear(10, 7))
def forward(self, x: Tensor) -> Tensor:
    return (self.layer(x) / 1e-3).softmax(-1)


section("steep", "cancellation")


@steep("LargeNumberIsTakenBack", targets=THREE, x=reals("batch 6"))
def forward(self, x: Tensor) -> Tensor:
    return (x + 1e4) - 1e4


section("steep", "tiny divisors")


@steep("Reciprocal", targets=THREE, x=reals("batch 4"))
def forward(self, x: Tensor) -> Tensor:
    return 1.0 / (x.abs() + 1e-7)


section("steep", "saturation")


@steep("StableLogSumExp", targets=THREE, x=reals("batch 6", -200, 200))
def forward(self, x: Tensor) -> Tensor:
    return torch.logsumexp(x, -1)


@steep("SaturatedLstm", dims=TIME, x=reals("batch time 3", -30, 30))
@has(lstm=lambda: nn.LSTM(3, 6, batch_first=True))
def forward(self, x: Tensor) -> Tensor:
    return self.lstm(x)[0]


@steep("AttentionWithLargeScores", dims=TIME, x=reals("batch time 8", -20, 20))
@has(project=lambda: nn.Linear(8, 24))
def forward(self, x: Tensor) -> Tensor:
    query, key, value = self.project(x)[:, None].chunk(3, -1)
    return F.scaled_dot_product_attention(query, key, value)


section("steep", "long reductions")


@steep("LongSum", targets=THREE, dims={"batch": (1, 2)}, x=reals("batch 4096"))
def forward(self, x: Tensor) -> Tensor:
    return x.sum(-1)


section("steep", "steps")


@steep("HalvesOfAFourth", targets=THREE, x=reals("batch 6", -20, 20))
def forward(self, x: Tensor) -> Tensor:
    return (x * 4.0).round() / 4.0


@steep("FirstMaximum", targets=THREE, x=reals("batch 9"))
def forward(self, x: Tensor) -> Tensor:
    return x.argmax(-1)


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


section("steep", "lost precision")


@steep("ThroughHalf", targets=THREE, x=reals("batch 6", -300, 300))
def forward(self, x: Tensor) -> Tensor:
    return x.half().float() * 0.01


@steep("RotationsOfLargePositions", at=whole("batch", 0, 100_000))
@has(rates=lambda: Buffer(torch.logspace(0, -2, 4)))
def forward(self, at: Tensor) -> Tensor:
    return (at.float()[:, None] * self.rates).cos()
