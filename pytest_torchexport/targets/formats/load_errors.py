"""Say what a file needs that the process which saves, loads or runs it lacks, and what to do.

The words are read by the rows of ``upstream/load_errors.toml``. Which module brings in an operator
or a class, only the process that exported knows: its registries are asked.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pytest_torchexport.results.source_line import short_path
from pytest_torchexport.targets.upstream.rows import Evidence, first
from pytest_torchexport.torch_private.dispatcher import (
    overloads_of,
    python_definition,
    registered_at,
)
from pytest_torchexport.torch_private.structures import class_of_files

SETTING = "torchexport_runtime_imports"
# For a call or a returned value that holds a class of the user's without a name in files.
OWN_CLASS = (
    "remedy: register it as a pytree that has a name in files (torch.export.register_dataclass, "
    "serialized_type_name=...) in a module that serving imports, and name that in "
    f"{SETTING}; else take and return plain tuples, lists and dicts"
)


@dataclass(frozen=True)
class Remedy:
    """Lines for the report, none if nothing is known of the words.

    ``imports``: the modules that bring in what is missing if they are imported before the file is
    loaded.
    """

    lines: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()


@dataclass(frozen=True)
class Origin:
    """The place that registered something, ``myops.py:12``, and the modules to import if known."""

    place: str = ""
    modules: tuple[str, ...] = ()


def remedy_of(type: str, text: str) -> Remedy:  # noqa: A002  # as an exception's type is called in outcomes
    """Return what to do about an exception of the process that saved, loaded or ran a file.

    ``torch.export.load`` writes its reason to the log: add that to the text.
    """
    known = first("load_errors", Evidence(said=[(type, f"{type}: {text}")]))
    if known is None:
        return Remedy()
    row, names = known
    imports: tuple[str, ...] = ()
    if row.provided:
        name, origin = _origin(row.provided, names["name"])
        place = f"is registered at {origin.place}" if origin.place else UNKNOWN
        step, imports = _step(origin)
        names = {"name": name, "place": place, "step": step}
    lines = row.cause.format_map(names), f"remedy: {row.remedy.format_map(names)}"
    return Remedy(lines, imports)


UNKNOWN = "is registered by no module of this process either"


def _origin(provided: str, name: str) -> tuple[str, Origin]:
    """Return the name as reports have it, and where this process has it from."""
    if provided == "operator":
        operator = _qualified(name)
        return operator, operator_origin(operator)
    if provided == "class":
        return name, class_origin(name)
    module = next((part for part in (name, name.rpartition(".")[0]) if part in sys.modules), "")
    return name, Origin(modules=_named(module))


def _qualified(name: str) -> str:
    """Return ``mylib::double``, for ``mylib.double.default`` too."""
    namespace, _, operator = name.replace("::", ".").partition(".")
    return f"{namespace}::{operator.removesuffix('.default')}"


def _step(origin: Origin) -> tuple[str, tuple[str, ...]]:
    """Return the import to declare, or to make possible first; and the modules, if these do."""
    modules = " ".join(origin.modules)
    if _only_here(origin.modules):
        step = f"no server imports {modules}: move it into a module of its own that serving imports"
        return f"{step}, and name that one in {SETTING}", ()
    brought = modules or "the module that brings it in"
    return (
        f"add {brought} to {SETTING} if the process that serves the file imports it",
        origin.modules,
    )


def _only_here(modules: Sequence[str]) -> bool:
    """Return True if one of these modules is a script or a file of tests."""
    names = [module.rpartition(".")[2] for module in modules]
    return any(
        name in ("__main__", "conftest") or name.startswith("test_") or name.endswith("_test")
        for name in names
    )


# -- who registered it in this process -------------------------------------------------------------


def operator_origin(name: str) -> Origin:
    """Return where an operator (``mylib::double``, any overload) was registered in this process."""
    namespace, _, operator = name.partition("::")
    base, _, wanted = operator.partition(".")
    for overload in overloads_of(namespace, base):
        if wanted and overload != wanted:
            continue
        full = f"{namespace}::{base}" + (f".{overload}" if overload != "default" else "")
        definition = python_definition(full)
        if definition is not None:
            return _of_code(definition)
        place = registered_at(full)
        if place is not None:
            path, line = place
            if path.endswith(".py"):
                return Origin(f"{short_path(path)}:{line}", _named(_module_of(path)))
            return Origin(f"{Path(path).name}:{line} (C++)", _named(_package(namespace)))
    return Origin()


def _package(name: str) -> str:
    """Return the package of a namespace, if it has loaded a library of operators; else ''."""
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None:
        return ""
    inside = Path(file).resolve().parent
    loaded = (Path(library).resolve() for library in torch.ops.loaded_libraries)
    return name if any(library.is_relative_to(inside) for library in loaded) else ""


def class_origin(name: str) -> Origin:
    """Return where a pytree type of this process comes from, by its name in files.

    The module of the class may register it (``register_dataclass``, a base class that does), or
    that of the function that flattens it: both are named.
    """
    cls, flatten = class_of_files(name)
    if cls is None:
        return Origin()
    origin = _of_code(cls)
    registers = getattr(flatten, "__module__", None) or ""
    other = registers if registers.partition(".")[0] != "torch" else ""
    return Origin(origin.place, tuple(dict.fromkeys((*origin.modules, *_named(other)))))


def _of_code(thing: Any) -> Origin:
    """Return where a function or class is written."""
    module = getattr(thing, "__module__", "") or ""
    loaded = module if module in sys.modules else ""
    try:
        path, line = inspect.getsourcefile(thing), inspect.getsourcelines(thing)[1]
    except (OSError, TypeError):  # made by exec, or in C
        return Origin(f"module {module}", _named(loaded))
    return Origin(f"{short_path(str(path))}:{line}", _named(loaded or _module_of(str(path))))


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
