"""Find lines of a forward that iterate a set whose order differs between processes.

Strings hash differently in each process, and objects by their address: what is summed, stacked or
named in such an order makes another artifact each time. One process cannot show it; the source can.
"""

from __future__ import annotations

import ast
import dis
import functools
import inspect
import itertools
import textwrap
import types
from collections.abc import Iterator, Mapping
from typing import Any

from pytest_torchexport.eager.fingerprint import names_in
from pytest_torchexport.results.source_line import SourceLine, is_users, short_path

MAX_METHODS = 50
# Functions whose result does not depend on the order of their argument.
_ORDERLESS = frozenset({"sorted", "set", "frozenset", "len", "any", "all", "min", "max", "dict"})
# Functions that keep the order of their argument.
_PASSING = frozenset({"list", "tuple", "enumerate", "iter", "zip", "map", "reversed", "filter"})
# Names in an expression whose elements are numbers, which hash alike in every process.
_NUMERIC = frozenset({"shape", "size", "range", "len", "tolist", "item", "numel", "ndim", "dim"})
_SET_CODES = frozenset(
    dis.opmap[name] for name in ("BUILD_SET", "SET_ADD", "SET_UPDATE") if name in dis.opmap
)


def in_function(function: Any, attributes: Mapping[str, Any]) -> list[SourceLine]:
    """Return the lines of a function that iterate such a set, given the attributes of ``self``."""
    function = getattr(function, "__func__", function)
    return _in_function(function, attributes) if isinstance(function, types.FunctionType) else []


def methods(cls: type) -> Mapping[str, types.FunctionType]:
    """Return the user's methods of a class by name."""
    return {
        name: item
        for one in reversed(cls.__mro__)
        for name, item in vars(one).items()
        if isinstance(item, types.FunctionType) and is_users(item.__code__.co_filename)
    }


def in_class(cls: type, attributes: Mapping[str, Any], start: str = "forward") -> list[SourceLine]:
    """Return such lines of the method ``start`` of a class, and of the methods it calls."""
    known = methods(cls)
    todo, seen = [start], {start}
    found: list[SourceLine] = []
    while todo and len(seen) <= MAX_METHODS:
        function = known.get(todo.pop())
        if function is None:
            continue
        found += _in_function(function, attributes)
        called = [name for name in function.__code__.co_names if name in known and name not in seen]
        todo += called
        seen.update(called)
    return list(dict.fromkeys(found))


def _in_function(function: types.FunctionType, attributes: Mapping[str, Any]) -> list[SourceLine]:
    code = function.__code__
    sets = frozenset(name for name, value in attributes.items() if _unstable(value))
    if not is_users(code.co_filename) or not (_makes_sets(code) or sets & set(names_in(code))):
        return []
    path = short_path(code.co_filename)
    return [SourceLine(path, number, source) for number, source in _scan(code, sets)]


def _unstable(value: Any) -> bool:
    """Return True for a set with an order that only this process has."""
    if not isinstance(value, (set, frozenset)) or len(value) < 2:
        return False
    return any(not _stable(item) for item in itertools.islice(value, 100))


def _stable(item: Any) -> bool:
    if isinstance(item, tuple):
        return all(_stable(part) for part in item)
    return isinstance(item, (bool, int, float, complex))


@functools.lru_cache(maxsize=1024)
def _makes_sets(code: types.CodeType) -> bool:
    """Return True if the source is worth parsing, which takes a thousand times as long as this."""
    if {"set", "frozenset"} & set(code.co_names):
        return True
    if any(isinstance(const, frozenset) for const in code.co_consts):
        return True
    if _SET_CODES & set(code.co_code[::2]):
        return True
    return any(_makes_sets(const) for const in code.co_consts if inspect.iscode(const))


@functools.lru_cache(maxsize=1024)
def _scan(code: types.CodeType, sets: frozenset[str]) -> tuple[tuple[int, str], ...]:
    try:
        lines, first = inspect.getsourcelines(code)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, SyntaxError, TypeError, ValueError):
        return ()
    numbers = sorted({node.lineno for node in _iterated(tree, sets)})
    return tuple((first + number - 1, lines[number - 1].strip()) for number in numbers)


def _iterated(tree: ast.AST, sets: frozenset[str]) -> Iterator[ast.expr]:
    """Yield the expressions that are such sets, and are iterated in an order that matters."""
    local = _locals(tree, sets)
    for node, orderless in _walk(tree, orderless=False):
        for expression in () if orderless else _iterables(node):
            if _is_set(expression, sets, local):
                yield expression


def _walk(node: ast.AST, *, orderless: bool) -> Iterator[tuple[ast.AST, bool]]:
    yield node, orderless
    for child in ast.iter_child_nodes(node):
        consumed = isinstance(node, ast.Call) and _name(node.func) in _ORDERLESS
        inside = consumed and isinstance(child, (ast.GeneratorExp, ast.ListComp, ast.Call))
        set_made = isinstance(child, ast.SetComp)
        yield from _walk(child, orderless=inside or set_made)


def _iterables(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, (ast.For, ast.AsyncFor)):
        return [node.iter]
    if isinstance(node, (ast.ListComp, ast.GeneratorExp, ast.DictComp)):
        return [generator.iter for generator in node.generators]
    if isinstance(node, ast.Starred):
        return [node.value]
    if isinstance(node, ast.Call) and (
        _name(node.func) in _PASSING or _attribute(node.func) == "join"
    ):
        return list(node.args)
    return []


def _locals(tree: ast.AST, sets: frozenset[str]) -> frozenset[str]:
    """Return the local names that are assigned such sets, and nothing else."""
    given: dict[str, list[bool]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    given.setdefault(target.id, []).append(_is_set(node.value, sets, frozenset()))
    return frozenset(name for name, kinds in given.items() if all(kinds))


def _is_set(node: ast.expr, sets: frozenset[str], local: frozenset[str]) -> bool:
    if isinstance(node, ast.Name):
        return node.id in local
    if isinstance(node, ast.Attribute):
        return node.attr in sets and isinstance(node.value, ast.Name) and node.value.id == "self"
    if isinstance(node, ast.BinOp) and isinstance(
        node.op, (ast.BitOr, ast.BitAnd, ast.Sub, ast.BitXor)
    ):
        return any(_is_set(side, sets, local) for side in (node.left, node.right))
    if isinstance(node, ast.Set):
        return len(node.elts) > 1 and any(not _numeric(item) for item in node.elts)
    if isinstance(node, ast.SetComp):
        return not _numeric(node.elt) and not any(_numeric(g.iter) for g in node.generators)
    if isinstance(node, ast.Call) and _name(node.func) in ("set", "frozenset"):
        return bool(node.args) and not any(_numeric(item) for item in node.args)
    return False


def _numeric(node: ast.expr) -> bool:
    """Return True if an element, or the source of elements, is evidently a number."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, (bool, int, float, complex))
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        return all(_numeric(item) for item in node.elts)
    words = {
        inner.attr if isinstance(inner, ast.Attribute) else inner.id
        for inner in ast.walk(node)
        if isinstance(inner, (ast.Attribute, ast.Name))
    }
    return bool(words & _NUMERIC)


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _attribute(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else ""
