"""torch's tensors as bytes, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pytest_torchexport.inputs.pytrees import is_plain, packed
from pytest_torchexport.sandbox.wire import Codec, UnknownClass, UnsupportedValue
from pytest_torchexport.torch_private.structures import (
    flatten_registered,
    structure_of_text,
    text_of_structure,
    unflatten,
)


@dataclass(frozen=True)
class TensorCodec(Codec):
    """The codec of the test session and of the server with torch.

    To rebuild a registered class, torch may import what its structure names. So ``nodes`` is False
    for answers of a file that this run did not make.
    """

    nodes: bool

    def raw(self, leaf: Any) -> tuple[str, Sequence[int], Any] | None:
        """Return a tensor's dtype, shape and numbers in row-major order, on the CPU.

        Raises UnsupportedValue for a layout that has no such order.
        """
        if not isinstance(leaf, torch.Tensor):
            return None
        if not is_plain(leaf):
            raise UnsupportedValue(
                f"a {_layout(leaf)} tensor of {leaf.dtype} cannot be sent to another process"
            )
        return str(leaf.dtype).removeprefix("torch."), leaf.shape, packed(leaf).numpy()

    def node(self, value: Any) -> tuple[str, Sequence[Any]] | None:
        """Return the structure and leaves of a value whose class torch's pytrees know under a name.

        That is by ``torch.export.register_dataclass``, or with ``serialized_type_name``.
        """
        if isinstance(value, _NAMED):
            return f"{_BY_NAME}{value}", ()
        return _opened(flatten_registered(value))

    def shell(self, value: Any) -> tuple[str, Sequence[Any]] | None:
        return _opened(flatten_registered(value, deep=False))

    def rebuilt(self, structure: str, leaves: Sequence[Any]) -> Any:
        """Return the value. Raises UnknownClass if its class has no such name here."""
        if structure.startswith(_BY_NAME):
            text = structure.removeprefix(_BY_NAME)
            try:
                return _BY_TEXT[text] if text in _BY_TEXT else torch.device(text)
            except RuntimeError as error:
                raise ValueError(f"{text!r:.80} is no name of torch's") from error
        if not self.nodes:
            raise UnknownClass("a file that this run did not make cannot return classes of its own")
        try:
            spec = structure_of_text(structure)
        # Of the last two, what makes the values that a defaultdict lacks.
        except (KeyError, AttributeError, ImportError) as error:
            raise UnknownClass(f"{error}") from None
        return unflatten(leaves, spec)

    def tensor(self, dtype: str, shape: Sequence[int], data: memoryview) -> torch.Tensor:
        """Return a tensor with its own memory. Raises ValueError."""
        kind = _BY_TEXT.get(f"torch.{dtype}")
        if not isinstance(kind, torch.dtype) or kind in _QUANTIZED:
            raise ValueError(f"{dtype!r} is no dtype of torch")
        if len(data) != math.prod(shape) * kind.itemsize:
            raise ValueError(f"{len(data)} bytes are no {dtype}{list(shape)}")
        if not data:
            return torch.empty(shape, dtype=kind)
        # Cloned, because a view of another dtype must begin at a multiple of its size.
        return torch.frombuffer(data, dtype=torch.uint8).clone().view(kind).reshape(tuple(shape))


def _opened(found: tuple[list[Any], Any] | None) -> tuple[str, Sequence[Any]] | None:
    name = text_of_structure(found[1]) if found is not None else None
    return (name, found[0]) if found is not None and name is not None else None


# Strides in elements (None: contiguous, as in a frame), ``requires_grad``, and the position of the
# first tensor that is the same object.
Traits = tuple[list[int] | None, bool, int]


def traits_of(given: Sequence[torch.Tensor]) -> list[Traits]:
    """Return the traits of tensors that a frame lacks: strides, gradients, which are one tensor."""
    first: dict[int, int] = {}
    return [
        (
            None if _layout(x) != "torch.strided" or x.is_contiguous() else list(x.stride()),
            x.requires_grad,
            first.setdefault(id(x), number),
        )
        for number, x in enumerate(given)
    ]


def laid_out(tensor: torch.Tensor, strides: Sequence[int]) -> torch.Tensor:
    """Return the same numbers with these strides. An axis of stride 0 repeats one element."""
    once = tensor
    for axis, stride in enumerate(strides):
        if not stride and tensor.shape[axis]:
            once = once.narrow(axis, 0, 1)
    there = torch.empty_strided(tuple(once.shape), tuple(strides), dtype=tensor.dtype)
    return there.copy_(once).expand(tensor.shape)


# Values that torch has by name, and that a script may take as arguments. In a table, because
# looking a name up in torch itself may import what it names.
_NAMED = (torch.dtype, torch.layout, torch.memory_format, torch.device)
_BY_TEXT = {str(value): value for value in vars(torch).values() if isinstance(value, _NAMED)}
_BY_NAME = "by name: "


# A quantized tensor is more than its numbers.
_QUANTIZED = {torch.qint8, torch.quint8, torch.qint32, torch.quint4x2, torch.quint2x4}


def _layout(tensor: torch.Tensor) -> str:
    named = {"meta": tensor.is_meta, "nested": tensor.is_nested, "quantized": tensor.is_quantized}
    return next((name for name, true in named.items() if true), str(tensor.layout))


CODEC = TensorCodec(nodes=True)
STRICT = TensorCodec(nodes=False)
