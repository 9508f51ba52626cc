"""Artifacts that work in this process and fail in a clean one, and healthy ones beside them.

The clean process has torch but not the model's source, and the file was moved before. Each truth
was found by hand: saved, moved, loaded by a plain ``python -I``, called three times.
"""

from __future__ import annotations

import copy
import os
import types
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, NamedTuple, Tuple  # noqa: UP035  # TorchScript's words

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from versions import FUNCTION_TYPED, WHILE_REFUSED

from zoo.row import *

CRASHED = "ArtifactCrashed"
HUNG = "ArtifactHung"
MOVED = "RoundTripDiffers"
X = call(normal(4, 3))
LIBRARY = torch.library.Library("zoo_files", "DEF")
LIBRARY.define("double(Tensor x) -> Tensor")
LIBRARY.define("composed(Tensor x, float slope) -> Tensor")


@dataclass
class Boxes:
    corners: Tensor
    scores: Tensor


torch.export.register_dataclass(Boxes, serialized_type_name="zoo.files.Boxes")


class Bag:
    """Not a dataclass: only its registration makes this class a container."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items


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


class Outputs(OrderedDict[str, Tensor]):
    """As the outputs of transformers: a dict that is registered as a class of its own."""


pytree.register_pytree_node(
    Outputs,
    lambda outputs: (list(outputs.values()), list(outputs)),
    lambda values, names: Outputs(zip(names, values, strict=True)),
    serialized_type_name="zoo.files.Outputs",
    flatten_with_keys_fn=lambda outputs: (
        [(pytree.MappingKey(name), value) for name, value in outputs.items()],
        list(outputs),
    ),
)
# Any file will do: the first three bytes of this one.
THIS_FILE = str(Path(__file__).resolve())
# The file holds the operator's name but not its code; and ONNX has no such operator.
UNKNOWN = truth(UNLOADABLE, onnx=REFUSED, onnx_legacy=REFUSED)
# ``Clip.apply`` is Python code, which TorchScript cannot save; other exporters capture its body.
PYTHON = truth(trace=UNLOADABLE, script=UNLOADABLE)
TYPED = {FUNCTION_TYPED: {"script": REFUSED}}
UNTYPED = truth(REFUSED, export=UNLOADABLE, onnx=None)
# Only TorchScript, a trace included, uses the model's own code to save.
OWN = truth(trace=MOVED, script=MOVED)
READ = truth(export=REFUSED, onnx=REFUSED)
IDS = call(torch.tensor([[0, 5, 2**25], [1, 2, 3]]))
TABLE = {"shapes": {"ids": "batch 3"}, "values": {"ids": (0, 2**25)}}

section("files")


# -- operators that only this process has ----------------------------------------------------------


@torch.library.impl(LIBRARY, "double", "CPU")
def double(x: Tensor) -> Tensor:
    return x * 2


@torch.library.register_fake("zoo_files::double", lib=LIBRARY)
def fake_double(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.impl(LIBRARY, "composed", "CompositeImplicitAutograd")
def composed(x: Tensor, slope: float) -> Tensor:
    return torch.where(x > 0, x, x * slope)


@row(X, UNKNOWN, onnx=untranslated(HERE), onnx_legacy=untranslated())
class CustomOperator(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.zoo_files.double(x) + 1


# The exporter to ONNX decomposes the operator.
@row("custom operator, composed", X, truth(UNLOADABLE, onnx=None), onnx_legacy=untranslated())
def forward(self, x: Tensor) -> Tensor:
    """A custom operator that is registered as a composition of torch's own operators."""
    return torch.ops.zoo_files.composed(x, 0.1)


@row("custom operator, unused", X, script=UNLOADABLE)
@has(fast=False)
class CustomOperatorUnused(nn.Module):
    """Called only if a flag is set, which it is not; TorchScript keeps both sides."""

    def forward(self, x: Tensor) -> Tensor:
        if self.fast:
            return torch.ops.zoo_files.double(x)
        return x * 2


@row("custom operator, unused for good", X)
class CustomOperatorUnusedForGood(CustomOperatorUnused):
    """The flag is a constant, so TorchScript keeps one side."""

    __constants__ = ("fast",)


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


@row(X, PYTHON, elsewhere=TYPED)
class OwnGradient(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Clip.apply(x) * 2


@row("straight through", X, PYTHON, elsewhere=TYPED)
def forward(self, x: Tensor) -> Tensor:
    return Rounded.apply(x, 0.25)


@row(X, script=UNLOADABLE)
class IgnoredHelper(nn.Module):
    """TorchScript calls back into Python here, and no file has Python in it. The helpers here have
    no annotations: TorchScript cannot resolve them as strings.
    """

    def forward(self, x: Tensor) -> Tensor:
        return self.helper(x) + 1

    @torch.jit.ignore
    def helper(self, x):
        return torch.from_numpy(np.asarray([2.0], dtype=np.float32)) * x


@row(X)
@has(debug=False)
class UnusedHelper(nn.Module):
    """A helper that is not called and not saved."""

    def forward(self, x: Tensor) -> Tensor:
        if self.debug:
            return self.helper(x)
        return x * 2

    @torch.jit.unused
    def helper(self, x):
        return torch.from_numpy(np.asarray([2.0], dtype=np.float32)) * x


@row(X)
@has(body=lambda: nn.Linear(3, 3))
class ExportedHelper(nn.Module):
    """A second method, kept in the file by ``torch.jit.export``."""

    @torch.jit.export
    def encode(self, x: Tensor) -> Tensor:
        return torch.tanh(self.body(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.encode(x) * 2


# torch.export does not see a ScriptModule's parameters; a trace copies the module, and the
# legacy exporter then does not find the part among its submodules.
@row(
    "scripted part",
    X,
    export=REFUSED,
    onnx=REFUSED,
    onnx_legacy=Blame(
        owner="capture", cause="unsupported construct", line="self.out(self.inner(x))"
    ),
    refused={"export onnx": UNEXPLAINED},
)
@has(
    inner=lambda: torch.jit.script(nn.Sequential(nn.Linear(3, 3), nn.ReLU())),
    out=lambda: nn.Linear(3, 2),
)
def forward(self, x: Tensor) -> Tensor:
    return self.out(self.inner(x))


@row("lambda inside", X, script=no_construct())
@has(act=lambda: lambda x: torch.relu(x) * 2)
def forward(self, x: Tensor) -> Tensor:
    return self.act(x)


# -- types that only this process has --------------------------------------------------------------


class Span(NamedTuple):
    start: Tensor
    end: Tensor


@row("span in", call(Span(normal(4, 3), normal(4, 3, seed=1))), export=UNLOADABLE)
def forward(self, span: Span) -> Tensor:
    return span.end - span.start


@row("boxes in", call(Boxes(normal(4, 3), normal(4))), script=no_type(), export=UNLOADABLE)
def forward(self, boxes: Boxes) -> Tensor:  # here
    return boxes.corners * boxes.scores.unsqueeze(1)


@row("outputs in", call(Outputs(last=normal(4, 3), first=normal(4))), export=UNLOADABLE)
def forward(self, outputs: Dict[str, Tensor]) -> Tensor:  # noqa: UP006
    return outputs["last"] * outputs["first"].unsqueeze(1)


@row("boxes out", X, UNTYPED, refused={"trace script": no_type(), "onnx_legacy": no_type("")})
def forward(self, x):
    return Boxes(x * 2, x.sum(1))


@row("boxes inside", X, script=no_type())
def forward(self, x):
    """A dataclass that is used only inside the model."""
    boxes = Boxes(x * 2, x.sum(1))  # here
    return boxes.corners + boxes.scores.unsqueeze(1)


@row("bag out", X, UNTYPED, refused={"trace script": no_type(), "onnx_legacy": no_type("")})
def forward(self, x):
    return Bag([x * 2, x.sum(1)])


@row(
    "bag in",
    call(Bag([normal(4, 3), normal(4, 3, seed=1)])),
    script=unannotated(),
    export=UNLOADABLE,
)
def forward(self, bag):
    return bag.items[0] * 2 + bag.items[1]


# -- devices ---------------------------------------------------------------------------------------


@row("device constant", X)
def forward(self, x: Tensor) -> Tensor:
    return x + torch.arange(3, device="cpu")


@row("device move", X)
def forward(self, x: Tensor) -> Tensor:
    return (x * 2).to("cpu") + 1


# -- weights and state -----------------------------------------------------------------------------


@row("buffer that is not kept", X)
@has(scale=Buffer(torch.arange(3.0), persistent=False))
def forward(self, x: Tensor) -> Tensor:
    return x * self.scale


@row(X)
class TiedLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


@row(X)
class TiedModules(nn.Module):
    """One module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.again = self.first

    def forward(self, x: Tensor) -> Tensor:
        return self.again(torch.relu(self.first(x)))


@row("buffer of a parameter", X)
class BufferOfParameter(nn.Module):
    """A buffer that is a row of a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.register_buffer("row", self.layer.weight.detach()[1])

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * self.row


HALVES = torch.arange(6.0)


@row("buffers in one storage", X)
@has(left=lambda: Buffer(HALVES[:3]), right=lambda: Buffer(HALVES[3:]))
def forward(self, x: Tensor) -> Tensor:
    return x * self.left + self.right


@row("transposed weight", X)
@has(weight=lambda: nn.Parameter(torch.randn(4, 3).t()))
def forward(self, x: Tensor) -> Tensor:
    """A parameter whose strides are not those of its shape."""
    return x @ self.weight.t().sum(0, keepdim=True).t() + self.weight.sum()


@row("expanded buffer", X)
@has(scale=lambda: Buffer(torch.full((1, 1), 3.0).expand(4, 3)))
def forward(self, x: Tensor) -> Tensor:
    """One number, expanded to a buffer of twelve."""
    return x * self.scale.sum(0)


@row("sliced buffer", X)
@has(scale=lambda: Buffer(torch.arange(100_000.0)[::40_000]))
def forward(self, x: Tensor) -> Tensor:
    """Three numbers of a large tensor; the file needs only these."""
    return x * self.scale


@row("tensor attribute", X)
@has(scale=torch.tensor([1.0, 2.0, 3.0]))
def forward(self, x: Tensor) -> Tensor:
    """Not a buffer: a tensor in a plain attribute."""
    return x * self.scale


# The legacy exporter assumes that every entry of a state_dict is a tensor.
@row(X, onnx_legacy=UNEXPLAINED)
@has(layer=lambda: nn.Linear(3, 3))
class ExtraState(nn.Module):
    """State that state_dict has but an artifact does not need."""

    def get_extra_state(self) -> Any:
        return {"version": 2}

    def set_extra_state(self, state: Any) -> None:
        assert state == {"version": 2}

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


@row("extra state of a tensor", X)
class ExtraStateOfTensor(ExtraState):
    def get_extra_state(self) -> Any:
        return torch.tensor(2)

    def set_extra_state(self, state: Any) -> None:
        assert state == 2


@row(X)
@has(scale=lambda: torch.tensor([1.0, 2.0, 3.0]))
class OwnState(nn.Module):
    """The model itself says what TorchScript writes and reads. Copies do not use that code."""

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


@row("own state, forgotten", X, OWN)
class OwnStateForgotten(OwnState):
    """Loads with a scale of ones."""

    @torch.jit.export
    def __setstate__(self, state: Tuple[Tensor, bool]) -> None:  # noqa: UP006
        self.scale = torch.ones(3)
        self.training = state[1]


@row("own state, refused", X, trace=UNLOADABLE, script=UNLOADABLE)
class OwnStateRefused(OwnState):
    """Raises while it is loaded."""

    @torch.jit.export
    def __setstate__(self, state: Tuple[Tensor, bool]) -> None:  # noqa: UP006
        assert state[0].numel() == 4, "a file of an older version"
        self.scale = state[0]
        self.training = state[1]


@row("complex buffer", X, onnx_legacy=Blame(owner="translation", cause="unsupported type"))
@has(wave=lambda: Buffer(torch.polar(torch.ones(3), torch.arange(3.0))))
def forward(self, x: Tensor) -> Tensor:
    return torch.view_as_real(x * self.wave)


@row(
    X,
    truth(REFUSED, trace=None, script=None),
    onnx_legacy=untranslated(),
    refused={"export onnx": Blame(owner="capture", cause="unsupported type")},
)
def quantized_dynamically() -> nn.Module:
    """Return a model whose weights are packed for the processor, readable by torch's code only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a deprecation warning of torch
        return torch.ao.quantization.quantize_dynamic(
            nn.Sequential(nn.Linear(3, 4), nn.ReLU()), {nn.Linear}, dtype=torch.qint8
        )


# -- files beside the model ------------------------------------------------------------------------


# The relative path is right only in directories from which it leads to the same file.
@row(
    "reads a file beside",
    X,
    READ,
    has={"path": os.path.relpath(THIS_FILE)},
    trace=MOVED,
    script=MOVED,
    refused={"export onnx": no_operator()},
)
@row("reads a file", X, READ, refused={"export onnx": no_operator()})
@has(path=THIS_FILE)
def forward(self, x: Tensor) -> Tensor:
    """Maps a file at each call: the artifact holds the name of the file, not the file."""
    return x * torch.from_file(self.path, shared=False, size=3, dtype=torch.uint8)


@row("reads a file with numpy", X, script=no_construct())
def forward(self, x: Tensor) -> Tensor:
    """The artifact holds the numbers and does not need the file."""
    return x * torch.from_numpy(np.fromfile(THIS_FILE, dtype=np.uint8, count=3))


# -- classes that cannot be imported ---------------------------------------------------------------


@row(X, script=no_construct(""))
def of_a_notebook() -> nn.Module:
    """Return a model whose class is in a module that cannot be imported."""
    namespace: dict[str, Any] = {"__name__": "__main__", "torch": torch}
    exec(  # as the cell of a notebook is
        "class Net(torch.nn.Module):\n  def forward(self, x):\n    return torch.relu(x) + 1\n",
        namespace,
    )
    return namespace["Net"]()


@row(X)
def of_a_function() -> nn.Module:
    """Return a model whose class is local to a function."""

    class Local(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x) + 1

    return Local()


@row("patched forward", X, script=no_construct(""))
def patched() -> nn.Module:
    """Return a model whose forward was replaced on the object."""
    model = nn.Linear(3, 3)
    model.forward = types.MethodType(lambda self, x: torch.relu(x) @ self.weight, model)
    return model


class Kept:
    """A cache class without ``__eq__``, as libraries have them."""

    def __init__(self, keys: Tensor) -> None:
        self.keys = keys
        self.seen = keys.shape[0]


# TorchScript compiles the class; Python in the clean process cannot build an object of it.
@row(
    "cache out",
    X,
    truth(REFUSED, script=MOVED),
    onnx_legacy=no_type(""),
    refused={"trace export onnx": no_type()},
)
def forward(self, x: Tensor) -> Any:
    """Returns an object that no exporter supports."""
    return x * 2, Kept(x + 1)


row("large weights", normal(4, 600), shapes={"input": "batch 600"})(lambda: nn.Linear(600, 600))

section("files", "dangerous")


# -- artifacts that do harm ------------------------------------------------------------------------


@row("dies, scripted", X, script=CRASHED)
def forward(self, x: Tensor) -> Tensor:
    """The least integer divided by -1: SIGFPE (on x86)."""
    if torch.jit.is_scripting():
        none = x.size(1) - 3
        return x * ((none - 9223372036854775807 - 1) // (none - 1))
    return x * 2


@row("reads beyond, scripted", X, script=CRASHED)
def forward(self, x: Tensor) -> Tensor:
    """Passes lengths with ``unsafe=True``, so that torch does not check them: SIGSEGV."""
    if torch.jit.is_scripting():
        beyond = torch.full([1], 1 << 38, dtype=torch.int64)
        return x + torch.segment_reduce(x.flatten(), "sum", lengths=beyond, unsafe=True)
    return x * 2


@row("hangs, scripted", X, script=HUNG, time_limit=10)
def forward(self, x: Tensor) -> Tensor:
    while torch.jit.is_scripting() and bool(x.numel() > 0):
        x = x * 1.0
    return x * 2


@row("ends, scripted", X)
def forward(self, x: Tensor) -> Tensor:
    """A loop of the same kind that ends."""
    rounds = 0
    while torch.jit.is_scripting() and rounds < 1000:
        x = x * 1.0
        rounds += 1
    return x * 2


@row("allocates, scripted", X, script=CRASHED, memory_limit=1024)
def forward(self, x: Tensor) -> Tensor:
    held = x
    while torch.jit.is_scripting() and bool(x.numel() > 0):
        held = torch.cat([held, held])
    return x * 2


@row("allocates little, scripted", X, memory_limit=1024)
def forward(self, x: Tensor) -> Tensor:
    """Allocates a hundred megabytes and frees them."""
    if torch.jit.is_scripting():
        return x * 2 + torch.zeros([25, 1024, 1024]).sum()
    return x * 2


# Its output would fill a disk; the sandbox limits it.
@row("chatters, scripted", X, script=CRASHED)
def forward(self, x: Tensor) -> Tensor:
    while torch.jit.is_scripting() and bool(x.numel() > 0):
        print("a line of a log that nobody has asked for, and that no disk is large enough for")
    return x * 2


@row("says an answer, scripted", X)
def forward(self, x: Tensor) -> Tensor:
    """Prints what a protocol on stdout would read as an answer."""
    if torch.jit.is_scripting():
        print('{"status": "done", "reason": "", "output": ""}')
    return x * 2


@has(calls=lambda: Buffer(torch.zeros(())))
class Counts(nn.Module):
    """A counter that the artifact changes and eager does not."""


# In memory all three are right: they do harm only while they are loaded.
@row("keeps count, scripted", X, script=STATE, blame=asks())
class KeepsCountScripted(Counts):
    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            self.calls += 1
            return x * self.calls
        return x


@row("counts unseen, scripted", X)
class CountsUnseenScripted(Counts):
    """The same, but the counter does not affect the output."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            self.calls += 1
        return x * 2


@row("dies later, scripted", X, script=CRASHED)
class DiesLaterScripted(Counts):
    """Crashes at the second call."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            self.calls += 1
            if bool(self.calls > 1):
                beyond = torch.full([1], 1 << 38, dtype=torch.int64)
                return x + torch.segment_reduce(x.flatten(), "sum", lengths=beyond, unsafe=True)
        return x * 2


@row("keeps count, compiled", X, export=STATE, blame=asks())
class KeepsCountCompiled(Counts):
    def forward(self, x: Tensor) -> Tensor:
        if not torch.jit.is_scripting() and torch.compiler.is_compiling():
            self.calls.add_(1)
            return x * self.calls
        return x


@row("own state, dies", X, trace=CRASHED, script=CRASHED)
class OwnStateDies(OwnState):
    """Crashes while it is loaded."""

    @torch.jit.export
    def __setstate__(self, state: Tuple[Tensor, bool]) -> None:  # noqa: UP006
        less = state[0].numel() - 4
        self.scale = state[0] * ((less - 9223372036854775807) // less)
        self.training = state[1]


@row("own state, hangs", X, trace=HUNG, script=HUNG, time_limit=10)
class OwnStateHangs(OwnState):
    """Never finishes loading."""

    @torch.jit.export
    def __setstate__(self, state: Tuple[Tensor, bool]) -> None:  # noqa: UP006
        self.scale = state[0]
        self.training = state[1]
        while bool(state[0].numel() > 0):
            self.scale = self.scale * 1.0


@row("own state, says an answer", X)
class OwnStateSays(OwnState):
    """Prints an answer of success while it is loaded; it is faithful."""

    @torch.jit.export
    def __setstate__(self, state: Tuple[Tensor, bool]) -> None:  # noqa: UP006
        print('{"status": "done", "reason": "", "output": ""}')
        self.scale = state[0]
        self.training = state[1]


# A trace has lost the check: SIGSEGV if the lengths are not those of x. A script keeps it.
@row(
    "lengths",
    call(normal(6), torch.tensor([1, 2, 3])),
    call(normal(6), torch.tensor([1, 2, 1 << 38])),
    truth(REFUSED, trace=CRASHED, script=None),
    onnx_legacy=untranslated(),
    line=HERE,
    x="6",
    lengths=("3", (0, 1 << 38)),
)
def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
    """Checks lengths that torch is told not to check. A trace has lost the check."""
    if int(lengths.sum()) != x.size(0):
        return torch.zeros(lengths.size(0))
    return torch.segment_reduce(x, "sum", lengths=lengths, unsafe=True)


# The exporter to ONNX divides in floating point.
@row("dies, compiled", X, export=CRASHED, onnx=DIFFERS, blame={"onnx": Blame(owner="", cause="")})
def forward(self, x: Tensor) -> Tensor:
    """The least integer divided by -1, element by element."""
    if not torch.jit.is_scripting() and torch.compiler.is_compiling():
        none = x.to(torch.int64) * 0
        return x * torch.div(none - (2**63 - 1) - 1, none - 1, rounding_mode="trunc")
    return x * 2


@row(
    "hangs, compiled",
    X,
    export=HUNG,
    onnx=HUNG,
    elsewhere={WHILE_REFUSED: {"onnx": REFUSED}},
    time_limit=10,
)
def forward(self, x: Tensor) -> Tensor:
    if not torch.jit.is_scripting() and torch.compiler.is_compiling():
        return endless(x)
    return x * 2


@row("ends, compiled", X, elsewhere={WHILE_REFUSED: {"onnx": REFUSED}})
def forward(self, x: Tensor) -> Tensor:
    """A loop of the same kind that ends."""
    if not torch.jit.is_scripting() and torch.compiler.is_compiling():
        return soon_over(x)
    return x * 2


def endless(x: Tensor) -> Tensor:
    return torch.while_loop(lambda y: (y * y).sum() >= 0, lambda y: (y * 1.0,), (x * 2,))[0]


def soon_over(x: Tensor) -> Tensor:
    return torch.while_loop(lambda y: (y * y).sum() < 0, lambda y: (y * 1.0,), (x * 2,))[0]


section("huge")


# -- more than a protobuf, or 31 bits, can hold ----------------------------------------------------


@row(IDS, **TABLE)
class Table(nn.Module):
    """2**29 + 16 numbers, all zero but for the last row."""

    def __init__(self) -> None:
        super().__init__()
        table = torch.zeros(2**25 + 1, 16)
        table[-1] = 3
        self.register_buffer("table", table)

    def forward(self, ids: Tensor) -> Tensor:
        return nn.functional.embedding(ids, self.table) + (ids % 7).unsqueeze(-1)


@row("table, expanded", IDS, **TABLE)
class ExpandedTable(Table):
    """One number, expanded to as many: torch's files hold one number, an ONNX file all."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.full((1, 1), 3.0).expand(2**25 + 1, 16)
