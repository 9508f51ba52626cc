"""Calls and outcomes as files, without pickle: a line of JSON for the containers, raw bytes for tensors."""

from __future__ import annotations

import json
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pytest_torchexport.tree import flatten


class NotCarried(TypeError):
    """A kind of tensor that this file format does not have: a gap of ours, not of the artifact's."""


def dump(value: Any, path: Path) -> None:
    """Write a pytree of plain containers, tensors and scalars. Raises TypeError for anything else."""
    blobs: list[bytes] = []
    header = json.dumps(_encode(value, blobs)).encode()
    with path.open("wb") as file:
        file.write(header + b"\n")
        for blob in blobs:
            file.write(blob)


def check(value: Any) -> None:
    """Raise TypeError where the value cannot cross."""
    _encode(value, [])


def load(path: Path) -> Any:
    """The inverse of ``dump``."""
    with path.open("rb") as file:
        header = json.loads(file.readline())
        return _decode(header, bytearray(file.read()))


def _encode(value: Any, blobs: list[bytes]) -> Any:
    if isinstance(value, torch.Tensor):
        flat = value.detach().cpu().resolve_conj().resolve_neg()
        if flat.layout != torch.strided or flat.is_quantized:
            raise NotCarried(
                f"a {flat.layout} tensor of {flat.dtype} cannot cross to another process"
            )
        packed = torch.empty(flat.numel(), dtype=flat.dtype).copy_(flat.reshape(-1))
        raw = bytes(packed.view(torch.uint8).numpy()) if flat.numel() else b""
        start = sum(map(len, blobs))
        blobs.append(raw)
        dtype = str(flat.dtype).removeprefix("torch.")
        return {"tensor": [dtype, list(flat.shape), start, len(raw)]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    _, structure = flatten(value)
    if isinstance(value, defaultdict):
        raise NotCarried("a defaultdict cannot cross to another process: its factory is code")
    if structure.kind == "mapping" and isinstance(value, Mapping):
        kind = "ordered" if isinstance(value, OrderedDict) else "dict"
        return {kind: [[_encode(k, blobs), _encode(v, blobs)] for k, v in value.items()]}
    if structure.kind == "sequence":
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_encode(item, blobs) for item in value]}
    raise TypeError(
        f"a {type(value).__name__} cannot cross to a process that does not know its class"
    )


def _decode(node: Any, data: bytearray) -> Any:
    ((kind, body),) = node.items()
    if kind == "tensor":
        dtype, shape, start, length = body
        if not length:
            return torch.empty(shape, dtype=getattr(torch, dtype))
        raw = torch.frombuffer(data, dtype=torch.uint8, count=length, offset=start).clone()
        return raw.view(getattr(torch, dtype)).reshape(shape)
    if kind == "value":
        return body
    if kind == "complex":
        return complex(*body)
    if kind == "ordered":
        return OrderedDict((_decode(key, data), _decode(value, data)) for key, value in body)
    if kind == "dict":
        return {_decode(key, data): _decode(value, data) for key, value in body}
    items = [_decode(item, data) for item in body]
    return items if kind == "list" else tuple(items)
