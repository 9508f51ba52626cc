"""What a call writes to, reads or draws beside its arguments."""

# ruff: noqa: PLW0603  # this file is about globals that change

from __future__ import annotations

import itertools
import random
import time
from typing import Any, Dict, Tuple  # noqa: UP035  # TorchScript's words

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.converters import CAPTURED, captured
from zoo.row import *

X = call(normal(4, 3))
# An ONNX graph does not write to its inputs.
BY_VALUE = truth(onnx=STATE, onnx_legacy=STATE)

section("writes")


# -- into the caller's tensor ----------------------------------------------------------------------


@row("writes input", X, BY_VALUE, blame=dropped())
def forward(self, x: Tensor) -> Tensor:
    x.add_(1)  # here
    return x * 2


@row("writes through a view", X, BY_VALUE, blame=dropped())
def forward(self, x: Tensor) -> Tensor:
    x[:, 1:].copy_(x[:, :-1] * 2)  # here
    return x + 1


@row("writes out=", X, BY_VALUE, onnx_legacy=untranslated(), blame=dropped())
def forward(self, x: Tensor) -> Tensor:
    torch.mul(x, 2.0, out=x)  # here
    return x.sum(1)


@row("in-place activation first", X, BY_VALUE, blame=dropped())
@has(body=lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 2)))
def forward(self, x: Tensor) -> Tensor:
    """``nn.ReLU(inplace=True)`` as the first layer, a common mistake."""
    return self.body(x)


@row("returns its dict, extended", call({"x": normal(4, 3)}))
def forward(self, batch: Dict[str, Tensor]) -> Dict[str, Tensor]:  # noqa: UP006
    """Adds an entry to the dict that it was given, and returns it, as detectors do."""
    batch["y"] = batch["x"] * 2
    return batch


@row("replaces an entry", call({"x": normal(4, 3)}), weak="forward changes a container")
def forward(self, batch: Dict[str, Tensor]) -> Tensor:  # noqa: UP006
    batch["x"] = batch["x"] * 2
    return batch["x"] + 1


@row("writes after use", X, BY_VALUE, blame=dropped())
def forward(self, x: Tensor) -> Tensor:
    """The output does not show the write: it was computed before."""
    y = x * 2
    x.zero_()  # here
    return y


# -- a converter that writes too much, too little, or to another tensor ----------------------------


@row("forgets to write", X, truth(STATE), blame=CAPTURED)
def forward(self, x: Tensor) -> Tensor:
    if captured():
        return (x + 1) * 2
    x.add_(1)
    return x * 2


@row("writes only when captured", X, truth(STATE, onnx=None, onnx_legacy=None), blame=CAPTURED)
def forward(self, x: Tensor) -> Tensor:
    y = x * 2
    if captured():
        x.mul_(0.5)
    return y


@row("writes the other one", call(normal(4, 3), normal(4, 3, seed=1)), truth(STATE), blame=CAPTURED)
def forward(self, x: Tensor, y: Tensor) -> Tensor:
    out = x + y
    if captured():
        y.neg_()
    else:
        x.neg_()
    return out


# -- into the model's own tensors ------------------------------------------------------------------


@row("writes clone", X)
def forward(self, x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 0] = 0
    return y + x


@row("writes what is a copy sometimes", X, BY_VALUE, x="batch 3", dims={"batch": (2, 8)})
def forward(self, x: Tensor) -> Tensor:
    """contiguous() copies unless the caller's tensor is transposed; then that tensor changes."""
    y = x.t().contiguous()
    y.mul_(2.0)
    return y.sum(0)


@row("writes into a result", X)
def forward(self, x: Tensor) -> Tensor:
    y = x @ x.t()
    y.sub_(1.0)
    return y.masked_fill_(y < 0, 0.0)


# A write through a view: the new exporter fails, the legacy one drops the write.
@row(
    "writes into a diagonal",
    X,
    onnx=Blame(owner="capture", cause="unsupported construct"),
    onnx_legacy=DIFFERS,
    blame=MISTRANSLATED,
)
def forward(self, x: Tensor) -> Tensor:
    y = x @ x.t()
    y.diagonal().zero_()
    return y


@row("writes and undoes", X)
def forward(self, x: Tensor) -> Tensor:
    """Multiplies by two and then by a half, which is exact: the caller's tensor is unchanged."""
    x.mul_(2.0)
    y = x + 1
    x.mul_(0.5)
    return y


@row("returns a view", X)
def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    """Returns a view of the input and writes nothing."""
    return x[:, 1:], x.t() * 1.5


_clock = itertools.count(1)
_steps = 0
_seen: list[int] = []
_kept: list[object] = []
_tables: dict[int, Tensor] = {}
X = call(normal(4, 3))
NO: dict[str, Any] = truth(NOT_REPEATABLE)

section("repeatable")


# -- not repeatable --------------------------------------------------------------------------------


@row("global clock", X, NO)
def forward(self, x: Tensor) -> Tensor:
    return x * next(_clock)


@row("global list", X, NO)
def forward(self, x):
    _seen.append(len(_seen))
    return x * len(_seen)


@row("counter on the class", X, NO)
class ClassCounter(nn.Module):
    """The count is on the class, so copies of the instance share it."""

    calls = 0

    def forward(self, x):
        ClassCounter.calls += 1
        return x - ClassCounter.calls


@row("wall clock", X, NO)
def forward(self, x):
    return x * (time.perf_counter() % 1000.0)


@row("id of a new object", X, NO)
def forward(self, x):
    """Keeps a new object at every call, so all ids differ."""
    _kept.append(object())
    return x * float(id(_kept[-1]) % 9973)


@row("memory nobody wrote", X, NO)
def forward(self, x: Tensor) -> Tensor:
    return x + torch.empty(x.shape[0], 3)


@row("a column nobody wrote", X, NO)
def forward(self, x: Tensor) -> Tensor:
    """Writes every column but the last."""
    out = torch.empty(x.shape[0], 4, dtype=x.dtype)
    out[:, :3] = x
    return out


@row("memory left by another tensor", X, NO)
def forward(self, x):
    """Uninitialized memory still holds what was written last: another number at every call."""
    global _steps
    _steps += 1
    left = torch.full((64, 64), float(_steps))
    del left
    return x + torch.empty(64, 64)[32:33, :3]


# -- repeatable, against appearances ---------------------------------------------------------------


@row("empty, filled", X)
def forward(self, x: Tensor) -> Tensor:
    return torch.empty_like(x).fill_(0.5) * x


# The legacy exporter does not support aten::copy.
@row("empty, copied to", X, onnx_legacy=untranslated())
def forward(self, x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    out.copy_(x * 2)
    return out


@row("empty, not chosen", X)
def forward(self, x: Tensor) -> Tensor:
    """The mask chooses the other side, so the uninitialized memory has no effect."""
    return torch.where(torch.ones_like(x) > 0, x * 3, torch.empty_like(x))


@row("empty, written by part", X)
def forward(self, x: Tensor) -> Tensor:
    out = torch.empty(x.shape[0], 6, dtype=x.dtype)
    out[:, :3] = x
    out[:, 3:] = -x
    return out


@row("global number, unused", X, script=no_construct())
def forward(self, x):
    global _steps  # here
    _steps += 1
    return x + 1


@row("clock, unused", X, script=no_construct())
def forward(self, x):
    started = time.perf_counter()  # here
    y = torch.tanh(x)
    self_seconds = time.perf_counter() - started
    return y if self_seconds >= 0 else x


@row("global table", X, script=no_construct())
def forward(self, x):
    """A cached table in a global: made once, always the same numbers."""
    if 3 not in _tables:
        _tables[3] = torch.arange(3, dtype=torch.float32)
    return x + _tables[3]


X = call(normal(4, 3))
# ONNX Runtime has its own random stream, so values cannot be compared.
STREAM = truth(onnx=SKIPPED, onnx_legacy=SKIPPED)
# Exporters drop the call that seeds.
SEEDED = Blame(owner="model", cause="own seed", line="torch.manual_seed(self.seed)")

section("chance")


# -- faithful: the artifact draws what eager draws -------------------------------------------------


@row("adds noise", X, STREAM)
def forward(self, x: Tensor) -> Tensor:
    return x + torch.rand_like(x)


@row("drops by default", X, STREAM)
def forward(self, x: Tensor) -> Tensor:
    """F.dropout defaults to training=True: random in eval mode too, in eager and artifact."""
    return F.dropout(x, 0.5)


@row(
    "drops, meant",
    X,
    truth(onnx=INEFFECTIVE, onnx_legacy=INEFFECTIVE),
    mode="sampling",
    strict=True,
)
def forward(self, x: Tensor) -> Tensor:
    return F.dropout(x, 0.5)


@row("drops, unmeant", X, truth("TrainingMode"), strict=True)
def forward(self, x: Tensor) -> Tensor:
    return F.dropout(x, 0.5)


@row("drops, train unmeant", normal(4, 6), truth("TrainingMode"), train=True, mode="as-is")
# The legacy exporter puts the model into eval mode: constant, but eager varies with the seed.
@row(
    "drops, train",
    normal(4, 6),
    onnx=SKIPPED,
    onnx_legacy=DIFFERS,
    train=True,
    mode="train",
    blame=EVAL_MODE,
)
@row("drops, eval", normal(4, 6))
@has(head=lambda: nn.Linear(6, 3), drop=lambda: nn.Dropout(0.5))
def forward(self, x: Tensor) -> Tensor:
    return self.drop(self.head(x))


@row("noise beside", X, STREAM)
def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    """One output is random, the other is not."""
    return x + torch.rand_like(x), x * 2


@row("random shape only", X)
def forward(self, x: Tensor) -> Tensor:
    return x * torch.ones_like(torch.rand_like(x))


# -- frozen: a number that was drawn during the export ---------------------------------------------


# Exporters drop the call that seeds; a script keeps it.
@row("seeds itself with 0", X, truth(DIFFERS, script=None), blame=SEEDED)
@has(seed=0)
def forward(self, x: Tensor) -> Tensor:
    """Always draws the same numbers: a random projection that need not be stored."""
    torch.manual_seed(self.seed)
    return x + torch.randn(3)


@row("python chance", X, truth(DIFFERS), script=no_construct(), blame=baked())
def forward(self, x: Tensor) -> Tensor:
    return x * random.uniform(1.0, 2.0)


@row("numpy chance", X, truth(DIFFERS), script=no_construct(), blame=baked())
def forward(self, x):
    return x + float(np.random.rand())  # noqa: NPY002  # the stream that seeds reach


@row("numpy chance used later", X, truth(DIFFERS), script=no_construct(), blame=baked())
def forward(self, x):
    noise = np.random.rand(3)  # noqa: NPY002  # here
    return x + torch.from_numpy(noise).to(x.dtype)


@row("drawn once", X, trace=DIFFERS, onnx=SKIPPED, onnx_legacy=DIFFERS, blame=baked(known=False))
def forward(self, x: Tensor) -> Tensor:
    """``item()`` makes a Python number of a draw: a constant of the trace."""
    return x * torch.rand(1).item()


@row("frozen noise", X, truth(DIFFERS), blame=CAPTURED)
@has(kept=Buffer(torch.full((1, 3), 0.25)))
def forward(self, x: Tensor) -> Tensor:
    """A converter that keeps the numbers drawn during the export."""
    if captured():
        return x + self.kept
    return x + torch.rand(1, 3)


# -- random, and wrong in a way that randomness does not explain -----------------------------------


@row("noise in double", X, truth(DIFFERS), blame=CAPTURED)
def forward(self, x: Tensor) -> Tensor:
    y = x + torch.rand_like(x)
    if captured():
        return y.double()
    return y


@row("noise beside, wrong", X, truth(DIFFERS), blame=CAPTURED)
def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    """The second output is not random, and wrong."""
    noisy = x + torch.rand_like(x)
    if captured():
        return noisy, x * 2.01
    return noisy, x * 2


@row("noise as a pair", X, truth(STRUCTURE), script=no_type("y"), blame=CAPTURED)
def forward(self, x):
    y = x + torch.rand_like(x)
    if captured():
        return y, x
    return y


@row("wider noise", X, truth(DIFFERS, onnx=SKIPPED, onnx_legacy=SKIPPED), blame=CAPTURED)
def forward(self, x: Tensor) -> Tensor:
    """Other numbers from the same stream: visible if the artifact uses eager's stream."""
    if captured():
        return x + 2 * torch.rand_like(x)
    return x + torch.rand_like(x)
