"""Read axes from the ``dynamic_shapes`` that the user gave, in any form that torch takes.

Separate from ``dynamic_shapes``, which writes such objects for the exporters.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from pytest_torchexport.config.named_dims import Expr, Shape
from pytest_torchexport.config.validate import nearest
from pytest_torchexport.inputs.pytrees import Structure, flatten

# A dim without a declared range goes up to this many times the example's size.
ASSUMED_FACTOR = 2
# Ranges beyond this are torch's "no upper limit".
UNLIMITED = 2**31

DimSizes = range | tuple[int, ...]
# ``DimHint(AUTO``; in torch 2.9 ``_DimHint(type=<_DimHintType.AUTO: 1>``.
_HINT = re.compile(r"_?DimHint\((?:type=<_DimHintType\.)?(AUTO|DYNAMIC|STATIC)\b")


def read_dynamic_shapes(
    given: Any, arguments: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
) -> tuple[dict[str, Shape], dict[str, DimSizes]]:
    """Return the shapes of the leaves, and the ranges of the dims that declare one.

    ``given`` is a dict by argument or a tuple in order, as ``torch.export.export`` takes it. Raises
    ValueError if it does not fit the call.
    """
    reader = _Reader()
    shapes: dict[str, Shape] = {}
    for name, item in _by_argument(given, arguments):
        for path, entry in _match(name, arguments[name], item):
            if path in tensors:
                shapes[path] = reader.axes(path, tensors[path], entry)
    return shapes, reader.ranges


def unchanged(tensor: torch.Tensor) -> Shape:
    """Return the tensor's own sizes as a shape without dims."""
    return tuple(Expr(str(size)) for size in tensor.shape)


def identifier(path: str) -> str:
    """Return a leaf's path as a name that a dim may have."""
    return "".join(c if c.isalnum() else "_" for c in path).strip("_")


def _by_argument(given: Any, arguments: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return each argument's name with its entry of ``dynamic_shapes``."""
    if isinstance(given, Mapping):
        given = _spread_keywords(given, arguments)
        for name in given:
            if name not in arguments:
                raise ValueError(
                    f"dynamic_shapes: {name!r} is not an argument of this call; legal: "
                    f"{', '.join(arguments)}.{nearest(name, arguments)}"
                )
        return [(name, given.get(name)) for name in arguments]
    if isinstance(given, (tuple, list)):
        if len(given) != len(arguments):
            raise ValueError(
                f"dynamic_shapes: has {len(given)} entries, but the call has {len(arguments)} "
                f"arguments ({', '.join(arguments)})"
            )
        return list(zip(arguments, given, strict=True))
    raise ValueError(f"dynamic_shapes: {given!r:.80} is not a dict or a tuple")


def _spread_keywords(given: Mapping[Any, Any], arguments: Mapping[str, Any]) -> dict[Any, Any]:
    """Move entries nested under the name of forward's ``**kwargs`` to the top."""
    spread: dict[Any, Any] = {}
    for name, item in given.items():
        nested = isinstance(item, Mapping) and name not in arguments
        if nested and item and all(key in arguments for key in item):
            spread |= item
        else:
            spread[name] = item
    return spread


def _match(path: str, value: Any, item: Any) -> list[tuple[str, Any]]:
    """Return the leaf paths of one argument, each with its entry of ``dynamic_shapes``."""
    leaves, structure = flatten(value, path)
    if item is None:
        return [(leaf, None) for leaf, _ in leaves]
    if structure.kind == "leaf":
        return [(path, item)]
    if isinstance(item, Mapping):
        entries = [item.get(key) for key in _raw_keys(structure.keys)]
    else:
        entries = list(item)
    if len(entries) != len(structure.children):
        raise ValueError(
            f"dynamic_shapes: {path!r} has {len(structure.children)} parts, "
            f"but {len(entries)} entries"
        )
    pairs, start = [], 0
    for child, entry in zip(structure.children, entries, strict=True):
        own = leaves[start : start + child.count]
        start += child.count
        part = child.unflatten([leaf for _, leaf in own])
        prefix = own[0][0] if child.kind == "leaf" else _path_of(path, structure, child)
        pairs += _match(prefix, part, entry)
    return pairs


def _path_of(path: str, structure: Structure, child: Structure) -> str:
    position = next(i for i, item in enumerate(structure.children) if item is child)
    return f"{path}{structure.keys[position]}"


def _raw_keys(keys: Sequence[str]) -> list[Any]:
    return [ast.literal_eval(key[1:-1]) for key in keys]


@dataclass
class _Reader:
    """Reads the entries of all leaves, and collects the ranges of the dims."""

    ranges: dict[str, DimSizes] = field(default_factory=dict)
    # Names of dims that have none, by size. Unnamed dims of one size vary together: torch does not
    # document whether it ties them.
    _unnamed: dict[int, str] = field(default_factory=dict)

    def axes(self, path: str, tensor: torch.Tensor, entry: Any) -> Shape:
        """Return the shape of one leaf."""
        if entry is None:
            return unchanged(tensor)
        per_axis = _per_axis(path, tensor, entry)
        return tuple(
            self._axis(path, axis, size, per_axis.get(axis))
            for axis, size in enumerate(tensor.shape)
        )

    def _axis(self, path: str, axis: int, size: int, item: Any) -> Expr:
        hint = _hint(item)
        if item is None or isinstance(item, int) or hint == "STATIC":
            return Expr(str(size))
        if isinstance(item, str):
            return Expr(item)
        if hint is not None:
            name = self._unnamed.setdefault(size, f"{identifier(path)}_{axis}")
            if getattr(item, "max", None) is not None:
                self._declare(name, item, size)
            return Expr(name)
        if not isinstance(getattr(item, "__name__", None), str):
            raise ValueError(
                f"dynamic_shapes: {item!r:.60} for dim {axis} of {path!r} is not a Dim, a string, "
                "an int, None, Dim.AUTO, Dim.DYNAMIC or Dim.STATIC"
            )
        root = getattr(item, "root", item)
        if hasattr(root, "min") and hasattr(root, "max"):
            self._declare(root.__name__, root, size)
        return Expr(item.__name__.replace(" ", ""))

    def _declare(self, name: str, dim: Any, size: int) -> None:
        declared = _declared_range(dim, size)
        if declared is not None:
            self.ranges[name] = declared


def _per_axis(path: str, tensor: torch.Tensor, entry: Any) -> dict[int, Any]:
    if isinstance(entry, Mapping):
        for axis in entry:
            if not isinstance(axis, int) or not -tensor.dim() <= axis < tensor.dim():
                raise ValueError(
                    f"dynamic_shapes: {path!r} has {tensor.dim()} dims, "
                    f"so {axis!r} is not one of them"
                )
        return {axis % tensor.dim(): item for axis, item in entry.items()}
    if isinstance(entry, (tuple, list)) and len(entry) == tensor.dim():
        return dict(enumerate(entry))
    raise ValueError(
        f"dynamic_shapes: {entry!r:.60} does not fit {path!r} with {tensor.dim()} dims"
    )


def _hint(item: Any) -> str | None:
    """Return AUTO, DYNAMIC or STATIC for torch's hints, else None. Their class is private."""
    match = None if hasattr(item, "__name__") else _HINT.match(repr(item))
    return match.group(1) if match else None


def _declared_range(dim: Any, size: int) -> DimSizes | None:
    """Return the sizes between a Dim's ``min`` and ``max``, or None if it has neither."""
    low = max(int(dim.min or 0), 1)
    try:
        high = int(dim.max)
    except (TypeError, OverflowError, ValueError, AttributeError):
        high = 0
    if high <= 0 or high > UNLIMITED:
        return range(low, max(ASSUMED_FACTOR * size, low) + 1) if low > 1 else None
    return range(low, high + 1)
