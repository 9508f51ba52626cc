"""The numbers behind the words of ``values``: where a dtype has rules of its own.

NaN, infinities, zeros of both signs, denormal numbers, and integers at the limits of a type. No
example suggests that a model gets them, so they are legal only if the user says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

# Integers that another type does not hold: int32, uint32, float32 and float64.
_LIMITS = (2**31 - 1, 2**31, 2**31 + 1, -(2**31), -(2**31) - 1, 2**32, 2**24 + 1, 2**53 + 1)


def numbers_of(words: Iterable[str], dtype: torch.dtype) -> tuple[float, ...]:
    """Return the different numbers of some words that a dtype holds; ``edges`` are those of all."""
    known = _regions(dtype)
    known["edges"] = tuple(number for numbers in known.values() for number in numbers)
    found = {_bits(number): number for word in words for number in known.get(word, ())}
    return tuple(found.values())


def _regions(dtype: torch.dtype) -> dict[str, tuple[float, ...]]:
    if dtype == torch.bool:
        return {}
    if not (dtype.is_floating_point or dtype.is_complex):
        return {"limits": _limits(dtype)}
    facts = torch.finfo(dtype)
    small = (facts.tiny * facts.eps, facts.tiny / 2)
    regions = {
        "nan": (math.nan,),
        "inf": (math.inf, -math.inf),
        "zero": (0.0, -0.0),
        "denormal": tuple(sign * size for size in small for sign in (1, -1)),
    }
    return {
        word: tuple(number for number in numbers if _is_held(number, dtype))
        for word, numbers in regions.items()
    }


def is_among(number: float, others: tuple[float, ...]) -> bool:
    """Return True if a number is one of the others: NaN is itself, and -0.0 is not 0.0."""
    return any(_bits(number) == _bits(other) for other in others)


def _bits(number: float) -> tuple[str, float]:
    if isinstance(number, int):
        return "", number
    sign = math.copysign(1.0, number)
    return ("nan", 0.0) if math.isnan(number) else ("-" if sign < 0 else "", number)


def _limits(dtype: torch.dtype) -> tuple[int, ...]:
    facts = torch.iinfo(dtype)
    # Tensors of integers are made in int64.
    low, high = max(facts.min, -(2**63)), min(facts.max, 2**63 - 1)
    found = dict.fromkeys((low, low + 1, high - 1, high, *_LIMITS))
    return tuple(number for number in found if low <= number <= high)


def _is_held(number: float, dtype: torch.dtype) -> bool:
    held = torch.tensor(number, dtype=torch.float64).to(dtype)
    real = held.real if held.is_complex() else held
    return is_among(float(real), (number,))
