"""Frames between this process and a clean one, without pickle: JSON for the containers, raw bytes for tensors.

Free of torch, because one of the servers has none: a codec says what a tensor is.
"""

from __future__ import annotations

import json
import math
import struct
import sys
import time
from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from socket import socket
from typing import Any, ClassVar, Protocol

# Two lengths in bytes, each of 64 bits: of the JSON, and of the data after it.
_HEAD = struct.Struct(">QQ")
# In bytes: nothing that we make has as many containers, and what claims more is not ours.
MAX_HEADER = 2**24
_PLAIN = (bool, int, float, str, type(None))
# What it raises to take bytes for what they are not.
_NONSENSE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)

# Whose classes every process knows.
_EVERYWHERE = sys.stdlib_module_names | {"torch", "numpy"}


class CannotCross(TypeError):
    """A value that has no way to the other process."""

    own_class: ClassVar[bool]


class NotCarried(CannotCross):
    """A kind of value that these frames do not have: a gap of ours, not of the artifact's."""

    own_class = False


class OwnClass(CannotCross):
    """A value of a class that the other process does not know."""

    own_class = True


class Malformed(ValueError):
    """Bytes that are no frame. What answers is not trusted: a hostile file may speak in its place."""


class Codec(Protocol):
    """How one library's tensors become bytes and come back."""

    def raw(self, leaf: Any) -> tuple[str, Sequence[int], Any] | None:
        """``(dtype, shape, bytes-like)`` of a tensor, the dtype as torch calls it; None of anything else."""

    def node(self, value: Any) -> tuple[str, Sequence[Any]] | None:
        """``(structure, leaves)`` of a value of a class that is registered as a pytree; None of anything else."""

    def rebuilt(self, structure: str, leaves: Sequence[Any]) -> Any:
        """The inverse. Raises OwnClass where the class is not registered here."""

    def tensor(self, dtype: str, shape: Sequence[int], data: memoryview) -> Any:
        """The inverse, sharing no memory with ``data``. Raises ValueError for a dtype that it does not know."""


@dataclass(frozen=True)
class Frame:
    """What is ready to cross: the containers as JSON, and the bytes of the tensors in the order in which they come."""

    header: bytes
    blobs: Sequence[memoryview]


def packed(value: Any, codec: Codec) -> Frame:
    """The frame of a value. Raises NotCarried or OwnClass for what cannot cross."""
    blobs: list[memoryview] = []
    try:
        header = json.dumps(_encode(value, codec, blobs)).encode()
    except RecursionError:
        raise NotCarried("containers so deep in one another cannot cross") from None
    except ValueError as error:  # a number of thousands of digits
        raise NotCarried(f"cannot cross to another process: {error}") from None
    if len(header) > MAX_HEADER:
        raise NotCarried(f"a value of {len(header)} bytes of containers cannot cross")
    return Frame(header, blobs)


def send(channel: socket, frame: Frame) -> None:
    """Write one frame."""
    size = sum(blob.nbytes for blob in frame.blobs)
    channel.sendall(_HEAD.pack(len(frame.header), size) + frame.header)
    for blob in frame.blobs:
        channel.sendall(blob)


def receive(
    channel: socket, codec: Codec, *, most: float = math.inf, seconds: float | None = None
) -> Any:
    """Read one frame of at most so many bytes of data, whole within so many seconds. Raises EOFError where the
    other side is gone, TimeoutError, OwnClass for what only the other side knows, and Malformed for what is no
    frame.
    """
    until = None if seconds is None else time.monotonic() + seconds
    header_size, data_size = _HEAD.unpack(_read(channel, _HEAD.size, until))
    if header_size > MAX_HEADER or data_size > most:
        raise Malformed(f"a frame of {header_size} + {data_size} bytes")
    header, data = _read(channel, header_size, until), _read(channel, data_size, until)
    rest = _Data(data)
    try:
        value = _decode(json.loads(header), codec, rest)
    except (OwnClass, Malformed):
        raise
    except _NONSENSE as error:
        raise Malformed(f"{type(error).__name__}: {error}") from None
    if rest.left:
        raise Malformed(f"{rest.left} bytes that are nobody's")
    return value


def _read(channel: socket, size: int, until: float | None) -> bytearray:
    # Grown by what has come: what the other side only claims would be had before it is there.
    data = bytearray()
    while len(data) < size:
        if until is not None:
            # Each time anew: who sends a byte now and then would never be late.
            channel.settimeout(max(until - time.monotonic(), 0.001))
        part = channel.recv(min(size - len(data), 2**20))
        if not part:
            raise EOFError("the other side is gone")
        data += part
    return data


class _Data:
    """The bytes of a frame's tensors, each of which belongs to one."""

    def __init__(self, data: bytearray) -> None:
        self._view = memoryview(data)

    @property
    def left(self) -> int:
        return len(self._view)

    def take(self, length: int) -> memoryview:
        if not _is_size(length) or length > self.left:
            raise Malformed("a tensor outside its frame")
        taken, self._view = self._view[:length], self._view[length:]
        return taken


def _is_size(number: Any) -> bool:
    return type(number) is int and number >= 0


def _encode(value: Any, codec: Codec, blobs: list[memoryview]) -> Any:
    raw = codec.raw(value)
    if raw is not None:
        dtype, shape, data = raw
        blob = memoryview(data).cast("B") if memoryview(data).nbytes else memoryview(b"")
        blobs.append(blob)
        return {"tensor": [dtype, list(shape), blob.nbytes]}
    if isinstance(value, _PLAIN):
        return {"value": value}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, bytes):
        return {"bytes": value.decode("latin-1")}
    if isinstance(value, defaultdict):
        factory = next((n for n, known in _FACTORIES.items() if known is value.default_factory), "")
        if not factory:
            raise NotCarried("a defaultdict cannot cross to another process: its factory is code")
        return {"default": [factory, _encode(dict(value), codec, blobs)]}
    if isinstance(value, Mapping):
        kind = "ordered" if isinstance(value, OrderedDict) else "dict"
        pairs = value.items()
        return {kind: [[_encode(k, codec, blobs), _encode(v, codec, blobs)] for k, v in pairs]}
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_encode(item, codec, blobs) for item in value]}
    opened = codec.node(value)
    if opened is not None:
        structure, leaves = opened
        return {"node": [structure, [_encode(leaf, codec, blobs) for leaf in leaves]]}
    if type(value).__module__.partition(".")[0] in _EVERYWHERE:
        raise NotCarried(f"a {type(value).__name__} cannot cross to another process")
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    raise OwnClass(f"{name} cannot cross to a process that does not know the class")


def _decode(node: Any, codec: Codec, data: _Data) -> Any:
    ((kind, body),) = node.items()
    if kind == "tensor":
        dtype, shape, length = body
        if not isinstance(dtype, str) or not all(map(_is_size, shape)):
            raise Malformed("no dtype and shape")
        return codec.tensor(dtype, shape, data.take(length))
    if kind == "value" and isinstance(body, _PLAIN):
        return body
    if kind == "complex":
        return complex(*body)
    if kind == "bytes":
        return body.encode("latin-1")
    if kind == "default":
        factory, held = body
        return defaultdict(_FACTORIES[factory], _decode(held, codec, data))
    if kind in _MAPPINGS:
        pairs = ((_decode(k, codec, data), _decode(v, codec, data)) for k, v in body)
        return _MAPPINGS[kind](pairs)
    if kind in _SEQUENCES:
        return _SEQUENCES[kind](_decode(item, codec, data) for item in body)
    if kind == "node":
        structure, leaves = body
        return codec.rebuilt(structure, [_decode(leaf, codec, data) for leaf in leaves])
    raise Malformed("a kind of value that there is not")


_MAPPINGS: Mapping[str, type[dict[Any, Any]]] = {"dict": dict, "ordered": OrderedDict}
_FACTORIES: Mapping[str, Any] = {
    "None": None,
    **{kind.__name__: kind for kind in (dict, list, set, tuple, int, float, str, bool)},
}
_SEQUENCES: Mapping[str, type[list[Any] | tuple[Any, ...]]] = {"list": list, "tuple": tuple}
