"""Find where the elements of a view lie in the tensor that it is a view of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pytest_torchexport.torch_private.memory import memory_of


def is_view(operand: Any, given: Tensor) -> bool:
    """Return True if a tensor is another one, or a view of it."""
    if not isinstance(operand, Tensor) or not given.numel():
        return False
    if operand.layout != torch.strided or given.layout != torch.strided:
        return False
    same = memory_of(operand) == memory_of(given)
    return same and operand.dtype == given.dtype


def places_in(operand: Tensor, given: Tensor) -> Tensor:
    """Return the flat positions of a view's elements in the other tensor, in the view's shape."""
    length = given.untyped_storage().nbytes() // given.element_size()
    flat = torch.zeros(length, dtype=torch.int64)
    own = torch.arange(given.numel()).reshape(given.shape)
    flat.as_strided(given.shape, given.stride(), given.storage_offset()).copy_(own)
    return flat.as_strided(operand.shape, operand.stride(), operand.storage_offset())
