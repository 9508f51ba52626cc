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
from socket import socket
from typing import Any, Protocol

# Two lengths in bytes, each of 64 bits: of the JSON, and of the data after it.
_HEAD = struct.Struct(">QQ")
# No answer has as many containers as this; what claims more is not ours.
MAX_HEADER = 2**28


# Whose classes every process knows.
_EVERYWHERE = sys.stdlib_module_names | {"torch", "numpy"}


class NotCarried(TypeError):
    """A kind of value that these frames do not have: a gap of ours, not of the artifact's."""


class OwnClass(TypeError):
    """A value of a class that the other process does not know."""


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


def check(value: Any, codec: Codec) -> None:
    """Raise NotCarried or OwnClass where the value cannot cross."""
    _encode(value, codec, [])


def send(channel: socket, value: Any, codec: Codec) -> None:
    """Write one frame. Raises NotCarried or OwnClass for what cannot cross, and writes nothing then."""
    blobs: list[Any] = []
    header = json.dumps(_encode(value, codec, blobs)).encode()
    channel.sendall(_HEAD.pack(len(header), sum(blob.nbytes for blob in blobs)) + header)
    for blob in blobs:
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
    try:
        return _decode(json.loads(header), codec, memoryview(data))
    except OwnClass:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Malformed(f"{type(error).__name__}: {error}") from None


def _read(channel: socket, size: int, until: float | None) -> bytearray:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        if until is not None:
            # Each time anew: who sends a byte now and then would never be late.
            channel.settimeout(max(until - time.monotonic(), 0.001))
        count = channel.recv_into(view, min(len(view), 2**20))
        if not count:
            raise EOFError("the other side is gone")
        view = view[count:]
    return data


def _encode(value: Any, codec: Codec, blobs: list[Any]) -> Any:
    raw = codec.raw(value)
    if raw is not None:
        dtype, shape, data = raw
        blob = memoryview(data).cast("B") if memoryview(data).nbytes else memoryview(b"")
        start = sum(item.nbytes for item in blobs)
        blobs.append(blob)
        return {"tensor": [dtype, list(shape), start, blob.nbytes]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, bytes):
        return {"bytes": value.decode("latin-1")}
    if isinstance(value, defaultdict):
        raise NotCarried("a defaultdict cannot cross to another process: its factory is code")
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
    raise OwnClass(
        f"a {type(value).__name__} cannot cross to a process that does not know its class"
    )


def _decode(node: Any, codec: Codec, data: memoryview) -> Any:
    ((kind, body),) = node.items()
    if kind == "tensor":
        dtype, shape, start, length = body
        if start < 0 or length < 0 or start + length > len(data):
            raise Malformed("a tensor outside its frame")
        return codec.tensor(dtype, shape, data[start : start + length])
    if kind == "value":
        return body
    if kind == "complex":
        return complex(*body)
    if kind == "bytes":
        return body.encode("latin-1")
    if kind == "ordered":
        return OrderedDict((_decode(k, codec, data), _decode(v, codec, data)) for k, v in body)
    if kind == "dict":
        return {_decode(k, codec, data): _decode(v, codec, data) for k, v in body}
    if kind == "node":
        structure, leaves = body
        return codec.rebuilt(structure, [_decode(leaf, codec, data) for leaf in leaves])
    items = [_decode(item, codec, data) for item in body]
    return items if kind == "list" else tuple(items)
