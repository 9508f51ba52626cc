"""Compare what two steps made or were given: tensors, and numbers of Python's.

Unlike ``outcomes/compare``, which judges what a module returns, on the scale of the largest number
alone: an intermediate result has no tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from pytest_torchexport.diagnosis.recording import FromOutside, Result
from pytest_torchexport.outcomes.compare import dense

# Numbers that Python rounds and torch rounds are the same up to this.
CLOSE = 1e-6
NO_NUMBER = object()


def error_of(left: Result, right: Result) -> float:
    """Return how much two results differ, in epsilons of the largest number; 0 if not."""
    if (left.shape, left.dtype, left.whole) != (right.shape, right.dtype, right.whole):
        return math.inf
    if isinstance(left.numbers, torch.Tensor) and isinstance(right.numbers, torch.Tensor):
        return tensors_error(left.numbers, right.numbers)
    return 0.0 if equal(left.numbers, right.numbers) else math.inf


def tensors_error(left: torch.Tensor, right: torch.Tensor) -> float:
    """Return how much two tensors differ, in epsilons of the largest number; 0 if not."""
    if left is right or left.is_meta:
        return 0.0
    if left.dtype != right.dtype or left.device != right.device:
        return math.inf
    try:
        left, right = dense(left.detach()), dense(right.detach())
        return _gap(left, right) if left.shape == right.shape else math.inf
    except (RuntimeError, NotImplementedError):  # a layout without these operators
        return 0.0


def _gap(left: torch.Tensor, right: torch.Tensor) -> float:
    same = (left == right) | ((left != left) & (right != right))
    if bool(same.all()):
        return 0.0
    if not (left.is_floating_point() or left.is_complex()):
        return math.inf
    gap = torch.where(same, 0.0, (left - right).abs().double())
    if not bool(torch.isfinite(gap).all()):
        return math.inf
    size = left.abs().double()
    largest = float(torch.where(torch.isfinite(size), size, 0.0).max())
    return float(gap.max()) / (largest * torch.finfo(left.dtype).eps) if largest else math.inf


def is_among(results: Sequence[Result], tensor: torch.Tensor) -> bool:
    """Return True if a step made these numbers, or if that is not known."""
    made = [item.numbers for item in results if isinstance(item.numbers, torch.Tensor)]
    whole = all(item.whole for item in results)
    return not whole or any(not tensors_error(item, tensor) for item in made)


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
