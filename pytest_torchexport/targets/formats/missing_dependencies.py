"""Find what a saved file needs and the process that loads it lacks, and what to do about it.

torch and ONNX Runtime name the missing operator, class or file in their messages, which are read
here. Which module registers it, only the process that exported knows: its registries are asked.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pytest_torchexport.results.source_line import short_path
from pytest_torchexport.torch_private.dispatcher import (
    overloads_of,
    python_definition,
    registered_at,
)
from pytest_torchexport.torch_private.names_in_files import class_of_files

SETTING = "torchexport_runtime_imports"


@dataclass(frozen=True)
class Needs:
    """A dependency that is missing.

    ``kind`` is a key of ``REMEDIES``; ``name`` is in the form of reports (``mylib::double``,
    ``mylib.Output``, ``model.onnx.data``), empty if the message has none.
    """

    kind: str
    name: str = ""


@dataclass(frozen=True)
class Origin:
    """The place that registered something, ``myops.py:12``, and the modules to import if known."""

    place: str
    modules: tuple[str, ...] = ()


@dataclass(frozen=True)
class Remedy:
    """Lines for the report: what brings in what is missing, if known, and the next step.

    ``imports``: the modules that bring it in if they are imported before the file is loaded.
    """

    lines: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()


# Patterns in messages of torch 2.13 and ONNX Runtime 1.22 and later, with what they miss. The first
# that is found counts.
WORDS = (
    ("operator", r"We failed to resolve torch\.ops\.(\w+\.[\w.]+) to an operator"),
    ("operator", r"Unknown builtin op: (\w+::\w+(?:\.\w+)*)"),
    ("class", r"Deserializing (.+?) in pytree (?:failed because .+? )?is not registered"),
    ("class", r"Can't deserialize TreeSpec of namedtuple class ([\w.]+)"),
    ("library", r"Unknown type name '__torch__\.torch\.classes\.([\w.]+)'"),
    ("pickle", r"Unsupported global: GLOBAL (\S+) was not an allowed global"),
    ("module", r"ModuleNotFoundError: No module named '([\w.]+)'"),
    (
        "function",
        r"Could not export Python function call '([^']+)'[\s\S]*(?:\b\1\.apply|/function\.py)\(",
    ),
    ("ignored", r"Could not export Python function call '([^']+)'"),
    ("namedtuple", r"Can't serialize TreeSpec of namedtuple class <class '([^']+)'>"),
    ("size function", r"op <built-in function (\w+)> is not in _SYM_OPS"),
    ("unnamed", r"No registered serialization name for <class '([^']+)'> found"),
    ("data", r'External data path does not exist: "(?:[^"\n]*[/\\])?([^"/\\\n]+)"'),
    (
        "data",
        r"cannot get file size: No such file or directory \[(?:[^\]\n]*[/\\])?([^/\\\]\n]+)\]",
    ),
    (
        "short data",
        r"External initializer: (\S+) offset: .* are out of bounds or can not be read in full",
    ),
    ("custom op", r"Fatal error: (\w[\w.]*:\w+)\(-?\d+\) is not a registered function/op"),
    ("opset", r"No Op registered for (\w+) with domain_version"),
    ("ort kernel", r"Could not find an implementation for (\w+\(\d+\)) node"),
    ("ort version", r"Unsupported model IR version: (\d+)"),
    ("ort version", r"Opset (\d+) is under development"),
    ("version", r"Attempted to read a PyTorch file with version (\d+)"),
    (
        "version",
        r"schema version SchemaVersion\(major=(\d+).*?does not match our current schema version",
    ),
    ("version", r"Saved archive version (\d+) does not match"),
    ("kernel", r"Could not run '([\w:.]+)' with arguments from the '\w+' backend"),
    ("device", r"Attempting to deserialize object on a (\w+) device but"),
    ("program", r"failed locating file (constants\.pkl|archive_format): file not found"),
    ("record", r"failed locating file (\S+): file not found"),
    ("file", r"failed finding central directory|reading zip archive: not a ZIP archive"),
    ("file", r"invalid header or archive is corrupted|File is not a zip file"),
    ("file", r"Load model from .* failed:(?:Protobuf parsing failed|No graph was found)"),
    ("file", r"Load model from .* failed:.*ModelProto does not have a graph"),
)
# For a call or a returned value that holds a class of the user's without a name in files.
OWN_CLASS = (
    "remedy: register it as a pytree that has a name in files (torch.export.register_dataclass, "
    "serialized_type_name=...) in a module that serving imports, and name that in "
    f"{SETTING}; else take and return plain tuples, lists and dicts"
)
# What to do instead of a class of the user's.
PLAIN = "take and return plain tuples, lists and dicts of tensors"
# Operators that come with torch itself: one that is unknown belongs to another version of torch.
TORCHS = frozenset({"aten", "prim", "prims"})


def needs(type: str, text: str) -> Needs | None:  # noqa: A002  # as an exception's type is called in outcomes
    """Return what an exception says is missing, None if it says nothing of the kind.

    It was raised in the process that saved, loaded or ran a file. ``torch.export.load`` writes its
    reason to the log: add that to the text.
    """
    said = f"{type}: {text}"
    for kind, words in WORDS:
        match = re.search(words, said)
        if match is not None:
            name = match[1] if match.re.groups else ""
            return Needs(kind, _qualified(name) if kind == "operator" else name)
    return None


def remedy(missing: Needs) -> Remedy:
    """Return what to do about a dependency that is missing."""
    return REMEDIES[missing.kind](missing.name)


def remedy_of(type: str, text: str) -> Remedy:  # noqa: A002  # as in needs
    """Return what to do about an exception: no lines if it misses nothing that is known."""
    missing = needs(type, text)
    return remedy(missing) if missing is not None else Remedy()


def _qualified(name: str) -> str:
    """Return ``mylib::double``, for ``mylib.double.default`` too."""
    namespace, _, operator = name.replace("::", ".").partition(".")
    return f"{namespace}::{operator.removesuffix('.default')}"


# -- operators -------------------------------------------------------------------------------------


def _operator(name: str) -> Remedy:
    origin = operator_origin(name)
    namespace = name.partition("::")[0]
    if origin is None and namespace in TORCHS:
        return Remedy(
            (
                f"{name} is torch's own, of another version than this",
                "remedy: write the file with the torch that serves it",
            )
        )
    brought = (
        f"{name} is registered at {origin.place}"
        if origin is not None
        else f"{name} is registered by no module of this process either"
    )
    return _import(brought, origin, "write it with torch's own operations")


def operator_origin(name: str) -> Origin | None:
    """Return where an operator (``mylib::double``, any overload) was registered in this process."""
    for overload in _overloads(name):
        definition = python_definition(overload)
        if definition is not None:
            return _of_code(definition)
        place = registered_at(overload)
        if place is not None:
            path, line = place
            if path.endswith(".py"):
                return Origin(f"{short_path(path)}:{line}", _named(_module_of(path)))
            package = _package(name.partition("::")[0])
            return Origin(f"{Path(path).name}:{line} (C++)", _named(package))
    return None


def _overloads(name: str) -> list[str]:
    """Return the registered overloads of an operator: ``mylib::double``, ``mylib::double.out``."""
    namespace, _, operator = name.partition("::")
    base, _, wanted = operator.partition(".")
    found = overloads_of(namespace, base)
    some = [each for each in found if each == wanted] if wanted else found
    return [f"{namespace}::{base}" + (f".{each}" if each != "default" else "") for each in some]


def _package(name: str) -> str:
    """Return the package of a namespace, if it has loaded a library of operators; else ''."""
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None:
        return ""
    inside = Path(file).resolve().parent
    loaded = (Path(library).resolve() for library in torch.ops.loaded_libraries)
    return name if any(library.is_relative_to(inside) for library in loaded) else ""


# -- classes and modules ---------------------------------------------------------------------------


def _class(name: str) -> Remedy:
    origin = class_origin(name)
    brought = (
        f"{name} is a container class, at {origin.place}"
        if origin is not None
        else f"{name} is a container that no module of this process registers either"
    )
    return _import(brought, origin, PLAIN)


def class_origin(name: str) -> Origin | None:
    """Return where a pytree type of this process comes from, by its name in files.

    The module of the class may register it (``register_dataclass``, a base class that does), or
    that of the function that flattens it: both are named.
    """
    cls, flatten = class_of_files(name)
    if cls is None:
        return None
    origin = _of_code(cls)
    registers = getattr(flatten, "__module__", None) or ""
    other = registers if registers.partition(".")[0] != "torch" else ""
    return Origin(origin.place, tuple(dict.fromkeys((*origin.modules, *_named(other)))))


def _pickle(name: str) -> Remedy:
    fact = (
        f"the file holds a pickled {name}: "
        "whoever loads it needs the class, and has to trust the file"
    )
    return _import(fact, Origin("", _named(_known(name.rpartition(".")[0]))), PLAIN)


def _module(name: str) -> Remedy:
    fact = (
        f"loading imports {name}: "
        "the file holds a pickled object of it, or what is imported for it needs it"
    )
    return _import(fact, Origin("", _named(_known(name))), PLAIN)


def _known(module: str) -> str:
    return module if module in sys.modules else ""


# -- whom to import --------------------------------------------------------------------------------


def _import(fact: str, origin: Origin | None, otherwise: str) -> Remedy:
    """Return the fact with the next step: the import to declare, or to make possible first."""
    modules = origin.modules if origin is not None else ()
    if origin is not None and _only_here(modules):
        step = (
            f"no server imports {' '.join(modules)}: move it into a module of its own that serving "
            f"imports, and name that one in {SETTING}"
        )
        return Remedy((fact, f"remedy: {step}; else {otherwise}"))
    named = " ".join(modules) or "the module that brings it in"
    step = f"add {named} to {SETTING} if the process that serves the file imports it"
    return Remedy((fact, f"remedy: {step}; else {otherwise}"), imports=modules)


def _only_here(modules: Sequence[str]) -> bool:
    """Return True if one of these modules is a script or a file of tests."""
    names = [module.rpartition(".")[2] for module in modules]
    return any(
        name in ("__main__", "conftest") or name.startswith("test_") or name.endswith("_test")
        for name in names
    )


def _of_code(thing: Any) -> Origin:
    """Return where a function or class is written."""
    module = getattr(thing, "__module__", "") or ""
    try:
        path, line = inspect.getsourcefile(thing), inspect.getsourcelines(thing)[1]
    except (OSError, TypeError):  # made by exec, or in C
        return Origin(f"module {module}", _named(_known(module)))
    found = _known(module) or _module_of(str(path))
    return Origin(f"{short_path(str(path))}:{line}", _named(found))


def _named(module: str) -> tuple[str, ...]:
    return (module,) if module else ()


def _module_of(path: str) -> str:
    """Return the module that this process imported from a file, or an empty text."""
    wanted = Path(path).resolve()
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        # The name first: resolving every path takes a tenth of a second.
        if (
            isinstance(file, str)
            and Path(file).name == wanted.name
            and Path(file).resolve() == wanted
        ):
            return name
    return ""


# -- all the rest ----------------------------------------------------------------------------------


def _program(record: str) -> Remedy:
    """Return lines for an archive of another kind; torch.save and both others write zip files."""
    kind, write = (
        ("TorchScript", "torch.jit.save")
        if record == "constants.pkl"
        else ("exported program", "torch.export.save")
    )
    return Remedy(
        (
            (
                f"the archive is no {kind}: it has no {record} "
                "(torch.save of a module or of its weights writes such a file)"
            ),
            (
                f"remedy: write it with {write}, "
                "or give it the ending of the format that it is in (.pt, .pt2, .onnx)"
            ),
        )
    )


def _unnamed(name: str) -> Remedy:
    """Return lines for a container without a name in files.

    It is a class of somebody's, or what topk, sort and max(dim) return.
    """
    step = (
        "return tuple(...) of it"
        if name.startswith("torch.return_types.")
        else "register it with serialized_type_name=...; or use a plain tuple or dict"
    )
    return Remedy((f"torch.export.save has no name for {name}", f"remedy: {step}"))


def _says(*lines: str) -> Callable[[str], Remedy]:
    return lambda name: Remedy(tuple(line.format(name=name) for line in lines))


REMEDIES: dict[str, Callable[[str], Remedy]] = {
    "operator": _operator,
    "class": _class,
    "pickle": _pickle,
    "module": _module,
    "program": _program,
    "library": _says(
        "{name} is a class in C++ (torch.classes), known where its library is loaded",
        f"remedy: name the module that loads the library in {SETTING} (torch.classes.load_library)",
    ),
    "function": _says(
        "{name} is Python (torch.autograd.Function), which TorchScript cannot save",
        "remedy: call its forward's operations directly where no gradient is needed; "
        "torch.export keeps them as they are",
    ),
    "ignored": _says(
        "{name} stays Python (@torch.jit.ignore), which TorchScript cannot save",
        "remedy: without @torch.jit.ignore, TorchScript compiles it; or call it only under "
        "`if not torch.jit.is_scripting():`; a trace or torch.export keep the operations in it",
    ),
    "namedtuple": _says(
        "torch.export.save has no name for the namedtuple {name}",
        "remedy: a plain tuple or dict; or a dataclass given to torch.export.register_dataclass",
    ),
    "size function": _says(
        "torch.export.save cannot write {name} of a size (math.{name}), which torch.export took",
        "remedy: compute sizes with +, -, * and // alone: -(-n // k) in place of math.ceil(n / k)",
    ),
    "unnamed": _unnamed,
    "data": _says(
        "the weights are in a file beside it, {name}, which is not there",
        "remedy: keep {name} in the same directory, under this name; or, below 2 GB, one file: "
        "torch.onnx.export(..., external_data=False)",
    ),
    "short data": _says(
        "{name} lies beyond the end of the external data: cut short, or of another export",
        "remedy: copy the .onnx and its data together, from one export",
    ),
    "custom op": _says(
        "{name} is no operator of ONNX Runtime: "
        "a custom one, or an ONNX function that the file does not define",
        "remedy: load its kernels where the file is served "
        "(SessionOptions.register_custom_ops_library), or export it as standard operators "
        "(custom_translation_table=... of torch.onnx.export)",
    ),
    "opset": _says(
        "ONNX has no {name} in the opset of the file, as far as this ONNX Runtime knows",
        "remedy: another opset_version, or the onnxruntime of the process that serves it",
    ),
    "ort kernel": _says(
        "ONNX Runtime has no kernel of {name} for these dtypes and this provider",
        "remedy: another dtype at this operation (float32), another opset_version, "
        "or another version of onnxruntime",
    ),
    "ort version": _says(
        "the file's version {name} (IR or opset) is newer than what this onnxruntime supports",
        "remedy: export with a lower opset_version, or serve with a newer onnxruntime",
    ),
    "version": _says(
        "the file has version {name} of its format, which this torch does not read",
        "remedy: write it with the torch that serves it, or serve it with the torch that wrote it",
    ),
    "kernel": _says(
        "{name} is registered, without a kernel for this device",
        "remedy: register one (torch.library.register_kernel), or load the library that does",
    ),
    "device": _says(
        "the file's tensors are on {name}, which is not available there",
        "remedy: load with map_location='cpu', or save the model from the CPU",
    ),
    "record": _says(
        "the archive has no {name}: it was changed or is damaged",
        "remedy: save it again, and copy the file as it is",
    ),
    "file": _says(
        "the file is cut short or of another format",
        "remedy: compare its size with the one that was saved "
        "(an interrupted copy, a pointer of Git LFS), and save it again",
    ),
}
