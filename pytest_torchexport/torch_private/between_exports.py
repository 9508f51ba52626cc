"""Things that exporters keep in the process from one export to the next: forgotten, or kept.

Separate because each of these changes what a later export does, or how much memory and time it
takes, and nothing else in torch shows that it is there.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch


def forget_decompositions(operator: Any) -> None:
    """Clear what an operator's overload remembers of how it is decomposed.

    torch.onnx.export swaps decompositions without clearing that cache. Does nothing if torch has
    no such cache.
    """
    getattr(operator, "_dispatch_cache", {}).clear()


def forget_script_types() -> None:
    """Drop TorchScript's cache of compiled module types, if torch has it.

    A class whose compilation failed stays there half made, and its next compilation fails for
    another reason.
    """
    store = getattr(getattr(torch.jit, "_recursive", None), "concrete_type_store", None)
    getattr(store, "type_store", {}).clear()


# The translations of each opset, and how many operators there were when they were collected.
_translations: dict[int, tuple[int, dict[Any, Any]]] = {}


@contextlib.contextmanager
def onnx_translations_kept() -> Iterator[None]:
    """Have ``torch.onnx.export`` collect its translations once per process in the block.

    It parses the source of all 550 of them for each export, 0.3 s. They are collected again once
    another operator is registered, which some are waiting for. Does nothing if torch collects them
    otherwise.
    """
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        own = vars(ONNXRegistry)["from_torchlib"]
        count_operators = torch._C._dispatch_get_all_op_names
    except (ImportError, KeyError, AttributeError):
        yield
        return

    def from_torchlib(cls: Any, opset_version: int | None = None) -> Any:
        given = () if opset_version is None else (opset_version,)
        made, operators = cls(), len(count_operators())
        found = _translations.get(opset_version or 0)
        if found is None or found[0] != operators:
            whole = own.__func__(cls, *given)
            # Looking for operators may have registered some.
            found = _translations[opset_version or 0] = len(count_operators()), whole.functions
        made._opset_version = opset_version or made.opset_version
        made.functions = {target: list(each) for target, each in found[1].items()}
        return made

    ONNXRegistry.from_torchlib = classmethod(from_torchlib)
    try:
        yield
    finally:
        ONNXRegistry.from_torchlib = own


def forget_onnx_matches() -> None:
    """Have the optimizer of ``torch.onnx.export`` forget the graph that it looked at last.

    Its rules keep it, and with it the weights, until another graph comes. Does nothing if
    onnxscript keeps its rules elsewhere.
    """
    rewriter = sys.modules.get("onnxscript.rewriter")
    for rule in getattr(rewriter, "_DEFAULT_REWRITE_RULES", ()):
        kept = vars(getattr(rule, "_matcher", None) or rule)
        for name in {"_current_node", "_match", "_graph", "_tracer"} & kept.keys():
            kept[name] = None  # a rule sets it anew before it looks at a node
