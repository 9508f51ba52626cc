"""Find the expressions of a source file that read a Python number out of a tensor.

Examples are ``x.item()``, ``int(x.max())`` and a local name that one of these was assigned to.
CPython keeps one object for each small integer and each bool. The recorder therefore cannot tell by
identity whether such a value was read from a tensor, and the source has to say so.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from pytest_torchexport.outcomes.operator_table import of_kind

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda

# Functions and methods that may return a Python number or bool for a tensor.
READERS = of_kind("read") | frozenset(
    [
        "bool",
        "int",
        "float",
        "tolist",
        "len",
        "max",
        "min",
        "any",
        "all",
        "sum",
    ]
)
# What is known of a tensor without its numbers, which no call changes.
FACTS = frozenset(
    ["dtype", "device", "layout", "requires_grad", "is_cuda", "is_floating_point", "is_complex"]
)
# A value may be computed from one that was read, which takes a second pass to see.
PASSES = 2


def readers_in(tree: ast.AST) -> frozenset[str]:
    """Return ``READERS`` and the file's functions that return what a reader returns."""
    functions = [item for item in ast.walk(tree) if isinstance(item, ast.FunctionDef)]
    returned = {function: _returned(function) for function in functions}
    readers = READERS
    for _ in range(PASSES):
        readers |= {
            function.name
            for function, values in returned.items()
            if values and function.name not in readers
            for names in [names_read(function, readers)]
            if any(reads_tensor(value, names, readers) for value in values)
        }
    return readers


def _returned(function: ast.FunctionDef) -> list[ast.expr]:
    """Return the expressions that a function, or one nested in it, returns."""
    returns = (item for item in ast.walk(function) if isinstance(item, ast.Return))
    return [item.value for item in returns if item.value is not None]


def reads_tensor(node: ast.AST, names: set[str], readers: frozenset[str]) -> bool:
    """Return True if an expression calls one of ``readers`` or contains one of ``names``.

    A property of the file's own classes is a reader too; it is accessed without a call. Not counted
    is what only ``FACTS`` are asked of: ``x.dtype == torch.float16``.
    """
    own = readers - READERS
    return any(
        (isinstance(item, ast.Call) and _last_name(item.func) in readers)
        or (isinstance(item, ast.Attribute) and item.attr in own)
        or (isinstance(item, ast.Name) and item.id in names)
        for item in _without_facts(node)
    )


def _without_facts(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and those below it, but none of ``x.dtype``, ``len(x.shape)``, ``x is None``."""
    is_fact = isinstance(node, ast.Attribute) and node.attr in FACTS
    if is_fact or _is_rank(node) or is_none_test(node):
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from _without_facts(child)


def _is_rank(node: ast.AST) -> bool:
    """Return True for ``len(x.shape)``."""
    return (
        isinstance(node, ast.Call)
        and _last_name(node.func) == "len"
        and any(isinstance(item, ast.Attribute) and item.attr == "shape" for item in node.args)
    )


def is_none_test(node: ast.AST) -> bool:
    """Return True for ``x is None``: no number of a tensor decides it."""
    return (
        isinstance(node, ast.Compare)
        and isinstance(node.ops[0], (ast.Is, ast.IsNot))
        and isinstance(node.comparators[0], ast.Constant)
        and node.comparators[0].value is None
    )


def names_read(function: Function, readers: frozenset[str]) -> set[str]:
    """Return the local names to which a function assigns what it reads from tensors."""
    names: set[str] = set()
    assigned = [
        (target.id, item.value)
        for item in ast.walk(function)
        if isinstance(item, (ast.Assign, ast.AnnAssign, ast.AugAssign, ast.NamedExpr))
        for targets in getattr(item, "targets", [getattr(item, "target", None)])
        for target in getattr(targets, "elts", [targets])
        if isinstance(target, ast.Name) and item.value is not None
    ]
    for _ in range(PASSES):
        names |= {name for name, value in assigned if reads_tensor(value, names, readers)}
    return names


def _last_name(function: ast.expr) -> str:
    return str(getattr(function, "attr", "") or getattr(function, "id", ""))
