"""The contents of a program, as texts by name: saving and loading must not change them.

The artifact in memory and the loaded file are each described on their own, and the texts compared
by name; so a format may say only what torch keeps for a healthy program. Tensors become digests.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pytest_torchexport.inputs.pytrees import bits_of, is_plain
from pytest_torchexport.targets.formats import onnx_model
from pytest_torchexport.torch_private.memory import address_of

# Names with their texts.
Texts = Iterable[tuple[str, str]]

# Tensors are hashed in parts of this many elements, so that weights are never in memory twice.
PART = 2**22
# A longer text is cut and gets a digest.
SHOWN = 80


def collected(**topics: Callable[[], Texts]) -> dict[str, str]:
    """Return the texts of all topics; ``not readable: ...`` for a topic that raises."""
    found: dict[str, str] = {}
    for topic, answer in topics.items():
        try:
            found.update(answer())
        except Exception as error:
            found[topic] = f"not readable: {type(error).__name__}"
    return found


def shortened(text: str) -> str:
    """Return a text, or its beginning and its digest."""
    if len(text) <= SHOWN:
        return text
    return f"{text[:SHOWN]}... {hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"


# -- tensors ---------------------------------------------------------------------------------------


class TensorTexts:
    """Makes texts of tensors. A tensor that has several names is hashed once."""

    def __init__(self) -> None:
        self._digests: dict[tuple[Any, ...], str] = {}

    def of(self, kind: str, named: Iterable[tuple[str, Any]]) -> Texts:
        """Yield ``parameter fc.weight`` and ``float32[3, 3] 1a2b... requires_grad``, for each."""
        for name, value in named:
            tensor = isinstance(value, torch.Tensor)
            # torch.export gives a buffer the requires_grad of a parameter that shares its storage.
            grad = " requires_grad" if kind == "parameter" and value.requires_grad else ""
            yield f"{kind} {name}", self.text(value) + grad if tensor else type(value).__name__

    def text(self, tensor: torch.Tensor) -> str:
        """Return its dtype, shape and digest. Its device is chosen when it is loaded."""
        layout = "" if tensor.layout == torch.strided else f" {tensor.layout}"
        return f"{shape_text(tensor)}{layout} {self._digest(tensor)}".replace("torch.", "")

    def _digest(self, tensor: torch.Tensor) -> str:
        if not is_plain(tensor):
            return _digest(tensor)
        key = (address_of(tensor), tensor.dtype, tensor.shape, tensor.stride(), tensor.is_conj())
        if key not in self._digests:
            self._digests[key] = _digest(tensor)
        return self._digests[key]


def shape_text(tensor: torch.Tensor) -> str:
    """Return ``float32[s77, 3]``."""
    shape = "nested" if tensor.is_nested else ", ".join(map(str, tensor.shape))
    return f"{tensor.dtype}[{shape}]".replace("torch.", "")


def _digest(tensor: torch.Tensor) -> str:
    if tensor.is_meta:
        return "without values"
    digest = hashlib.blake2b(digest_size=8)
    try:
        _feed(digest, tensor.detach())
    except Exception as error:  # a kind of tensor that is not known here
        return f"not readable: {type(error).__name__}"
    return digest.hexdigest()


def _feed(digest: Any, tensor: torch.Tensor) -> None:
    """Hash a tensor's values in parts; of a sparse or quantized tensor, those it is made of."""
    if tensor.is_quantized:
        digest.update(f"{tensor.qscheme()} {_quantization(tensor)}".encode())
        _feed(digest, tensor.int_repr())
    elif tensor.layout == torch.sparse_coo:
        _feed(digest, tensor.coalesce().indices())
        _feed(digest, tensor.coalesce().values())
    else:
        for part in _in_parts(tensor):
            digest.update(bits_of(part))


def _quantization(tensor: torch.Tensor) -> str:
    if tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return f"{tensor.q_scale()} {tensor.q_zero_point()}"
    scales, zeros = tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()
    return f"{scales.tolist()} {zeros.tolist()} {tensor.q_per_channel_axis()}"


def _in_parts(tensor: torch.Tensor) -> Iterable[torch.Tensor]:
    """Return its values in their order, in views that are small enough to be copied."""
    rows = tensor.reshape(-1) if tensor.is_contiguous() else tensor
    if rows.numel() <= PART:
        return (rows,)
    return torch.split(rows, max(1, PART * rows.shape[0] // rows.numel()))


# -- the user's own files in an archive ------------------------------------------------------------


def given_extras(files: Mapping[str, str | bytes]) -> dict[str, str]:
    """Return names and digests of the extra files that a program is to be saved with."""
    encoded = {
        name: data.encode() if isinstance(data, str) else bytes(data)
        for name, data in files.items()
    }
    return {f"extra file {name}": _digest_of(data) for name, data in encoded.items()}


def extras_of(path: Path) -> dict[str, str]:
    """Return names and digests of the extra files in a saved archive (``NAME/extra/...``)."""
    with zipfile.ZipFile(path) as archive:
        parts = ((name.split("/", 2), name) for name in archive.namelist())
        return {
            f"extra file {pieces[2]}": _digest_of(archive.read(name))
            for pieces, name in parts
            if len(pieces) == 3 and pieces[1] == "extra"
        }


def _digest_of(data: bytes) -> str:
    return f"{len(data)} bytes, {hashlib.blake2b(data, digest_size=8).hexdigest()}"


# -- what files store ------------------------------------------------------------------------------


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
