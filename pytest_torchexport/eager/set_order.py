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

from pytest_torchexport.eager.fingerprint import Reached, names_in
from pytest_torchexport.outcomes.subject import Subject
from pytest_torchexport.results.source_line import SourceLine, is_users, short_path

# Functions whose result does not depend on the order of their argument.
_ORDERLESS = frozenset({"sorted", "set", "frozenset", "len", "any", "all", "min", "max", "dict"})
# Functions that keep the order of their argument.
_PASSING = frozenset({"list", "tuple", "enumerate", "iter", "zip", "map", "reversed", "filter"})
# Names in an expression whose elements are numbers, which hash alike in every process.
_NUMERIC = frozenset({"shape", "size", "range", "len", "tolist", "item", "numel", "ndim", "dim"})
_SET_CODES = ("BUILD_SET", "SET_ADD", "SET_UPDATE")


def iterated_sets(subject: Subject, reached: Reached) -> list[str]:
    """Return a sentence for each line that iterates a set whose order differs between processes."""
    sentences: dict[str, None] = {}
    for place, function, attributes in _functions(subject, reached):
        sets = frozenset(name for name, value in attributes.items() if _is_unstable(value))
        for line in _lines(function.__code__, sets):
            said = f"iterates a set, whose order differs between processes{place}, {line}"
            sentences[said] = None
    return list(sentences)


def _functions(
    subject: Subject, reached: Reached
) -> Iterator[tuple[str, types.FunctionType, Mapping[str, Any]]]:
    """Yield the user's functions that a call runs: where, and the attributes of ``self`` there.

    Of classes that several modules have, only once, unless modules have sets of their own.
    """
    seen: set[type] = set()
    for path, part in reached.modules.items():
        own = {k: v for k, v in vars(part).items() if isinstance(v, (set, frozenset))}
        if type(part).__module__.startswith("torch.") or (type(part) in seen and not own):
            continue
        seen.add(type(part))
        checked = part is subject.module and subject.function is not part
        method: Any = getattr(subject.function, "func", subject.function)
        name = getattr(method, "__name__", "forward")
        for function in _called(type(part), name if checked else "forward"):
            yield f" in {path}" if path else "", function, own
    plain: Any = getattr(subject.function, "__func__", subject.function)
    if subject.module is None and isinstance(plain, types.FunctionType):
        owner: Any = getattr(subject.function, "__self__", None)
        yield "", plain, getattr(owner, "__dict__", {})


def _called(cls: type, start: str) -> Iterator[types.FunctionType]:
    """Yield the user's method of this name, and those of the class that it names, and so on."""
    methods = {
        name: item
        for one in reversed(cls.__mro__)
        for name, item in vars(one).items()
        if isinstance(item, types.FunctionType) and is_users(item.__code__.co_filename)
    }
    todo = [start]
    while todo:
        function = methods.pop(todo.pop(), None)
        if function is not None:
            yield function
            todo += function.__code__.co_names


def _is_unstable(value: Any) -> bool:
    """Return True for a set with an order that only this process has."""
    if not isinstance(value, (set, frozenset)) or len(value) < 2:
        return False
    return any(not _is_stable(item) for item in itertools.islice(value, 100))


def _is_stable(item: Any) -> bool:
    if isinstance(item, tuple):
        return all(map(_is_stable, item))
    return isinstance(item, (bool, int, float, complex))


@functools.lru_cache(maxsize=1024)
def _lines(code: types.CodeType, sets: frozenset[str]) -> tuple[SourceLine, ...]:
    """Return the lines that iterate such a set, or an attribute of ``self`` among ``sets``."""
    if not is_users(code.co_filename) or not (_makes_sets(code) or sets & set(names_in(code))):
        return ()
    try:
        lines, first = inspect.getsourcelines(code)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, SyntaxError, TypeError, ValueError):
        return ()
    path = short_path(code.co_filename)
    numbers = sorted({node.lineno for node in _iterated(tree, sets)})
    return tuple(SourceLine(path, first + n - 1, lines[n - 1].strip()) for n in numbers)


@functools.lru_cache(maxsize=1024)
def _makes_sets(code: types.CodeType) -> bool:
    """Return True if the source is worth parsing, which takes a thousand times as long as this."""
    return (
        not {"set", "frozenset"}.isdisjoint(code.co_names)
        or any(isinstance(const, frozenset) for const in code.co_consts)
        or any(instruction.opname in _SET_CODES for instruction in dis.get_instructions(code))
        or any(_makes_sets(const) for const in code.co_consts if inspect.iscode(const))
    )


def _iterated(tree: ast.AST, sets: frozenset[str]) -> Iterator[ast.expr]:
    """Yield the expressions that are such sets, and are iterated in an order that matters."""
    assigned: dict[str, list[bool]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            is_set = _is_set(node.value, sets, frozenset())
            for target in node.targets:
                assigned.setdefault(getattr(target, "id", ""), []).append(is_set)
    local = frozenset(name for name, kinds in assigned.items() if all(kinds))
    for expression in _ordered(tree):
        if _is_set(expression, sets, local):
            yield expression


def _ordered(node: ast.AST, *, orderless: bool = False) -> Iterator[ast.expr]:
    """Yield the expressions that are iterated, but for those whose order is lost again."""
    if not orderless:
        match node:
            case ast.For(iter=iterated) | ast.AsyncFor(iter=iterated):
                yield iterated
            case ast.Starred(value=iterated):
                yield iterated
            case ast.ListComp() | ast.GeneratorExp() | ast.DictComp():
                yield from (generator.iter for generator in node.generators)
            case ast.Call(func=ast.Name(id=name)) if name in _PASSING:
                yield from node.args
            case ast.Call(func=ast.Attribute(attr="join")):
                yield from node.args
    consumed = isinstance(node, ast.Call) and getattr(node.func, "id", "") in _ORDERLESS
    for child in ast.iter_child_nodes(node):
        inside = consumed and isinstance(child, (ast.GeneratorExp, ast.ListComp, ast.Call))
        yield from _ordered(child, orderless=inside or isinstance(child, ast.SetComp))


def _is_set(node: ast.expr, sets: frozenset[str], local: frozenset[str]) -> bool:
    match node:
        case ast.Name(id=name):
            return name in local
        case ast.Attribute(attr=name, value=ast.Name(id="self")):
            return name in sets
        case ast.BinOp(op=ast.BitOr() | ast.BitAnd() | ast.Sub() | ast.BitXor()):
            return any(_is_set(side, sets, local) for side in (node.left, node.right))
        case ast.Set(elts=items):
            return len(items) > 1 and not all(map(_is_numeric, items))
        case ast.SetComp(elt=element, generators=generators):
            return not _is_numeric(element) and not any(_is_numeric(g.iter) for g in generators)
        case ast.Call(func=ast.Name(id="set" | "frozenset"), args=items):
            return bool(items) and not any(map(_is_numeric, items))
    return False


def _is_numeric(node: ast.expr) -> bool:
    """Return True if an element, or the source of elements, is evidently a number."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, (bool, int, float, complex))
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        return all(map(_is_numeric, node.elts))
    names = (getattr(inner, "attr", getattr(inner, "id", "")) for inner in ast.walk(node))
    return not _NUMERIC.isdisjoint(names)
