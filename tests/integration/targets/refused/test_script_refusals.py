"""targets/refused/script_refusals.py: what torch.jit.script refuses, and that it takes what is advised."""

import contextlib
import copy
import functools
import importlib.util
import inspect
import logging
import math
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, List, NamedTuple, Optional, Tuple, Union  # noqa: UP035 - TorchScript's

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from pytest_torchexport.outcomes.torch_state import quiet, suppress_output
from pytest_torchexport.targets.refusal_rules import diagnosed
from pytest_torchexport.targets.refused.script_refusals import RULES
from tests.refusing import refusal, silent

GLOBAL = 3.0
SEEN = []
X = torch.rand(2, 2)


def script(subject):
    with quiet("cpu"), suppress_output():
        return torch.jit.script(subject)


@functools.cache
def refused(make):
    return refusal(lambda: script(make()))


def cause_of(make):
    found = diagnosed(refused(make).error, "script")
    assert found.owner in ("model", "capture")
    (cause,) = found.causes
    return cause


def place_of(subject, words="# here"):
    """``tests/.../test_script.py:12``: where in the source of the subject these words stand."""
    lines, first = inspect.getsourcelines(subject)
    number = next(i for i, line in enumerate(lines, first) if words in line)
    path = Path(__file__)
    short = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return f"{short}:{number}"


# -- control flow -------------------------------------------------------------------------------------


class Undefined(nn.Module):
    def forward(self, x):
        if x.sum() > 0:  # here
            y = x + 1
        return y


class Defined(nn.Module):
    def forward(self, x):
        y = x
        if x.sum() > 0:
            y = x + 1
        return y


class Unequal(nn.Module):
    def forward(self, x):
        if x.sum() > 0:  # here
            x = -x
            y = x + 1
        else:
            y = 0
        return x + y


class Equalized(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            x = -x
            y = x + 1
        else:
            y = torch.zeros(())
        return x + y


class OtherReturn(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x
        return 0  # here


class UnionReturn(nn.Module):
    def forward(self, x) -> Union[torch.Tensor, int]:  # noqa: UP007 - TorchScript's spelling
        if x.sum() > 0:
            return x
        return 0


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.ReLU(), nn.Tanh()])


class Indexed(Layers):
    def forward(self, x):
        return self.layers[int(x.sum() > 0)](x)  # here


class Enumerated(Layers):
    def forward(self, x):
        index = int(x.sum() > 0)
        for i, layer in enumerate(self.layers):
            if i == index:
                x = layer(x)
        return x


class ComprehensionIf(nn.Module):
    def forward(self, x):
        return torch.stack([row for row in x if row.sum() > 0])  # here


class Appended(nn.Module):
    def forward(self, x):
        rows = []
        for row in x:
            if row.sum() > 0:
                rows.append(row)  # noqa: PERF401 - what TorchScript takes
        return torch.stack(rows)


class Tried(nn.Module):
    def forward(self, x):
        try:  # here
            return x.view(2, -1)
        except RuntimeError:
            return x


class Asked(nn.Module):
    def forward(self, x):
        if x.numel() % 2 == 0:
            return x.view(2, -1)
        return x


class Matched(nn.Module):
    def forward(self, x):
        match x.shape[0]:  # here
            case 1:
                return x
            case _:
                return -x


class Elif(nn.Module):
    def forward(self, x):
        if x.shape[0] == 1:
            return x
        elif x.shape[0] == 2:  # noqa: RET505
            return x * 2
        return -x


class Walrus(nn.Module):
    def forward(self, x):
        if (total := x.sum()) > 0:  # here
            return x * total
        return x


class Assigned(nn.Module):
    def forward(self, x):
        total = x.sum()
        if total > 0:
            return x * total
        return x


class ForElse(nn.Module):
    def forward(self, x):
        for i in range(3):  # here
            if x.sum() > i:
                break
        else:
            x = -x
        return x


class Flag(nn.Module):
    def forward(self, x):
        found = False
        for i in range(3):
            if x.sum() > i:
                found = True
        if not found:
            x = -x
        return x


class Break(Layers):
    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
            if x.sum() > 0:
                break  # here
        return x


class Guarded(Layers):
    def forward(self, x):
        done = False
        for layer in self.layers:
            if not done:
                x = layer(x)
                done = bool(x.sum() > 0)
        return x


class Nothing(nn.Module):
    def forward(self, x):
        y = None
        if x.sum() > 0:
            y = x  # here
        return x if y is None else x + y


class Annotated(nn.Module):
    def forward(self, x):
        y: Optional[torch.Tensor] = None  # noqa: UP045 - TorchScript's spelling
        if x.sum() > 0:
            y = x
        assert y is not None
        return x + y


# -- libraries ---------------------------------------------------------------------------------------


class Numpy(nn.Module):
    def forward(self, x):
        return torch.from_numpy(x.numpy() * 2)  # here


class NumpyFunction(nn.Module):
    def forward(self, x):
        return x * np.sqrt(2.0)


class Logs(nn.Module):
    def forward(self, x):
        logging.getLogger().info("called")  # here
        return x


class LogsOutside(nn.Module):
    def forward(self, x):
        if not torch.jit.is_scripting():
            logging.getLogger().info("called")
        return x


class Copies(nn.Module):
    def forward(self, x):
        return copy.deepcopy(x)  # here


class Clones(nn.Module):
    def forward(self, x):
        return x.clone()


class NullContext(nn.Module):
    def forward(self, x):
        with contextlib.nullcontext():
            return x * 2


class Mathematics(nn.Module):
    def forward(self, x):
        return x * math.comb(4, 2)  # here


class Computed(nn.Module):
    def __init__(self):
        super().__init__()
        self.count = math.comb(4, 2)

    def forward(self, x):
        return x * self.count


class Draws(nn.Module):
    def forward(self, x):
        return x * random.random()  # here


class Vmapped(nn.Module):
    def forward(self, x):
        return torch.vmap(torch.sum)(x)  # here


class Conditional(nn.Module):
    def forward(self, x):
        return torch.cond(x.sum() > 0, lambda v: v * 2, lambda v: -v, (x,))  # here


class DrawsBetween(nn.Module):
    def forward(self, x):
        return x * random.uniform(1.0, 2.0)  # here


class DrawsByNumpy(nn.Module):
    def forward(self, x):
        return x * float(np.random.rand())  # noqa: NPY002  # here


class Lists(nn.Module):
    def forward(self, x):
        return x * sum(x[0].tolist())  # here


class ListsWithType(nn.Module):
    def forward(self, x):
        values: list[float] = x[0].tolist()
        return x * sum(values)


class Registers(nn.Module):
    def forward(self, x):
        self.register_buffer("kept", x)  # here
        return x


# -- types -------------------------------------------------------------------------------------------


class PlainList(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.ReLU()]

    def forward(self, x):
        return self.layers[0](x)  # here


class ModuleListed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.ReLU()])

    def forward(self, x):
        return self.layers[0](x)


class Partial(nn.Module):
    def __init__(self):
        super().__init__()
        self.act = functools.partial(F.gelu, approximate="tanh")

    def forward(self, x):
        return self.act(x)  # here


class WrittenOut(nn.Module):
    def act(self, x):
        return F.gelu(x, approximate="tanh")

    def forward(self, x):
        return self.act(x)


class Functions(nn.Module):
    def __init__(self):
        super().__init__()
        self.acts = {"relu": F.relu}

    def forward(self, x):
        return self.acts["relu"](x)  # here


class Config:
    def __init__(self, **values):
        self.scale = values.get("scale", 2.0)


class Scales:
    first = 2.0


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scales = Scales()

    def forward(self, x):
        return x * self.scales.first  # here


class Configured(nn.Module):
    def __init__(self):
        super().__init__()
        self.config = Config()

    def forward(self, x):
        return x * self.config.scale  # here


class OwnAttribute(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = Config().scale

    def forward(self, x):
        return x * self.scale


class LambdaAttribute(nn.Module):
    def __init__(self):
        super().__init__()
        self.act = lambda y: y + 1

    def forward(self, x):
        return self.act(x)  # here


class OfTheClass(nn.Module):
    scale = 2.0

    def forward(self, x):
        return x * self.scale  # here


class Constant(nn.Module):
    scale: Final = 2.0

    def forward(self, x):
        return x * self.scale


class SetLate(nn.Module):
    def forward(self, x):
        self.cache = x  # here
        return x


class SetEarly(nn.Module):
    cache: Tensor | None

    def __init__(self):
        super().__init__()
        self.cache = None

    def forward(self, x):
        self.cache = x
        return x


class AnnotatedByString(nn.Module):
    cache: "Tensor | None"

    def __init__(self):
        super().__init__()
        self.cache = None

    def forward(self, x):
        return x


class MayBeNone(nn.Module):
    def forward(self, x, mask: Tensor | None = None):
        if mask is None:
            print("none")
        return x + mask  # here


class IsNotNone(nn.Module):
    def forward(self, x, mask: Tensor | None = None):
        if mask is not None:
            return x + mask
        return x


class Sums(Layers):
    def forward(self, x):
        return sum([layer(x) for layer in self.layers])  # here


class Stacks(Layers):
    def forward(self, x):
        return torch.stack([layer(x) for layer in self.layers]).sum(0)


class Repeats(nn.Module):
    def forward(self, x, n=2):
        for _ in range(n):  # here
            x = x * 2
        return x


class RepeatsInt(nn.Module):
    def forward(self, x, n: int = 2):
        for _ in range(n):
            x = x * 2
        return x


class ByName(nn.Module):
    def forward(self, batch):
        return batch["x"]  # here


class HasNoSuchMethod(nn.Module):
    def forward(self, xs):
        xs.append(xs[0])  # here
        return xs


class Inherits(Layers):
    def forward(self, x):
        return super().forward(x)  # here


class StartsEmpty(nn.Module):
    def __init__(self):
        super().__init__()
        self.history = []

    def forward(self, x):
        self.history.append(1.0)  # here
        return x


class StartsEmptyWithType(nn.Module):
    history: list[float]

    def __init__(self):
        super().__init__()
        self.history = []

    def forward(self, x):
        self.history.append(1.0)
        return x


class StartsAsNone(nn.Module):
    def __init__(self):
        super().__init__()
        self.mask = None

    def forward(self, x):
        if self.mask is None or self.mask.shape[-1] < 2:  # here
            return x
        return x * 2


class AppendsToGlobal(nn.Module):
    def forward(self, x):
        SEEN.append(0)  # here
        return x


class OtherElements(nn.Module):
    def forward(self, x):
        out = []
        out.append((x, 1))  # here
        return out


class AnnotatedElements(nn.Module):
    def forward(self, x):
        out: List[Tuple[Tensor, int]] = []  # noqa: UP006 - TorchScript's spelling
        out.append((x, 1))
        return out[0][0]


class AsksForDict(nn.Module):
    def forward(self, x):
        if isinstance(x, dict):  # here
            return x["a"]
        return x


class UnknownType(nn.Module):
    def forward(self, x: np.ndarray):  # here
        return x


class AnyLength(nn.Module):
    def forward(self, x) -> tuple[Tensor, ...]:  # here
        return (x, x)


@dataclass
class Output:
    value: Tensor


class ReturnsDataclass(nn.Module):
    def forward(self, x):
        return Output(x)  # here


class NamedOutput(NamedTuple):
    value: Tensor


class ReturnsNamedTuple(nn.Module):
    def forward(self, x):
        return NamedOutput(x)


class ReadsGlobal(nn.Module):
    def forward(self, x):
        return x * GLOBAL  # here


class ReadsAttribute(nn.Module):
    def __init__(self):
        super().__init__()
        self.value = GLOBAL

    def forward(self, x):
        return x * self.value


class WronglyAnnotated(nn.Module):
    def forward(self, x) -> Tensor:
        return (x, x)  # here


# -- constructs --------------------------------------------------------------------------------------


class Variadic(nn.Module):
    def forward(self, *xs):  # here
        return xs[0]


class KeywordOnly(nn.Module):
    def forward(self, x, *, n: int = 2):  # here
        return x * n


class Unpacks(nn.Module):
    def forward(self, x):
        sizes = [4, 1]
        return x.reshape(*sizes)  # here


class PassesList(nn.Module):
    def forward(self, x):
        sizes = [4, 1]
        return x.reshape(sizes)


class UnpacksKeywords(nn.Module):
    def forward(self, x):
        options = {"dim": 0}
        return x.sum(**options)  # here


class HasLambda(nn.Module):
    def forward(self, x):
        double = lambda y: y * 2  # noqa: E731  # here
        return double(x)


class HasMethod(nn.Module):
    def double(self, y):
        return y * 2

    def forward(self, x):
        return self.double(x)


class HasFunction(nn.Module):
    def forward(self, x):
        def double(y):  # here
            return y * 2

        return double(x)


class Imports(nn.Module):
    def forward(self, x):
        import math  # here

        return x * math.pi


class ImportsAtTop(nn.Module):
    def forward(self, x):
        return x * math.pi


class Yields(nn.Module):
    def forward(self, x):
        yield x  # here


class HasSet(nn.Module):
    def forward(self, x):
        return x * len({1, 2})  # here


class WritesGlobal(nn.Module):
    def forward(self, x):
        global GLOBAL  # noqa: PLW0603  # here
        GLOBAL = 4
        return x


class Formats(nn.Module):
    def forward(self, x):
        return {f"block{x.size(0):02d}": x}  # here


class FormatsPlainly(nn.Module):
    def forward(self, x):
        return {f"block{x.size(0)}": x}


class ComparesType(nn.Module):
    def forward(self, x):
        if type(x) == Tensor:  # noqa: E721  # here
            return x
        return x * 2


class IsTensor(nn.Module):
    def forward(self, x):
        return x if torch.is_tensor(x) else x * 2  # here


class IsInstance(nn.Module):
    def forward(self, x):
        return x if isinstance(x, Tensor) else x * 2


class Limits(nn.Module):
    def forward(self, x):
        return x.clamp(min=torch.finfo(x.dtype).tiny)  # here


class GradMode(nn.Module):
    def forward(self, x):
        with torch.set_grad_enabled(False):  # here
            return x * 2


class NoGrad(nn.Module):
    def forward(self, x):
        with torch.no_grad():
            return x * 2


class Multiplies(nn.Module):
    def forward(self, x):
        x @= x  # here
        return x


class MultipliesPlainly(nn.Module):
    def forward(self, x):
        return x @ x


class Hooked(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.ReLU()
        self.layer.register_forward_hook(lambda module, given, output: output)  # noqa: ARG005 - a hook's

    def forward(self, x):
        return self.layer(x)


class Part(Layers):
    def forward(self, x):
        for layer in self.layers[1:]:
            x = layer(x)  # here
        return x


class PartMadeBefore(nn.Module):
    def __init__(self):
        super().__init__()
        self.rest = nn.ModuleList([nn.ReLU(), nn.Tanh()])[1:]

    def forward(self, x):
        for layer in self.rest:
            x = layer(x)
        return x


class ByKey(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleDict({"a": nn.ReLU()})
        self.key = "a"

    def forward(self, x):
        return self.layers[self.key](x)  # here


class KeysCompared(ByKey):
    def forward(self, x):
        for key, layer in self.layers.items():
            if key == self.key:
                x = layer(x)
        return x


class Zipped(Layers):
    def forward(self, x):
        for layer, row in zip(self.layers, x):  # noqa: B905  # here
            x = layer(row)
        return x


class Deletes(nn.Module):
    def forward(self, x):
        y = x
        del y
        y = x
        return sorted([1, 2], reverse=bool(y.sum() > 0))  # here


def uncompiled(x):
    return x if ... else -x


class CallsUncompiled(nn.Module):
    def __init__(self):
        super().__init__()
        self.act = uncompiled

    def forward(self, x):
        return self.act(x)


class WithoutAnnotation(nn.Module):
    def joined(self, xs):
        return torch.cat(xs)  # here

    def forward(self, x):
        return self.joined([x])


class WithAnnotation(nn.Module):
    def joined(self, xs: List[Tensor]):  # noqa: UP006 - TorchScript's
        return torch.cat(xs)

    def forward(self, x):
        return self.joined([x])


class NumberWithoutAnnotation(nn.Module):
    def parts(self, x, n):
        return x.view(n, -1)

    def forward(self, x):
        return self.parts(x, 2)  # here


class NumberWithAnnotation(nn.Module):
    def parts(self, x, n: int):
        return x.view(n, -1)

    def forward(self, x):
        return self.parts(x, 2)


class GivesFloat(nn.Module):
    def times(self, x: Tensor, n: int):
        return x * n

    def forward(self, x):
        return self.times(x, 3.0)  # here


class GivesInt(GivesFloat):
    def forward(self, x):
        return self.times(x, int(3.0))


class SumsByName(nn.Module):
    def forward(self, x):
        return x.sum(dim="rows")  # here


class Hooks(nn.Module):
    def forward(self, x):
        x.register_hook(print)  # here
        return x


class Bits(nn.Module):
    def forward(self, x):
        return x * x.shape[0].bit_length()  # here


class Unknown(nn.Module):
    def forward(self, x):
        return x * not_there(x)  # noqa: F821  # here


class DefinesClass(nn.Module):
    def forward(self, x):
        class Inner:  # here
            pass

        return x


class Quoted(NamedTuple):
    value: "NotImported"  # noqa: F821


class ReturnsQuoted(nn.Module):
    def forward(self, x):
        return Quoted(x)  # here


class LeavesOutField(nn.Module):
    def forward(self, x):
        return PackedSequence(x, torch.ones(2), None)  # here


class GivesFields(nn.Module):
    def forward(self, x):
        return PackedSequence(x, torch.ones(2), None, None).data


def in_no_file():
    names = {"nn": nn}
    exec("class Net(nn.Module):\n    def forward(self, x):\n        return x\n", names)
    return names["Net"]()


def in_einops():
    directory = tempfile.TemporaryDirectory()
    path = Path(directory.name, "einops", "einops.py")
    path.parent.mkdir()
    path.write_text("def rearrange(x):\n    try:\n        return x\n    finally:\n        pass\n")
    spec = importlib.util.spec_from_file_location("einops_of_a_test", path)
    library = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(library)

    class Rearranges(nn.Module):
        def __init__(self):
            super().__init__()
            self.kept = directory

        def forward(self, x):
            return library.rearrange(x)

    return Rearranges()


# The module, what TorchScript takes in its place (None: shown by another row, or not to be had), and
# words of the cause.
ROWS = [
    (Undefined, Defined, "y has no value in the false branch"),
    (Unequal, Equalized, "y is Tensor in the true branch and int in the false one"),
    (OtherReturn, UnionReturn, "one return gives Tensor"),
    (Indexed, Enumerated, "`self.layers[int(x.sum() > 0)]` takes a module by a variable index"),
    (ComprehensionIf, Appended, "no comprehension with an if"),
    (Tried, Asked, "no try"),
    (Matched, Elif, "no match"),
    (Walrus, Assigned, "no :="),
    (ForElse, Flag, "no else of a for loop"),
    (Break, Guarded, "no break or continue"),
    (Nothing, Annotated, "y starts as None"),
    (WronglyAnnotated, None, "is annotated to return Tensor, and returns Tuple[Tensor, Tensor]"),
    (Part, PartMadeBefore, "`layer` is a module out of a part of a ModuleList"),
    (ByKey, KeysCompared, "`self.layers[self.key]` takes a module by a variable key"),
    (Zipped, None, "`zip(self.layers, x)` loops over modules together with"),
    (Numpy, None, "no NumPy"),
    (NumpyFunction, None, "no NumPy"),
    (Logs, LogsOutside, "cannot compile logging"),
    (Copies, Clones, "cannot compile the module copy"),
    (NullContext, None, "cannot compile the class nullcontext"),
    (Mathematics, Computed, "no `math.comb`"),
    (Draws, None, "no random.random"),
    (Conditional, None, "no torch.cond"),
    (DrawsBetween, None, "no random.uniform"),
    (DrawsByNumpy, None, "no np.random.rand"),
    (Lists, ListsWithType, "how many levels of lists `x[0].tolist` has"),
    (Registers, None, "forward calls self.register_buffer"),
    (StartsEmpty, StartsEmptyWithType, "self.history is an empty list"),
    (StartsAsNone, None, "what .shape is asked of is None"),
    (AppendsToGlobal, None, "is a global list"),
    (Vmapped, None, "the function in torch/_functorch/apis.py"),
    (PlainList, ModuleListed, "self.layers is a plain list of modules"),
    (Partial, WrittenOut, "self.act is a functools.partial"),
    (Functions, None, "self.acts is a dict that holds a function"),
    (Configured, OwnAttribute, "Config, which TorchScript has no type for"),
    (Scaled, None, "sees only what __init__ of Scales sets, and not first"),
    (LambdaAttribute, None, "self.act is a lambda"),
    (
        OfTheClass,
        Constant,
        "sees only what __init__ sets on the instance of OfTheClass, and not scale",
    ),
    (SetLate, SetEarly, "forward sets self.cache"),
    (AnnotatedByString, SetEarly, "cannot read the annotation 'Tensor | None'"),
    (MayBeNone, IsNotNone, "an operand of `x + mask` may be None"),
    (Sums, Stacks, "no sum() of a list of tensors"),
    (Repeats, RepeatsInt, "an argument without annotation is a Tensor"),
    (ByName, None, 'takes what `batch["x"]` indexes for a Tensor'),
    (HasNoSuchMethod, None, "a Tensor has no .append"),
    (Inherits, None, "no super()"),
    (OtherElements, AnnotatedElements, "the list holds Tensor"),
    (AsksForDict, None, "does not know the type dict"),
    (UnknownType, None, "no type np.ndarray"),
    (AnyLength, None, "no tuple of any length"),
    (ReturnsDataclass, ReturnsNamedTuple, "Output has an __init__ without source"),
    (ReadsGlobal, ReadsAttribute, "`GLOBAL` is a global float"),
    (Variadic, None, "no *args"),
    (KeywordOnly, None, "no keyword-only argument"),
    (Unpacks, PassesList, "`*sizes` is a list of unknown length"),
    (UnpacksKeywords, None, "does not unpack **"),
    (HasLambda, HasMethod, "no lambda"),
    (HasFunction, None, "no functions inside functions"),
    (Imports, ImportsAtTop, "no import inside a function"),
    (Yields, None, "no generators"),
    (HasSet, None, "no sets"),
    (WritesGlobal, None, "writes no globals"),
    (Formats, FormatsPlainly, "f-strings only without a format"),
    (ComparesType, None, "can call `Tensor`, but not pass or compare it"),
    (IsTensor, IsInstance, "no torch.is_tensor"),
    (Limits, None, "no torch.finfo"),
    (GradMode, NoGrad, "no `with torch.set_grad_enabled(False)`"),
    (Multiplies, MultipliesPlainly, "no @="),
    (Hooked, None, "is a lambda"),
    (CallsUncompiled, None, "self.act is a function that TorchScript cannot compile"),
    (
        WithoutAnnotation,
        WithAnnotation,
        "`torch.cat` gets for 'tensors' an argument without annotation",
    ),
    (
        NumberWithoutAnnotation,
        NumberWithAnnotation,
        "the argument n of `self.parts` has no annotation, so that TorchScript takes it for a Tensor",
    ),
    (GivesFloat, GivesInt, "`self.times` calls takes int for 'n', and gets float"),
    (SumsByName, None, "for 'dim', and gets str"),
    (Hooks, None, "no Tensor.register_hook"),
    (Bits, None, "int has no .bit_length"),
    (Unknown, None, "does not know not_there"),
    (DefinesClass, None, "class definitions"),
    (ReturnsQuoted, None, "the annotations of the NamedTuple Quoted"),
    (LeavesOutField, GivesFields, "PackedSequence gets no unsorted_indices"),
    (in_no_file, None, "in no file"),
    (in_einops, None, "the function of einops"),
]


@pytest.mark.parametrize(("bad", "good", "words"), ROWS, ids=[row[0].__name__ for row in ROWS])
def test_a_refusal_has_a_cause_and_a_remedy_that_torchscript_takes(bad, good, words):
    cause = cause_of(bad)
    assert words in cause.text
    assert cause.remedy
    if "# here" in inspect.getsource(bad):
        assert cause.where.place == place_of(bad)
    if good is not None:
        torch.testing.assert_close(script(good())(X.clone()), good()(X.clone()))


def test_every_rule_is_shown():
    assert silent(RULES, (refused(row[0]) for row in ROWS)) == []
