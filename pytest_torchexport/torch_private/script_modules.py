"""ScriptModules and their graphs, which Python sees through TorchScript's own objects.

Separate because they are not modules as ``modules.py`` knows them: their fields are in C++.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch


def script_attributes(module: Any) -> Iterator[tuple[str, Any]]:
    """Yield a ScriptModule's attributes by name; nothing for a loaded one, which hides them."""
    try:
        names = list(module._concrete_type.get_attributes())
    except Exception:
        return
    for name in names:
        try:
            yield name, module._c.getattr(name)
        except Exception:  # noqa: S112  # of a type that Python does not see
            continue


def script_attribute(module: Any, name: str) -> Any:
    """Return one attribute of a ScriptModule.

    Raises RuntimeError if Python has no type for it, as for an enum that is not imported.
    """
    return module._c.getattr(name)


def script_code(module: Any) -> str:
    """Return the source that TorchScript prints of a ScriptModule; empty for another module."""
    code: str = getattr(getattr(module, "_c", None), "code", "")
    return code


def script_methods(module: Any) -> Iterator[tuple[str, Any]]:
    """Yield the compiled methods of a ScriptModule by name; none for another module."""
    list_names = getattr(getattr(module, "_c", None), "_method_names", None)
    for name in list_names() if list_names is not None else ():
        yield name, module._c._get_method(name)


def with_calls_inlined(graph: Any) -> Any:
    """Return a graph with its calls resolved, or the graph itself if torch cannot do it.

    For the graph of a fork, whose calls ``inlined_graph`` leaves as they are.
    """
    inline = getattr(torch._C, "_jit_pass_inline", None)
    if inline is None:
        return graph
    copy = graph.copy()
    inline(copy)
    return copy


def is_tensor_type(kind: Any) -> bool:
    """Return True for the type of a tensor in a TorchScript graph, which may know its dims."""
    return isinstance(kind, torch._C.TensorType)
