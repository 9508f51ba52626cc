"""One call of ``forward``: its arguments as values.

Separate from the input spec, because the sandbox makes calls and needs no spec.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

import torch

from pytest_torchexport.inputs.pytrees import (
    Leaf,
    Structure,
    copy_argument,
    describe,
    flatten,
    tree_map,
)


@dataclass(frozen=True)
class Call:
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def clone(self) -> Call:
        """Return the same call on detached clones; a tensor given twice stays one tensor."""
        return Call(*copy_argument((self.args, dict(self.kwargs))))

    def flatten(self, path: str = "") -> tuple[list[Leaf], Structure]:
        """Return the leaves of ``(args, kwargs)`` in the exporters' order, and the structure."""
        return flatten((self.args, dict(self.kwargs)), path)

    def leaves(self) -> list[Any]:
        return [leaf for _, leaf in self.flatten()[0]]

    def tensors(self) -> tuple[torch.Tensor, ...]:
        return tuple(leaf for leaf in self.leaves() if isinstance(leaf, torch.Tensor))

    def describe(self) -> str:
        """Return a line like ``float32[3, 4], scale=2.0``."""
        given = [describe(leaf) for _, leaf in flatten(self.args)[0]]
        for name, value in self.kwargs.items():
            given += [f"{path}={describe(leaf)}" for path, leaf in flatten(value, name)[0]]
        return ", ".join(given) or "no arguments"

    def to(self, device: str, which: Iterable[bool] = repeat(True)) -> Call:
        """Return the same call on another device; ``which``: if so, for each of its tensors."""
        wanted, moved = iter(which), dict[int, torch.Tensor]()

        def move(leaf: Any) -> Any:
            if not isinstance(leaf, torch.Tensor) or not next(wanted):
                return leaf
            if id(leaf) not in moved:
                moved[id(leaf)] = leaf.detach().to(device).requires_grad_(leaf.requires_grad)
            return moved[id(leaf)]

        return Call(*tree_map(move, (self.args, dict(self.kwargs))))
