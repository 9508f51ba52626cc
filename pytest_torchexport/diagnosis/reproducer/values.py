"""The values of a call: tensors in a ``.npz``, and everything around them as Python source.

No pickle: people open these files who did not make them.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pytest_torchexport.inputs.pytrees import is_plain
from pytest_torchexport.inputs.spec import Call

# The integers in whose place numpy holds a dtype that it lacks, by size in bytes.
_STAND_INS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# Values that torch has under the name that they print.
_NAMED = (torch.dtype, torch.layout, torch.memory_format)
_LITERALS = (bool, int, str, bytes, complex, type(None), type(...))


class Inexpressible(TypeError):
    """A value has no place in a ``.npz``, or no source."""


@dataclass(eq=False)
class Arrays:
    """Collects tensors by name for the file ``name.npz``. ``dtypes`` are those that numpy lacks."""

    name: str
    held: dict[str, torch.Tensor] = field(default_factory=dict)
    dtypes: dict[str, torch.dtype] = field(default_factory=dict)
    _given: dict[str, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, leaves: Mapping[str, Any]) -> Arrays:
        """Return the tensors among leaves by path. Raises Inexpressible."""
        arrays = cls(name)
        for path, leaf in leaves.items():
            if isinstance(leaf, torch.Tensor):
                arrays.add(path, leaf)
        return arrays

    def add(self, name: str, tensor: torch.Tensor) -> str:
        """Add a tensor. Return the source of it with its strides, if ``x`` is what was read.

        Raises Inexpressible for a tensor that is not dense.
        """
        if not is_plain(tensor):
            raise Inexpressible(f"{name} is no dense tensor: a .npz cannot hold it")
        while self._given.setdefault(name, tensor) is not tensor:
            name = f"{name} (another)"
        plain = tensor.detach().resolve_conj().resolve_neg().cpu()
        read, suffix = f"x[{quoted(name)}]", ".requires_grad_()" if tensor.requires_grad else ""
        repeated = [
            n for n, stride in enumerate(plain.stride()) if not stride and plain.size(n) > 1
        ]
        if repeated:
            suffix = f".expand({', '.join(map(str, plain.shape))}){suffix}"
        elif not plain.is_contiguous():
            strides = f"{tuple(plain.shape)}, {plain.stride()}"
            suffix = f".new_empty_strided({strides}).copy_({read}){suffix}"
        for axis in repeated:
            plain = plain.narrow(axis, 0, 1)
        self.held[name] = plain.clone(memory_format=torch.contiguous_format)
        if not _is_numpys(plain.dtype):
            self.dtypes[name] = plain.dtype
        return read + suffix

    def read(self) -> str:
        """Return the source that reads the file."""
        if not self.held:
            return "{}"
        dtypes = {name: str(dtype) for name, dtype in self.dtypes.items()}
        more = f", {source_of_dict(dtypes)}" if dtypes else ""
        return f'read("{self.name}.npz"{more})'

    def write(self, directory: Path) -> None:
        """Write the file, if there are tensors. Raises OSError."""
        if not self.held:
            return
        with zipfile.ZipFile(directory / f"{self.name}.npz", "w", allowZip64=True) as file:
            for name, tensor in self.held.items():
                stand_in = _STAND_INS[tensor.itemsize] if name in self.dtypes else tensor.dtype
                # Not numpy.savez: a tensor may have the name of one of its parameters.
                with file.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(
                        member, tensor.view(stand_in).numpy(), allow_pickle=False
                    )


def _is_numpys(dtype: torch.dtype) -> bool:
    try:
        torch.empty(0, dtype=dtype).numpy()
    except TypeError:
        return False
    return True


class Expressions:
    """Writes values as Python source, if ``x`` is the file with their tensors.

    A subclass of a container is written as its base: the process that loads an artifact's file does
    not know the user's classes. ``names`` are those of tensors, by id.
    """

    def __init__(self, arrays: Arrays, names: Mapping[int, str] | None = None) -> None:
        self.arrays = arrays
        self.names = names or {}

    def call(self, call: Call) -> str:
        """Return ``(x["ids"], 2), {"mask": x["mask"]}``. Raises Inexpressible."""
        args = [self.of(value, f"args[{n}]") for n, value in enumerate(call.args)]
        kwargs = {key: self.of(value, key) for key, value in call.kwargs.items()}
        return f"{tuple_of(args)}, {source_of_dict(kwargs)}"

    def of(self, value: Any, path: str) -> str:
        """Return the source of a value. Raises Inexpressible."""
        if isinstance(value, torch.Tensor):
            return self.tensor(value, path)
        if isinstance(value, Mapping):
            return source_of_dict({k: self.of(v, f"{path}[{k!r}]") for k, v in value.items()})
        if isinstance(value, (list, tuple)):
            items = [self.of(v, f"{path}[{n}]") for n, v in enumerate(value)]
            return f"[{', '.join(items)}]" if isinstance(value, list) else tuple_of(items)
        return literal(value, path)

    def tensor(self, tensor: torch.Tensor, path: str) -> str:
        """Return the source of a tensor, which is put into the file."""
        return self.arrays.add(self.names.get(id(tensor), path), tensor)


def literal(value: Any, path: str) -> str:
    """Return the source of a value without parts. Raises Inexpressible if it has none."""
    if type(value) is float:
        return repr(value) if math.isfinite(value) else f'float("{value}")'
    if type(value) in _LITERALS or isinstance(value, _NAMED):
        return repr(value)
    if isinstance(value, torch.device):
        return f'torch.device("{value}")'
    raise Inexpressible(f"{path} is a {type(value).__name__}, which has no source")


def tuple_of(items: list[str]) -> str:
    """Return the source of a tuple of such sources."""
    return f"({', '.join(items)}{',' if len(items) == 1 else ''})"


def source_of_dict(items: Mapping[Any, str]) -> str:
    """Return the source of a dict of such sources. Raises Inexpressible for a key without one."""
    odd = next((key for key in items if type(key) not in _LITERALS), None)
    if odd is not None:
        raise Inexpressible(f"a key is a {type(odd).__name__}, which has no source")
    return f"{{{', '.join(f'{quoted(key)}: {item}' for key, item in items.items())}}}"


def quoted(value: Any) -> str:
    """Return the source of a literal; of a text in double quotes, if it can have them."""
    plain = isinstance(value, str) and value.isprintable() and not {'"', "\\"} & set(value)
    return f'"{value}"' if plain else repr(value)
