"""Measure how far a condition is from the other outcome.

The measure is called branch distance in search-based testing. It is positive as long as the
condition does not have the wanted outcome, in the units of the operands, and differentiable if they
are.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, TypeVar

import torch
from torch import Tensor

from pytest_torchexport.explore.provenance import Combined, Compared, Computed, Reduced, unfolded
from pytest_torchexport.explore.slopes import shadow_of, sloped
from pytest_torchexport.inputs.pytrees import is_plain

_Number = TypeVar("_Number", float, Tensor)

# The elements of one tensor whose distances are looked at one by one.
MOST_DEMANDS = 8
# Python integers beyond this do not fit a float64.
LARGEST = 2**1000
_NUMBERS = re.compile(r"-?\d+\.?\d*(?<=\d)|.", re.DOTALL)
MIRRORED = {">": "<", ">=": "<=", "<": ">", "<=": ">=", "==": "==", "!=": "!="}
NEGATED = {">": "<=", ">=": "<", "<": ">=", "<=": ">", "==": "!=", "!=": "=="}


def violation(provenance: Any, wanted: bool) -> Tensor | None:
    """Return the distance to the wanted outcome as a scalar tensor, or None if there is none."""
    found = _violation(provenance, wanted)
    return found.reshape(()) if found is not None and found.numel() == 1 else None


def demands(provenance: Any, wanted: bool) -> list[Tensor]:
    """Return distances, as scalars, of which every one has to go for the wanted outcome.

    If the outcome needs all elements of a tensor, these are the distances of the elements: the
    largest ``MOST_DEMANDS``, and the sum of the others that are missing. Else there is only one.
    """
    if isinstance(provenance, Compared):
        compared = provenance if wanted else _opposite(provenance)
        provenance, wanted = unfolded(compared), True
    if isinstance(provenance, Combined):
        if provenance.operator == "not":
            return demands(provenance.parts[0], not wanted)
        if (provenance.operator == "and") == wanted:
            return [gap for part in provenance.parts for gap in demands(part, wanted)]
    if isinstance(provenance, Reduced) and not provenance.dims:
        each = _violation(provenance.inner, wanted)
        if each is not None and (provenance.operator == "all") == wanted:
            return singled_out(each)
    whole = violation(provenance, wanted)
    return [whole] if whole is not None else []


def _opposite(compared: Compared) -> Compared:
    return dataclasses.replace(compared, operator=NEGATED.get(compared.operator, ""))


def singled_out(distances: Tensor) -> list[Tensor]:
    """Return the largest distances, and of the others the sums of the positive and of the rest."""
    ordered = distances.reshape(-1).sort(descending=True).values
    first, others = ordered[:MOST_DEMANDS], ordered[MOST_DEMANDS:]
    sums = [part.sum() for part in (others[others > 0], others[others <= 0]) if part.numel()]
    return [*first, *sums]


def distance(provenance: Any, wanted: bool) -> float | None:
    """Return the violation as a float.

    Two numbers are compared without torch, which would take ten times as long.
    """
    if isinstance(provenance, Compared):
        left, right = _single(provenance.left), _single(provenance.right)
        if left is not None and right is not None:
            return _missing(provenance.operator, left - right, wanted)
    if isinstance(provenance, Computed):
        return provenance.missing
    missing = violation(provenance, wanted)
    return float(missing) if missing is not None else None


def python_distance(left: Any, right: Any) -> float | None:
    """Return how much two texts or two rows of numbers differ; None for other values.

    Texts differ in their numbers, and in how many other characters.
    """
    if isinstance(left, str) and isinstance(right, str):
        mine, yours = (_NUMBERS.findall(text) for text in (left, right))
        return abs(len(mine) - len(yours)) + sum(map(_apart, mine, yours))
    if type(left) is type(right) and isinstance(left, (tuple, list)) and len(left) == len(right):
        pairs = [(_single(one), _single(other)) for one, other in zip(left, right, strict=True)]
        known = [abs(a - b) for a, b in pairs if a is not None and b is not None]
        return sum(known) if len(known) == len(pairs) else None
    return None


def _apart(one: str, other: str) -> float:
    # As the expression that took them apart: "²" is a digit, and no decimal.
    numbers = one[-1].isdecimal() and other[-1].isdecimal()
    return abs(float(one) - float(other)) if numbers else float(one != other)


def is_order(provenance: Any) -> bool:
    """Return True if a condition consists of ``<``, ``<=``, ``>`` and ``>=`` only."""
    if isinstance(provenance, Compared):
        return provenance.operator in ("<", "<=", ">", ">=")
    if isinstance(provenance, Combined):
        return all(map(is_order, provenance.parts))
    return isinstance(provenance, Reduced) and is_order(provenance.inner)


def operands_of(provenance: Any) -> list[Any]:
    """Return the values that a condition compares in the end."""
    if isinstance(provenance, Compared):
        return [provenance.left, provenance.right]
    if isinstance(provenance, Combined):
        return [operand for part in provenance.parts for operand in operands_of(part)]
    if isinstance(provenance, (Reduced, Computed)):
        return operands_of(provenance.inner)
    return [provenance.value]


def _violation(provenance: Any, wanted: bool) -> Tensor | None:
    """Return the distance per element."""
    if isinstance(provenance, Compared):
        return _compared(provenance, wanted)
    if isinstance(provenance, Combined):
        return _combined(provenance, wanted)
    if isinstance(provenance, Reduced):
        return _reduced(provenance, wanted)
    if isinstance(provenance, Computed):
        return None
    value = provenance.value
    if isinstance(value, bool) or (isinstance(value, Tensor) and value.dtype == torch.bool):
        truth = number(value)
        return None if truth is None else (1.0 - truth if wanted else truth) - 0.5
    far = number(value)
    return None if far is None else (-far.abs() if wanted else far.abs())


def _compared(provenance: Compared, wanted: bool) -> Tensor | None:
    left, right = number(provenance.left), number(provenance.right)
    if left is None or right is None:
        return None
    try:
        difference = left - right
    except RuntimeError:  # shapes that do not broadcast
        return None
    return _missing(provenance.operator, difference, wanted)


def _missing(operator: str, difference: _Number, wanted: bool) -> _Number | None:
    """Return how far ``difference <operator> 0`` is from the wanted outcome."""
    operator = operator if wanted else NEGATED.get(operator, "")
    if operator in (">", ">="):
        return -difference
    if operator in ("<", "<="):
        return difference
    if operator == "==":
        return abs(difference)
    return -abs(difference) if operator == "!=" else None


def _combined(provenance: Combined, wanted: bool) -> Tensor | None:
    if provenance.operator == "not":
        return _violation(provenance.parts[0], not wanted)
    found = [_violation(part, wanted) for part in provenance.parts]
    known = [item for item in found if item is not None]
    if len(known) < len(found):
        return known[0] if known else None
    every = (provenance.operator == "and") == wanted
    try:
        return torch.maximum(*known) if every else torch.minimum(*known)
    except RuntimeError:  # shapes that do not broadcast
        return None


def _reduced(provenance: Reduced, wanted: bool) -> Tensor | None:
    inner = _violation(provenance.inner, wanted)
    if inner is None or not inner.numel():
        return None
    every = (provenance.operator == "all") == wanted
    if provenance.dims and inner.dim():
        along = inner.amax if every else inner.amin
        return along(provenance.dims, provenance.keepdim)
    if every:
        missing = inner.relu().sum()
        return missing if bool(missing > 0) else inner.max()
    return inner.min()


def number(value: Any) -> Tensor | None:
    """Return a value as float64, in which large integers stay apart; None if it is no number."""
    if isinstance(value, Tensor):
        if not is_plain(value) or value.is_complex():
            return None
        shadow = shadow_of(value)
        return value.double() if shadow is None else sloped(value.double(), shadow.double())
    if isinstance(value, (bool, int, float)) and (isinstance(value, float) or abs(value) < LARGEST):
        return torch.tensor(float(value), dtype=torch.float64)
    return None


def _single(value: Any) -> float | None:
    """Return a number, or that of a tensor with one element, as ``_number`` has it."""
    if isinstance(value, Tensor):
        real = is_plain(value) and not value.is_complex()
        return float(value.item()) if real and value.numel() == 1 else None
    if isinstance(value, (bool, int, float)) and (isinstance(value, float) or abs(value) < LARGEST):
        return float(value)
    return None
