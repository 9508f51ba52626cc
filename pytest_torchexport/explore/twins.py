"""Find the twins of the user's functions: their code compiled once more, with a recorder in it.

A function is matched with the source file by comparing what the file compiles to now with the code
that the function has. Separate from ``rewrite``, which knows syntax trees and no running code.
"""

from __future__ import annotations

import ast
import dis
import linecache
import threading
import types
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

from pytest_torchexport.explore.callgraph import files_of, functions_of, owner_of
from pytest_torchexport.explore.conditions import Condition, ConditionId
from pytest_torchexport.explore.recorder import ConditionRecorder
from pytest_torchexport.explore.rewrite import SENTINEL, FunctionStart, first_line, rewrite
from pytest_torchexport.outcomes.subject import Subject
from pytest_torchexport.outcomes.torch_state import compiling_nothing, suppress_output
from pytest_torchexport.results.source_line import is_users

_JUMPS = frozenset({*dis.hasjrel, *dis.hasjabs})


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


@lru_cache(maxsize=256)
def _twins_of(file: str, codes: frozenset[types.CodeType], source: str) -> FileTwins:
    wanted = {(code.co_firstlineno, code.co_name) for code in codes}
    try:
        pairs, conditions = _compiled(file, source, wanted)
    except (SyntaxError, ValueError, RecursionError):  # not Python, or nested too deeply
        return FileTwins({}, {}, tuple(filter(_branches, codes)))
    found = {code: _twin(code, pairs) for code in codes}
    return FileTwins(
        twins={
            code: twin for code, twin in found.items() if twin is not None and _has_recorder(twin)
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


def constants_in(code: types.CodeType) -> Iterator[Any]:
    """Yield the constants of a code and of those nested in it, and the elements of containers."""
    for item in code.co_consts:
        if isinstance(item, types.CodeType):
            yield from constants_in(item)
        elif isinstance(item, (tuple, frozenset)):
            yield from item
        else:
            yield item


# -- from the source ----------------------------------------------------------------------------


def _compiled(
    file: str, source: str, wanted: set[FunctionStart]
) -> tuple[list[tuple[types.CodeType, types.CodeType]], dict[ConditionId, Condition]]:
    """Compile the source as it is and rewritten. Return the pairs of codes, and the conditions."""
    tree = ast.parse(source, file)
    tree.body = _needed(tree.body, {line for line, _ in wanted})
    as_it_is = compile(tree, file, "exec", dont_inherit=True)
    conditions = rewrite(tree, file, source, wanted)
    rewritten = compile(tree, file, "exec", dont_inherit=True)
    pairs = zip(_nested(as_it_is), _nested(rewritten), strict=True)
    return list(pairs), conditions


def _needed(body: Sequence[ast.stmt], lines: set[int]) -> list[ast.stmt]:
    """Return the statements that contain one of the lines, and the imports.

    Of a class only such statements are kept. Imports are needed because the compiler treats a
    method of an imported module differently.
    """
    kept: list[ast.stmt] = []
    for statement in body:
        first = first_line(statement)
        if any(first <= line <= (statement.end_lineno or first) for line in lines):
            if isinstance(statement, ast.ClassDef):
                empty = ast.copy_location(ast.Pass(), statement)
                statement.body = _needed(statement.body, lines) or [empty]
                statement.decorator_list = []
            kept.append(statement)
        else:
            kept += _imports(statement)
    return kept


def _imports(statement: ast.stmt) -> Iterator[ast.stmt]:
    """Yield the imports of a statement, also below ``if`` and ``try``, but not in a function."""
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        yield statement
    elif isinstance(statement, (ast.If, ast.Try, ast.With)):
        for item in ast.walk(statement):
            if isinstance(item, ast.stmt) and item is not statement:
                yield from _imports(item)


# -- from the running code ----------------------------------------------------------------------


def _twin(
    code: types.CodeType, pairs: Sequence[tuple[types.CodeType, types.CodeType]]
) -> types.CodeType | None:
    """Return the rewritten code of the one pair that this code was compiled like, or None."""
    same = [
        pair
        for pair in pairs
        if (pair[0].co_firstlineno, pair[0].co_name) == (code.co_firstlineno, code.co_name)
        and pair[1].co_freevars == code.co_freevars
        and pair[0].co_varnames[: pair[0].co_argcount] == code.co_varnames[: code.co_argcount]
    ]
    if len(same) > 1:  # several lambdas on a line
        same = [pair for pair in same if pair[0].co_code == code.co_code and pair[0] == code]
    if len(same) != 1 or not _same_source(code, same[0][0]):
        return None
    return same[0][1]


def _same_source(code: types.CodeType, compiled: types.CodeType) -> bool:
    """Return True if a code was compiled from the source that gave ``compiled``.

    If pytest rewrote the asserts, the code has names and constants in addition to the source's.
    """
    mine, theirs = _directly_nested(code), _directly_nested(compiled)
    if len(mine) != len(theirs) or not all(map(_same_source, mine, theirs)):
        return False
    if compiled.co_names == code.co_names:
        return compiled.co_code == code.co_code and _own_constants(compiled) == _own_constants(code)
    return set(compiled.co_names) <= set(code.co_names) and (
        _own_constants(compiled) <= _own_constants(code)
    )


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
    """Yield the code and all that are nested in it."""
    yield code
    for item in _directly_nested(code):
        yield from _nested(item)


def _has_recorder(twin: types.CodeType) -> bool:
    return any(SENTINEL in item.co_consts for item in _nested(twin))


def _branches(code: types.CodeType) -> bool:
    """Return True if a code, or one nested in it, has a jump."""
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
        self._model_files = files_of(subject)
        self._recorder = recorder
        by_file: dict[str, set[types.CodeType]] = {}
        for function in functions:
            by_file.setdefault(function.__code__.co_filename, set()).add(function.__code__)
        # Codes of two files may be equal, so that the file is part of the key.
        twins: dict[tuple[str, types.CodeType], types.CodeType] = {}
        unread: list[str] = []
        for file, codes in by_file.items():
            found = twins_of(file, frozenset(codes))
            recorder.conditions |= found.conditions
            for code, twin in found.twins.items():
                twins[file, code] = with_recorder(twin, recorder)
            unread += [code.co_qualname for code in found.unread]
            recorder.coarse.update(found.unread)
        self.unread = tuple(dict.fromkeys(unread))
        pairs = [(f, twins.get((f.__code__.co_filename, f.__code__))) for f in functions]
        self._twins = [(function, twin) for function, twin in pairs if twin is not None]

    @property
    def constants(self) -> Iterator[Any]:
        """Yield the constants in the functions that have a twin."""
        for function, _ in self._twins:
            yield from constants_in(function.__code__)

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
            stack.callback(register_module_forward_pre_hook(self._recorder.enter).remove)
            leave = register_module_forward_hook(self._recorder.leave, always_call=True)
            stack.callback(leave.remove)
            yield
