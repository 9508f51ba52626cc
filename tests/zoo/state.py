"""State that forward changes: buffers, and attributes that the export freezes."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import List  # noqa: UP035  # TorchScript's words

import torch
from torch import Tensor, nn

from zoo.row import *

TIMES_4 = call(normal(2, 5, 4))
X = call(normal(4, 3))
# Tracing runs forward, so a saved trace has counted once already. ONNX graphs return no state, and
# the legacy exporter, which traces, keeps the state after its run as a constant.
COUNTED = truth(trace=STATE, onnx=STATE, onnx_legacy=DIFFERS)

section("state")


@row(normal(4, 3), COUNTED, blame=moved_on())
@has(count=lambda: Buffer(torch.zeros(())))
class BufferCounter(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        self.count.add_(1)  # here
        return x * self.count


# No state of the artifact: each call changes a constant that it holds.
@row(
    "tensor counter",
    normal(4, 3),
    truth(DIFFERS, script=None),
    onnx=no_construct(""),
    blame={**dict.fromkeys(TARGETS, dropped()), "onnx_legacy": moved_on()},
)
@has(count=torch.zeros(()))
def forward(self, x: Tensor) -> Tensor:
    self.count.add_(1)  # here
    return x * self.count


@row(
    "buffer replaced",
    normal(4, 3),
    COUNTED,
    blame={**dict.fromkeys(TARGETS, replaced()), "onnx_legacy": moved_on()},
)
@has(last=Buffer(torch.zeros(3)))
def forward(self, x: Tensor) -> Tensor:
    out = x + self.last
    self.last = self.last * 0.5 + x.mean(0)  # here
    return out


@row("buffer read", normal(4, 3))
@has(scale=Buffer(torch.tensor([1.0, 2.0, 3.0])))
def forward(self, x: Tensor) -> Tensor:
    return x * self.scale


@row("python counter", normal(4, 3))
@has(calls=0)
def forward(self, x: Tensor) -> Tensor:
    """Counts its calls and does nothing with the count."""
    self.calls += 1
    return x * 2


@row("python counter, used", normal(4, 3), truth(STATE, script=None), blame=dropped())
@has(calls=0)
def forward(self, x: Tensor) -> Tensor:
    self.calls += 1  # here
    return x * self.calls


# -- buffers ---------------------------------------------------------------------------------------


# The legacy exporter does not support aten::copy.
@row("ring buffer", X, COUNTED, onnx_legacy=untranslated(), blame=moved_on())
@has(ring=Buffer(torch.zeros(4, 3)))
def forward(self, x: Tensor) -> Tensor:
    """The last four means, the oldest dropped."""
    self.ring.copy_(torch.cat([self.ring[1:], x.mean(0, keepdim=True)]))  # here
    return x + self.ring.sum(0)


@row("tolerates twelve calls", X, COUNTED, onnx_legacy=STATE, blame=moved_on())
@has(count=Buffer(torch.tensor(0)))
def forward(self, x: Tensor) -> Tensor:
    """No condition of Python's: the number is that of an operator."""
    self.count.add_(1)  # here
    return torch.where(self.count > 12, x * 2, x)


@row("delays by fifteen calls", X, COUNTED, onnx_legacy=STATE, blame=moved_on())
@has(ring=Buffer(torch.zeros(15, 3)))
def forward(self, x: Tensor) -> Tensor:
    out = x + self.ring[0]
    self.ring.copy_(torch.cat([self.ring[1:], x.mean(0, keepdim=True)]))  # here
    return out


# The legacy exporter does not support aten::copy.
@row(
    "third mean above a half",
    filled(0.1, 4, 3),
    onnx=STATE,
    onnx_legacy=untranslated(),
    blame=dropped(known=False),
)
@has(high=Buffer(torch.zeros(())))
def forward(self, x: Tensor) -> Tensor:
    """Three such calls in a row, none of which is the example."""
    high = torch.where(x.mean() > 0.5, self.high + 1, torch.zeros_like(self.high))
    self.high.copy_(high)  # here
    return torch.where(self.high >= 3, -x, x)


@row("counts in a part", X, COUNTED, blame=moved_on("self.count.add_(1)"))
@has(body=lambda: nn.Sequential(nn.Linear(3, 3), BufferCounter()))
def forward(self, x: Tensor) -> Tensor:
    """The state belongs to a submodule."""
    return self.body(x)


class OfOneMemory(nn.Module):
    """A buffer that is a view of a parameter: a write to one changes the other."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3))
        self.register_buffer("first", self.weight.data[:1])


@row(
    "counts in a parameter's memory",
    X,
    trace=STATE,
    onnx=UNEXPLAINED,
    onnx_legacy=STATE,
    blame=moved_on(),
)
class CountsInParametersMemory(OfOneMemory):
    def forward(self, x: Tensor) -> Tensor:
        self.first.add_(1)  # here
        return x * self.weight.sum()


@row("reads a parameter's memory", X)
class ReadsParametersMemory(OfOneMemory):
    def forward(self, x: Tensor) -> Tensor:
        return x * self.first + self.weight.sum()


@row("a buffer without numbers", X)
@has(spare=lambda: Buffer(torch.empty(3, device="meta")))
def forward(self, x: Tensor) -> Tensor:
    """A buffer on the meta device, which forward does not read."""
    return x * 2


@row("looks at a part by a weak reference", X, script=no_type())
class WeaklyReferred(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.part = weakref.ref(self.fc)

    def forward(self, x: Tensor) -> Tensor:
        part = self.part()  # here
        assert part is not None
        return part(x)


@row("silent buffer", X, trace=STATE, blame=moved_on())
@has(calls=Buffer(torch.zeros(())))
def forward(self, x: Tensor) -> Tensor:
    """The output does not depend on the buffer; only the artifact's own state can differ."""
    self.calls += 1  # here
    return x * 2


@row("warms up", X, COUNTED, blame=moved_on())
@has(scale=Buffer(torch.zeros(())))
def forward(self, x: Tensor) -> Tensor:
    """The first call measures the scale that all later calls use."""
    scale = torch.where(self.scale == 0, x.abs().max() + 1, self.scale)
    self.scale.copy_(scale)  # here
    return x / scale


# -- attributes ------------------------------------------------------------------------------------


@row("growing list", X, truth(STATE), script=unannotated(), blame=dropped())
@has(history=[])
def forward(self, x):
    self.history.append(1.0)  # here
    return x * len(self.history)


@row("last input", X, truth(STATE, script=None), blame=dropped())
@has(last=torch.zeros(3))
def forward(self, x: Tensor) -> Tensor:
    """A plain attribute that holds a tensor."""
    out = x + self.last
    self.last = x.mean(0)  # here
    return out


@row("toggle", X, truth(STATE, script=None), blame=dropped())
@has(on=False)
def forward(self, x: Tensor) -> Tensor:
    self.on = not self.on  # here
    return x if self.on else -x


@row("warmed up", X, has={"calls": 0})
@row("warms up very late", X, has={"calls": 500}, weak=UNVERIFIED)
@row("warms up late", X, truth(STATE, script=None), blame=dropped())
@has(seen=0, calls=5)
def forward(self, x: Tensor) -> Tensor:
    """Counts its calls, and does something else after some of them."""
    self.seen += 1  # here
    seen = self.seen
    return x * 2 if seen > self.calls else x


@row("every seventh call", X, truth(STATE, script=None), blame=dropped())
@has(seen=0)
def forward(self, x: Tensor) -> Tensor:
    """Nears its threshold and goes away from it again."""
    self.seen += 1  # here
    seen = self.seen
    if seen % 7 == 0:
        return x * 2
    return x


@row("counted to the end", X, has={"seen": 30})
@row("counts to the end", X, truth(STATE, script=None), blame=dropped())
@has(seen=0, most=30)
def forward(self, x: Tensor) -> Tensor:
    self.seen = min(self.seen + 1, self.most)  # here
    seen = self.seen
    return x + 1 if seen == self.most else x


ON_LARGE = decided("if x.shape[0] > 6:")


@row(
    "third strike",
    X,
    truth(STATE, script=None, export=NARROWED),
    blame={**dict.fromkeys(TARGETS, dropped(known=False)), "export": ON_LARGE},
)
@has(strikes=0)
def forward(self, x: Tensor) -> Tensor:
    """Counts the calls of one kind, which the example is not of."""
    if x.shape[0] > 6:
        self.strikes += 1  # here
    strikes = self.strikes
    if strikes >= 3:
        return x * 2
    return x


@row("third strike, alike", X, export=NARROWED, blame=ON_LARGE, weak=UNVERIFIED)
@has(strikes=0)
def forward(self, x: Tensor) -> Tensor:
    if x.shape[0] > 6:
        self.strikes += 1
    strikes = self.strikes
    if strikes >= 3:
        return x + x
    return x * 2


@row("cycles through a list", X, truth(STATE, script=None), blame=dropped())
@has(scales=[1.0] * 13 + [5.0], at=0)
def forward(self, x: Tensor) -> Tensor:
    scale = self.scales[self.at]
    self.at = (self.at + 1) % len(self.scales)  # here
    return x * scale


@row(
    "stale cache",
    X,
    truth(STATE),
    script=unannotated(),
    blame=dropped("self.cache[key] = x.mean(0)"),
)
@has(cache={})
def forward(self, x):
    """A cache of values with the shape as key: eager returns the first result for that shape."""
    key = x.shape[1]
    if key not in self.cache:
        self.cache[key] = x.mean(0)
    return x - self.cache[key]


@row(
    "registers a buffer",
    X,
    truth(STATE),
    script=no_construct(),
    onnx_legacy=UNEXPLAINED,
    blame=dropped(),
)
def forward(self, x):
    if not hasattr(self, "offset"):
        self.register_buffer("offset", x.mean(0).detach().clone())  # here
    return x - self.offset


class Config:
    """An object of the user's class, reachable from the module."""

    def __init__(self) -> None:
        self.calls = 0


# TorchScript compiles the class of the object too, so the artifact counts.
@row("counts in an object", X, truth(STATE, script=None), blame=dropped())
@has(config=Config)
def forward(self, x):
    self.config.calls += 1  # here
    return x * self.config.calls


# -- models that only seem to have state -----------------------------------------------------------


@row("mask cache", X, script=unannotated())
@has(masks={})
def forward(self, x):
    """Caches a mask that depends on the size only."""
    size = x.shape[1]
    if size not in self.masks:
        self.masks[size] = torch.ones(size, size).tril()
    return x @ self.masks[size]


@row("history, unused", X, script=no_type(""))
@has(shapes=[])
class HistoryUnused(nn.Module):
    shapes: List[int]  # noqa: UP006

    def forward(self, x: Tensor) -> Tensor:
        self.shapes.append(3)
        return x.relu()


@row("rewrites the same", X)
@has(scale=Buffer(torch.tensor([1.0, 2.0, 3.0])))
def forward(self, x: Tensor) -> Tensor:
    """Writes the same numbers into its buffer."""
    self.scale.clamp_(min=0.0)
    return x * self.scale


@row("writes a copy of its buffer", X)
@has(start=Buffer(torch.zeros(3)))
def forward(self, x: Tensor) -> Tensor:
    state = self.start.clone()
    for _ in range(3):
        state.add_(x.mean(0))
    return x + state


# -- caches: buffers with persistent=False ---------------------------------------------------------


# torch.export copies the new table into the old one, of another size.
@row(TIMES_4, export=RAISES, onnx=no_construct(), x="batch time 4", blame=replaced())
class RotaryTable(nn.Module):
    """A table that grows when a longer input comes."""

    def __init__(self, size: int = 0) -> None:
        super().__init__()
        frequencies = 1.0 / (100 ** (torch.arange(0, 4, 2).float() / 4))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.register_buffer("table", self.made(size), persistent=False)

    def made(self, size: int) -> Tensor:
        return torch.outer(torch.arange(size).float(), self.frequencies).cos()

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[1]
        if self.table.shape[0] < size:
            self.table = self.made(size)  # here
        table = self.table[:size]
        return x * torch.cat([table, table], -1)


row("rotary table, large", TIMES_4, shapes={"x": "batch time 4"}, weak=UNVERIFIED)(
    lambda: RotaryTable(64)
)


# The legacy exporter does not support aten::copy.
@row("scratch", X, onnx_legacy=untranslated())
@has(scratch=Buffer(torch.zeros(2, 3), persistent=False))
def forward(self, x: Tensor) -> Tensor:
    """Writes before it reads."""
    self.scratch.copy_(x.mean(0).expand(2, 3))
    return x - self.scratch[0]


@row("silent cache", X)
@has(calls=Buffer(torch.zeros(()), persistent=False))
def forward(self, x: Tensor) -> Tensor:
    """As SilentBuffer, and nobody asks for the count after loading."""
    self.calls += 1
    return x * 2


row(
    "batchnorm, train",
    normal(4, 3),
    trace=STATE,
    onnx=DIFFERS,
    onnx_legacy=DIFFERS,
    train=True,
    mode="train",
    shapes={"input": "batch 3"},
    dims={"batch": (2, 6)},
    blame={"trace": moved_on(""), "onnx": MISTRANSLATED, "onnx_legacy": EVAL_MODE},
)(lambda: nn.BatchNorm1d(3))
row("batchnorm, eval", X)(lambda: nn.BatchNorm1d(3))


X = call(normal(4, 6))
UNMEANT = truth("TrainingMode")

section("training")


def with_part(part: Callable[[], nn.Module], *, training: bool) -> Callable[[], nn.Module]:
    """Return a model in eval mode; ``training`` sets the mode of one part."""

    def make() -> nn.Module:
        model = nn.Sequential(nn.Linear(6, 3), part()).eval()
        model[1].train(training)
        return model

    return make


def norm() -> nn.Module:
    return nn.BatchNorm1d(3)


row("norm left training", X, UNMEANT, train=None, mode="as-is")(with_part(norm, training=True))
row("all left training", X, UNMEANT, train=True, mode="as-is")(with_part(norm, training=True))
row("none left training", X, train=None, mode="as-is")(with_part(norm, training=False))


def drop() -> nn.Module:
    return nn.Dropout(0.5)


row("dropout left training", X, UNMEANT, train=None, mode="as-is")(with_part(drop, training=True))
row("dropout put into eval", X, train=True)(with_part(drop, training=True))
# No part of it depends on the mode.
row("training without consequence", X, train=True, mode="train")(lambda: nn.Linear(6, 3))
