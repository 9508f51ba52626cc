"""Tensors for the server that has no torch: their bytes, and what they are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pytest_torchexport.sandbox.wire import OwnClass


@dataclass(frozen=True)
class Array:
    """Numbers in their order; ``dtype`` as torch calls it."""

    dtype: str
    shape: tuple[int, ...]
    data: Any


class Arrays:
    """The codec of the server without torch."""

    def raw(self, leaf: Any) -> tuple[str, Sequence[int], Any] | None:
        """What an Array holds."""
        return (leaf.dtype, leaf.shape, leaf.data) if isinstance(leaf, Array) else None

    def node(self, value: Any) -> tuple[str, Sequence[Any]] | None:
        """No class is known."""
        return None

    def rebuilt(self, structure: str, leaves: Sequence[Any]) -> Any:
        """No class is known."""
        raise OwnClass(f"{structure:.200} is not known where there is no torch")

    def tensor(self, dtype: str, shape: Sequence[int], data: memoryview) -> Array:
        """An Array of its own memory."""
        return Array(dtype, tuple(shape), bytearray(data))


CODEC = Arrays()
