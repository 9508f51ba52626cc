"""Which functions run, or may run, under a subject's forward: those of the user's own files.

Separate from ``fingerprint``'s walk, which looks for state: this one looks for code, in classes, closures
and globals, and knows who owns it.
"""

from __future__ import annotations

import functools
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch

from pytest_torchexport.messages import is_users
from pytest_torchexport.subject import Subject

MAX_OBJECTS = 20_000
_CONTAINERS = (list, tuple, set, frozenset)
_UNREAD = (
    str,
    bytes,
    int,
    float,
    complex,
    bool,
    type(None),
    torch.Tensor,
    torch.dtype,
    torch.device,
)

Owns = Callable[[str], bool]


def owner_of(subject: Subject, packages: tuple[str, ...] = ()) -> Owns:
    """Whose code is followed, by file name: the user's own files, the named packages, and the package that
    the subject itself comes from, which is what is shipped.
    """
    thing = type(subject.module) if subject.module is not None else subject.function
    home = (getattr(thing, "__module__", None) or "").partition(".")[0]
    folders = tuple(
        _folder(name) for name in (*packages, home) if name not in ("", "torch", "builtins")
    )

    def owns(file: str) -> bool:
        return is_users(file) or any(folder and file.startswith(folder) for folder in folders)

    return owns


def _folder(package: str) -> str:
    module = sys.modules.get(package)
    paths = list(getattr(module, "__path__", None) or [])
    return paths[0] if paths else getattr(module, "__file__", None) or ""


def functions_of(subject: Subject, owns: Owns) -> tuple[types.FunctionType, ...]:
    """The functions of owned files that can be reached from the subject, each once."""
    walk = _Walk(owns)
    walk.look([subject.module, subject.function])
    return tuple(walk.found)


class _Walk:
    def __init__(self, owns: Owns) -> None:
        self.found: list[types.FunctionType] = []
        self._owns = owns
        self._seen: dict[int, Any] = {}

    def look(self, things: list[Any]) -> None:
        """Follow everything that can be reached, breadth first."""
        while things and len(self._seen) < MAX_OBJECTS:
            thing = things.pop()
            if isinstance(thing, _UNREAD) or id(thing) in self._seen:
                continue
            self._seen[id(thing)] = thing
            things += self._of(thing)

    def _of(self, thing: Any) -> Iterator[Any]:
        if isinstance(thing, types.FunctionType):
            yield from self._function(thing)
        elif isinstance(thing, types.MethodType):
            yield from (thing.__func__, thing.__self__)
        elif isinstance(thing, functools.partial):
            yield from (thing.func, *thing.args, *thing.keywords.values())
        elif isinstance(thing, property):
            yield from (thing.fget, thing.fset)
        elif isinstance(thing, (staticmethod, classmethod)):
            yield thing.__func__
        elif isinstance(thing, functools.cached_property):
            yield thing.func
        elif isinstance(thing, dict):
            yield from thing.values()
        elif isinstance(thing, _CONTAINERS):
            yield from thing
        elif isinstance(thing, type):
            yield from self._class(thing)
        elif isinstance(thing, torch.nn.Module) or (
            not isinstance(thing, types.ModuleType) and self._made_by_the_user(type(thing))
        ):
            yield from (type(thing), *_vars(thing).values())

    def _function(self, function: types.FunctionType) -> Iterator[Any]:
        for cell in function.__closure__ or ():
            if _filled(cell):
                yield cell.cell_contents
        yield getattr(function, "__wrapped__", None)
        file = function.__code__.co_filename
        # Code without a file is followed where its module has none either: typed in, or run by exec. What
        # dataclasses and their like generate belongs to a file.
        typed_in = file.startswith("<") and "__file__" not in function.__globals__
        if not typed_in and not self._owns(file):
            return
        self.found.append(function)
        yield from (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
        yield from _mentioned(function.__code__, function.__globals__)

    def _class(self, cls: type) -> Iterator[Any]:
        for base in cls.__mro__:
            if self._made_by_the_user(base):
                yield from vars(base).values()

    def _made_by_the_user(self, cls: type) -> bool:
        module = sys.modules.get(cls.__module__)
        if module is None or cls.__module__ == "__main__":
            return cls.__module__ != "builtins"
        file = getattr(module, "__file__", None)
        return self._owns(file) if file else False


def _vars(thing: Any) -> dict[str, Any]:
    return getattr(thing, "__dict__", {}) or {}


def _filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # a name that was not assigned yet
        return False


def _mentioned(code: types.CodeType, names: dict[str, Any]) -> Iterator[Any]:
    """What a code and those within it may mean by the names they look up; of a module its attributes."""
    looked_up = set(code.co_names)
    for name in code.co_names:
        value = names.get(name)
        if isinstance(value, types.ModuleType):
            yield from (inspect.getattr_static(value, each, None) for each in looked_up)
        else:
            yield value
    for item in code.co_consts:
        if isinstance(item, types.CodeType):
            yield from _mentioned(item, names)
