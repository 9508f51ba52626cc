"""Modules as torch keeps them: their own tensors, children and hooks, and wrappers around them.

Separate because torch has these in ``vars()`` of a module, beside the fields of its author.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import FunctionType
from typing import Any, Literal

import torch

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
# What torch.nn.Module keeps in vars() for itself, beside its hooks.
_BOOKKEEPING = (
    "_parameters",
    "_buffers",
    "_modules",
    "training",
    "_non_persistent_buffers_set",
    "_is_full_backward_hook",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs",
    "_initializing",
    "_compiled_call_impl",
    "_c",
    "_concrete_type",
)
# The names in a module's vars() that are torch's and not its author's.
MODULE_FIELDS = frozenset({*_HOOKS, *_BOOKKEEPING})


def global_hooks() -> list[Any]:
    """Return the hooks that run for every module; none if torch names their registers otherwise."""
    registers = [getattr(torch.nn.modules.module, f"_global{name}", None) for name in _HOOKS]
    return [hook for held in registers if isinstance(held, dict) for hook in held.values()]


def hook_registers(module: torch.nn.Module) -> list[dict[int, Any]]:
    """Return the registers of a module's hooks, each with the ids and functions of its own.

    No code of the module's class runs. Empty if torch names them otherwise.
    """
    own = vars(module)
    return [own[name] for name in _HOOKS if isinstance(own.get(name), dict)]


def registered(
    module: torch.nn.Module, kind: Literal["parameters", "buffers", "modules"]
) -> Mapping[str, Any]:
    """Return a module's own ones of a kind, also those that are None (not of a ScriptModule)."""
    if not isinstance(module, torch.jit.ScriptModule):
        found: Mapping[str, Any] = vars(module).get(f"_{kind}", {})
        return found
    if kind == "modules":
        return dict(module.named_children())
    return dict(getattr(module, f"named_{kind}")(recurse=False))


def non_persistent_of(module: torch.nn.Module) -> frozenset[str]:
    """Return the names of a module's own buffers that ``state_dict`` leaves out.

    Empty for a ScriptModule, which knows none, and if torch keeps them elsewhere.
    """
    return frozenset(vars(module).get("_non_persistent_buffers_set", ()))


def uncompiled(thing: Any) -> Any:
    """Return the module or function that ``torch.compile`` wrapped, or the thing itself.

    Told by the wrapper's type, because a module may answer to any name.
    """
    if isinstance(thing, FunctionType):
        return getattr(thing, "_torchdynamo_orig_callable", thing)
    cls = type(thing)
    wrapped = cls.__name__ == "OptimizedModule" and cls.__module__.startswith("torch._dynamo")
    return getattr(thing, "_orig_mod", thing) if wrapped else thing


def compiles_itself(thing: Any) -> bool:
    """Return True for a module whose ``compile()`` was called. Its copies are not compiled."""
    return isinstance(thing, torch.nn.Module) and vars(thing).get("_compiled_call_impl") is not None


# -- TorchScript ----------------------------------------------------------------------------------


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
