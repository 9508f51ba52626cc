"""Real faults of the exporters and of ONNX Runtime, beside modules that they translate well.

Unlike the rows of ``converters.py``, the forward is the same everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.row import *

ONE_TWICE = Blame(owner="capture", cause="one tensor twice")
X = call(normal(4, 8))
SEQUENCE = normal(2, 3, 8)
ATTENTION = partial(nn.MultiheadAttention, 8, 2, batch_first=True)
QKV = ("query", "key", "value")
N = call(whole(-6, 6, 4, 5))
DOUBLE = call(normal(4, 8, dtype=torch.float64))
# The older exporter does not know the operator.
OR_REFUSED = truth(onnx=DIFFERS, onnx_legacy=REFUSED)
# torch.export gives a tensor that stands at two places one input; a trace does not.
TAKEN_FOR_ONE = truth(export=DIFFERS, onnx=DIFFERS)

section("converters", "exporters")


# -- constants next to zero and one ----------------------------------------------------------------


# The exporter's optimizer takes a constant within 1e-8 of zero for zero, and one within a
# hundred thousandth of one for one.
@row(
    "epsilon of 1e-8",
    X,
    ON_ONNX,
    has={"epsilon": 1e-8},
    known={"onnx": "a small addend is dropped"},
)
@row("epsilon of 1e-6", X)
@has(epsilon=1e-6)
def forward(self, x: Tensor) -> Tensor:
    """Divides by a sum that may be zero."""
    sizes = x.abs()
    return sizes / (sizes.sum(1, keepdim=True) + self.epsilon)


@row(
    "factor next to one",
    DOUBLE,
    ON_ONNX,
    blame={"onnx": MISTRANSLATED},
    known={"onnx": "numbers beside doubles are float32"},
)
def forward(self, x: Tensor) -> Tensor:
    return x * 1.000001


# -- formulas that lose digits or overflow ---------------------------------------------------------


# It translates them as exp(x) - 1 and log(1 + x).
@row(
    "expm1 of small",
    X,
    OR_REFUSED,
    onnx_legacy=untranslated(),
    known={"onnx": "expm1 of small numbers"},
)
def forward(self, x: Tensor) -> Tensor:
    return torch.expm1(x * 1e-5) * 1e5


@row("log1p of small", X, ON_BOTH, blame=MISTRANSLATED, known={"onnx": "log1p of small numbers"})
def forward(self, x: Tensor) -> Tensor:
    return torch.log1p(x.abs() * 1e-6) * 1e6


# As log(sigmoid(x)), which is -inf from about -18 on.
@row(
    "logsigmoid",
    X,
    ON_BOTH,
    known={
        "onnx": "log_sigmoid of large negative numbers",
        "onnx_legacy": "log_sigmoid of large negative numbers",
    },
)
def forward(self, x: Tensor) -> Tensor:
    return F.logsigmoid(x)


@row(
    "loss of logits",
    X,
    ON_BOTH,
    blame=MISTRANSLATED,
    known={"onnx": "binary cross entropy of large negative logits"},
)
def forward(self, x: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(x, torch.ones_like(x), reduction="none")


# As log(exp(x) + exp(y)), which is infinite from 89 on.
@row("logaddexp", X, OR_REFUSED, onnx_legacy=untranslated(), known={"onnx": "logaddexp overflows"})
def forward(self, x: Tensor) -> Tensor:
    return torch.logaddexp(x, x.flip(1))


@row("logsumexp", X)
def forward(self, x: Tensor) -> Tensor:
    return torch.logsumexp(x, 1)


# -- signs, quotients, types -----------------------------------------------------------------------


# atan2(0, -1) is pi; the translation returns -pi.
@row(
    "atan2 to the left",
    X,
    ON_BOTH,
    known={
        "onnx": "atan2 to the left, and of nan",
        "onnx_legacy": "legacy: atan2 to the left, and of two zeros",
    },
)
def forward(self, x: Tensor) -> Tensor:
    """The angle of a point on the left half of the axis, where a relu left the other side zero."""
    return torch.atan2(torch.relu(x), -1 - x.abs())


@row("atan2 to the right", X)
def forward(self, x: Tensor) -> Tensor:
    return torch.atan2(torch.relu(x), 1 + x.abs())


@row(
    "quotient that is exact",
    X,
    onnx_legacy=DIFFERS,
    blame=MISTRANSLATED,
    known={"onnx_legacy": "legacy: floor division of floats"},
)
def forward(self, x: Tensor) -> Tensor:
    return x // 0.5


# The older exporter casts to an integer first.
@row(
    "any of floats",
    X,
    onnx_legacy=DIFFERS,
    blame=MISTRANSLATED,
    known={"onnx_legacy": "legacy: any of numbers below one"},
)
def forward(self, x: Tensor) -> Tensor:
    return x.any(1)


# -- special values that the user declares ---------------------------------------------------------


# ONNX has no atan2; what the exporter makes of it returns 0 for NaN.
@row(
    "atan2 of nan", X, ON_ONNX, values={"x": "nan"}, known={"onnx": "atan2 to the left, and of nan"}
)
def forward(self, x: Tensor) -> Tensor:
    return torch.atan2(x, torch.ones_like(x))


class Sampled(nn.Module):
    """Samples a grid at places that forward gets."""

    def __init__(self, mode: str, padding: str) -> None:
        super().__init__()
        self.register_buffer("image", normal(1, 2, 5, 5))
        self.mode, self.padding = mode, padding

    def forward(self, x: Tensor) -> Tensor:
        image = self.image.expand(x.shape[0], -1, -1, -1)
        return F.grid_sample(image, x, self.mode, self.padding, align_corners=False)


# torch's parts of grid_sample return 0 for NaN, as ONNX Runtime does, and its kernel NaN.
PLACES = normal(2, 3, 3, 2).tanh()
row(
    "samples at nan",
    PLACES,
    ON_BOTH,
    values={"x": "nan"},
    blame=Blame(owner="translation", cause="", known=False),
)(lambda: Sampled("bilinear", "zeros"))
row("samples beside nan", PLACES, values={"x": "nan"})(lambda: Sampled("bilinear", "border"))


@row("nan replaced, at the edges", X, values={"x": "edges"})
def forward(self, x: Tensor) -> Tensor:
    known = torch.where(torch.isnan(x), torch.zeros_like(x), x)
    return torch.softmax(known.clamp(-3.0, 3.0), 1)


# ONNX Runtime compares int64 as int32 there.
@row(
    "clamp of large integers",
    N,
    ON_BOTH,
    values={"n": "limits"},
    known={"onnx": "clamp of large integers", "onnx_legacy": "clamp of large integers"},
)
def forward(self, n: Tensor) -> Tensor:
    return n.clamp(-5, 5)


# The exporter's optimizer takes the addition of 0.0 for nothing.
@row("sign of zero", X, ON_ONNX, values={"x": "zero"}, known={"onnx": "a small addend is dropped"})
def forward(self, x: Tensor) -> Tensor:
    """The sum of -0.0 and 0.0 is 0.0; without the addition the sign shows."""
    return 1 / (x + 0.0)


def same(tensor: Tensor, *names: str) -> Callable[[], Example]:
    """Return a factory of a call that gives one tensor for all arguments of these names."""
    return lambda: ((), dict.fromkeys(names, tensor.clone()))


@row("equal tensors", call(normal(4, 8), normal(4, 8)))
@row("one tensor always twice", same(normal(4, 8), "q", "k"), map=lambda q: {"k": q})
@row("one tensor twice", same(normal(4, 8), "q", "k"))
@row(
    "one tensor for two",
    same(normal(4, 8), "q", "k"),
    TAKEN_FOR_ONE,
    blame=ONE_TWICE,
    q="batch 8",
    k="batch 8",
)
@has(one=lambda: nn.Linear(8, 4), other=lambda: nn.Linear(8, 4))
def forward(self, q: Tensor, k: Tensor) -> Tensor:
    """Two projections of two arguments."""
    return self.one(q) - 2 * self.other(k)


row("attention to itself", same(SEQUENCE, *QKV))(ATTENTION)
row(
    "attention to others, exported with itself",
    same(SEQUENCE, *QKV),
    TAKEN_FOR_ONE,
    blame=ONE_TWICE,
    shapes=dict.fromkeys(QKV, "batch n 8"),
)(ATTENTION)
