"""Constants: numbers that the user's code may compare with, mined before anything has run.

A threshold hides in the code, in an attribute, a config object or a small buffer, and random numbers do not
meet ``ids[:, -1] == 50256``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch

# More numbers than that are a table, not thresholds.
MAX_NUMEL = 16
MAX_CONSTANTS = 48
MAX_DEPTH = 3
# What every code holds, and what boundary calls hold anyway.
_EVERYWHERE = (0, 1, -1, 2)


def mined(code: Iterable[Any], module: torch.nn.Module | None) -> tuple[float, ...]:
    """Finite numbers from the code's constants, the modules' attributes, and small buffers and parameters,
    those of the code first.
    """
    found: dict[float, None] = {}
    for value in [*code, *_of_modules(module)]:
        plain = isinstance(value, (int, float)) and not isinstance(value, bool)
        # The range first: an integer may be too large for a float.
        if plain and abs(value) < 2**53 and math.isfinite(value) and value not in _EVERYWHERE:
            found[value] = None
    return tuple(found)[:MAX_CONSTANTS]


def _of_modules(module: torch.nn.Module | None) -> Iterator[Any]:
    for part in module.modules() if module is not None else ():
        library = type(part).__module__.startswith("torch.")
        for name, value in vars(part).items():
            if not name.startswith("_") and not library:
                yield from _numbers(value, MAX_DEPTH)
        for tensor in [*part.parameters(recurse=False), *part.buffers(recurse=False)]:
            yield from _elements(tensor)


def _numbers(value: Any, depth: int) -> Iterator[Any]:
    """The numbers in an attribute: also of a config object or a container."""
    if isinstance(value, (int, float)):
        yield value
    elif isinstance(value, torch.Tensor):
        yield from _elements(value)
    elif depth and isinstance(value, (list, tuple, set, frozenset)):
        for item in list(value)[:MAX_NUMEL]:
            yield from _numbers(item, depth - 1)
    elif depth and isinstance(value, dict):
        for item in list(dict.values(value))[: 4 * MAX_NUMEL]:
            yield from _numbers(item, depth - 1)
    elif depth and hasattr(value, "__dict__") and not callable(value):
        yield from _numbers(dict(vars(value)), depth)  # the dict counts


def _elements(tensor: torch.Tensor) -> Iterator[Any]:
    """The numbers of a small dense tensor."""
    dense = tensor.layout == torch.strided and not tensor.is_nested and not tensor.is_quantized
    if dense and tensor.numel() <= MAX_NUMEL and not tensor.is_complex() and not tensor.is_meta:
        yield from tensor.detach().flatten().tolist()
