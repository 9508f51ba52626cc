"""Circumstances in which code runs: transformed, below a mode, in which of torch's frames.

Separate because they are state of the process and not of any tensor or module.
"""

from __future__ import annotations

import contextlib
import pkgutil
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import torch


def is_transforming() -> bool:
    """Return True within torch.func's grad, vmap and jacrev. Always False if torch does not say."""
    level = getattr(torch._C._functorch, "maybe_current_level", None)
    return level is not None and level() is not None


def dynamo_is_loaded() -> bool:
    """Return True if this process has imported torch.compile's machinery."""
    return "torch._dynamo" in sys.modules


def ends_gradients(function: Any, args: Sequence[Any]) -> bool:
    """Return True for the call that a ``no_grad`` block begins with."""
    return function is torch._C._set_grad_enabled and not args[0]


# By these code asks whether it is being exported, in which mode it runs, or with how many threads.
_QUERIES = (
    "torch.jit.is_tracing",
    "torch.jit.is_scripting",
    "torch._C._get_tracing_state",
    "torch.compiler.is_compiling",
    "torch.compiler.is_exporting",
    "torch.onnx.is_in_onnx_export",
    "torch.is_grad_enabled",
    "torch.is_inference_mode_enabled",
    "torch.get_num_threads",
)


def export_queries() -> Mapping[str, tuple[Any, str]]:
    """Return the functions by which code asks how it is run: exported, in a mode, with threads.

    By name: the module that has the function, and its name there. Those that torch lacks are left
    out.
    """
    named = (name.rpartition(".") for name in _QUERIES)
    owners = {f"{owner}.{name}": (pkgutil.resolve_name(owner), name) for owner, _, name in named}
    return {name: found for name, found in owners.items() if hasattr(*found)}


def default_device() -> torch.device | None:
    """Return the device that the user set as torch's default, None for the CPU.

    torch 2.9 raises if the default was set to None before.
    """
    try:
        device = torch.get_default_device()
    except AttributeError:
        return None
    return None if device.type == "cpu" else device


def set_default_device(device: torch.device | None) -> None:
    """Set torch's default device. None is the CPU, without a mode that makes torch slower.

    Leaves torch as it was before its default was set: torch 2.9 cannot name a default that is None.
    """
    torch.set_default_device(device)
    if device is None and hasattr(torch, "_GLOBAL_DEVICE_CONTEXT"):
        with contextlib.suppress(AttributeError):
            del torch._GLOBAL_DEVICE_CONTEXT.device_context


def places_of(error: BaseException) -> list[str]:
    """Return the places in the user's code that an exporter knew and its exception does not say.

    As texts with ``File "model.py", line 12``, from the frames of the exception: what
    torch.jit.script was about to compile (``loc``, a ``SourceRange``), and the node that the ONNX
    exporter translated (``node``). Empty if there are no such variables. The innermost comes first.
    """
    found: list[str] = []
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if "torch" not in frame.f_code.co_filename:
            continue
        loc, node = frame.f_locals.get("loc"), frame.f_locals.get("node")
        if type(loc).__name__ == "SourceRange":
            found.append(str(loc))
        stack = node.meta.get("stack_trace") if isinstance(node, torch.fx.Node) else None
        found += [stack] if isinstance(stack, str) else []
    return found[::-1]
