"""torch's tensors as bytes, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from pytest_torchexport.sandbox.wire import NotCarried
from pytest_torchexport.tree import packed


class Tensors:
    """The codec of this process and of the server that has torch."""

    def raw(self, leaf: Any) -> tuple[str, Sequence[int], Any] | None:
        """The tensor's numbers in their order, on the CPU. Raises NotCarried for layouts that have none."""
        if not isinstance(leaf, torch.Tensor):
            return None
        if leaf.is_meta or leaf.is_nested or leaf.layout != torch.strided or leaf.is_quantized:
            raise NotCarried(
                f"a {_layout(leaf)} tensor of {leaf.dtype} cannot cross to another process"
            )
        return str(leaf.dtype).removeprefix("torch."), leaf.shape, packed(leaf).numpy()

    def tensor(self, dtype: str, shape: Sequence[int], data: memoryview) -> torch.Tensor:
        """A tensor of its own memory."""
        kind = getattr(torch, dtype, None)
        if not isinstance(kind, torch.dtype):
            raise ValueError(f"{dtype!r} is no dtype of torch")
        if len(data) != math.prod(shape) * kind.itemsize:
            raise ValueError(f"{len(data)} bytes are no {dtype}{list(shape)}")
        if not data:
            return torch.empty(shape, dtype=kind)
        # Cloned, because a view of another dtype must begin at a multiple of its size.
        return torch.frombuffer(data, dtype=torch.uint8).clone().view(kind).reshape(tuple(shape))


def _layout(tensor: torch.Tensor) -> str:
    named = {"meta": tensor.is_meta, "nested": tensor.is_nested, "quantized": tensor.is_quantized}
    return next((name for name, true in named.items() if true), str(tensor.layout))


CODEC = Tensors()
