"""Spell a line of the user's source without what makes a number of a tensor.

For remedies only: the line is shown, never run. If it cannot be spelled so, nothing is returned.
"""

from __future__ import annotations

import ast
from collections.abc import Callable

_SIZE = ("shape", "size")


def with_sizes(text: str) -> str:
    """Return the line with ``x.shape[0]`` for ``int(x.shape[0])`` and ``len(x)``; else nothing."""
    return _spelled(text, _size_of)


def with_tensors(text: str) -> str:
    """Return the line with ``x.max()`` for ``float(x.max())`` and ``x.max().item()``.

    Nothing if a tensor cannot stand in its place, as for an index.
    """
    return _spelled(text, _tensor_of, within=(ast.BinOp, ast.UnaryOp, ast.Return, ast.Assign))


def with_a_write(text: str) -> str:
    """Return ``self.last.copy_(x)`` for ``self.last = x``; nothing for another statement."""
    node = _statement(text)
    if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Attribute):
        return ""
    return f"{ast.unparse(node.targets[0])}.copy_({ast.unparse(node.value)})"


def _statement(text: str) -> ast.stmt | None:
    code, _, _ = text.partition("  # ")
    body = code if not code.endswith(":") else f"{code} pass"
    try:
        (node,) = ast.parse(body).body
    except (SyntaxError, ValueError):
        return None
    # An argument on a line of its own.
    part = isinstance(node, ast.Expr) and isinstance(node.value, ast.Tuple)
    return None if part else node


def _spelled(
    text: str,
    other: Callable[[ast.Call], ast.expr | None],
    within: tuple[type[ast.AST], ...] = (ast.AST,),
) -> str:
    """Return the line with other calls; nothing if there are none, or one is not ``within``."""
    node = _statement(text)
    if node is None:
        return ""
    parents = {child: parent for parent in ast.walk(node) for child in ast.iter_child_nodes(parent)}
    changer = _Changer(other)
    changed = ast.unparse(changer.visit(node)).splitlines()[0]
    fits = all(
        isinstance(parents.get(call), within) and not _is_lookup(parents.get(call))
        for call in changer.changed
    )
    return changed if changer.changed and fits else ""


def _is_lookup(node: ast.AST | None) -> bool:
    """Return True for ``table[key]`` and ``table.get(key)``, which make a number of any key."""
    called = node.func if isinstance(node, ast.Call) else None
    return isinstance(node, ast.Subscript) or getattr(called, "attr", "") == "get"


class _Changer(ast.NodeTransformer):
    def __init__(self, other: Callable[[ast.Call], ast.expr | None]) -> None:
        self.changed: list[ast.Call] = []
        self._other = other

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        found = self._other(node)
        if found is None:
            return node
        self.changed.append(node)
        return found


def _size_of(call: ast.Call) -> ast.expr | None:
    """Return the size itself for ``int(size)``, ``len(x)`` and ``math.sqrt(size)``."""
    if len(call.args) != 1 or call.keywords:
        return None
    name, (inner,) = ast.unparse(call.func), call.args
    if name == "len" and isinstance(inner, (ast.Name, ast.Attribute)):
        return ast.parse(f"{ast.unparse(inner)}.shape[0]", mode="eval").body
    if not _is_size(inner):
        return None
    if name in ("int", "float"):
        return inner
    if name == "math.sqrt":
        return ast.parse(f"{ast.unparse(inner)} ** 0.5", mode="eval").body
    return None


def _is_size(node: ast.expr) -> bool:
    """Return True for ``x.shape[0]`` and ``x.size(0)``."""
    inner = node.value if isinstance(node, ast.Subscript) else node
    inner = inner.func if isinstance(inner, ast.Call) else inner
    return isinstance(inner, ast.Attribute) and inner.attr in _SIZE


def _tensor_of(call: ast.Call) -> ast.expr | None:
    """Return the tensor for ``float(tensor)`` and ``tensor.item()``."""
    name = ast.unparse(call.func)
    if name == "float" and len(call.args) == 1 and not isinstance(call.args[0], ast.Constant):
        return call.args[0]
    if isinstance(call.func, ast.Attribute) and call.func.attr == "item" and not call.args:
        return call.func.value
    return None
