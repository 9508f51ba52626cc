"""One call of ``forward``: its arguments as values.

Separate from the input spec, because the sandbox makes calls and needs no spec.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from pytest_torchexport.inputs.pytrees import Leaf, Structure, copy_argument, flatten, tree_map


@dataclass(frozen=True)
class Call:
    """One concrete call of ``forward``."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def clone(self) -> Call:
        """Return the same call on detached clones."""
        return Call(copy_argument(self.args), copy_argument(dict(self.kwargs)))

    def flatten(self, path: str = "") -> tuple[list[Leaf], Structure]:
        """Return the leaves of ``(args, kwargs)`` in the exporters' order, and the structure."""
        return flatten((self.args, dict(self.kwargs)), path)

    def leaves(self) -> list[Any]:
        """Return the leaves alone."""
        return [leaf for _, leaf in self.flatten()[0]]

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Return the tensors among the leaves."""
        return tuple(leaf for leaf in self.leaves() if isinstance(leaf, torch.Tensor))

    def to(self, device: str) -> Call:
        """Return the same call on another device."""

        def move(leaf: Any) -> Any:
            return leaf.to(device) if isinstance(leaf, torch.Tensor) else leaf

        return Call(tree_map(move, self.args), tree_map(move, dict(self.kwargs)))
