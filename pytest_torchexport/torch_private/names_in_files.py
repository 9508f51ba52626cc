"""Names that torch writes into files, and which a reader of files has to know.

Separate because they must fit files of other versions of torch too, not only the one that runs.
"""

from __future__ import annotations

from typing import Any

import torch


def names_in_tensors() -> frozenset[str]:
    """Return the classes and functions that the pickle of a plain tensor names.

    These are among those that torch.load(weights_only=True) admits, and run no code of the file's.
    Before 2.10 torch.export.load reads the example inputs with weights_only=False:
    https://github.com/pytorch/pytorch/pull/158247
    """
    storages = [name for name in vars(torch) if name.endswith("Storage")]
    rebuild = ("_rebuild_tensor_v2", "_rebuild_parameter")
    return frozenset(
        [
            "collections.OrderedDict",
            *(f"torch._utils.{name}" for name in rebuild),
            *(f"torch.{name}" for name in storages),
        ]
    )


def class_of_files(name: str) -> tuple[type | None, Any]:
    """Return the class with this name in files, and the function that flattens it, or Nones."""
    pytree = getattr(torch.utils, "_pytree", None)
    cls = getattr(pytree, "SERIALIZED_TYPE_TO_PYTHON_TYPE", {}).get(name)
    node = getattr(pytree, "SUPPORTED_NODES", {}).get(cls)
    return cls, getattr(node, "flatten_fn", None)
