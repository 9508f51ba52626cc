"""Tensors in a process without torch: their bytes, and torch's name of their dtype."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pytest_torchexport.sandbox.wire import UnknownClass


@dataclass(frozen=True)
class Array:
    """The numbers of a dense tensor in row-major order, as bytes; ``dtype`` is torch's name."""

    dtype: str
    shape: tuple[int, ...]
    data: Any


class ArrayCodec:
    """The codec of a server without torch."""

    def raw(self, leaf: Any) -> tuple[str, Sequence[int], Any] | None:
        """Return the dtype, shape and bytes of an Array; None for any other value."""
        return (leaf.dtype, leaf.shape, leaf.data) if isinstance(leaf, Array) else None

    def node(self, value: Any) -> tuple[str, Sequence[Any]] | None:
        """Return None: no class is registered here."""
        return None

    def rebuilt(self, structure: str, leaves: Sequence[Any]) -> Any:
        """Raise UnknownClass: no class is registered here."""
        raise UnknownClass(f"{structure:.200} is not known where there is no torch")

    def tensor(self, dtype: str, shape: Sequence[int], data: memoryview) -> Array:
        """Return an Array with its own memory."""
        return Array(dtype, tuple(shape), bytearray(data))


CODEC = ArrayCodec()
