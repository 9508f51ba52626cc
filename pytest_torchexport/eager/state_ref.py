"""Names for what a forward may change: a buffer, an attribute, a global, a module's hooks."""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal[
    "parameter",
    "buffer",
    "attribute",
    "class attribute",
    "closure",
    "global",
    "argument",
    "default",
    "input",
    "hooks",
    "training flag",
    "submodules",
]
# What a copy of a module shares with the module.
SHARED: tuple[Kind, ...] = ("class attribute", "closure", "global", "default")
_OF_MODULES = ("hooks", "training flag", "submodules")


class StateRef(NamedTuple):
    """One place that holds state: what kind of place it is, and the path to it.

    ``path`` starts at the checked module (``block.bn.running_mean``, ``cache['k'][0]``), for a
    class attribute at the class, and for ``argument`` and ``default`` at an index. It is empty for
    the hooks, the training flag and the submodules of the checked module itself. A NamedTuple,
    because a large module has thousands of places, and these are made faster than dataclasses.
    """

    kind: Kind
    path: str = ""

    def __str__(self) -> str:
        """Return ``buffer bn.running_mean``, ``hooks of block``, ``argument[0]``."""
        if not self.path or self.path.startswith("["):
            return self.kind + self.path
        of = " of" if self.kind in _OF_MODULES else ""
        return f"{self.kind}{of} {self.path}"

    @property
    def is_tensor_of_module(self) -> bool:
        """Return True for a parameter or a buffer, which is put back without copying the module."""
        return self.kind in ("parameter", "buffer")

    def item(self, key: object) -> StateRef:
        """Return the place ``[key]`` inside this one."""
        return StateRef(self.kind, f"{self.path}[{key}]")

    def attribute(self, name: str) -> StateRef:
        """Return the place ``.name`` inside this one."""
        return StateRef(self.kind, f"{self.path}.{name}")

    def contains(self, other: StateRef) -> bool:
        """Return True if ``other`` is an item or an attribute inside this place."""
        inside = (f"{self.path}[", f"{self.path}.")
        return self.kind == other.kind and other.path.startswith(inside)


class Change(NamedTuple):
    """A place that is not as it was, or that only one of two moments knows."""

    ref: StateRef
    happened: Literal["changed", "new", "gone"] = "changed"

    def __str__(self) -> str:
        """Return ``buffer steps``, or ``attribute cache (new)``."""
        return str(self.ref) if self.happened == "changed" else f"{self.ref} ({self.happened})"
