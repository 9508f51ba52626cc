"""Find the numbers that the user's code may compare with, before anything has run.

A threshold is a constant of the code, an attribute, a field of a config object, or an element of a
small buffer. Random numbers do not meet a condition like ``ids[:, -1] == 50256``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from pytest_torchexport.inputs.pytrees import builtin_base, is_plain

# A container or tensor with more numbers is a table and not a threshold.
MAX_NUMEL = 16
MAX_CONSTANTS = 48
MAX_DEPTH = 3
# Nearly all code has these, and boundary calls use them already.
_UBIQUITOUS = (0, 1, -1, 2)


def constants_of(code: Iterable[Any], module: torch.nn.Module | None) -> tuple[float, ...]:
    """Return the finite numbers among the code's constants and in the modules, without duplicates.

    ``code`` yields the constants of the code; they come first. Of the modules, attributes and
    small buffers and parameters are read.
    """
    found: dict[float, None] = {}
    for value in [*code, *_of_modules(module)]:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        # The range first: an integer may be too large for a float.
        if number and abs(value) < 2**53 and math.isfinite(value) and value not in _UBIQUITOUS:
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
    """Yield the numbers in an attribute, also in a container or a config object."""
    if isinstance(value, (int, float)):
        yield value
    elif isinstance(value, torch.Tensor):
        yield from _elements(value)
    elif depth and (base := builtin_base(value, (list, tuple, set, frozenset))) is not None:
        for item in itertools.islice(base.__iter__(value), MAX_NUMEL):
            yield from _numbers(item, depth - 1)
    elif depth and isinstance(value, dict):
        for item in list(dict.values(value))[: 4 * MAX_NUMEL]:
            yield from _numbers(item, depth - 1)
    elif depth and hasattr(value, "__dict__") and not callable(value):
        yield from _numbers(dict(vars(value)), depth)  # the dict takes one level of depth


def _elements(tensor: torch.Tensor) -> Iterator[Any]:
    """Yield the numbers of a small dense tensor."""
    if is_plain(tensor) and tensor.numel() <= MAX_NUMEL and not tensor.is_complex():
        yield from tensor.detach().flatten().tolist()
