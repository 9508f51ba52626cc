"""Say what is unusual about the parts of a module, without running it.

Parts left in training mode, modules that no register of their parent knows, and iteration over sets
whose order differs between processes.
"""

from __future__ import annotations

from collections.abc import Collection

import torch

from pytest_torchexport.eager import set_order
from pytest_torchexport.eager.fingerprint import Reached
from pytest_torchexport.outcomes.subject import Subject

# torch's modules that draw at random in training mode.
DROPOUT = (
    torch.nn.Dropout,
    torch.nn.Dropout1d,
    torch.nn.Dropout2d,
    torch.nn.Dropout3d,
    torch.nn.AlphaDropout,
    torch.nn.FeatureAlphaDropout,
)
_READ_TRAINING_FLAG = (
    *DROPOUT,
    torch.nn.BatchNorm1d,
    torch.nn.BatchNorm2d,
    torch.nn.BatchNorm3d,
    torch.nn.SyncBatchNorm,
    torch.nn.InstanceNorm1d,
    torch.nn.InstanceNorm2d,
    torch.nn.InstanceNorm3d,
    torch.nn.RReLU,
    torch.nn.RNNBase,
    torch.nn.MultiheadAttention,
)


def left_in_training(
    module: torch.nn.Module | None, reached: Reached, ran: Collection[str] | None = None
) -> list[str]:
    """Return a sentence for each part still in training mode in a module that is not.

    ``ran``: the paths of the parts that ran in training mode; None if that is not known. A copy
    that does not run may be in training mode.
    """
    if module is None or getattr(module, "training", True):
        return []
    hidden = _hidden(reached)
    return [
        f"{path} ({type(part).__name__}) is still in training mode"
        for path, part in reached.modules.items()
        if (ran is None or path in ran)
        and getattr(part, "training", False)
        and (path not in hidden or _reads_training_flag(part))
    ]


def unregistered(module: torch.nn.Module | None, reached: Reached) -> list[str]:
    """Return a sentence for each class of modules with state that only a plain object holds.

    It names the first one: a list may hold the layers of a whole network.
    """
    if module is None:
        return []
    paths: dict[type, list[str]] = {}
    for path in reached.unregistered:
        part = reached.modules.get(path)
        if part is not None and (
            _has_state(part) or any(map(_reads_training_flag, part.modules()))
        ):
            paths.setdefault(type(part), []).append(path)
    return [
        f"{first} ({cls.__name__}) is in no register of its parent: .to(), .eval() and state_dict "
        f"pass it by{f', and {len(others)} more of its class' if others else ''}"
        for cls, (first, *others) in paths.items()
    ]


def iterated_sets(subject: Subject, reached: Reached) -> list[str]:
    """Return a sentence for each line that iterates a set whose order differs between processes."""
    note = "iterates a set, whose order differs between processes"
    found: list[str] = []
    seen: set[tuple[type, frozenset[str]]] = set()
    for path, part in reached.modules.items():
        cls = type(part)
        own = {k: v for k, v in vars(part).items() if isinstance(v, (set, frozenset))}
        key = (cls, frozenset(own))
        if cls.__module__.startswith("torch.") or (key in seen and not own):
            continue
        seen.add(key)
        inside = f" in {path}" if path else ""
        start = "forward" if path or subject.function is part else _method_name(subject)
        found += [f"{note}{inside}, {line}" for line in set_order.in_class(cls, own, start)]
    if subject.module is None:
        holder = getattr(subject.function, "__self__", None)
        own = dict(vars(holder)) if hasattr(holder, "__dict__") else {}
        found += [f"{note}, {line}" for line in set_order.in_function(subject.function, own)]
    return found


def _hidden(reached: Reached) -> frozenset[str]:
    """Return the paths of the unregistered modules and of their parts."""
    return frozenset(
        path
        for path in reached.modules
        for root in reached.unregistered
        if path == root or path.startswith(f"{root}.")
    )


def _reads_training_flag(part: torch.nn.Module) -> bool:
    """Return True if the training flag can make a difference to a module: not to an activation."""
    if isinstance(part, _READ_TRAINING_FLAG):
        return True
    method = getattr(type(part), "forward", None)
    code = getattr(method, "__code__", None)
    own = not type(part).__module__.startswith("torch.")
    return own and code is not None and "training" in code.co_names


def _has_state(part: torch.nn.Module) -> bool:
    return any(True for _ in part.parameters()) or any(True for _ in part.buffers())


def _method_name(subject: Subject) -> str:
    inner = getattr(subject.function, "func", subject.function)
    return getattr(inner, "__name__", "forward")
