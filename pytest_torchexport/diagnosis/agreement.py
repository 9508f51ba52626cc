"""Compare what two steps made or were given: tensors, and numbers of Python's.

Unlike ``outcomes/compare``, which judges what a module returns, on the scale of the largest number
alone: an intermediate result has no tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from pytest_torchexport.outcomes.compare import dense
from pytest_torchexport.outcomes.observe import are_one_memory
from pytest_torchexport.outcomes.tape import FromOutside, Result

# Numbers that Python rounds and torch rounds are the same up to this.
CLOSE = 1e-6
NO_NUMBER = object()


def results_differ(left: Result, right: Result) -> bool:
    """Return True if two results differ at all."""
    if _facts(left) != _facts(right):
        return True
    if isinstance(left.numbers, torch.Tensor) and isinstance(right.numbers, torch.Tensor):
        return tensors_differ(left.numbers, right.numbers)
    return not equal(left.numbers, right.numbers)


def tensors_differ(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Return True if two tensors differ at all."""
    if left is right or left.is_meta:
        return False
    if left.dtype != right.dtype or left.device != right.device:
        return True
    try:
        left, right = dense(left.detach()), dense(right.detach())
        if left.shape != right.shape:
            return True
        alike = are_one_memory(left, right) or torch.equal(left, right)
        return not alike and not bool(_same(left, right).all())
    except (RuntimeError, NotImplementedError):  # a layout without these operators
        return False


def error_of(left: Result, right: Result) -> float:
    """Return how much results that differ do so, in epsilons of the largest number."""
    tensors = isinstance(left.numbers, torch.Tensor) and isinstance(right.numbers, torch.Tensor)
    if not tensors or _facts(left) != _facts(right):
        return math.inf
    one, other = dense(left.numbers), dense(right.numbers)
    return _gap(one, other) if one.shape == other.shape else math.inf


def _facts(result: Result) -> tuple[Any, ...]:
    return result.shape, result.dtype, result.whole


def _same(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    return (left == right) | ((left != left) & (right != right))


def _gap(left: torch.Tensor, right: torch.Tensor) -> float:
    if not (left.is_floating_point() or left.is_complex()):
        return math.inf
    gap = torch.where(_same(left, right), 0.0, (left - right).abs().double())
    if not bool(torch.isfinite(gap).all()):
        return math.inf
    size = left.abs().double()
    largest = float(torch.where(torch.isfinite(size), size, 0.0).max())
    return float(gap.max()) / (largest * torch.finfo(left.dtype).eps) if largest else math.inf


def is_among(results: Sequence[Result], tensor: torch.Tensor) -> bool:
    """Return True if a step made these numbers, or if that is not known."""
    made = [item.numbers for item in results if isinstance(item.numbers, torch.Tensor)]
    whole = all(item.whole for item in results)
    return not whole or any(not tensors_differ(item, tensor) for item in made)


def number_of(value: Any) -> Any:
    """Return a number, text or dtype; the number of a stored tensor of one; else ``NO_NUMBER``."""
    if isinstance(value, FromOutside):
        single = value.tensor.numel() == 1 and not value.tensor.dim() and not value.name
        return value.tensor.item() if single and not value.tensor.is_meta else NO_NUMBER
    return value if isinstance(value, (bool, int, float, complex, str, torch.dtype)) else NO_NUMBER


def equal(one: Any, other: Any) -> bool:
    """Return True if two numbers or texts are the same but for how Python and torch round."""
    if isinstance(one, (str, torch.dtype)) or isinstance(other, (str, torch.dtype)):
        return bool(one == other)
    if one is None or other is None:
        return one is other
    if isinstance(one, complex) or isinstance(other, complex):
        return bool(abs(one - other) <= CLOSE * abs(one))
    return math.isclose(one, other, rel_tol=CLOSE) or bool(one != one and other != other)
