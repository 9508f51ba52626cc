"""Find the function that a test called to get to a module: ``predict(net, x)``, ``net.encode(x)``.

Separate from ``direct_forward``: there, the module is checked. Here, only the modules that the
function calls are, so that a warning names it.
"""

from __future__ import annotations

import ast
import functools
import inspect
import linecache
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from itertools import islice
from pathlib import Path
from types import CodeType, FrameType

import torch

from pytest_torchexport.inputs.call import Call
from pytest_torchexport.plugin.direct_forward import IN_PLACE, callers, inside_decorators
from pytest_torchexport.results.source_line import SourceLine, is_users, short_path, source_line

_TEST_FILE = re.compile("test_.*|.*_test|conftest")
_TEST_FOLDERS = frozenset(["test", "tests", "testing"])
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_LOOPS = (ast.For, ast.AsyncFor, ast.While, ast.ListComp, ast.SetComp, ast.DictComp)


class CallerKind(Enum):
    """The way to check such a function, which the warning says, depends on this."""

    FORWARD = auto()  # of an instance, or a partial: no call of the module was recorded
    METHOD = auto()
    FUNCTION = auto()


@dataclass(frozen=True)
class Caller:
    """A function that the test called. ``place``: file and line."""

    name: str
    place: str
    kind: CallerKind


def is_of_tests(path: str, *, test: Path, root: Path) -> bool:
    """Return True if a file below ``root`` belongs to the tests, as the file ``test`` does."""
    file = Path(path)
    folder = file.parent.relative_to(root) if file.is_relative_to(root) else file.parent
    named = _TEST_FILE.fullmatch(file.stem) is not None
    return named or file == test or not _TEST_FOLDERS.isdisjoint(folder.parts)


def caller_of(
    called: torch.nn.Module, frame: FrameType | None, of_tests: Callable[[str], bool]
) -> Caller | None:
    """Return the outermost function around a call of a module that is not checked itself.

    It is a method of another module; a forward that ``direct_forward`` does not find, because it is
    a partial, or a function of the instance; or a function that was given tensors, computes
    something with the module's result, and is not in a file ``of_tests``. None if there is none.
    """
    found = None
    for each, module in callers(frame):
        code = each.f_code
        if not is_users(code.co_filename):
            continue
        place = f"{short_path(code.co_filename)}:{code.co_firstlineno}"
        for owner in _owners_of_forward(each):
            found = Caller(f"{type(owner).__name__}.forward", place, CallerKind.FORWARD)
        own = inside_decorators(getattr(type(module), code.co_name, None))
        of_module = module is not None and own is not None and own.__code__ is code
        if of_module and code.co_name in ("__init__", "forward"):
            continue
        ships = not of_tests(code.co_filename) and _is_given_tensors(each) and _computes(each)
        if ships or (of_module and module is not called):
            name = f"{type(module).__name__}.{code.co_name}" if of_module else code.co_qualname
            kind = CallerKind.METHOD if of_module else CallerKind.FUNCTION
            found = Caller(name, place, kind)
    return found


def line_of_test(
    frame: FrameType | None, of_tests: Callable[[str], bool], body: CodeType | None
) -> SourceLine | None:
    """Return the line of the test's function that led to a frame.

    ``body`` is the code of that function; if it is not running, the innermost line ``of_tests``.
    """
    found = None
    for each, _ in callers(frame):
        if each.f_code is body:
            return source_line(each.f_code.co_filename, each.f_lineno)
        if found is None and is_users(file := each.f_code.co_filename) and of_tests(file):
            found = source_line(file, each.f_lineno)
    return found


def _owners_of_forward(frame: FrameType) -> Iterator[torch.nn.Module]:
    """Yield the modules among a function's names whose forward, inside partials, it is."""
    for module in frame.f_locals.values():
        if isinstance(module, torch.nn.Module):
            function = module.forward
            while isinstance(function, functools.partial):
                function = function.func
            own = inside_decorators(function)
            if own is not None and own.__code__ is frame.f_code:
                yield module


def _is_given_tensors(frame: FrameType) -> bool:
    args, *rest, values = inspect.getargvalues(frame)
    names = [name for name in (*args, *rest) if name in values]
    return bool(Call(tuple(values[name] for name in names)).tensors())


def _computes(frame: FrameType) -> bool:
    """Return True if a function returns something else than the result of the call that it makes.

    A function that trains, by a call of ``backward``, is not what ships.
    """
    code = frame.f_code
    _, line, _, column = next(islice(code.co_positions(), frame.f_lasti // 2, None))
    function = _function_at(code.co_filename, line or 0, column or 0)
    if function is None or "backward" in code.co_names:
        return False
    nodes = list(_nodes_of(function))
    returned = [node.value for node in nodes if isinstance(node, ast.Return)]
    if isinstance(function, ast.Lambda):
        returned = [function.body]
    values = [value for value in returned if value and not isinstance(value, ast.Constant)]
    looped = {inner for node in nodes if isinstance(node, _LOOPS) for inner in ast.walk(node)}
    results: set[ast.expr] = {
        node
        for node in nodes
        if isinstance(node, ast.Call)
        and (node.end_lineno, node.end_col_offset) == (line, column)
        and node not in looped
    }
    results |= {node for node in nodes if isinstance(node, ast.Await) and node.value in results}
    if any(isinstance(node, ast.Expr) and node.value in results for node in nodes):
        return False  # its result is not used
    names = _names_of(results, nodes)
    return any(
        value not in results and not (isinstance(value, ast.Name) and value.id in names)
        for value in values
    )


def _names_of(results: set[ast.expr], nodes: list[ast.AST]) -> set[str]:
    """Return the names that have a result as their only value, and are not written to."""
    assigned = Counter(
        node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    )
    written = {
        node.value.id
        for node in nodes
        if isinstance(node, (ast.Subscript, ast.Attribute))
        and isinstance(node.value, ast.Name)
        and (isinstance(node.ctx, ast.Store) or IN_PLACE.search(getattr(node, "attr", "")))
    }
    given = {
        target.id
        for node in nodes
        if isinstance(node, ast.Assign) and node.value in results
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return {name for name in given - written if assigned[name] == 1}


def _function_at(path: str, line: int, column: int) -> ast.AST | None:
    """Return the innermost function of a file around a place; None if there is none."""
    found = None
    for function in _functions("".join(linecache.getlines(path))):
        start = function.lineno, function.col_offset
        end = function.end_lineno or 0, function.end_col_offset or 0
        if start < (line, column) <= end:
            found = function  # ast.walk comes to the inner ones later
    return found


@functools.lru_cache(maxsize=64)
def _functions(source: str) -> list[ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda]:
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, _FUNCTIONS)]


def _nodes_of(function: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes inside a function, without those of functions inside it."""
    for node in ast.iter_child_nodes(function):
        yield node
        if not isinstance(node, _FUNCTIONS):
            yield from _nodes_of(node)
