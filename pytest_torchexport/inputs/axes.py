"""Which axes of which leaves vary, and under which name: the rules of what is said and what is assumed.

In this order: ``dynamic_shapes``, ``shapes``, jaxtyping annotations, sizes that differed between recorded
calls, and last the batch rule. Separate from ``inputs`` because these rules grow on their own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pytest_torchexport.config.dims import Dim, Expr, Shape, parse_shape, solve
from pytest_torchexport.config.options import Options
from pytest_torchexport.config.validate import nearest
from pytest_torchexport.inputs.pytrees import Leaf, flatten
from pytest_torchexport.results.verdict import Assumption

BATCH = "batch"
# "from 1 to about twice the example's" (the contract for a dim nobody gave a range for)
ASSUMED_FACTOR = 2

Sizes = range | tuple[int, ...]
_HINT = re.compile(r"DimHint\((AUTO|DYNAMIC|STATIC)\b")


@dataclass(frozen=True, kw_only=True)
class Axes:
    """Per tensor leaf its shape, per dim its sizes, and sentences about what was assumed."""

    shapes: Mapping[str, Shape]
    dims: Mapping[str, Dim]
    assumed: tuple[Assumption, ...] = ()


def find_axes(
    leaves: Sequence[Leaf],
    others: Sequence[Sequence[Any]],
    options: Options,
    annotations: Mapping[str, Any],
    arguments: Mapping[str, Any],
) -> Axes:
    """The axes of this example. ``others`` are the leaves of further recorded calls of the same
    structure. Raises ValueError where what the user said does not fit the example.
    """
    tensors = {path: leaf for path, leaf in leaves if isinstance(leaf, torch.Tensor)}
    ranges: dict[str, Sizes] = dict(options.dims or {})
    observed: dict[str, list[int]] = {}
    assumed: list[Assumption] = []
    if options.dynamic_shapes is not None:
        shapes = _from_torch(options.dynamic_shapes, arguments, tensors, ranges)
    elif options.shapes is not None:
        shapes = _from_strings(options.shapes, tensors)
        unnamed = [path for path in tensors if path not in options.shapes]
        assumed += [
            Assumption(
                "shape", f"{path} is exactly as in the example (shapes does not name it)", path
            )
            for path in unnamed
        ]
    elif annotated := _from_annotations(annotations, tensors):
        shapes = annotated
        names = ", ".join(shapes)
        text = f"dims of {names} are as its jaxtyping annotation says"
        assumed.append(Assumption("annotations", text))
    elif len(others) and (varied := _from_calls(leaves, others, observed)):
        shapes = varied
        text = f"the sizes that differed between {len(others) + 1} recorded calls vary"
        assumed.append(Assumption("recorded calls", text))
    else:
        shapes = _batch_rule(tensors)
    full = {path: shapes.get(path, _as_is(tensor)) for path, tensor in tensors.items()}
    found = _solve(full, tensors)
    _check_ranges(options.dims or {}, found)
    dims = {
        name: _dim(name, size, ranges.get(name), observed.get(name, [size]))
        for name, size in found.items()
    }
    assumed += [_assumption(dim, full) for dim in dims.values() if not dim.declared]
    if not dims and any(tensor.dim() for tensor in tensors.values()) and options.shapes is None:
        assumed.append(
            Assumption(
                "no dim",
                "no size varies: the tensors disagree on dimension 0; say which do with shapes=",
            )
        )
    return Axes(shapes=full, dims=dims, assumed=tuple(assumed))


def _as_is(tensor: torch.Tensor) -> Shape:
    return tuple(Expr(str(size)) for size in tensor.shape)


def _dim(name: str, size: int, declared: Sizes | None, observed: Sequence[int]) -> Dim:
    if declared is not None:
        return Dim(name=name, sizes=declared, example=size, declared=True)
    high = ASSUMED_FACTOR * max(*observed, size, 1)
    return Dim(name=name, sizes=range(1, high + 1), example=size, declared=False)


def _assumption(dim: Dim, shapes: Mapping[str, Shape]) -> Assumption:
    places = [
        f"dim {axis} of {path}"
        for path, shape in shapes.items()
        for axis, expr in enumerate(shape)
        if dim.name in expr.names
    ]
    verb = "is" if len(places) == 1 else "are"
    return Assumption("dim", f"{' and '.join(places)} {verb} {dim.name!r}, {dim.describe()}")


def _solve(shapes: Mapping[str, Shape], tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    for path, shape in shapes.items():
        if len(shape) != tensors[path].dim():
            text = " ".join(axis.text for axis in shape)
            raise ValueError(
                f"shapes: {path!r} is declared with {len(shape)} axes ({text!r}), but the example has "
                f"{tensors[path].dim()}: {list(tensors[path].shape)}"
            )
    try:
        return solve([(shape, list(tensors[path].shape)) for path, shape in shapes.items()])
    except ValueError as error:
        raise ValueError(f"shapes: {error}") from None


def _check_ranges(given: Mapping[str, Sizes], found: Mapping[str, int]) -> None:
    for name in given:
        if name not in found:
            raise ValueError(
                f"dims: {name!r} is not a dim of this call; its dims: "
                f"{', '.join(found) or 'none'}.{nearest(name, found)}"
            )


def _from_strings(
    given: Mapping[str, Shape | None], tensors: Mapping[str, torch.Tensor]
) -> dict[str, Shape]:
    shapes = {}
    for path, shape in given.items():
        tensor = tensors[path]
        if shape is None:
            shapes[path] = _as_is(tensor)
        elif len(shape) == tensor.dim():
            sizes = zip(shape, tensor.shape, strict=True)
            shapes[path] = tuple(Expr(str(n)) if axis.text == "_" else axis for axis, n in sizes)
        else:
            shapes[path] = shape
    return shapes


def _from_annotations(
    annotations: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
) -> dict[str, Shape]:
    """jaxtyping's ``Float[Tensor, "batch 3"]`` on forward: the string is our own language, or passed by."""
    shapes: dict[str, Shape] = {}
    for path, tensor in tensors.items():
        text = getattr(annotations.get(path), "dim_str", None)
        if not isinstance(text, str):
            continue
        try:
            shape = parse_shape(text)
        except ValueError:
            continue
        if shape is not None and len(shape) == tensor.dim():
            shapes |= _from_strings({path: shape}, tensors)
    return shapes


def _from_calls(
    leaves: Sequence[Leaf], others: Sequence[Sequence[Any]], observed: dict[str, list[int]]
) -> dict[str, Shape]:
    """Axes whose size differed between recorded calls; equal histories are one dim."""
    names: dict[tuple[int, ...], str] = {}
    shapes: dict[str, Shape] = {}
    for index, (path, tensor) in enumerate(leaves):
        if not isinstance(tensor, torch.Tensor):
            continue
        axes = []
        for axis, size in enumerate(tensor.shape):
            history = (size, *(int(other[index].shape[axis]) for other in others))
            if len(set(history)) == 1:
                axes.append(Expr(str(size)))
                continue
            if history not in names:
                wanted = BATCH if axis == 0 else f"{_plain(path)}_{axis}"
                while wanted in names.values():
                    wanted = f"{_plain(path)}_{axis}" if wanted == BATCH else f"{wanted}_"
                names[history] = wanted
                observed[names[history]] = list(history)
            axes.append(Expr(names[history]))
        shapes[path] = tuple(axes)
    return shapes if names else {}


def _batch_rule(tensors: Mapping[str, torch.Tensor]) -> dict[str, Shape]:
    with_axes = {path: tensor for path, tensor in tensors.items() if tensor.dim()}
    if len({tensor.shape[0] for tensor in with_axes.values()}) != 1:
        return {}
    return {path: (Expr(BATCH), *_as_is(tensor)[1:]) for path, tensor in with_axes.items()}


def _from_torch(
    given: Any,
    arguments: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    ranges: dict[str, Sizes],
) -> dict[str, Shape]:
    """``dynamic_shapes`` as ``torch.export.export`` takes it: a dict by argument, or a tuple in order."""
    if isinstance(given, Mapping):
        given = _spread_keywords(given, arguments)
        for name in given:
            if name not in arguments:
                raise ValueError(
                    f"dynamic_shapes: {name!r} is not an argument of this call; legal: "
                    f"{', '.join(arguments)}.{nearest(name, arguments)}"
                )
        pairs = [(name, given.get(name)) for name in arguments]
    elif isinstance(given, (tuple, list)):
        if len(given) != len(arguments):
            raise ValueError(
                f"dynamic_shapes: has {len(given)} entries, but the call has {len(arguments)} "
                f"arguments ({', '.join(arguments)})"
            )
        pairs = list(zip(arguments, given, strict=True))
    else:
        raise ValueError(f"dynamic_shapes: {given!r:.80} is not a dict or a tuple")
    shapes: dict[str, Shape] = {}
    unnamed: dict[int, str] = {}
    for name, item in pairs:
        for path, entry in _match(name, arguments[name], item):
            if path in tensors:
                shapes[path] = _axes_from_torch(path, tensors[path], entry, ranges, unnamed)
    return shapes


def _spread_keywords(given: Mapping[Any, Any], arguments: Mapping[str, Any]) -> dict[Any, Any]:
    """Entries nested under the name of forward's ``**kwargs``, as torch takes them, at the top."""
    spread: dict[Any, Any] = {}
    for name, item in given.items():
        nested = isinstance(item, Mapping) and name not in arguments
        if nested and item and all(key in arguments for key in item):
            spread |= item
        else:
            spread[name] = item
    return spread


def _match(path: str, value: Any, item: Any) -> list[tuple[str, Any]]:
    """Leaf paths of one argument with the entry of ``dynamic_shapes`` that stands for each."""
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
            f"dynamic_shapes: {path!r} has {len(structure.children)} parts, but {len(entries)} entries"
        )
    pairs, start = [], 0
    for child, entry in zip(structure.children, entries, strict=True):
        own = leaves[start : start + child.count]
        start += child.count
        part = child.unflatten([leaf for _, leaf in own])
        prefix = own[0][0] if child.kind == "leaf" else _common(path, structure, child)
        pairs += _match(prefix, part, entry)
    return pairs


def _common(path: str, structure: Any, child: Any) -> str:
    position = next(i for i, item in enumerate(structure.children) if item is child)
    return f"{path}{structure.keys[position]}"


def _raw_keys(keys: Sequence[str]) -> list[Any]:
    import ast

    return [ast.literal_eval(key[1:-1]) for key in keys]


def _axes_from_torch(
    path: str,
    tensor: torch.Tensor,
    entry: Any,
    ranges: dict[str, Sizes],
    unnamed: dict[int, str],
) -> Shape:
    if entry is None:
        return _as_is(tensor)
    if isinstance(entry, Mapping):
        for axis in entry:
            if not isinstance(axis, int) or not -tensor.dim() <= axis < tensor.dim():
                raise ValueError(
                    f"dynamic_shapes: {path!r} has {tensor.dim()} dims, so {axis!r} is not one of them"
                )
        per_axis = {axis % tensor.dim(): item for axis, item in entry.items()}
    elif isinstance(entry, (tuple, list)) and len(entry) == tensor.dim():
        per_axis = dict(enumerate(entry))
    else:
        raise ValueError(
            f"dynamic_shapes: {entry!r:.60} does not fit {path!r} with {tensor.dim()} dims"
        )
    return tuple(
        _axis_from_torch(path, axis, size, per_axis.get(axis), ranges, unnamed)
        for axis, size in enumerate(tensor.shape)
    )


def _axis_from_torch(
    path: str, axis: int, size: int, item: Any, ranges: dict[str, Sizes], unnamed: dict[int, str]
) -> Expr:
    if item is None or isinstance(item, int):
        return Expr(str(size))
    if isinstance(item, str):
        return Expr(item)
    hint = _hint(item)
    if hint == "STATIC":
        return Expr(str(size))
    if hint is not None:
        # Unnamed dims of equal size vary together: whether torch ties them is not said anywhere.
        name = unnamed.setdefault(size, f"{_plain(path)}_{axis}")
        declared = _declared_range(item, size) if getattr(item, "max", None) is not None else None
        if declared is not None:
            ranges[name] = declared
        return Expr(name)
    if not isinstance(getattr(item, "__name__", None), str):
        raise ValueError(
            f"dynamic_shapes: {item!r:.60} for dim {axis} of {path!r} is not a Dim, a string, an int, "
            "None, Dim.AUTO, Dim.DYNAMIC or Dim.STATIC"
        )
    root = getattr(item, "root", item)
    if hasattr(root, "min") and hasattr(root, "max"):
        declared = _declared_range(root, size)
        if declared is not None:
            ranges[root.__name__] = declared
    return Expr(item.__name__.replace(" ", ""))


def _hint(item: Any) -> str | None:
    """``AUTO``, ``DYNAMIC`` or ``STATIC`` for torch's hints, else None. Reads their repr: the class is private."""
    match = None if hasattr(item, "__name__") else _HINT.match(repr(item))
    return match.group(1) if match else None


def _plain(path: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in path).strip("_")


def _declared_range(dim: Any, size: int) -> Sizes | None:
    low = max(int(dim.min or 0), 1)
    try:
        high = int(dim.max)
    except (TypeError, OverflowError, ValueError, AttributeError):
        high = 0
    if high <= 0 or high > 2**31:
        return range(low, max(ASSUMED_FACTOR * size, low) + 1) if low > 1 else None
    return range(low, high + 1)
