"""Structures of values as torch's pytrees see them: taken apart, put together, written as text.

Separate because torch has all of this in one private module, ``torch.utils._pytree``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def registered_nodes() -> Mapping[type, Any]:
    """Return torch's table of registered pytree nodes; empty if torch has none."""
    import torch.utils._pytree as torch_pytree

    return getattr(torch_pytree, "SUPPORTED_NODES", {})


def flatten_registered(value: Any) -> tuple[list[Any], Any] | None:
    """Return the leaves of a value and its structure as torch's pytrees see it; None for a leaf."""
    import torch.utils._pytree as torch_pytree

    leaves, structure = torch_pytree.tree_flatten(value)
    return None if structure.is_leaf() else (leaves, structure)


def unflatten(leaves: Sequence[Any], structure: Any) -> Any:
    """Return the value of this structure with these leaves."""
    import torch.utils._pytree as torch_pytree

    return torch_pytree.tree_unflatten(list(leaves), structure)


def parts_of_structure(structure: Any) -> list[Any]:
    """Return the structures of a container's items."""
    parts = getattr(structure, "children", None)  # a method in newer versions of torch
    return list(structure.children_specs if parts is None else parts())


def text_of_structure(structure: Any) -> str | None:
    """Return a structure as text; None if a class of it is registered without a name."""
    import torch.utils._pytree as torch_pytree

    try:
        return torch_pytree.treespec_dumps(structure)
    except (NotImplementedError, TypeError, ValueError):
        return None


def structure_of_text(text: str) -> Any:
    """Return the structure that a text describes.

    Raises KeyError if a class of it is not registered in this process. May import what the text
    names: pass only texts that this package wrote.
    """
    import torch.utils._pytree as torch_pytree

    try:
        return torch_pytree.treespec_loads(text)
    except NotImplementedError as error:
        raise KeyError(str(error)) from None
