"""Artifacts that work in this process and fail in a clean one, and healthy ones beside them.

The clean process has torch but not the model's source, and the file was moved before. Each truth
was found by hand: saved, moved, loaded by a plain ``python -I``, called three times.
"""

from __future__ import annotations

import copy
import os
import types
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple  # noqa: UP035  # for TorchScript

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from versions import FUNCTION_TYPED, WHILE_REFUSED

from zoo.row import (
    DIFFERS,
    REFUSED,
    STATE,
    UNEXPLAINED,
    UNLOADABLE,
    Blame,
    asks,
    call,
    moved_on,
    no_construct,
    no_type,
    normal,
    row,
    truth,
    unannotated,
    untranslated,
    whole,
)

CRASHED = "ArtifactCrashed"
HUNG = "ArtifactHung"
MOVED = "RoundTripDiffers"

X = call(normal(4, 3))

# -- operators that only this process has ----------------------------------------------------------

LIBRARY = torch.library.Library("zoo_files", "DEF")
LIBRARY.define("double(Tensor x) -> Tensor")
LIBRARY.define("halves(Tensor x) -> (Tensor, Tensor)")
LIBRARY.define("composed(Tensor x, float slope) -> Tensor")


@torch.library.impl(LIBRARY, "double", "CPU")
def double(x: Tensor) -> Tensor:
    return x * 2


@torch.library.register_fake("zoo_files::double", lib=LIBRARY)
def fake_double(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.impl(LIBRARY, "halves", "CPU")
def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    return x / 2, x / 4


@torch.library.register_fake("zoo_files::halves", lib=LIBRARY)
def fake_halves(x: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(x)


@torch.library.impl(LIBRARY, "composed", "CompositeImplicitAutograd")
def composed(x: Tensor, slope: float) -> Tensor:
    return torch.where(x > 0, x, x * slope)


@torch.library.custom_op("zoo_files::softened", mutates_args=())
def softened(x: Tensor) -> Tensor:
    return x / (1 + x.abs())


@softened.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class CustomOperator(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.zoo_files.double(x) + 1


class CustomOperatorInPart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 3), CustomOperator(), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class CustomOperatorOfTwo(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        half, quarter = torch.ops.zoo_files.halves(x)
        return half - quarter


class CustomOperatorComposed(nn.Module):
    """A custom operator that is registered as a composition of torch's own operators."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.zoo_files.composed(x, 0.1)


class CustomOperatorDecorated(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.zoo_files.softened(x)


class CustomOperatorUnused(nn.Module):
    """Called only if a flag is set, which it is not; TorchScript keeps both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.fast = False

    def forward(self, x: Tensor) -> Tensor:
        if self.fast:
            return torch.ops.zoo_files.double(x)
        return x * 2


class CustomOperatorUnusedForGood(CustomOperatorUnused):
    """The flag is a constant, so TorchScript keeps one side."""

    __constants__ = ("fast",)


class PlainFunction(nn.Module):
    """The same numbers without a custom operator."""

    def forward(self, x: Tensor) -> Tensor:
        return plain_double(x) + 1


def plain_double(x: Tensor) -> Tensor:
    return x * 2


# -- Python in the middle of the graph -------------------------------------------------------------


class Clip(torch.autograd.Function):
    """An autograd function with its own gradient."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x.clamp(-1, 1)

    @staticmethod
    def backward(_: Any, grad: Tensor) -> Tensor:
        return grad


class Rounded(torch.autograd.Function):
    """The straight-through estimator of quantization-aware training."""

    @staticmethod
    def forward(_: Any, x: Tensor, step: float) -> Tensor:
        return (x / step).floor() * step

    @staticmethod
    def backward(_: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class OwnGradient(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Clip.apply(x) * 2


class OwnGradientInPart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = OwnGradient()
        self.out = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.inner(x))


class StraightThrough(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Rounded.apply(x, 0.25)


class StraightThroughByDetach(nn.Module):
    """The same gradient without a class."""

    def forward(self, x: Tensor) -> Tensor:
        return x + ((x / 0.25).floor() * 0.25 - x).detach()


class IgnoredHelper(nn.Module):
    """TorchScript calls back into Python here, and no file has Python in it. The helpers here have
    no annotations: TorchScript cannot resolve them as strings.
    """

    def forward(self, x: Tensor) -> Tensor:
        return self.helper(x) + 1

    @torch.jit.ignore
    def helper(self, x):
        return torch.from_numpy(np.asarray([2.0], dtype=np.float32)) * x


class UnusedHelper(nn.Module):
    """A helper that is not called and not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.debug = False

    def forward(self, x: Tensor) -> Tensor:
        if self.debug:
            return self.helper(x)
        return x * 2

    @torch.jit.unused
    def helper(self, x):
        return torch.from_numpy(np.asarray([2.0], dtype=np.float32)) * x


class ExportedHelper(nn.Module):
    """A second method, kept in the file by ``torch.jit.export``."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 3)

    @torch.jit.export
    def encode(self, x: Tensor) -> Tensor:
        return torch.tanh(self.body(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.encode(x) * 2


class ScriptedPart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.jit.script(nn.Sequential(nn.Linear(3, 3), nn.ReLU()))
        self.out = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.inner(x))


class LambdaInside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = lambda x: torch.relu(x) * 2

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x)


# -- types that only this process has --------------------------------------------------------------


class Span(NamedTuple):
    start: Tensor
    end: Tensor


@dataclass
class Boxes:
    corners: Tensor
    scores: Tensor


@dataclass
class Anonymous:
    corners: Tensor
    scores: Tensor


class Bag:
    """Not a dataclass: only its registration makes this class a container."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items


torch.export.register_dataclass(Boxes, serialized_type_name="zoo.files.Boxes")
# A type without a serialized name can be exported but not saved.
torch.export.register_dataclass(Anonymous)
pytree.register_pytree_node(
    Bag,
    lambda bag: (bag.items, None),
    lambda items, _: Bag(list(items)),
    serialized_type_name="zoo.files.Bag",
    flatten_with_keys_fn=lambda bag: (
        [(pytree.SequenceKey(i), item) for i, item in enumerate(bag.items)],
        None,
    ),
)


class SpanIn(nn.Module):
    def forward(self, span: Span) -> Tensor:
        return span.end - span.start


class SpanInside(nn.Module):
    """A namedtuple that is used only inside the model."""

    def forward(self, x: Tensor) -> Tensor:
        span = Span(x * 2, x * 3)
        return span.end * span.start


class SpanInDict(nn.Module):
    def forward(self, x: Tensor) -> Dict[str, Span]:  # noqa: UP006
        return {"span": Span(x * 2, x + 1)}


class BoxesIn(nn.Module):
    def forward(self, boxes: Boxes) -> Tensor:
        return boxes.corners * boxes.scores.unsqueeze(1)


class BoxesOut(nn.Module):
    def forward(self, x):
        return Boxes(x * 2, x.sum(1))


class BoxesInside(nn.Module):
    """A dataclass that is used only inside the model."""

    def forward(self, x):
        boxes = Boxes(x * 2, x.sum(1))
        return boxes.corners + boxes.scores.unsqueeze(1)


class AnonymousOut(nn.Module):
    def forward(self, x):
        return Anonymous(x * 2, x.sum(1))


class BagOut(nn.Module):
    def forward(self, x):
        return Bag([x * 2, x.sum(1)])


class BagIn(nn.Module):
    def forward(self, bag):
        return bag.items[0] * 2 + bag.items[1]


class PairOut(nn.Module):
    """The same with plain types, which every process has."""

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
        return x * 2, x.sum(1)


class PairsInDict(nn.Module):
    def forward(self, x: Tensor) -> Dict[str, Tuple[Tensor, Tensor]]:  # noqa: UP006
        return {"span": (x * 2, x + 1)}


# -- devices ---------------------------------------------------------------------------------------


class DeviceConstant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.arange(3, device="cpu")


class DeviceMove(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x * 2).to("cpu") + 1


class DeviceOfInput(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.arange(x.shape[1], device=x.device)


class DeviceKept(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.device = torch.device("cpu")

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.ones(3, device=self.device)


# -- weights and state -----------------------------------------------------------------------------


class Counter(nn.Module):
    """Counts its calls, in a buffer that state_dict keeps or does not."""

    def __init__(self, *, persistent: bool) -> None:
        super().__init__()
        self.register_buffer("count", torch.ones(1), persistent=persistent)

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return x * self.count


class Scaled(nn.Module):
    """A buffer that is only read."""

    def __init__(self, scale: Tensor, *, persistent: bool = True) -> None:
        super().__init__()
        self.register_buffer("scale", scale, persistent=persistent)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class TiedLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


class TiedEmbedding(nn.Module):
    """The output layer of a language model."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 4)
        self.out = nn.Linear(4, 11, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.embed(ids))


class TiedModules(nn.Module):
    """One module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.again = self.first

    def forward(self, x: Tensor) -> Tensor:
        return self.again(torch.relu(self.first(x)))


class BufferOfParameter(nn.Module):
    """A buffer that is a row of a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.register_buffer("row", self.layer.weight.detach()[1])

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * self.row


class BuffersInOneStorage(nn.Module):
    """Two halves of one tensor."""

    def __init__(self) -> None:
        super().__init__()
        both = torch.arange(6.0)
        self.register_buffer("left", both[:3])
        self.register_buffer("right", both[3:])

    def forward(self, x: Tensor) -> Tensor:
        return x * self.left + self.right


class TransposedWeight(nn.Module):
    """A parameter whose strides are not those of its shape."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3).t())

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.t().sum(0, keepdim=True).t() + self.weight.sum()


class ExpandedBuffer(nn.Module):
    """One number, expanded to a buffer of twelve."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.full((1, 1), 3.0).expand(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale.sum(0)


class SlicedBuffer(nn.Module):
    """Three numbers of a large tensor; the file needs only these."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.arange(100_000.0)[::40_000])

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class TensorAttribute(nn.Module):
    """Not a buffer: a tensor in a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.tensor([1.0, 2.0, 3.0])

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class TensorsInList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scales: List[Tensor] = [torch.ones(3) * 2, torch.arange(3.0)]  # noqa: UP006

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scales[0] + self.scales[1]


class Words(nn.Module):
    """Attributes that are not tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.mode = "sum"
        self.bias: Optional[Tensor] = None  # noqa: UP045
        self.names = ["a", "b"]

    def forward(self, x: Tensor) -> Tensor:
        if self.bias is not None:
            x = x + self.bias
        return x.sum(1) if self.mode == "sum" else x.mean(1)


class ExtraState(nn.Module):
    """State that state_dict has but an artifact does not need."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def get_extra_state(self) -> Any:
        return {"version": 2}

    def set_extra_state(self, state: Any) -> None:
        assert state == {"version": 2}

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class ExtraStateOfTensor(ExtraState):
    def get_extra_state(self) -> Any:
        return torch.tensor(2)

    def set_extra_state(self, state: Any) -> None:
        assert state == 2


class OwnState(nn.Module):
    """The model itself says what TorchScript writes and reads. Copies do not use that code."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.tensor([1.0, 2.0, 3.0])

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        made = type(self)()
        made.train(self.training)
        made.scale = copy.deepcopy(self.scale, memo)
        return made

    @torch.jit.export
    def __getstate__(self) -> Tuple[Tensor, bool]:  # noqa: UP006
        return self.scale, self.training

    @torch.jit.export
    def __setstate__(self, state: Tuple[Tensor, bool]) -> None:  # noqa: UP006
        self.scale = state[0]
        self.training = state[1]

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class OwnStateForgotten(OwnState):
    """Loads with a scale of ones."""

    @torch.jit.export
    def __setstate__(self, state: Tuple[Tensor, bool]) -> None:  # noqa: UP006
        self.scale = torch.ones(3)
        self.training = state[1]


class OwnStateRounded(OwnState):
    """Saves rounded numbers, to use less memory."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.tensor([1.5, 2.5, 3.5])

    @torch.jit.export
    def __getstate__(self) -> Tuple[Tensor, bool]:  # noqa: UP006
        return self.scale.to(torch.int8), self.training

    @torch.jit.export
    def __setstate__(self, state: Tuple[Tensor, bool]) -> None:  # noqa: UP006
        self.scale = state[0].to(torch.float32)
        self.training = state[1]


class OwnStateRefused(OwnState):
    """Raises while it is loaded."""

    @torch.jit.export
    def __setstate__(self, state: Tuple[Tensor, bool]) -> None:  # noqa: UP006
        assert state[0].numel() == 4, "a file of an older version"
        self.scale = state[0]
        self.training = state[1]


class ByteWeights(nn.Module):
    """Quantized by hand: bytes and a step size."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bytes", torch.randint(-127, 127, (3, 3), dtype=torch.int8))
        self.register_buffer("step", torch.tensor(0.01))

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.bytes.to(torch.float32) * self.step)


class ComplexBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("wave", torch.polar(torch.ones(3), torch.arange(3.0)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.view_as_real(x * self.wave)


def quantized_dynamically() -> nn.Module:
    """Return a model whose weights are packed for the processor, readable by torch's code only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a deprecation warning of torch
        return torch.ao.quantization.quantize_dynamic(
            nn.Sequential(nn.Linear(3, 4), nn.ReLU()), {nn.Linear}, dtype=torch.qint8
        )


def wide() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 90_000), nn.Linear(90_000, 2))


# -- files beside the model ------------------------------------------------------------------------


# Any file will do: the first three bytes of this one.
HERE = str(Path(__file__).resolve())


class ReadsFile(nn.Module):
    """Maps a file at each call: the artifact holds the name of the file, not the file."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.from_file(self.path, shared=False, size=3, dtype=torch.uint8)


class ReadsWithNumpy(nn.Module):
    """The artifact holds the numbers and does not need the file."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.from_numpy(np.fromfile(HERE, dtype=np.uint8, count=3))


class ReadOnce(nn.Module):
    """Reads the file in ``__init__``, as a model should."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.from_file(HERE, size=3, dtype=torch.uint8).clone())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


# -- classes that cannot be imported ---------------------------------------------------------------


def of_a_notebook() -> nn.Module:
    """Return a model whose class is in a module that cannot be imported."""
    namespace: dict[str, Any] = {"__name__": "__main__", "torch": torch}
    exec(  # as the cell of a notebook is
        "class Net(torch.nn.Module):\n  def forward(self, x):\n    return torch.relu(x) + 1\n",
        namespace,
    )
    return namespace["Net"]()


def of_a_function() -> nn.Module:
    """Return a model whose class is local to a function."""

    class Local(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x) + 1

    return Local()


def patched() -> nn.Module:
    """Return a model whose forward was replaced on the object."""
    model = nn.Linear(3, 3)
    model.forward = types.MethodType(lambda self, x: torch.relu(x) @ self.weight, model)
    return model


# -- artifacts that do harm ------------------------------------------------------------------------
#
# Eager is harmless in all of them; the artifact does something else, as if the exporter had a bug.


class DiesScripted(nn.Module):
    """The least integer divided by -1: SIGFPE (on x86)."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            none = x.size(1) - 3
            return x * ((none - 9223372036854775807 - 1) // (none - 1))
        return x * 2


class ReadsBeyondScripted(nn.Module):
    """Passes lengths with ``unsafe=True``, so that torch does not check them: SIGSEGV."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            beyond = torch.full([1], 1 << 38, dtype=torch.int64)
            return x + torch.segment_reduce(x.flatten(), "sum", lengths=beyond, unsafe=True)
        return x * 2


class HangsScripted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        while torch.jit.is_scripting() and bool(x.numel() > 0):
            x = x * 1.0
        return x * 2


class EndsScripted(nn.Module):
    """A loop of the same kind that ends."""

    def forward(self, x: Tensor) -> Tensor:
        rounds = 0
        while torch.jit.is_scripting() and rounds < 1000:
            x = x * 1.0
            rounds += 1
        return x * 2


class AllocatesScripted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        held = x
        while torch.jit.is_scripting() and bool(x.numel() > 0):
            held = torch.cat([held, held])
        return x * 2


class AllocatesAtOnceScripted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return x + torch.ones([1024, 1024, 1024, 1024]).sum()
        return x * 2


class AllocatesLittleScripted(nn.Module):
    """Allocates a hundred megabytes and frees them."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return x * 2 + torch.zeros([25, 1024, 1024]).sum()
        return x * 2


class ChattersScripted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        while torch.jit.is_scripting() and bool(x.numel() > 0):
            print("a line of a log that nobody has asked for, and that no disk is large enough for")
        return x * 2


class SaysScripted(nn.Module):
    """Prints ten thousand lines, and returns the right numbers."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            for i in range(10_000):
                print("line", i)
        return x * 2


class SaysAnAnswer(nn.Module):
    """Prints what a protocol on stdout would read as an answer."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            print('{"status": "done", "reason": "", "output": ""}')
        return x * 2


class Counts(nn.Module):
    """A counter that the artifact changes and eager does not."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))


class KeepsCountScripted(Counts):
    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            self.calls += 1
            return x * self.calls
        return x


class CountsUnseenScripted(Counts):
    """The same, but the counter does not affect the output."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            self.calls += 1
        return x * 2


class KeepsANumberScripted(nn.Module):
    """A counter that is not a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            self.calls += 1
            return x * self.calls
        return x


class KeepsTheLastScripted(nn.Module):
    """Adds the input of the previous call."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("last", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            y = x + self.last
            self.last = x.mean()
            return y
        return x + 0


class DiesLaterScripted(Counts):
    """Crashes at the second call."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            self.calls += 1
            if bool(self.calls > 1):
                beyond = torch.full([1], 1 << 38, dtype=torch.int64)
                return x + torch.segment_reduce(x.flatten(), "sum", lengths=beyond, unsafe=True)
        return x * 2


class KeepsCountCompiled(Counts):
    def forward(self, x: Tensor) -> Tensor:
        if not torch.jit.is_scripting() and torch.compiler.is_compiling():
            self.calls.add_(1)
            return x * self.calls
        return x


class OwnStateDies(OwnState):
    """Crashes while it is loaded."""

    @torch.jit.export
    def __setstate__(self, state: Tuple[Tensor, bool]) -> None:  # noqa: UP006
        less = state[0].numel() - 4
        self.scale = state[0] * ((less - 9223372036854775807) // less)
        self.training = state[1]


class OwnStateHangs(OwnState):
    """Never finishes loading."""

    @torch.jit.export
    def __setstate__(self, state: Tuple[Tensor, bool]) -> None:  # noqa: UP006
        self.scale = state[0]
        self.training = state[1]
        while bool(state[0].numel() > 0):
            self.scale = self.scale * 1.0


class OwnStateSays(OwnState):
    """Prints an answer of success while it is loaded; it is faithful."""

    @torch.jit.export
    def __setstate__(self, state: Tuple[Tensor, bool]) -> None:  # noqa: UP006
        print('{"status": "done", "reason": "", "output": ""}')
        self.scale = state[0]
        self.training = state[1]


class Lengths(nn.Module):
    """Checks lengths that torch is told not to check. A trace has lost the check."""

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        if int(lengths.sum()) != x.size(0):
            return torch.zeros(lengths.size(0))
        return torch.segment_reduce(x, "sum", lengths=lengths, unsafe=True)


class DiesCompiled(nn.Module):
    """The least integer divided by -1, element by element."""

    def forward(self, x: Tensor) -> Tensor:
        if not torch.jit.is_scripting() and torch.compiler.is_compiling():
            none = x.to(torch.int64) * 0
            return x * torch.div(none - (2**63 - 1) - 1, none - 1, rounding_mode="trunc")
        return x * 2


class ReadsBeyondCompiled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if not torch.jit.is_scripting() and torch.compiler.is_compiling():
            beyond = torch.full([1], 1 << 38, dtype=torch.int64)
            return x + torch.segment_reduce(x.flatten(), "sum", lengths=beyond, unsafe=True)
        return x * 2


class HangsCompiled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if not torch.jit.is_scripting() and torch.compiler.is_compiling():
            return endless(x)
        return x * 2


class EndsCompiled(nn.Module):
    """A loop of the same kind that ends."""

    def forward(self, x: Tensor) -> Tensor:
        if not torch.jit.is_scripting() and torch.compiler.is_compiling():
            return soon_over(x)
        return x * 2


def endless(x: Tensor) -> Tensor:
    return torch.while_loop(lambda y: (y * y).sum() >= 0, lambda y: (y * 1.0,), (x * 2,))[0]


def soon_over(x: Tensor) -> Tensor:
    return torch.while_loop(lambda y: (y * y).sum() < 0, lambda y: (y * 1.0,), (x * 2,))[0]


class AllocatesCompiled(nn.Module):
    """Allocates four terabytes at once."""

    def forward(self, x: Tensor) -> Tensor:
        if not torch.jit.is_scripting() and torch.compiler.is_compiling():
            return x * 2 + x.sum().expand(2**40).exp().sum()
        return x * 2


# -- more than a protobuf, or 31 bits, can hold ----------------------------------------------------


class Table(nn.Module):
    """2**29 + 16 numbers, all zero but for the last row."""

    def __init__(self) -> None:
        super().__init__()
        table = torch.zeros(2**25 + 1, 16)
        table[-1] = 3
        self.register_buffer("table", table)

    def forward(self, ids: Tensor) -> Tensor:
        return nn.functional.embedding(ids, self.table) + (ids % 7).unsqueeze(-1)


class ExpandedTable(Table):
    """One number, expanded to as many: torch's files hold one number, an ONNX file all."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.full((1, 1), 3.0).expand(2**25 + 1, 16)


class Kept:
    """A cache class without ``__eq__``, as libraries have them."""

    def __init__(self, keys: Tensor) -> None:
        self.keys = keys
        self.seen = keys.shape[0]


class CacheOut(nn.Module):
    """Returns an object that no exporter supports."""

    def forward(self, x: Tensor) -> Any:
        return x * 2, Kept(x + 1)


class CacheInside(nn.Module):
    """Uses such an object inside forward only."""

    def forward(self, x: Tensor) -> Tensor:
        return Kept(x + 1).keys * 2


# The file holds the operator's name but not its code; and ONNX has no such operator.
UNKNOWN = truth(UNLOADABLE, onnx=REFUSED, onnx_legacy=REFUSED)
# ``Clip.apply`` is Python code, which TorchScript cannot save; other exporters capture its body.
PYTHON = truth(trace=UNLOADABLE, script=UNLOADABLE)
TYPED = {FUNCTION_TYPED: {"script": REFUSED}}
COUNTED = truth(trace=STATE, onnx=STATE, onnx_legacy=DIFFERS)
# Only TorchScript, a trace included, uses the model's own code to save.
OWN = truth(trace=MOVED, script=MOVED)
READ = truth(export=REFUSED, onnx=REFUSED)

FILES = (
    row(
        "custom operator",
        CustomOperator,
        X,
        UNKNOWN,
        refused={
            "onnx": untranslated("torch.ops.zoo_files.double(x) + 1"),
            "onnx_legacy": untranslated(),
        },
    ),
    row(
        "custom operator in a part",
        CustomOperatorInPart,
        X,
        UNKNOWN,
        ci="",
        refused={
            "onnx": untranslated("torch.ops.zoo_files.double(x) + 1"),
            "onnx_legacy": untranslated(),
        },
    ),
    row(
        "custom operator of two",
        CustomOperatorOfTwo,
        X,
        UNKNOWN,
        ci="",
        refused={
            "onnx": untranslated("half, quarter = torch.ops.zoo_files.halves(x)"),
            "onnx_legacy": untranslated(),
        },
    ),
    # The exporter to ONNX decomposes the operator.
    row(
        "custom operator, composed",
        CustomOperatorComposed,
        X,
        truth(UNLOADABLE, onnx=None, onnx_legacy=REFUSED),
        ci="",
        refused={"onnx_legacy": untranslated()},
    ),
    row(
        "custom operator, decorated",
        CustomOperatorDecorated,
        X,
        UNKNOWN,
        ci="",
        refused={
            "onnx": untranslated("torch.ops.zoo_files.softened(x)"),
            "onnx_legacy": untranslated(),
        },
    ),
    row("custom operator, unused", CustomOperatorUnused, X, truth(script=UNLOADABLE), ci=""),
    row("custom operator, unused for good", CustomOperatorUnusedForGood, X, ci=""),
    row("no custom operator", PlainFunction, X, ci=""),
    # -- Python in the middle of the graph
    row("own gradient", OwnGradient, X, PYTHON, elsewhere=TYPED, ci=""),
    row("own gradient in a part", OwnGradientInPart, X, PYTHON, elsewhere=TYPED, ci=""),
    row("straight through", StraightThrough, X, PYTHON, elsewhere=TYPED, ci="script"),
    row("straight through by detach", StraightThroughByDetach, X, ci=""),
    row("ignored helper", IgnoredHelper, X, truth(script=UNLOADABLE), ci=""),
    row("unused helper", UnusedHelper, X, ci=""),
    row("exported helper", ExportedHelper, X, ci=""),
    # torch.export does not see a ScriptModule's parameters; a trace copies the module, and the
    # legacy exporter then does not find the part among its submodules.
    row(
        "scripted part",
        ScriptedPart,
        X,
        truth(export=REFUSED, onnx=REFUSED, onnx_legacy=REFUSED),
        ci="",
        refused={
            "export onnx": UNEXPLAINED,
            "onnx_legacy": Blame(
                owner="capture", cause="unsupported construct", line="self.out(self.inner(x))"
            ),
        },
    ),
    row(
        "lambda inside",
        LambdaInside,
        X,
        truth(script=REFUSED),
        ci="",
        refused={"script": no_construct("self.act(x)")},
    ),
    # -- types that only this process has
    row(
        "span in",
        SpanIn,
        call(Span(normal(4, 3), normal(4, 3, seed=1))),
        truth(export=UNLOADABLE),
        ci="",
    ),
    row("span inside", SpanInside, X, ci=""),
    row(
        "span in a dict",
        SpanInDict,
        X,
        truth(script=REFUSED, export=UNLOADABLE),
        ci="",
        refused={"script": no_type("def forward(self, x: Tensor) -> Dict[str, Span]:")},
    ),
    row("pairs in a dict", PairsInDict, X, ci=""),
    row(
        "boxes in",
        BoxesIn,
        call(Boxes(normal(4, 3), normal(4))),
        truth(script=REFUSED, export=UNLOADABLE),
        ci="",
        refused={"script": no_type("def forward(self, boxes: Boxes) -> Tensor:")},
    ),
    row(
        "boxes out",
        BoxesOut,
        X,
        truth(REFUSED, export=UNLOADABLE, onnx=None),
        ci="onnx",
        refused={"trace script": no_type("Boxes(x * 2, x.sum(1))"), "onnx_legacy": no_type()},
    ),
    row(
        "boxes inside",
        BoxesInside,
        X,
        truth(script=REFUSED),
        ci="",
        refused={"script": no_type("boxes = Boxes(x * 2, x.sum(1))")},
    ),
    row(
        "dataclass without a name",
        AnonymousOut,
        X,
        truth(REFUSED, export=UNLOADABLE, onnx=None),
        ci="export",
        refused={"trace script": no_type("Anonymous(x * 2, x.sum(1))"), "onnx_legacy": no_type()},
    ),
    row(
        "bag out",
        BagOut,
        X,
        truth(REFUSED, export=UNLOADABLE, onnx=None),
        ci="trace",
        refused={"trace script": no_type("Bag([x * 2, x.sum(1)])"), "onnx_legacy": no_type()},
    ),
    row(
        "bag in",
        BagIn,
        call(Bag([normal(4, 3), normal(4, 3, seed=1)])),
        truth(script=REFUSED, export=UNLOADABLE),
        ci="",
        refused={"script": unannotated("bag.items[0] * 2 + bag.items[1]")},
    ),
    row("pair out", PairOut, X, ci=""),
    # TorchScript compiles the class; Python in the clean process cannot build an object of it.
    row(
        "cache out",
        CacheOut,
        X,
        truth(REFUSED, script=MOVED),
        ci="script",
        refused={"trace export onnx": no_type("x * 2, Kept(x + 1)"), "onnx_legacy": no_type()},
    ),
    row("cache inside", CacheInside, X, ci=""),
    # -- devices: the CPU is everywhere
    row("device constant", DeviceConstant, X, ci="export"),
    row("device move", DeviceMove, X),
    row("device of the input", DeviceOfInput, X, ci="onnx_legacy"),
    row("device kept", DeviceKept, X, ci=""),
    # -- weights and state: all of it is saved, also if state_dict does not have it
    row(
        "counter that is kept",
        lambda: Counter(persistent=True),
        X,
        COUNTED,
        ci="trace",
        blame=moved_on("self.count += 1"),
    ),
    row(
        "counter that is not kept",
        lambda: Counter(persistent=False),
        X,
        COUNTED,
        ci="onnx onnx_legacy",
        blame=moved_on("self.count += 1"),
    ),
    row("buffer that is kept", lambda: Scaled(torch.arange(3.0)), X, ci=""),
    row(
        "buffer that is not kept",
        lambda: Scaled(torch.arange(3.0), persistent=False),
        X,
        ci="",
    ),
    row("tied layers", TiedLayers, X, ci=""),
    row("tied embedding", TiedEmbedding, call(whole(0, 10, 2, 5)), ci=""),
    row("tied modules", TiedModules, X, ci=""),
    row("buffer of a parameter", BufferOfParameter, X),
    row("buffers in one storage", BuffersInOneStorage, X, ci=""),
    row("transposed weight", TransposedWeight, X, ci=""),
    row("expanded buffer", ExpandedBuffer, X, ci="onnx_legacy"),
    row("sliced buffer", SlicedBuffer, X),
    row("tensor attribute", TensorAttribute, X, ci="script"),
    row("tensors in a list", TensorsInList, X, ci=""),
    row("words", Words, X, ci=""),
    # The legacy exporter assumes that every entry of a state_dict is a tensor.
    row(
        "extra state",
        ExtraState,
        X,
        truth(onnx_legacy=REFUSED),
        ci="",
        refused={"onnx_legacy": Blame(owner="translation", cause="unsupported type")},
    ),
    row("extra state of a tensor", ExtraStateOfTensor, X, ci="onnx_legacy"),
    row("own state", OwnState, X),
    row("own state, forgotten", OwnStateForgotten, X, OWN, ci="script"),
    row("own state, rounded", OwnStateRounded, X, OWN),
    row("own state, refused", OwnStateRefused, X, truth(trace=UNLOADABLE, script=UNLOADABLE)),
    row("byte weights", ByteWeights, X, ci=""),
    row(
        "complex buffer",
        ComplexBuffer,
        X,
        truth(onnx_legacy=REFUSED),
        ci="",
        refused={"onnx_legacy": Blame(owner="translation", cause="unsupported type")},
    ),
    row(
        "quantized dynamically",
        quantized_dynamically,
        X,
        truth(REFUSED, trace=None, script=None),
        ci="",
        refused={
            "export onnx": Blame(owner="capture", cause="unsupported type"),
            "onnx_legacy": untranslated(),
        },
    ),
    # -- more than a megabyte: ONNX puts the weights into a second file
    row(
        "large weights",
        lambda: nn.Linear(600, 600),
        call(normal(4, 600)),
        shapes={"input": "batch 600"},
        ci="script",
    ),
    row("large weights in two", wide, X, shapes={"input": "batch 3"}, ci=""),
    # -- files beside the model: an absolute path is right on the same machine
    row(
        "reads a file",
        lambda: ReadsFile(HERE),
        X,
        READ,
        ci="export",
        refused={
            "export onnx": Blame(
                owner="capture",
                cause="unsupported operator",
                line="x * torch.from_file(self.path, shared=False, size=3, dtype=t",
            )
        },
    ),
    # The relative path is right only in directories from which it leads to the same file.
    row(
        "reads a file beside",
        lambda: ReadsFile(os.path.relpath(HERE)),
        X,
        READ | {"trace": MOVED, "script": MOVED},
        refused={
            "export onnx": Blame(
                owner="capture",
                cause="unsupported operator",
                line="x * torch.from_file(self.path, shared=False, size=3, dtype=t",
            )
        },
    ),
    row(
        "reads a file with numpy",
        ReadsWithNumpy,
        X,
        truth(script=REFUSED),
        ci="",
        refused={
            "script": no_construct("x * torch.from_numpy(np.fromfile(HERE, dtype=np.uint8, count")
        },
    ),
    row("read once", ReadOnce, X, ci=""),
    # -- classes that cannot be imported
    row(
        "of a notebook", of_a_notebook, X, truth(script=REFUSED), refused={"script": no_construct()}
    ),
    row("of a function", of_a_function, X, ci=""),
    row(
        "patched forward",
        patched,
        X,
        truth(script=REFUSED),
        ci="script",
        refused={"script": no_construct()},
    ),
)

# These crash, hang or fill memory: call their artifacts only under limits, in their own process.
DANGEROUS = (
    row("dies, scripted", DiesScripted, X, truth(script=CRASHED), ci="script"),
    row("reads beyond, scripted", ReadsBeyondScripted, X, truth(script=CRASHED), ci=""),
    row("hangs, scripted", HangsScripted, X, truth(script=HUNG), time_limit=30, ci="script"),
    row("ends, scripted", EndsScripted, X, ci=""),
    row(
        "allocates, scripted",
        AllocatesScripted,
        X,
        truth(script=CRASHED),
        memory_limit=1024,
        ci="",
    ),
    row(
        "allocates at once, scripted",
        AllocatesAtOnceScripted,
        X,
        truth(script=CRASHED),
        memory_limit=1024,
        ci="",
    ),
    row("allocates little, scripted", AllocatesLittleScripted, X, memory_limit=1024, ci=""),
    # Its output would fill a disk; the sandbox limits it.
    row("chatters, scripted", ChattersScripted, X, truth(script=CRASHED), ci=""),
    row("says much, scripted", SaysScripted, X, ci=""),
    row("says an answer, scripted", SaysAnAnswer, X, ci=""),
    # In memory all three are right: they do harm only while they are loaded.
    row(
        "keeps count, scripted",
        KeepsCountScripted,
        X,
        truth(script=STATE),
        ci="",
        blame=asks("if torch.jit.is_scripting():"),
    ),
    row(
        "keeps a number, scripted",
        KeepsANumberScripted,
        X,
        truth(script=STATE),
        ci="script",
        blame=Blame(
            owner="model",
            cause="export-only branch",
            line="if torch.jit.is_scripting():",
            known=False,
        ),
    ),
    row(
        "keeps the last, scripted",
        KeepsTheLastScripted,
        X,
        truth(script=STATE),
        ci="",
        blame=asks("if torch.jit.is_scripting():"),
    ),
    row("counts unseen, scripted", CountsUnseenScripted, X, truth(), ci=""),
    row(
        "keeps count, compiled",
        KeepsCountCompiled,
        X,
        truth(export=STATE),
        ci="export",
        blame=asks("torch.compiler.is_compiling():"),
    ),
    row("dies later, scripted", DiesLaterScripted, X, truth(script=CRASHED), ci="script"),
    row("own state, dies", OwnStateDies, X, truth(trace=CRASHED, script=CRASHED)),
    row(
        "own state, hangs",
        OwnStateHangs,
        X,
        truth(trace=HUNG, script=HUNG),
        time_limit=30,
        ci="trace script onnx_legacy",
    ),
    row("own state, says an answer", OwnStateSays, X),
    # A trace has lost the check: SIGSEGV if the lengths are not those of x. A script keeps it.
    row(
        "lengths",
        Lengths,
        call(normal(6), torch.tensor([1, 2, 3])),
        truth(REFUSED, trace=CRASHED, script=None),
        witnesses=(call(normal(6), torch.tensor([1, 2, 1 << 38])),),
        line="if int(lengths.sum()) != x.size(0):",
        shapes={"x": "6", "lengths": "3"},
        values={"lengths": (0, 1 << 38)},
        ci="trace onnx_legacy",
        refused={"onnx_legacy": untranslated()},
    ),
    # The exporter to ONNX divides in floating point.
    row(
        "dies, compiled",
        DiesCompiled,
        X,
        truth(export=CRASHED, onnx=DIFFERS),
        blame={"onnx": Blame(owner="", cause="")},
        ci="export onnx",
    ),
    row(
        "reads beyond, compiled",
        ReadsBeyondCompiled,
        X,
        truth(export=CRASHED, onnx=REFUSED),
        ci="export onnx",
        refused={
            "onnx": untranslated('x + torch.segment_reduce(x.flatten(), "sum", lengths=beyond,')
        },
    ),
    row(
        "hangs, compiled",
        HangsCompiled,
        X,
        truth(export=HUNG, onnx=HUNG),
        elsewhere={WHILE_REFUSED: {"onnx": REFUSED}},
        time_limit=30,
        ci="export onnx",
    ),
    row("ends, compiled", EndsCompiled, X, elsewhere={WHILE_REFUSED: {"onnx": REFUSED}}, ci=""),
    row(
        "allocates, compiled",
        AllocatesCompiled,
        X,
        truth(export=CRASHED, onnx=CRASHED),
        memory_limit=1024,
        ci="onnx",
    ),
)

IDS = call(torch.tensor([[0, 5, 2**25], [1, 2, 3]]))
TABLE = {"shapes": {"ids": "batch 3"}, "values": {"ids": (0, 2**25)}}

# 2.0 GB each. Without the plugin, on an idle machine: export and save take 5 to 30 s and 2.3 GB of
# memory (trace, script, onnx) or 6.5 GB (export, onnx_legacy); loading takes 5 s and 2.3 GB (.pt),
# 3 s and 6.5 GB (.pt2), 0.1 s (.onnx). Expanded, the .pt and .pt2 have a few kilobytes and load at
# once. The plugin's own copies come on top.
HUGE = (
    row("table", Table, IDS, **TABLE),
    row("table, expanded", ExpandedTable, IDS, **TABLE),
)
