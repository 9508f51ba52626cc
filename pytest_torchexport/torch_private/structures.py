"""Structures of values as torch's pytrees see them, and the names that torch writes into files.

Separate because torch has its pytrees in one private module, ``torch.utils._pytree``; the names
must fit files of other versions of torch too.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch


def registered_nodes() -> Mapping[type, Any]:
    """Return torch's table of registered pytree nodes; empty if torch has none."""
    return getattr(torch.utils._pytree, "SUPPORTED_NODES", {})


def flatten_registered(value: Any, *, deep: bool = True) -> tuple[list[Any], Any] | None:
    """Return the leaves of a value and its structure as torch's pytrees see it; None for a leaf.

    Not ``deep``: of the outermost container alone, whose leaves are what it contains.
    """
    is_leaf = None if deep else lambda each: each is not value
    leaves, structure = torch.utils._pytree.tree_flatten(value, is_leaf=is_leaf)
    return None if structure.is_leaf() else (leaves, structure)


def unflatten(leaves: Sequence[Any], structure: Any) -> Any:
    return torch.utils._pytree.tree_unflatten(list(leaves), structure)


def script_containers() -> list[Any]:
    """Return the functions by which a pickle of TorchScript builds its lists and dicts."""
    module = importlib.import_module("torch.jit._pickle")
    return [each for name, each in vars(module).items() if name.startswith(("build_", "restore_"))]


def text_of_structure(structure: Any) -> str | None:
    """Return a structure as text; None if a class of it is registered without a name."""
    try:
        return torch.utils._pytree.treespec_dumps(structure)
    except (NotImplementedError, TypeError, ValueError):
        return None


def structure_of_text(text: str) -> Any:
    """Return the structure that a text describes.

    Raises KeyError if a class of it is not registered in this process. May import what the text
    names: pass only texts that this package wrote.
    """
    try:
        return torch.utils._pytree.treespec_loads(text)
    except NotImplementedError as error:
        raise KeyError(str(error)) from None


# -- names in files --------------------------------------------------------------------------------


def names_in_tensors() -> frozenset[str]:
    """Return the classes and functions that the pickle of a plain tensor names.

    These are among those that torch.load(weights_only=True) admits, and run no code of the file's.
    Before 2.10 torch.export.load reads the example inputs with weights_only=False:
    https://github.com/pytorch/pytorch/pull/158247
    """
    storages = {f"torch.{name}" for name in vars(torch) if name.endswith("Storage")}
    rebuild = {"torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"}
    return frozenset({"collections.OrderedDict", *rebuild, *storages})


def class_of_files(name: str) -> tuple[type | None, Any]:
    """Return the class with this name in files, and the function that flattens it, or Nones."""
    names: Mapping[str, Any] = getattr(torch.utils._pytree, "SERIALIZED_TYPE_TO_PYTHON_TYPE", {})
    cls = names.get(name)
    node = registered_nodes().get(cls) if cls is not None else None
    return cls, getattr(node, "flatten_fn", None)
