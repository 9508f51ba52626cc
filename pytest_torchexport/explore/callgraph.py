"""Find the functions in the user's files that may run under a subject's forward.

Separate from the walk in ``fingerprint``, which looks for state: this one looks for code. From
``forward`` on it follows the names that functions mention: globals, closures, and methods of that
name in any class that was found. This gives more functions than can run, but far fewer than all
that the classes of a library lead to.
"""

from __future__ import annotations

import dis
import functools
import inspect
import os
import sys
import types
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import torch

from pytest_torchexport.eager.fingerprint import names_in
from pytest_torchexport.outcomes.subject import Subject
from pytest_torchexport.results.source_line import NO_MODELS, SourceLine, is_users, source_line

MAX_OBJECTS = 20_000
# Submodules to follow, as in ``package.part.inner.helper``.
MAX_DOTS = 3
# Values of these types lead to no code.
_LEAVES = (
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
# These ran when the module was built, before forward.
_CONSTRUCTORS = frozenset({"__init__", "__new__"})

# The type of a function decorated with functools.cache.
_CACHED = type(functools.cache(len))

Owns = Callable[[str], bool]


def owner_of(subject: Subject, packages: tuple[str, ...] = ()) -> Owns:
    """Return a predicate of file names: True if the code in a file is followed.

    That is the user's own files, the named packages, the package of the subject, and the files that
    define its parts: following the packages of these would take longer than all else.
    """
    folders = tuple(_folder(name) for name in (*packages, home_of(subject)) if name)
    parts = frozenset(
        file
        for name in {type(part).__module__ for part in _parts(subject)}
        if name.partition(".")[0] not in NO_MODELS and (file := _file(name))
    )

    def owns(file: str) -> bool:
        return (
            is_users(file)
            or file in parts
            or any(
                folder and (file == folder or file.startswith(folder + os.sep))
                for folder in folders
            )
        )

    return owns


def home_of(subject: Subject) -> str:
    """Return the package that the subject comes from; empty for torch."""
    thing = type(subject.module) if subject.module is not None else subject.function
    home = (getattr(thing, "__module__", None) or "").partition(".")[0]
    return "" if home in ("torch", "builtins") else home


def files_of(subject: Subject) -> frozenset[str]:
    """Return the files that define the classes of the subject's modules, and their bases."""
    names = {cls.__module__ for part in _parts(subject) for cls in type(part).__mro__}
    return frozenset(file for name in names if (file := _file(name)))


def _parts(subject: Subject) -> Iterable[torch.nn.Module]:
    return subject.module.modules() if subject.module is not None else ()


def _file(module: str) -> str:
    return getattr(sys.modules.get(module), "__file__", None) or ""


def _folder(package: str) -> str:
    module = sys.modules.get(package)
    paths = list(getattr(module, "__path__", None) or [])
    return paths[0] if paths else getattr(module, "__file__", None) or ""


def functions_of(subject: Subject, owns: Owns) -> tuple[tuple[types.FunctionType, ...], bool]:
    """Return the functions of owned files that the subject leads to, each once.

    The second value is False if the walk stopped after ``MAX_OBJECTS``.
    """
    walk = _Walk(owns)
    walk.mention("forward")
    walk.mention(getattr(subject.function, "__name__", "forward"))
    if subject.module is not None:
        walk.look(subject.module.modules())
    walk.look([subject.module, subject.function])
    return tuple(walk.found), walk.complete


def mentions(
    subject: Subject, names: Collection[str], packages: tuple[str, ...] = ()
) -> Iterator[tuple[str, SourceLine]]:
    """Yield which of these dotted names the code that is followed mentions, and the line.

    By the last part of a name alone, which an object's attribute may have as well.
    """
    dotted = {name.rpartition(".")[2]: name for name in names}
    functions, _ = functions_of(subject, owner_of(subject, packages))
    for function in functions:
        if dotted.keys().isdisjoint(names_in(function.__code__)):
            continue
        for code in _codes(function.__code__):
            for step in dis.get_instructions(code):
                line = step.positions.lineno if step.positions is not None else None
                if step.argval in dotted and line is not None:
                    yield dotted[step.argval], source_line(code.co_filename, line)


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield a code and those of the functions inside it."""
    yield code
    for constant in code.co_consts:
        if inspect.iscode(constant):
            yield from _codes(constant)


class _Walk:
    def __init__(self, owns: Owns) -> None:
        self.found: list[types.FunctionType] = []
        self.complete = True
        self._owns = owns
        self._seen: dict[int, Any] = {}
        self._waiting: deque[Any] = deque()
        self._names: set[str] = set()
        self._classes: list[type] = []

    def mention(self, name: str) -> None:
        """Follow methods of this name, in the classes found so far and in later ones."""
        if name not in self._names:
            self._names.add(name)
            self._waiting += [vars(cls)[name] for cls in self._classes if name in vars(cls)]

    def look(self, things: Any) -> None:
        """Follow these objects and all that they lead to, breadth first."""
        self._waiting += things
        while self._waiting:
            if len(self._seen) >= MAX_OBJECTS:
                self.complete = False
                return
            thing = self._waiting.popleft()
            if not isinstance(thing, _LEAVES) and id(thing) not in self._seen:
                self._seen[id(thing)] = thing
                self._waiting += self._of(thing)

    def _of(self, thing: Any) -> Iterator[Any]:  # noqa: C901  # one line for each type
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
        elif isinstance(thing, functools.singledispatchmethod):
            yield from (thing.func, *thing.dispatcher.registry.values())
        elif isinstance(thing, dict):
            yield from dict.values(thing)  # a subclass may compute its own
        elif type(thing) in (list, tuple, set, frozenset):
            yield from thing
        elif isinstance(thing, type):
            yield from self._class(thing)
        elif isinstance(thing, _CACHED):
            yield thing.__wrapped__
        elif not isinstance(thing, types.ModuleType) and (
            isinstance(thing, torch.nn.Module) or self._made_by_the_user(type(thing))
        ):
            yield from (type(thing), *_vars(thing).values())

    def _function(self, function: types.FunctionType) -> Iterator[Any]:
        for cell in function.__closure__ or ():
            if _filled(cell):
                yield cell.cell_contents
        yield getattr(function, "__wrapped__", None)
        yield from getattr(function, "registry", {}).values()  # functools.singledispatch
        file = function.__code__.co_filename
        # Code without a file is followed if its module has no file either: it was typed in or run
        # by exec. Methods that dataclasses and the like generate belong to a module with a file.
        typed_in = file.startswith("<") and "__file__" not in function.__globals__
        if not typed_in and not self._owns(file):
            return
        self.found.append(function)
        yield from (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
        for name in names_in(function.__code__):
            self.mention(name)
        yield from _mentioned(function.__code__, function.__globals__)

    def _class(self, cls: type) -> Iterator[Any]:
        for base in cls.__mro__:
            if base not in self._classes and self._made_by_the_user(base):
                self._classes.append(base)
                made_before = (
                    _CONSTRUCTORS if issubclass(base, torch.nn.Module) else frozenset[str]()
                )
                yield from [
                    item
                    for name, item in vars(base).items()
                    if name not in made_before and (name in self._names or _is_special(name))
                ]

    def _made_by_the_user(self, cls: type) -> bool:
        module = sys.modules.get(cls.__module__)
        if module is None or cls.__module__ == "__main__":
            return cls.__module__ != "builtins"
        file = getattr(module, "__file__", None)
        return self._owns(file) if file else False


def _is_special(name: str) -> bool:
    """Return True for methods that Python calls itself: for an operator, ``with``, a truth."""
    return name.startswith("__") and name.endswith("__")


def _vars(thing: Any) -> dict[str, Any]:
    try:
        found: dict[str, Any] = object.__getattribute__(thing, "__dict__")
    except AttributeError:  # an object with slots
        return {}
    return found


def _filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # a name that was not assigned yet
        return False


def _mentioned(code: types.CodeType, names: dict[str, Any]) -> Iterator[Any]:
    """Yield the globals that a code looks up; of a module the attributes that it looks up."""
    looked_up = set(names_in(code))
    for name in looked_up:
        value = names.get(name)
        if isinstance(value, types.ModuleType):
            yield from _attributes(value, looked_up, MAX_DOTS)
        else:
            yield value


def _attributes(module: types.ModuleType, names: set[str], dots: int) -> Iterator[Any]:
    """Yield the attributes of these names, also of submodules (``package.part.helper``)."""
    for name in names:
        value = inspect.getattr_static(module, name, None)
        if isinstance(value, types.ModuleType) and dots:
            yield from _attributes(value, names, dots - 1)
        else:
            yield value
