"""Say what a person can write instead: words about a condition, and lines spelled otherwise.

A line is shown, never run. If it cannot be spelled otherwise, none is shown.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection

from pytest_torchexport.results.diagnosis import Cause
from pytest_torchexport.results.source_line import SourceLine

ARTIFACTS = {
    "trace": "trace",
    "script": "script",
    "export": "program",
    "onnx": "ONNX file",
    "onnx_legacy": "ONNX file",
}
# Conditions of which who calls the artifact does not know the side: memory and identity.
_OF_OBJECTS = re.compile(
    r"\.(?:(?:is_contiguous|stride|storage_offset|data_ptr)\(|(?:requires_grad|is_leaf)\b)"
    r"|\bis (?:not )?(?!not\b|None\b)"
)
OTHERWISE = {
    "trace": "or compile the function that has it by @torch.jit.script",
    "export": "or write torch.cond, which keeps both sides",
}
LOOPS = {
    "trace": "compile the function that has it by @torch.jit.script, or compute all steps at once",
    "export": "write torch.while_loop or torch.ops.higher_order.scan, or compute all steps at once",
}
A_TENSOR = (
    "compute it with torch's operators alone, without item(), int(), float(), tolist() or numpy()"
)


def words_of(target: str) -> str:
    """Return the product of a target, in words: ``the trace``."""
    return f"the {ARTIFACTS.get(target, 'artifact')}"


def of_a_condition(
    kind: str,
    text: str,
    *,
    where: SourceLine,
    on_values: bool,
    target: str,
    arguments: Collection[str] = (),
) -> Cause:
    """Return the cause of a failure for which a condition is to blame.

    ``kind`` and ``text`` are those of the condition; ``on_values``: values decide it, and not only
    sizes. ``arguments`` are those which are no tensors and other than in the example.
    """
    artifact = words_of(target)
    if kind in ("for", "while"):
        return Cause(
            kind="unrolled loop",
            text=f"Python runs the loop at the export, and {artifact} has its iterations one after "
            "the other",
            remedy=LOOPS.get(target, "compute all steps at once"),
            where=where,
        )
    remedy = "export once for each side, and choose between the artifacts outside"
    if _OF_OBJECTS.search(text):
        remedy = (
            "compute the same on both sides, or make the inputs alike before it, as by "
            "x.contiguous() or x.clone()"
        )
    elif not {*arguments}.isdisjoint(re.findall(r"\w+", text)):
        remedy = "export once for each value of the argument, and choose between the artifacts "
        remedy += "outside"
    elif on_values:
        otherwise = OTHERWISE.get(target, "")
        remedy = f"compute both sides and choose with torch.where, {otherwise}".rstrip(", ")
    return Cause(
        kind="frozen branch",
        text=f"Python decides {text!r} once, at the export: {artifact} has only that side",
        remedy=remedy,
        where=where,
    )


# -- lines that make a number of a size ------------------------------------------------------------


def without_a_number(where: SourceLine) -> str:
    """Return what to do about a line that makes a number of a size."""
    node, sizes = _statement(where.text), _WithSizes()
    if node is not None and not isinstance(node, ast.FunctionDef):
        own = {child: parent for parent in ast.walk(node) for child in ast.iter_child_nodes(parent)}
        line = ast.unparse(sizes.visit(node)).splitlines()[0]
        if sizes.changed and not any(_is_lookup(own[call]) for call in sizes.changed):
            return f"leave the size as it is: {line}"
    return "compute with x.shape[i] as it is, without int(), float(), len() or math"


def _is_lookup(node: ast.AST) -> bool:
    """Return True for ``table[key]`` and ``table.get(key)``, which make a number of any key."""
    called = node.func if isinstance(node, ast.Call) else None
    return isinstance(node, ast.Subscript) or getattr(called, "attr", "") == "get"


def _statement(text: str) -> ast.stmt | None:
    code, _, _ = text.partition("  # ")
    try:
        (node,) = ast.parse(f"{code} pass" if code.endswith(":") else code).body
    except (SyntaxError, ValueError):
        return None
    # An argument on a line of its own.
    part = isinstance(node, ast.Expr) and isinstance(node.value, ast.Tuple)
    return None if part else node


class _WithSizes(ast.NodeTransformer):
    """Puts sizes where numbers are made of them. ``changed`` are those places."""

    def __init__(self) -> None:
        self.changed: list[ast.Call] = []

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        size = _size_of(node)
        if size is None:
            return node
        self.changed.append(node)
        return size


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
    inner = node.value if isinstance(node, ast.Subscript) else node
    inner = inner.func if isinstance(inner, ast.Call) else inner
    return isinstance(inner, ast.Attribute) and inner.attr in ("shape", "size")
