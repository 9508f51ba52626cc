"""Find integers that index another input, and keep them so at other sizes.

Separate from ``domains``, where a tensor's values are seen alone: edges index nodes, and offsets
cut a list into bags.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

DTYPES = (torch.int32, torch.int64)


@dataclass(frozen=True, kw_only=True)
class Index:
    """Whole numbers below the size of dimension 0 of the input ``into``.

    ``ordered``: they begin with 0 and never fall. ``whole``: the last one is the size itself.
    """

    into: str
    ordered: bool = False
    whole: bool = False

    def fitted(self, values: torch.Tensor, size: int) -> torch.Tensor:
        """Return values as such numbers for a size of the other input."""
        values = values.clamp(max=max(size - (not self.whole), 0))
        if not self.ordered or not values.numel():
            return values
        values = values.sort().values
        values[0] = 0
        if self.whole and len(values) > 1:
            values[-1] = size
        return values


def index_of(path: str, tensors: Mapping[str, torch.Tensor]) -> Index | None:
    """Return the input that the integers of another one index, or None if they seem to index none.

    That is the first other input whose size is above their largest, but at most about twice it. If
    both have as many rows, which may be those of a batch, the largest must be the last index, and
    they are no offsets: labels that happen to rise look alike.
    Zeros and ones alone are the flags of a mask.
    """
    values = tensors[path]
    if values.dtype not in DTYPES or not values.numel():
        return None
    if int(values.min()) < 0 or int(values.max()) < 2:
        return None
    largest = int(values.max())
    for other, tensor in tensors.items():
        size = tensor.shape[0] if tensor.dim() and other != path else 0
        beside = values.shape[:1] == tensor.shape[:1]
        least = size - 1 if beside else size // 2
        ordered = not beside and _are_ordered(values)
        whole = ordered and largest == size
        if size > 1 and (whole or least <= largest < size):
            return Index(into=other, ordered=ordered, whole=whole)
    return None


def _are_ordered(values: torch.Tensor) -> bool:
    """Return True for offsets like ``0, 3, 3, 7``, and False for a mere count like ``0, 1, 2``."""
    if values.dim() != 1 or len(values) < 2 or int(values[0]):
        return False
    steps = values.diff()
    return bool((steps >= 0).all()) and not bool((steps == 1).all())
