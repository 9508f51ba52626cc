"""Record the user's module, the call's tensors and the process, which a check must not change."""

from __future__ import annotations

import os
import random
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_state_dict_hooks")
PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)
DEEPEST = 6

Facts = dict[str, Any]


def facts_of(subject: Any, call: Any) -> Facts:
    """Return facts of a subject (a module, function or bound method), a call and the process."""
    module = getattr(subject, "__self__", subject)
    found = dict(_values("call", call))
    if isinstance(module, nn.Module):
        found |= dict(_module(module))
    return found | _process()


def changed(before: Facts, after: Facts) -> list[str]:
    """Return the names of the facts that have changed."""
    names = [*before, *(name for name in after if name not in before)]
    return [name for name in names if before.get(name) != after.get(name)]


def _module(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for path, part in module.named_modules():
        name = path or type(module).__name__
        yield f"{name}: training", getattr(part, "training", None)
        for hooks in HOOKS:
            yield f"{name}: {hooks}", list(getattr(part, hooks, {}))
        if not isinstance(part, torch.jit.ScriptModule):
            for key, value in vars(part).items():
                if key not in HOOKS and key != "_modules":
                    yield from _values(f"{name}: {key}", value)
    for path, tensor in [*module.named_parameters(), *module.named_buffers()]:
        yield from _values(path, tensor)


def _values(name: str, value: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield facts of a value: of tensors identity, content and flags; of containers their items."""
    if isinstance(value, Tensor):
        yield name, (id(value), value.dtype, tuple(value.shape), _bytes(value))
        yield f"{name}: flags", (value.requires_grad, value.grad is None, value.is_inference())
    elif isinstance(value, PLAIN):
        yield name, (type(value).__name__, repr(value))
    elif isinstance(value, (Mapping, list, tuple)) and depth < DEEPEST:
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        yield name, (type(value).__name__, len(value))
        for key, item in list(items):
            yield from _values(f"{name}[{key!r}]", item, depth + 1)
    elif type(value).__module__.startswith("zoo") and hasattr(value, "__dict__"):
        yield from _values(name, vars(value), depth + 1)
    else:
        yield name, id(value)


def _bytes(tensor: Tensor) -> bytes:
    if tensor.is_meta:
        return b""
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return plain.view(torch.uint8).numpy().tobytes() if plain.numel() else b""


def _process() -> Facts:
    return {
        "torch's random state": bytes(torch.get_rng_state().numpy()),
        "numpy's random state": repr(np.random.get_state()),  # noqa: NPY002  # the global state
        "Python's random state": hash(random.getstate()),
        "default dtype": torch.get_default_dtype(),
        "default device": str(torch.get_default_device()),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "threads": torch.get_num_threads(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "fill of empty memory": torch.utils.deterministic.fill_uninitialized_memory,
        "attention's fast path": torch.backends.mha.get_fastpath_enabled(),
        "warning filters": list(warnings.filters),
        "working directory": Path.cwd(),
        "sys.path": list(sys.path),
        # The import of inductor sets its cache folder there; a check sets nothing.
        "environment": {k: v for k, v in os.environ.items() if not k.startswith("TORCHINDUCTOR")},
    }
