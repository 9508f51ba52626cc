"""The source that exports a module with torch's own functions, as the targets do.

Separate from the targets: this is text for a person, who has torch and not this package.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pytest_torchexport import targets
from pytest_torchexport.diagnosis.reproducer.values import (
    Arrays,
    Expressions,
    Inexpressible,
    literal,
    quoted,
    tuple_of,
)
from pytest_torchexport.inputs.dynamic_shapes import without_names
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.grad_mode import GradMode
from pytest_torchexport.outcomes.subject import signature_of

WRAPPED = '''

class Wrapped(torch.nn.Module):
    """{what} as a module: the exporter takes nothing else."""

    def __init__(self):
        super().__init__()
        self.training = False{owner}

    def forward(self, {parameters}):
        return {call}
'''

FLAT = '''

class Flat(torch.nn.Module):
    """The model as a function of tensors alone: the exporter takes nothing else."""

    def __init__(self, owner):
        super().__init__()
        self.owner = owner
        self.training = getattr(owner, "training", False)

    def forward(self, *tensors):
        args, kwargs = {call}
        return self.owner(*args, **kwargs)
'''


@dataclass(frozen=True, kw_only=True)
class Exported:
    """All that the text of an export depends on.

    ``function`` is the subject, ``source`` its expression, and ``owner`` that of the module whose
    method it is; empty if it is none. ``example`` is the call to export at. ``shapes`` are torch's
    dynamic_shapes; ``axes`` those that vary, by tensor of the example.
    """

    function: Callable[..., Any]
    source: str
    owner: str
    example: Call
    shapes: Any
    axes: Sequence[Mapping[int, str]]
    options: Mapping[str, Any]
    mode: GradMode

    @property
    def is_module(self) -> bool:
        """True if the subject itself is a module."""
        return isinstance(self.function, torch.nn.Module)


@dataclass(frozen=True)
class Text:
    """Source: functions and classes, and the lines that make ``artifact``."""

    definitions: str
    make: str


def text_of_export(target: str, exported: Exported) -> Text:
    """Return the source of an export. Raises Inexpressible for a target that has none."""
    if target not in _EXPORTS:
        raise Inexpressible(f"the target {target} has no source in torch's own functions")
    return _EXPORTS[target](exported)


def _trace(exported: Exported) -> Text:
    names = tuple(exported.example.kwargs)
    plain = all(
        isinstance(item, torch.Tensor)
        for item in (*exported.example.args, *exported.example.kwargs.values())
    )
    options = _options({"check_trace": False, "strict": False, **exported.options})
    if plain and not names and exported.example.args:
        start, net = _wrapped(exported) if exported.owner else ("", exported.source)
        return Text(start, _made(exported, f"torch.jit.trace({net}, args{options})"))
    start, net = _flat(exported)
    return Text(start, _made(exported, f"torch.jit.trace({net}, tensors{options})", flat=True))


def _script(exported: Exported) -> Text:
    if exported.owner:
        raise Inexpressible("torch.jit.script takes no bound method")
    return Text("", f"artifact = torch.jit.script({exported.source}{_options(exported.options)})\n")


def _export(exported: Exported) -> Text:
    start, net = _as_module(exported)
    dims, shapes = _shapes(without_names(exported.shapes))
    options = {name: item for name, item in exported.options.items() if name != "extra_files"}
    call = f"torch.export.export(\n    {net}, args, kwargs{shapes}{_options(options)}\n).module()"
    return Text(start, dims + _made(exported, call))


def _onnx(exported: Exported) -> Text:
    start, net = _as_module(exported)
    dims, shapes = _shapes(exported.shapes)
    options = {name: item for name, item in exported.options.items() if name != "external_data"}
    call = (
        f"torch.onnx.export(\n    {net}, args, kwargs=kwargs{shapes}, dynamo=True, verbose=False"
        f"{_options(options)}\n)"
    )
    make = _made(exported, call).replace("artifact = ", "program = ")
    path = 'path = Path(tempfile.mkdtemp(), "model.onnx")\n'
    save = f"{path}program.save(path)\n"
    return Text(start, f"{dims}{make}{save}{_session('onnx')}")


def _onnx_legacy(exported: Exported) -> Text:
    plain = exported.is_module and not exported.example.kwargs
    direct = plain and all(isinstance(item, torch.Tensor) for item in exported.example.args)
    start, net = ("", exported.source) if direct else _flat(exported)
    number = len(exported.example.tensors())
    names = [f"input_{index}" for index in range(number)]
    axes = {name: dict(each) for name, each in zip(names, exported.axes, strict=True) if each}
    call = (
        f"torch.onnx.export(\n    {net}, {'args' if direct else 'tensors'}, str(path), "
        f"dynamo=False, input_names={names!r},\n    dynamic_axes={axes!r}"
        f"{_options(exported.options)}\n)"
    )
    make = _made(exported, call, flat=not direct).replace("artifact = ", "")
    path = 'path = Path(tempfile.mkdtemp(), "model.onnx")\n'
    attention = "torch.backends.mha.set_fastpath_enabled(False)\n"
    return Text(start, f"{path}{attention}{make}{_session('onnx_legacy')}")


_EXPORTS: Mapping[str, Callable[[Exported], Text]] = {
    "trace": _trace,
    "script": _script,
    "export": _export,
    "onnx": _onnx,
    "onnx_legacy": _onnx_legacy,
}


def _session(target: str) -> str:
    """Return the source that loads the file, without its imports: they stand above."""
    source = targets.get(target).traits.script
    return re.sub(r"^import .*\n", "", source, flags=re.MULTILINE).lstrip("\n")


def _made(exported: Exported, call: str, *, flat: bool = False) -> str:
    """Return the lines that export at the example, in the grad mode of the test's call."""
    from pytest_torchexport.diagnosis.reproducer.script_text import MODES

    indented = call.replace("\n", "\n    ")
    tensors = "tensors = tuple(x for x in leaves((args, kwargs)).values() if torch.is_tensor(x))\n"
    return (
        f"args, kwargs = example()\n{tensors if flat else ''}"
        f"with {MODES[exported.mode]}:\n    artifact = {indented}\n"
    )


def _as_module(exported: Exported) -> tuple[str, str]:
    return ("", exported.source) if exported.is_module else _wrapped(exported)


def _wrapped(exported: Exported) -> tuple[str, str]:
    """Return the source of a module around a function or a method, and its expression."""
    signature = signature_of(exported.function)
    if signature is None:
        raise Inexpressible(f"{exported.source} has no signature")
    kinds = inspect.Parameter
    parameters: list[str] = []
    given: list[str] = []
    stars_of: dict[Any, str] = {kinds.VAR_POSITIONAL: "*", kinds.VAR_KEYWORD: "**"}
    for name, item in signature.parameters.items():
        stars = stars_of.get(item.kind, "")
        default = "" if item.default is kinds.empty else f"={literal(item.default, name)}"
        if item.kind is kinds.KEYWORD_ONLY and not any(one.startswith("*") for one in parameters):
            parameters.append("*")
        parameters.append(f"{stars}{name}{default}")
        only = item.kind is kinds.KEYWORD_ONLY
        given.append(f"{name}={name}" if only else f"{stars}{name}")
    source = exported.source
    owner = ""
    if exported.owner:
        owner = f"\n        self.owner = {exported.owner}"
        source = f"self.owner{source.removeprefix(exported.owner)}"
    text = WRAPPED.format(
        what=exported.source,
        owner=owner,
        parameters=", ".join(parameters),
        call=f"{source}({', '.join(given)})",
    )
    return text, "Wrapped()"


class _Placed(Expressions):
    """Writes ``tensors[0]``, ``tensors[1]`` and so on for the tensors of a call, in order."""

    def __init__(self) -> None:
        super().__init__(Arrays("none"))
        self._number = -1

    def tensor(self, tensor: torch.Tensor, path: str) -> str:
        self._number += 1
        return f"tensors[{self._number}]"


def _flat(exported: Exported) -> tuple[str, str]:
    """Return the source of a module that takes the call's tensors alone, and its expression."""
    start, net = _as_module(exported)
    return f"{start}{FLAT.format(call=_Placed().call(exported.example))}", f"Flat({net})"


def _options(options: Mapping[str, Any]) -> str:
    known = {name: literal(item, name) for name, item in options.items() if name[0] != "_"}
    return "".join(f", {name}={source}" for name, source in known.items())


def _shapes(shapes: Any) -> tuple[str, str]:
    """Return the lines that name dims, and the argument dynamic_shapes; empty without one."""
    if shapes is None:
        return "", ""
    dims: dict[str, str] = {}
    source = _shape(shapes, dims)
    return "".join(dims.values()), f",\n    dynamic_shapes={source}"


def _shape(given: Any, dims: dict[str, str]) -> str:
    if isinstance(given, Mapping):
        items = (f"{literal(key, 'a key')}: {_shape(item, dims)}" for key, item in given.items())
        return f"{{{', '.join(items)}}}"
    if isinstance(given, (list, tuple)):
        inside = [_shape(item, dims) for item in given]
        return f"[{', '.join(inside)}]" if isinstance(given, list) else tuple_of(inside)
    for kind in ("DYNAMIC", "AUTO", "STATIC"):
        if given is getattr(torch.export.Dim, kind):
            return f"torch.export.Dim.{kind}"
    name = getattr(given, "__name__", None)
    if name is None:
        return literal(given, "dynamic_shapes")
    root = getattr(given, "root", given)
    if not root.__name__.isidentifier():
        raise Inexpressible(f"the dim {name} has no source")
    limits = {"min": root.min, "max": root.max}
    most = {"min": 0, "max": 2**31}
    own = "".join(
        f", {key}={int(value)}"
        for key, value in limits.items()
        if key != "min" or value > most[key]
        if key != "max" or value < most[key]
    )
    dims[root.__name__] = f"{root.__name__} = torch.export.Dim({quoted(root.__name__)}{own})\n"
    return str(name)
