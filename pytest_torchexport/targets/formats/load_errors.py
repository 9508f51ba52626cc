"""Say what a file needs that the process which saves, loads or runs it lacks, and what to do.

The words are read by the rows of ``upstream/load_errors.toml``. Which module brings in an operator
or a class, only the process that exported knows: its registries are asked.
"""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch

from pytest_torchexport.results.source_line import short_path
from pytest_torchexport.targets.upstream import Evidence, first
from pytest_torchexport.torch_private.dispatcher import registrations
from pytest_torchexport.torch_private.structures import class_of_files

SETTING = "torchexport_runtime_imports"
# For a call or a returned value that holds a class of the user's without a name in files.
OWN_CLASS = (
    "remedy: register it as a pytree that has a name in files (torch.export.register_dataclass, "
    "serialized_type_name=...) in a module that serving imports, and name that in "
    f"{SETTING}; else take and return plain tuples, lists and dicts"
)
UNKNOWN = "is registered by no module of this process either"


@dataclass(frozen=True)
class Remedy:
    """Lines for the report, none if nothing is known of the words.

    ``imports``: the modules that bring in what is missing if they are imported before the file is
    loaded.
    """

    lines: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()


def remedy_of(type: str, text: str) -> Remedy:  # noqa: A002  # as an exception's type is called in outcomes
    """Return the remedy for an exception of the process that saved, loaded or ran a file.

    ``torch.export.load`` writes its reason to the log: add that to the text.
    """
    known = first("load_errors", Evidence(said=[(type, f"{type}: {text}")]))
    if known is None:
        return Remedy()
    row, names = known
    modules: tuple[str, ...] = ()
    if row.provided:
        name, place = names["name"], ""
        if row.provided == "operator":
            # ``mylib::double``, for ``mylib.double.default`` too.
            namespace, _, operator = name.replace("::", ".").partition(".")
            name = f"{namespace}::{operator.removesuffix('.default')}"
            place, modules = _operator(namespace, operator.removesuffix(".default"))
        elif row.provided == "class":
            place, modules = _class(name)
        else:
            known_here = (part for part in (name, name.rpartition(".")[0]) if part in sys.modules)
            modules = tuple(known_here)[:1]
        brings = " ".join(modules) or "the module that brings it in"
        step = f"add {brings} to {SETTING} if the process that serves the file imports it"
        # A script or a file of tests.
        alone = r"(^|\.)(__main__|conftest|test_\w*|\w*_test)$"
        if any(re.search(alone, module) for module in modules):
            step = (
                f"no server imports {brings}: move it into a module of its own that serving "
                f"imports, and name that one in {SETTING}"
            )
            modules = ()
        place = f"is registered at {place}" if place else UNKNOWN
        names = {"name": name, "place": place, "step": step}
    steps = row.remedy.format_map(names).splitlines()
    return Remedy((row.cause.format_map(names), *(f"remedy: {step}" for step in steps)), modules)


# -- who registered it in this process -------------------------------------------------------------

# ``myops.py:12``, and the modules to import if they are known.
Origin: TypeAlias = tuple[str, tuple[str, ...]]


def _operator(namespace: str, operator: str) -> Origin:
    """Return where an operator, any overload if none is named, was registered."""
    base, _, wanted = operator.partition(".")
    for overload, source in registrations(namespace, base):
        if wanted and overload != wanted:
            continue
        if callable(source):
            return _of_code(source)
        if source is not None:
            path, line = source
            if path.endswith(".py"):
                return f"{short_path(path)}:{line}", _module_of(path)
            # The package of the namespace, if it has loaded a library of operators.
            file = getattr(sys.modules.get(namespace), "__file__", None) or "/nowhere/file"
            loaded = [Path(library).resolve() for library in torch.ops.loaded_libraries]
            brings = any(one.is_relative_to(Path(file).resolve().parent) for one in loaded)
            return f"{Path(path).name}:{line} (C++)", (namespace,) if brings else ()
    return "", ()


def _class(name: str) -> Origin:
    """Return where a pytree type comes from, by its name in files.

    The module of the class may register it (``register_dataclass``, a base class that does), or
    that of the function that flattens it: both are named.
    """
    cls, flatten = class_of_files(name)
    if cls is None:
        return "", ()
    place, modules = _of_code(cls)
    registers = getattr(flatten, "__module__", None) or "torch"
    more = (registers,) if registers.partition(".")[0] != "torch" else ()
    return place, tuple(dict.fromkeys((*modules, *more)))


def _of_code(thing: Any) -> Origin:
    """Return where a function or class is written."""
    module = getattr(thing, "__module__", "") or ""
    loaded = (module,) if module in sys.modules else ()
    try:
        path, line = inspect.getsourcefile(thing), inspect.getsourcelines(thing)[1]
    except (OSError, TypeError):  # made by exec, or in C
        return f"module {module}", loaded
    return f"{short_path(str(path))}:{line}", loaded or _module_of(str(path))


def _module_of(path: str) -> tuple[str, ...]:
    """Return the module that this process imported from a file, if any."""
    wanted = Path(path).resolve()
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        # The name first: resolving every path takes a tenth of a second.
        if file and Path(file).name == wanted.name and Path(file).resolve() == wanted:
            return (name,)
    return ()
