"""Find the user's functions that may run under a subject's forward, and the twins of their code.

From ``forward`` on the names that functions mention are followed: globals, closures, and methods of
that name in any class that was found. This gives more functions than can run, but far fewer than
all that the classes of a library lead to.

A twin is the code compiled once more, with a recorder in it. A function is matched with the source
file by comparing what the file compiles to now with the code that the function has. Separate from
``rewrite``, which knows syntax trees and no running code.
"""

from __future__ import annotations

import ast
import dis
import functools
import gc
import linecache
import os
import sys
import threading
import types
import warnings
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch

from pytest_torchexport.eager.fingerprint import names_in
from pytest_torchexport.explore.conditions import Condition, ConditionId
from pytest_torchexport.explore.recorder import ConditionRecorder
from pytest_torchexport.explore.rewrite import SENTINEL, rewrite
from pytest_torchexport.outcomes.subject import Subject
from pytest_torchexport.outcomes.torch_state import compiling_nothing, suppress_output
from pytest_torchexport.results.source_line import NO_MODELS, SourceLine, is_users, source_line

_JUMPS = frozenset({*dis.hasjrel, *dis.hasjabs})
MAX_OBJECTS = 20_000
# Objects of these modules, containers and what wraps functions, lead to all that they refer to.
_HOLDERS = ("builtins", "collections", "functools")
# Values that hold numbers, and lead to no object of the user's.
_PLAIN = (int, float, str, tuple, list, set, frozenset, dict)

Owns = Callable[[str], bool]


def owner_of(subject: Subject, packages: tuple[str, ...] = ()) -> Owns:
    """Return a predicate of file names: True if the code in a file is followed.

    That is the user's own files, the named packages, the package of the subject, and the files that
    define its parts: following the packages of these would take longer than all else.
    """
    thing = type(subject.module) if subject.module is not None else subject.function
    home = (getattr(thing, "__module__", None) or "").partition(".")[0]
    places = {
        next(iter(getattr(sys.modules.get(name), "__path__", None) or []), _file(name))
        for name in (*packages, "" if home in ("torch", "builtins") else home)
    }
    defining = {type(part).__module__ for part in _parts(subject)}
    places |= {_file(name) for name in defining if name.partition(".")[0] not in NO_MODELS}
    # A file, or all below a folder.
    owned = [(place, place + os.sep) for place in places - {""}]

    def owns(file: str) -> bool:
        return is_users(file) or any(file == it or file.startswith(below) for it, below in owned)

    return owns


def _parts(subject: Subject) -> Iterable[torch.nn.Module]:
    return subject.module.modules() if subject.module is not None else ()


def _file(module: str) -> str:
    return getattr(sys.modules.get(module), "__file__", None) or ""


def functions_of(subject: Subject, owns: Owns) -> tuple[tuple[types.FunctionType, ...], bool]:
    """Return the functions of owned files that the subject leads to, each once.

    The second value is False if the walk stopped after ``MAX_OBJECTS``.
    """
    walk = _Walk(owns)
    walk.mention("forward")
    walk.mention(getattr(subject.function, "__name__", "forward"))
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
        for code in _nested(function.__code__):
            for step in dis.get_instructions(code):
                line = step.positions.lineno if step.positions is not None else None
                if step.argval in dotted and line is not None:
                    yield dotted[step.argval], source_line(code.co_filename, line)


class _Walk:
    def __init__(self, owns: Owns) -> None:
        self.found: list[types.FunctionType] = []
        self.complete = True
        self._owns = owns
        self._seen: dict[int, Any] = {}
        self._waiting: deque[Any] = deque()
        self._names: set[str] = set()
        # The classes and modules found so far.
        self._scopes: list[type | types.ModuleType] = []

    def mention(self, name: str) -> None:
        """Follow what has this name in the classes and modules found so far and in later ones."""
        if name not in self._names:
            self._names.add(name)
            found = [vars(scope) for scope in self._scopes]
            self._waiting += [names[name] for names in found if name in names]

    def look(self, things: Any) -> None:
        """Follow these objects and all that they lead to, breadth first."""
        self._waiting += things
        while self._waiting:
            if len(self._seen) >= MAX_OBJECTS:
                self.complete = False
                return
            thing = self._waiting.popleft()
            # What Python does not track refers to nothing, as a number or a text; nor do tensors.
            leads_on = gc.is_tracked(thing) and not isinstance(thing, torch.Tensor)
            if leads_on and id(thing) not in self._seen:
                self._seen[id(thing)] = thing
                self._waiting += self._of(thing)

    def _of(self, thing: Any) -> Iterator[Any]:
        kind = type(thing)
        if isinstance(thing, types.FunctionType):
            yield from self._function(thing)
        elif isinstance(thing, type):
            yield from self._class(thing)
        elif isinstance(thing, types.ModuleType):
            file = vars(thing).get("__file__")
            # A package without a file is one of several folders.
            if self._owns(file) if file else "__path__" in vars(thing):
                self._scopes.append(thing)
                yield from [value for name, value in vars(thing).items() if name in self._names]
        elif (
            kind.__module__ in _HOLDERS
            or isinstance(thing, torch.nn.Module)
            or self._made_by_the_user(kind)
        ):
            yield from gc.get_referents(thing)  # runs no code of the user's

    def _function(self, function: types.FunctionType) -> Iterator[Any]:
        # Wrappers have what they wrap among their attributes.
        yield from (function.__closure__, vars(function))
        file = function.__code__.co_filename
        # Code without a file is followed if its module has no file either: it was typed in or run
        # by exec. Methods that dataclasses and the like generate belong to a module with a file.
        typed_in = file.startswith("<") and "__file__" not in function.__globals__
        if not typed_in and not self._owns(file):
            return
        self.found.append(function)
        yield from (function.__defaults__, function.__kwdefaults__)
        for name in names_in(function.__code__):
            self.mention(name)
            yield function.__globals__.get(name)

    def _class(self, cls: type) -> Iterator[Any]:
        for base in cls.__mro__:
            if base not in self._scopes and self._made_by_the_user(base):
                self._scopes.append(base)
                # Python itself calls those with two underscores, as for an operator or a truth.
                # Those of a module that make it ran before forward.
                made = ("__init__", "__new__") if issubclass(base, torch.nn.Module) else ()
                yield from [
                    item
                    for name, item in vars(base).items()
                    if name not in made and (name in self._names or name[:2] == name[-2:] == "__")
                ]

    def _made_by_the_user(self, cls: type) -> bool:
        module = sys.modules.get(cls.__module__)
        if module is None or cls.__module__ == "__main__":
            return cls.__module__ != "builtins"
        file = getattr(module, "__file__", None)
        return self._owns(file) if file else False


# -- twins -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FileTwins:
    """The twins of one file's codes, and the conditions that the twins report by their ids.

    ``unread`` are the codes that have conditions but no source.
    """

    twins: Mapping[types.CodeType, types.CodeType]
    conditions: Mapping[ConditionId, Condition]
    unread: tuple[types.CodeType, ...]


def twins_of(file: str, codes: frozenset[types.CodeType]) -> FileTwins:
    """Return the twins of these codes of one file.

    A code has none if it has no condition, or if the file is missing or is no longer what the code
    was compiled from.
    """
    linecache.checkcache(file)
    source = "".join(linecache.getlines(file))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python warned about this source when it was imported
        return _twins_of(file, codes, source)


@functools.lru_cache(maxsize=256)
def _twins_of(file: str, codes: frozenset[types.CodeType], source: str) -> FileTwins:
    wanted = {(code.co_firstlineno, code.co_name) for code in codes}
    try:
        tree = ast.parse(source, file)
        as_it_is = compile(tree, file, "exec", dont_inherit=True)
        conditions = rewrite(tree, file, source, wanted)
        rewritten = compile(tree, file, "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError):  # not Python, or nested too deeply
        return FileTwins({}, {}, tuple(filter(_branches, codes)))
    pairs = list(zip(_nested(as_it_is), _nested(rewritten), strict=True))
    found = {code: _twin(code, pairs) for code in codes}
    return FileTwins(
        twins={
            code: twin
            for code, twin in found.items()
            if twin is not None and any(SENTINEL in item.co_consts for item in _nested(twin))
        },
        conditions=conditions,
        unread=tuple(code for code, twin in found.items() if twin is None and _branches(code)),
    )


def with_recorder(code: types.CodeType, recorder: Any) -> types.CodeType:
    """Return the code with the recorder in place of ``SENTINEL``, also in nested functions."""
    constants = tuple(
        with_recorder(item, recorder)
        if isinstance(item, types.CodeType)
        else recorder
        if isinstance(item, str) and item == SENTINEL
        else item
        for item in code.co_consts
    )
    return code.replace(co_consts=constants)


def constants_of(function: types.FunctionType) -> Iterator[Any]:
    """Yield the constants of a function's code, and the plain values that it has by a name.

    These are its defaults, and the globals and the variables of outer functions that it uses.
    """
    yield from constants_in(function.__code__)
    named = [function.__globals__.get(name) for name in names_in(function.__code__)]
    named += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # the outer function has not set it yet
            named.append(cell.cell_contents)
    yield from (value for value in named if isinstance(value, _PLAIN))


def constants_in(code: types.CodeType) -> Iterator[Any]:
    """Yield the constants of a code and of those nested in it, and the elements of containers."""
    for item in code.co_consts:
        if isinstance(item, types.CodeType):
            yield from constants_in(item)
        elif isinstance(item, (tuple, frozenset)):
            yield from item
        else:
            yield item


# -- from the running code ----------------------------------------------------------------------


def _twin(
    code: types.CodeType, pairs: Sequence[tuple[types.CodeType, types.CodeType]]
) -> types.CodeType | None:
    """Return the rewritten code of the one pair that this code was compiled like, or None."""
    start = code.co_firstlineno, code.co_name
    same = [
        pair
        for pair in pairs
        if (pair[0].co_firstlineno, pair[0].co_name) == start and _same_source(code, pair[0])
    ]
    if len(same) > 1:  # several lambdas on a line
        same = [pair for pair in same if pair[0] == code]
    return same[0][1] if len(same) == 1 else None


def _same_source(code: types.CodeType, compiled: types.CodeType) -> bool:
    """Return True if a code was compiled from the source that gave ``compiled``.

    If pytest rewrote the asserts, the code has names and constants in addition to the source's.
    """
    mine, theirs = _directly_nested(code), _directly_nested(compiled)
    if len(mine) != len(theirs) or not all(map(_same_source, mine, theirs)):
        return False
    if (code.co_freevars, _arguments(code)) != (compiled.co_freevars, _arguments(compiled)):
        return False
    if compiled.co_names == code.co_names:
        return compiled.co_code == code.co_code and _own_constants(compiled) == _own_constants(code)
    return set(compiled.co_names) <= set(code.co_names) and (
        _own_constants(compiled) <= _own_constants(code)
    )


def _arguments(code: types.CodeType) -> tuple[str, ...]:
    return code.co_varnames[: code.co_argcount]


def _own_constants(code: types.CodeType) -> set[str]:
    """Return the constants as text, which differs for 0.0 and -0.0 and for 1 and True."""
    return {
        repr(sorted(map(repr, item))) if isinstance(item, frozenset) else repr(item)
        for item in code.co_consts
        if not isinstance(item, types.CodeType)
    }


def _directly_nested(code: types.CodeType) -> list[types.CodeType]:
    return [item for item in code.co_consts if isinstance(item, types.CodeType)]


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for item in _directly_nested(code):
        yield from _nested(item)


def _branches(code: types.CodeType) -> bool:
    return any(
        instruction.opcode in _JUMPS
        for item in _nested(code)
        for instruction in dis.get_instructions(item)
    )


# The code of a function belongs to the process: a second thread would take a twin for the original.
_ONE_AT_A_TIME = threading.RLock()


class InstrumentedCode:
    """The functions that may run under a subject's forward, with their twins.

    ``unread`` names the functions that have conditions but no source. ``complete`` is False if
    there were too many functions to find them all.
    """

    def __init__(
        self, subject: Subject, packages: tuple[str, ...], recorder: ConditionRecorder
    ) -> None:
        owns = owner_of(subject, packages)
        functions, self.complete = functions_of(subject, owns)
        self._functions = functions
        # The files that define the classes of the subject's modules, and their bases.
        names = {cls.__module__ for part in _parts(subject) for cls in type(part).__mro__}
        self._model_files = frozenset(file for name in names if (file := _file(name)))
        self._twins: list[tuple[types.FunctionType, types.CodeType]] = []
        unread: list[str] = []
        # Codes of two files may be equal.
        by_file: dict[str, list[types.FunctionType]] = {}
        for function in functions:
            by_file.setdefault(function.__code__.co_filename, []).append(function)
        for file, group in by_file.items():
            found = twins_of(file, frozenset(function.__code__ for function in group))
            recorder.conditions |= found.conditions
            recorder.coarse.update(found.unread)
            unread += [code.co_qualname for code in found.unread]
            made = {code: with_recorder(twin, recorder) for code, twin in found.twins.items()}
            self._twins += [(f, made[f.__code__]) for f in group if f.__code__ in made]
        self.unread = tuple(dict.fromkeys(unread))

    @property
    def constants(self) -> Iterator[Any]:
        for function, _ in self._twins:
            yield from constants_of(function)

    @property
    def all_constants(self) -> Iterator[Any]:
        """The constants of all functions, also of those without conditions."""
        for function in self._functions:
            yield from constants_of(function)

    def is_of_model(self, condition: Condition) -> bool:
        """Return True if a condition is in the user's code or in a file of the model's classes."""
        return is_users(condition.file) or condition.file in self._model_files

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Put the twins in place for the duration of the block; warnings and output are suppressed.

        Blocks may be nested. Another thread waits until the outermost block has ended.
        """
        with ExitStack() as stack:
            stack.enter_context(_ONE_AT_A_TIME)
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            stack.enter_context(suppress_output())
            stack.enter_context(compiling_nothing())
            for function, twin in self._twins:
                stack.callback(setattr, function, "__code__", function.__code__)
                function.__code__ = twin
            yield
