"""State that forward changes: buffers, and attributes that the export freezes."""

from __future__ import annotations

import weakref
from typing import Dict, List, Optional  # noqa: UP035  # TorchScript's words

import torch
from torch import Tensor, nn
from versions import FROZEN_THAWED

from zoo.row import (
    B_T_4,
    DIFFERS,
    EVAL_MODE,
    MISTRANSLATED,
    RAISES,
    REFUSED,
    STATE,
    TARGETS,
    UNEXPLAINED,
    UNVERIFIED,
    call,
    dropped,
    moved_on,
    no_construct,
    no_type,
    normal,
    replaced,
    row,
    truth,
    unannotated,
    untranslated,
)


class BufferCounter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.count.add_(1)
        return x * self.count


class BufferReplaced(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("last", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        out = x + self.last
        self.last = self.last * 0.5 + x.mean(0)
        return out


class BufferRead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class PythonCounter(nn.Module):
    """Counts its calls and does nothing with the count."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * 2


class PythonCounterUsed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


# -- buffers ---------------------------------------------------------------------------------------


class RunningMean(nn.Module):
    """Subtracts an exponential average, as batch norm does in training."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.mean.mul_(0.9).add_(0.1 * x.mean(0))
        return x - self.mean


class StepsAsInteger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1
        return x / self.steps


class RingBuffer(nn.Module):
    """The last four means, the oldest dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("ring", torch.zeros(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        self.ring.copy_(torch.cat([self.ring[1:], x.mean(0, keepdim=True)]))
        return x + self.ring.sum(0)


class RolledBuffer(nn.Module):
    """The same with a new tensor under the old name."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("ring", torch.zeros(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        self.ring = torch.cat([self.ring[1:], x.mean(0, keepdim=True)])
        return x + self.ring.sum(0)


class KeyValueCache(nn.Module):
    """A cache of fixed size and the index of the next entry, as decoders have."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("keys", torch.zeros(8, 3))
        self.register_buffer("place", torch.zeros(1, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.keys.index_copy_(0, self.place % 8, x.mean(0, keepdim=True))
        self.place += 1
        return x @ self.keys.t()


class Momentum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("average", torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        self.average.lerp_(x.abs().mean(0), 0.25)
        return x / (self.average + 1)


class CountsInPart(nn.Module):
    """The state belongs to a submodule."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 3), BufferCounter())

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class OfOneMemory(nn.Module):
    """A buffer that is a view of a parameter: a write to one changes the other."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3))
        self.register_buffer("first", self.weight.data[:1])


class CountsInParametersMemory(OfOneMemory):
    def forward(self, x: Tensor) -> Tensor:
        self.first.add_(1)
        return x * self.weight.sum()


class ReadsParametersMemory(OfOneMemory):
    def forward(self, x: Tensor) -> Tensor:
        return x * self.first + self.weight.sum()


class TwoOfOneMemory(nn.Module):
    """One parameter is the transpose of the other, in the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3))
        self.head = nn.Linear(3, 3, bias=False)
        self.head.weight = nn.Parameter(self.weight.data.t())

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x @ self.weight)


class WithoutNumbers(nn.Module):
    """A buffer on the meta device, which forward does not read."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("spare", torch.empty(3, device="meta"))

    def forward(self, x: Tensor) -> Tensor:
        return x * 2


class WeaklyReferred(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.part = weakref.ref(self.fc)

    def forward(self, x: Tensor) -> Tensor:
        part = self.part()
        assert part is not None
        return part(x)


class SilentBuffer(nn.Module):
    """The output does not depend on the buffer; only the artifact's own state can differ."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * 2


class MovingParameter(nn.Module):
    """A parameter that decays with every call."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        self.scale.mul_(0.5)
        return x * self.scale


class WarmsUp(nn.Module):
    """The first call measures the scale that all later calls use."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.where(self.scale == 0, x.abs().max() + 1, self.scale)
        self.scale.copy_(scale)
        return x / scale


# -- attributes ------------------------------------------------------------------------------------


class GrowingList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.history = []

    def forward(self, x):
        self.history.append(1.0)
        return x * len(self.history)


class GrowingTensors(nn.Module):
    """Tensors of earlier calls, kept in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.past = []

    def forward(self, x):
        self.past.append(x.mean(0))
        return x + sum(self.past)


class LastInput(nn.Module):
    """A plain attribute that holds a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.last = torch.zeros(3)

    def forward(self, x: Tensor) -> Tensor:
        out = x + self.last
        self.last = x.mean(0)
        return out


class Toggle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.on = False

    def forward(self, x: Tensor) -> Tensor:
        self.on = not self.on
        return x if self.on else -x


class WarmsUpLate(nn.Module):
    """Counts its calls, and does something else after some of them."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.seen = 0
        self.calls = calls

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        seen = self.seen
        return x * 2 if seen > self.calls else x


class WarmsUpInPython(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ready = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.ready:
            self.ready = True
            return x
        return x * 2


class CountsInDict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stats: Dict[str, int] = {"calls": 0}  # noqa: UP006

    def forward(self, x: Tensor) -> Tensor:
        self.stats["calls"] += 1
        return x + self.stats["calls"]


class StaleCache(nn.Module):
    """A cache of values with the shape as key: eager returns the first result for that shape."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = {}

    def forward(self, x):
        key = x.shape[1]
        if key not in self.cache:
            self.cache[key] = x.mean(0)
        return x - self.cache[key]


class RegistersBuffer(nn.Module):
    def forward(self, x):
        if not hasattr(self, "offset"):
            self.register_buffer("offset", x.mean(0).detach().clone())
        return x - self.offset


class Config:
    """An object of the user's class, reachable from the module."""

    def __init__(self) -> None:
        self.calls = 0


class CountsInObject(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.config = Config()

    def forward(self, x):
        self.config.calls += 1
        return x * self.config.calls


# -- models that only seem to have state -----------------------------------------------------------


class MaskCache(nn.Module):
    """Caches a mask that depends on the size only."""

    def __init__(self) -> None:
        super().__init__()
        self.masks = {}

    def forward(self, x):
        size = x.shape[1]
        if size not in self.masks:
            self.masks[size] = torch.ones(size, size).tril()
        return x @ self.masks[size]


class LazyTable(nn.Module):
    """Makes a table at the first call, and never changes it."""

    table: Optional[Tensor]  # noqa: UP045

    def __init__(self) -> None:
        super().__init__()
        self.table = None

    def forward(self, x: Tensor) -> Tensor:
        table = self.table
        if table is None:
            table = torch.arange(3, dtype=torch.float32)
            self.table = table
        return x + table


class SortedNames(nn.Module):
    """Reads its own attributes and changes none."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = {"b": 2.0, "a": 1.0}

    def forward(self, x):
        return sum(x * self.scales[name] for name in sorted(self.scales))


class HistoryUnused(nn.Module):
    shapes: List[int]  # noqa: UP006

    def __init__(self) -> None:
        super().__init__()
        self.shapes = []

    def forward(self, x: Tensor) -> Tensor:
        self.shapes.append(3)
        return x.relu()


class RewritesSame(nn.Module):
    """Writes the same numbers into its buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, x: Tensor) -> Tensor:
        self.scale.clamp_(min=0.0)
        return x * self.scale


class RebindsSame(nn.Module):
    """Replaces its buffer by a new tensor with the same numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, x: Tensor) -> Tensor:
        self.scale = self.scale.abs()
        return x * self.scale


class WritesCopyOfBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("start", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        state = self.start.clone()
        for _ in range(3):
            state.add_(x.mean(0))
        return x + state


# -- caches: buffers with persistent=False ---------------------------------------------------------


class RotaryTable(nn.Module):
    """A table that grows when a longer input comes."""

    def __init__(self, size: int = 0) -> None:
        super().__init__()
        frequencies = 1.0 / (100 ** (torch.arange(0, 4, 2).float() / 4))
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.register_buffer("table", self.rows(size), persistent=False)

    def rows(self, size: int) -> Tensor:
        return torch.outer(torch.arange(size).float(), self.frequencies).cos()

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[1]
        if self.table.shape[0] < size:
            self.table = self.rows(size)
        table = self.table[:size]
        return x * torch.cat([table, table], -1)


class RegistersMask(nn.Module):
    """Registers its mask when it is first needed, or too small."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", None, persistent=False)

    def forward(self, x):
        size = x.shape[1]
        if self.mask is None or self.mask.shape[-1] < size:
            mask = torch.ones(size, size, dtype=torch.bool).triu(1)
            self.register_buffer("mask", mask, persistent=False)
        scores = x @ x.transpose(1, 2)
        return scores.masked_fill(self.mask[:size, :size], -1e9).softmax(-1) @ x


class Scratch(nn.Module):
    """Writes before it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scratch", torch.zeros(2, 3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.scratch.copy_(x.mean(0).expand(2, 3))
        return x - self.scratch[0]


class SilentCache(nn.Module):
    """As SilentBuffer, and nobody asks for the count after loading."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * 2


class CountsInCache(nn.Module):
    """As BufferCounter: an output shows the count, so it is state."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


class StaleScale(nn.Module):
    """As WarmsUp: the first call decides about all later ones, and tracing is a call."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.where(self.scale == 0, x.abs().max() + 1, self.scale)
        self.scale.copy_(scale)
        return x / scale


TIMES_4 = call(normal(2, 5, 4))
X = call(normal(4, 3))
# Tracing runs forward, so a saved trace has counted once already. ONNX graphs return no state, and
# the legacy exporter, which traces, keeps the state after its run as a constant.
COUNTED = truth(trace=STATE, onnx=STATE, onnx_legacy=DIFFERS)

STATEFUL = (
    row(
        "buffer counter",
        BufferCounter,
        call(normal(4, 3)),
        COUNTED,
        ci="trace",
        blame=moved_on("self.count.add_(1)"),
    ),
    row(
        "buffer replaced",
        BufferReplaced,
        call(normal(4, 3)),
        COUNTED,
        ci="trace",
        blame={
            **dict.fromkeys(TARGETS, replaced("self.last = self.last * 0.5")),
            "onnx_legacy": moved_on("self.last = self.last * 0.5"),
        },
    ),
    row("buffer read", BufferRead, call(normal(4, 3)), round_trip=True),
    row("python counter", PythonCounter, call(normal(4, 3)), ci="script", round_trip=True),
    row(
        "python counter, used",
        PythonCounterUsed,
        call(normal(4, 3)),
        truth(STATE, script=None),
        blame=dropped("self.calls += 1"),
    ),
    row(
        "batchnorm, train",
        lambda: nn.BatchNorm1d(3),
        call(normal(4, 3)),
        truth(trace=STATE, onnx=DIFFERS, onnx_legacy=DIFFERS),
        train=True,
        mode="train",
        shapes={"input": "batch 3"},
        dims={"batch": (2, 6)},
        ci="trace script onnx",
        blame={"trace": moved_on(""), "onnx": MISTRANSLATED, "onnx_legacy": EVAL_MODE},
    ),
    row("batchnorm, eval", lambda: nn.BatchNorm1d(3), X),
    row("running mean", RunningMean, X, COUNTED, ci="trace", blame=moved_on("self.mean.mul_(0.9)")),
    row(
        "steps as integer",
        StepsAsInteger,
        X,
        COUNTED,
        ci="onnx_legacy",
        blame=moved_on("self.steps += 1"),
    ),
    # The legacy exporter does not support aten::copy.
    row(
        "ring buffer",
        RingBuffer,
        X,
        COUNTED | {"onnx_legacy": REFUSED},
        ci="onnx_legacy",
        blame=moved_on("self.ring.copy_("),
        refused={"onnx_legacy": untranslated()},
    ),
    row(
        "rolled buffer",
        RolledBuffer,
        X,
        COUNTED,
        ci="trace",
        blame={
            **dict.fromkeys(TARGETS, replaced("self.ring = torch.cat(")),
            "onnx_legacy": moved_on("self.ring = torch.cat("),
        },
    ),
    row(
        "key-value cache",
        KeyValueCache,
        X,
        COUNTED,
        ci="trace",
        blame=moved_on("self.keys.index_copy_("),
    ),
    row("momentum", Momentum, X, COUNTED, ci="trace", blame=moved_on("self.average.lerp_(")),
    row(
        "counts in a part",
        CountsInPart,
        X,
        COUNTED,
        ci="trace",
        blame=moved_on("self.count.add_(1)"),
    ),
    row(
        "counts in a parameter's memory",
        CountsInParametersMemory,
        X,
        truth(trace=STATE, onnx=REFUSED, onnx_legacy=STATE),
        ci="onnx",
        blame=moved_on("self.first.add_(1)"),
        refused={"onnx": UNEXPLAINED},
    ),
    row("reads a parameter's memory", ReadsParametersMemory, X, ci="script"),
    row("two parameters of one memory", TwoOfOneMemory, X),
    row("a buffer without numbers", WithoutNumbers, X, ci="export", round_trip=True),
    row(
        "looks at a part by a weak reference",
        WeaklyReferred,
        X,
        truth(script=REFUSED),
        refused={"script": no_type("part = self.part()")},
    ),
    row("silent buffer", SilentBuffer, X, truth(trace=STATE), blame=moved_on("self.calls += 1")),
    row(
        "moving parameter",
        MovingParameter,
        X,
        COUNTED,
        elsewhere={FROZEN_THAWED: {"export": "RoundTripDiffers"}},
        ci="onnx",
        blame=moved_on("self.scale.mul_(0.5)"),
    ),
    row("warms up", WarmsUp, X, COUNTED, ci="trace", blame=moved_on("self.scale.copy_(scale)")),
    row(
        "growing list",
        GrowingList,
        X,
        truth(STATE, script=REFUSED),
        blame=dropped("self.history.append(1.0)"),
        refused={"script": unannotated("self.history.append(1.0)")},
    ),
    row(
        "growing tensors",
        GrowingTensors,
        X,
        truth(STATE, script=REFUSED),
        ci="onnx_legacy",
        blame=dropped("self.past.append(x.mean(0))"),
        refused={"script": unannotated("self.past.append(x.mean(0))")},
    ),
    row(
        "last input",
        LastInput,
        X,
        truth(STATE, script=None),
        ci="",
        blame=dropped("self.last = x.mean(0)"),
    ),
    row("toggle", Toggle, X, truth(STATE, script=None), blame=dropped("self.on = not self.on")),
    row(
        "warms up in python",
        WarmsUpInPython,
        X,
        truth(STATE, script=None),
        blame=dropped("self.ready = True"),
    ),
    row(
        "warms up late",
        lambda: WarmsUpLate(5),
        X,
        truth(STATE, script=None),
        ci="trace",
        blame=dropped("self.seen += 1"),
    ),
    row("warms up very late", lambda: WarmsUpLate(500), X, weak=UNVERIFIED, ci="trace script"),
    row("warmed up", lambda: WarmsUpLate(0), X, ci="trace"),
    row(
        "counts in a dict",
        CountsInDict,
        X,
        truth(STATE, script=None),
        ci="export",
        blame=dropped('self.stats["calls"] += 1'),
    ),
    row(
        "stale cache",
        StaleCache,
        X,
        truth(STATE, script=REFUSED),
        blame=dropped("self.cache[key] = x.mean(0)"),
        refused={"script": unannotated("if key not in self.cache:")},
    ),
    row(
        "registers a buffer",
        RegistersBuffer,
        X,
        truth(STATE, script=REFUSED, onnx_legacy=REFUSED),
        ci="",
        blame=dropped('self.register_buffer("offset"'),
        refused={
            "script": no_construct('self.register_buffer("offset", x.mean(0).detach().clone())'),
            "onnx_legacy": no_construct(),
        },
    ),
    # TorchScript compiles the class of the object too, so the artifact counts.
    row(
        "counts in an object",
        CountsInObject,
        X,
        truth(STATE, script=None),
        blame=dropped("self.config.calls += 1"),
    ),
    # torch.export copies the new table into the old one, of another size.
    row(
        "rotary table",
        RotaryTable,
        TIMES_4,
        truth(export=RAISES, onnx=REFUSED),
        shapes=B_T_4,
        ci="export",
        blame=replaced("self.table = self.rows(size)"),
        refused={"onnx": no_construct("self.table = self.rows(size)")},
    ),
    row(
        "rotary table, large",
        lambda: RotaryTable(64),
        TIMES_4,
        shapes=B_T_4,
        weak=UNVERIFIED,
        ci="",
    ),
    row(
        "registers its mask",
        RegistersMask,
        TIMES_4,
        truth(script=REFUSED, export=RAISES, onnx=REFUSED),
        shapes=B_T_4,
        ci="",
        blame=replaced('self.register_buffer("mask"'),
        refused={
            "script": unannotated("if self.mask is None or self.mask.shape[-1] < size:"),
            "onnx": no_construct("mask = torch.ones(size, size, dtype=torch.bool).triu(1)"),
        },
    ),
    # The legacy exporter does not support aten::copy.
    row(
        "scratch",
        Scratch,
        X,
        truth(onnx_legacy=REFUSED),
        ci="",
        refused={"onnx_legacy": untranslated()},
    ),
    row("silent cache", SilentCache, X, ci=""),
    row("counts in a cache", CountsInCache, X, COUNTED, ci="", blame=moved_on("self.calls += 1")),
    row(
        "stale scale",
        StaleScale,
        X,
        COUNTED | {"trace": DIFFERS},
        blame=moved_on("self.scale.copy_(scale)"),
    ),
    row(
        "mask cache",
        MaskCache,
        X,
        truth(script=REFUSED),
        refused={"script": unannotated("if size not in self.masks:")},
    ),
    row(
        "lazy table",
        LazyTable,
        X,
        truth(script=REFUSED),
        ci="onnx",
        round_trip=True,
        refused={"script": no_type()},
    ),
    row(
        "sorted names",
        SortedNames,
        X,
        truth(script=REFUSED),
        refused={"script": no_type("sum(x * self.scales[name] for name in sorted(self.scales))")},
    ),
    row(
        "history, unused",
        HistoryUnused,
        X,
        truth(script=REFUSED),
        ci="script",
        refused={"script": no_type()},
    ),
    row("rewrites the same", RewritesSame, X, ci="export"),
    row("rebinds the same", RebindsSame, X),
    row("writes a copy of its buffer", WritesCopyOfBuffer, X, ci="onnx_legacy", round_trip=True),
)
