"""CUDA's own: its settings during a check, errors that arrive late, a lost context, memory.

Separate because on the CPU there is none of this. A kernel runs after the call that started it has
returned, and so does its error. After some errors (an index out of range in a kernel) every later
call of CUDA in the process fails: the context is lost, and whatever fails then is not the fault of
the model that runs. Nothing here initializes CUDA, except ``initialize``.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch

from pytest_torchexport.inputs.pytrees import leaves_of

# How to read a setting, how to write it, and its value during a check; None leaves it as it is.
Switch = tuple[Callable[[], Any], Callable[[Any], Any], Any]


class ContextLost(Exception):
    """A call has made CUDA unusable for the rest of the process. The text is CUDA's own."""


# Why CUDA cannot be used any more in this process, once that is known. Nothing brings it back.
_lost: list[str] = []


def is_cuda(device: str) -> bool:
    return device.partition(":")[0] == "cuda"


def initialize(device: str) -> None:
    """Initialize CUDA for an item on such a device.

    Else the first call of the item would, and its random stream would not be put back.
    """
    if is_cuda(device) and torch.cuda.is_available():
        torch.cuda.init()  # type: ignore[no-untyped-call]
        lost()  # to ask for the first time makes the context, for which the driver opens files


def in_use() -> bool:
    """Return True if this process has initialized CUDA and can still use it."""
    return bool(torch.cuda.is_initialized()) and not _lost  # type: ignore[no-untyped-call]


def lost() -> str:
    """Return why CUDA cannot be used any more in this process, or nothing.

    Asks CUDA itself: the user's own test may have lost it.
    """
    if in_use():
        try:
            torch.cuda.synchronize()
        except RuntimeError as error:
            _lost.append(str(error).partition("\n")[0])
    return _lost[0] if _lost else ""


def wait_for(*values: Any) -> None:
    """Wait until the devices of all tensors in these values are done. Raises what a kernel raised.

    Else whatever uses CUDA next would raise it.
    """
    if in_use():
        tensors = (leaf for leaf in leaves_of(values) if isinstance(leaf, torch.Tensor))
        for device in {tensor.device for tensor in tensors if tensor.is_cuda}:
            torch.cuda.synchronize(device)


def raise_if_lost() -> None:
    reason = lost()
    if reason:
        raise ContextLost(reason)


def release() -> None:
    """Give unused memory of the device back: the clean process and other workers need it too."""
    if in_use() and not lost():
        gc.collect()
        torch.cuda.empty_cache()


# -- what a check sets, and puts back --------------------------------------------------------------


def random_states() -> list[torch.Tensor]:
    """Return the random streams of all devices; none while CUDA is not in use."""
    return torch.cuda.get_rng_state_all() if in_use() and not lost() else []


def set_random_states(states: list[torch.Tensor]) -> None:
    if states and not lost():
        torch.cuda.set_rng_state_all(states)


def seed(number: int) -> None:
    if in_use():
        torch.cuda.manual_seed_all(number)


def switches(device: str) -> list[Switch]:
    """Return CUDA's settings. During a check on CUDA they are those with the smallest error.

    TF32 is off. cuDNN does not pick its kernels by measuring their time, which differs from run to
    run, and picks such as add up in one order.

    TF32 has its settings under the names that the user uses: torch refuses to read the older ones
    if the user's settings by the newer ones have no equal there.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    older: list[Switch] = [
        # Only this one keeps "high" and "medium" apart.
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"),
        _attribute(cudnn, "allow_tf32", False),
    ]
    parts = [matmul, getattr(cudnn, "conv", None), getattr(cudnn, "rnn", None)]
    newer = [_attribute(part, "fp32_precision", "ieee") for part in parts]
    found = [
        *(older if all(map(_readable, older)) else filter(_readable, newer)),
        _attribute(cudnn, "benchmark", False),
        _attribute(cudnn, "deterministic", True),
    ]
    return [(read, write, value if is_cuda(device) else None) for read, write, value in found]


def _attribute(owner: Any, name: str, value: Any) -> Switch:
    return (lambda: getattr(owner, name), lambda kept: setattr(owner, name, kept), value)


def _readable(switch: Switch) -> bool:
    try:
        switch[0]()
    except (AttributeError, RuntimeError):  # an older torch, or set by another name
        return False
    return True
