"""The protocol of the sandbox: frames of JSON for containers and raw bytes for tensors, no pickle.

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
from typing import Any, ClassVar

# Two lengths in bytes, each an integer of 64 bits: of the JSON, and of the data after it.
_HEAD = struct.Struct(">QQ")
# In bytes. No frame of this package has a header this long.
MAX_HEADER = 2**24
_NOT_SENT = "cannot be sent to another process"
_PLAIN = (bool, int, float, str, type(None))
# What decoding arbitrary bytes may raise.
_DECODING_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)

# Packages whose classes every process can import: it is our protocol that lacks such a value.
_EVERYWHERE = sys.stdlib_module_names | {"torch", "numpy"}


class TransferError(TypeError):
    own_class: ClassVar[bool]


class UnsupportedValue(TransferError):
    """The protocol has no form for this type of value: a gap of ours, not of the artifact's."""

    own_class = False


class UnknownClass(TransferError):
    own_class = True


class Malformed(ValueError):
    """The bytes are no frame. A child is not trusted: a hostile file may write in its place."""


@dataclass(frozen=True)
class Array:
    """The numbers of a dense tensor in row-major order, as bytes; ``dtype`` is torch's name."""

    dtype: str
    shape: tuple[int, ...]
    data: Any


class Codec:
    """Form of tensors and of registered classes in frames: here of Arrays, and of no class."""

    def raw(self, leaf: Any) -> tuple[str, Sequence[int], Any] | None:
        """Return a tensor's dtype (torch's name), shape and bytes; None for any other value."""
        return (leaf.dtype, leaf.shape, leaf.data) if isinstance(leaf, Array) else None

    def node(self, value: Any) -> tuple[str, Sequence[Any]] | None:
        """Return ``(structure, leaves)`` of a value of a registered class; None for any other."""
        return None

    def shell(self, value: Any) -> tuple[str, Sequence[Any]] | None:
        """Return ``(structure, parts)`` of the container alone, as ``node`` does of all inside."""
        return None

    def rebuilt(self, structure: str, leaves: Sequence[Any]) -> Any:
        """Return the value for a result of ``node``. Raises UnknownClass if it is unknown here."""
        raise UnknownClass(f"{structure:.200} is not known where there is no torch")

    def tensor(self, dtype: str, shape: Sequence[int], data: memoryview) -> Any:
        """Return a tensor with a copy of ``data``. Raises ValueError for an unknown dtype."""
        return Array(dtype, tuple(shape), bytearray(data))


class NumpyCodec(Codec):
    """The codec of processes that have numpy and no torch."""

    def raw(self, leaf: Any) -> tuple[str, Sequence[int], Any] | None:
        import numpy as np

        if not isinstance(leaf, np.ndarray | np.generic):
            return None
        array = np.asarray(leaf, order="C")
        return str(array.dtype), array.shape, array.reshape(-1).view(np.uint8)

    def tensor(self, dtype: str, shape: Sequence[int], data: memoryview) -> Any:
        import numpy as np

        try:
            kind = np.dtype(dtype)
        except TypeError as error:
            raise UnsupportedValue(f"numpy has no {dtype}: it {_NOT_SENT}") from error
        return np.frombuffer(bytearray(data), dtype=kind).reshape(tuple(shape))


ARRAYS, NUMPY = Codec(), NumpyCodec()
# What is sent, in this order: the lengths with the JSON, and the bytes of each tensor.
Frame = Sequence[bytes | memoryview]


def packed(value: Any, codec: Codec) -> Frame:
    """Return the frame of a value. Raises UnsupportedValue or UnknownClass."""
    blobs: list[memoryview] = []
    try:
        header = json.dumps(_encode(value, codec, blobs)).encode()
    except RecursionError:
        raise UnsupportedValue(f"containers nested this deep {_NOT_SENT}") from None
    except ValueError as error:  # a number of thousands of digits
        raise UnsupportedValue(f"a value {_NOT_SENT}: {error}") from None
    if len(header) > MAX_HEADER:
        raise UnsupportedValue(f"{len(header)} bytes of containers {_NOT_SENT}")
    size = sum(blob.nbytes for blob in blobs)
    return [_HEAD.pack(len(header), size) + header, *blobs]


def send(channel: socket, frame: Frame) -> None:
    for part in frame:
        channel.sendall(part)


def receive(
    channel: socket, codec: Codec, *, most: float = math.inf, seconds: float | None = None
) -> Any:
    """Return the value of the next frame, of at most ``most`` bytes, within ``seconds``.

    Raises EOFError if the other side is gone, TimeoutError, UnknownClass for a class that is not
    known here, and Malformed for bytes that are no frame.
    """
    until = None if seconds is None else time.monotonic() + seconds
    header_size, data_size = _HEAD.unpack(_read(channel, _HEAD.size, until))
    if header_size > MAX_HEADER or data_size > most:
        raise Malformed(f"a frame of {header_size} + {data_size} bytes")
    header, data = _read(channel, header_size, until), _read(channel, data_size, until)
    rest = [memoryview(data)]
    try:
        value = _decode(json.loads(header), codec, rest)
    except (TransferError, Malformed):
        raise
    except _DECODING_ERRORS as error:
        raise Malformed(f"{type(error).__name__}: {error}") from None
    if len(rest[0]):
        raise Malformed(f"{len(rest[0])} trailing bytes after the last tensor")
    return value


def _read(channel: socket, size: int, until: float | None) -> bytearray:
    # Grown as bytes arrive: a length that is only claimed must not be allocated.
    data = bytearray()
    while len(data) < size:
        if until is not None:
            # Set before each read: else a byte now and then would keep the deadline away for ever.
            channel.settimeout(max(until - time.monotonic(), 0.001))
        part = channel.recv(min(size - len(data), 2**20))
        if not part:
            raise EOFError("the other side is gone")
        data += part
    return data


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
    plain: dict[str, Any] | None = None
    # A defaultdict is left to torch, which knows it as a registered class.
    if isinstance(value, Mapping) and not isinstance(value, defaultdict):
        kind = "ordered" if isinstance(value, OrderedDict) else "dict"
        pairs = value.items()
        plain = {kind: [[_encode(k, codec, blobs), _encode(v, codec, blobs)] for k, v in pairs]}
    elif isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        plain = {kind: [_encode(item, codec, blobs) for item in value]}
    if plain is not None:
        # A subclass, as outputs of transformers: where it is unknown it arrives as its base.
        shell = None if type(value) in _CONTAINERS else codec.shell(value)
        inside = list(value.values()) if isinstance(value, Mapping) else list(value)
        same = shell is not None and [*map(id, shell[1])] == [*map(id, inside)]
        return {"class": [shell[0], plain]} if shell is not None and same else plain
    opened = codec.node(value)
    if opened is not None:
        structure, leaves = opened
        return {"node": [structure, [_encode(leaf, codec, blobs) for leaf in leaves]]}
    cls = type(value)
    if cls.__module__.partition(".")[0] in _EVERYWHERE:
        raise UnsupportedValue(f"a {cls.__name__} {_NOT_SENT}")
    name = f"{cls.__module__}.{cls.__qualname__}"
    raise UnknownClass(f"{name} cannot be sent to a process that does not know the class")


def _decode(node: Any, codec: Codec, data: list[memoryview]) -> Any:
    """Return the value of a node; ``data`` holds the bytes of the tensors still to come."""
    ((kind, body),) = node.items()
    if kind == "value" and isinstance(body, _PLAIN):
        return body
    if kind == "complex":
        return complex(*body)
    if kind == "bytes":
        return body.encode("latin-1")
    if kind == "tensor":
        dtype, shape, length = body
        if not isinstance(dtype, str) or not all(map(_is_size, shape)):
            raise Malformed("a tensor without dtype and shape")
        if not _is_size(length) or length > len(data[0]):
            raise Malformed("a tensor longer than its frame")
        taken, data[0] = data[0][:length], data[0][length:]
        return codec.tensor(dtype, shape, taken)
    if kind in _MAPPINGS:
        pairs = ((_decode(k, codec, data), _decode(v, codec, data)) for k, v in body)
        return _MAPPINGS[kind](pairs)
    if kind in _SEQUENCES:
        return _SEQUENCES[kind](_decode(item, codec, data) for item in body)
    if kind == "class":
        structure, plain = body
        base = _decode(plain, codec, data)
        try:
            return codec.rebuilt(structure, list(getattr(base, "values", lambda: base)()))
        except UnknownClass:
            return base
    if kind == "node":
        structure, leaves = body
        return codec.rebuilt(structure, [_decode(leaf, codec, data) for leaf in leaves])
    raise Malformed(f"unknown value tag {kind!r:.40}")


_CONTAINERS = (dict, OrderedDict, list, tuple)
_MAPPINGS: Mapping[str, type[dict[Any, Any]]] = {"dict": dict, "ordered": OrderedDict}
_SEQUENCES: Mapping[str, type[list[Any] | tuple[Any, ...]]] = {"list": list, "tuple": tuple}
