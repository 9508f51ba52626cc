"""The tensors that a file stores: their digests by name, and the parts that take its bytes."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pytest_torchexport.inputs.pytrees import bits_of, hash_of, is_plain
from pytest_torchexport.targets.formats import onnx_model


def digests(named: Iterable[tuple[str, Any]]) -> dict[str, str]:
    """Return dtype, shape and digest of plain tensors by name."""
    return {
        name: f"{value.dtype}{list(value.shape)} {hash_of(value)}".removeprefix("torch.")
        for name, value in named
        if is_plain(value)
    }


@dataclass(frozen=True)
class StoredPart:
    """An entry of an archive, or a tensor of an ONNX file, under the name that it has there."""

    name: str
    bytes: int
    checksum: int


def stored_parts(directory: Path) -> Iterator[StoredPart]:
    """Yield the parts of the files in a directory; none of files in another format."""
    for path in sorted(directory.rglob("*")):
        if path.suffix == ".onnx":
            yield from _of_onnx(path)
        elif path.is_file() and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for entry in archive.infolist():
                    name = entry.filename.partition("/")[2]
                    yield StoredPart(name, entry.file_size, entry.CRC)


def checksum_of(tensor: torch.Tensor) -> int:
    """Return the checksum that a file has for the tensor if it stores its elements in order."""
    return zlib.crc32(bits_of(tensor.detach().cpu()))


def _of_onnx(path: Path) -> Iterator[StoredPart]:
    from onnx import numpy_helper

    graph = onnx_model.read(path).graph
    constants = (
        (node.output[0], attribute.t)
        for node in graph.node
        for attribute in node.attribute
        if node.op_type == "Constant" and attribute.HasField("t")
    )
    for name, tensor in (*((item.name, item) for item in graph.initializer), *constants):
        data = numpy_helper.to_array(tensor, str(path.parent)).tobytes()
        yield StoredPart(name, len(data), zlib.crc32(data))
