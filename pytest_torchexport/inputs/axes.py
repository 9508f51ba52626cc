"""Decide which axes of which leaves vary, and under which names.

The first rule that applies counts: ``dynamic_shapes`` in any form that torch takes, ``shapes``,
jaxtyping annotations, and last sizes that differed between recorded calls, with a guess: the batch.
Which tensors have a batch axis the shapes alone do not tell; ``eager/accepted.py`` asks eager.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from pytest_torchexport.config.named_dims import Dim, Expr, Shape, parse_shape, solve
from pytest_torchexport.config.options import Options
from pytest_torchexport.config.validate import nearest
from pytest_torchexport.inputs.pytrees import Leaf, Structure, flatten
from pytest_torchexport.results.verdict import Assumption

BATCH = "batch"
# A dim without a declared range goes up to this many times the example's size.
ASSUMED_FACTOR = 2
# Ranges beyond this are torch's "no upper limit".
UNLIMITED = 2**31
# Axes by the path of their tensor.
Group = Mapping[str, int]
DimSizes = range | tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Axes:
    """Per tensor leaf its shape, per dim its sizes, and what was assumed about both.

    ``guessed``: nothing but the shapes of the calls tells whether there is a batch. ``recorded``:
    the dims whose size differed between them.
    """

    shapes: Mapping[str, Shape]
    dims: Mapping[str, Dim]
    assumed: tuple[Assumption, ...]
    guessed: bool
    recorded: tuple[str, ...] = ()


def find_axes(
    leaves: Sequence[Leaf],
    others: Sequence[Sequence[Any]],
    options: Options,
    annotations: Mapping[str, Any],
    arguments: Mapping[str, Any],
    tied: Collection[str] = (),
) -> Axes:
    """Return the axes of the example's leaves.

    ``others`` are the leaves of further recorded calls of the same structure, and ``arguments`` are
    forward's by name. The tensors at the paths ``tied`` have only sizes that were recorded. Raises
    ValueError if what the user gave does not fit the example.
    """
    tensors = {path: leaf for path, leaf in leaves if isinstance(leaf, torch.Tensor)}
    ranges = {**(options.dims or {})}
    recorded: Mapping[str, Sequence[int]] = {}
    assumed: list[Assumption] = []
    guessed = False
    if options.dynamic_shapes is not None:
        shapes, of_dims = _from_dynamic_shapes(options.dynamic_shapes, arguments, tensors)
        ranges |= of_dims
    elif options.shapes is not None:
        shapes = _from_strings(options.shapes, tensors)
        words = "is exactly as in the example (shapes does not name it)"
        unnamed = [path for path in tensors if path not in options.shapes]
        assumed = [Assumption("shape", f"{path} {words}", path) for path in unnamed]
    elif shapes := _from_annotations(annotations, tensors):
        text = f"dims of {', '.join(shapes)} are as its jaxtyping annotation says"
        assumed = [Assumption("annotations", text)]
    else:
        shapes, recorded = _from_calls(leaves, others)
        guessed = True
        text = f"the sizes that differed between {len(others) + 1} recorded calls vary"
        assumed = [Assumption("recorded calls", text)] if recorded else []
    if guessed and BATCH not in recorded:
        free = {path: tensor for path, tensor in tensors.items() if path not in tied}
        batch = next(groups(free, 0, named(shapes)), {})
        shapes = {**axes_of(tensors, {BATCH: batch}, {}, shapes).shapes}
    shapes = {path: shapes.get(path, _unchanged(tensor)) for path, tensor in tensors.items()}
    try:
        sizes = solve([(shape, list(tensors[path].shape)) for path, shape in shapes.items()])
    except ValueError as error:
        raise ValueError(f"shapes: {error}") from None
    for name in options.dims or {}:
        if name not in sizes:
            raise ValueError(
                f"dims: {name!r} is not a dim of this call; its dims: "
                f"{', '.join(sizes) or 'none'}.{nearest(name, sizes)}"
            )
    only = {name for path in tied if path in shapes for axis in shapes[path] for name in axis.names}
    dims = {
        name: _dim(name, size, ranges.get(name), recorded.get(name, ()), only=name in only)
        for name, size in sizes.items()
    }
    return Axes(
        shapes=shapes,
        dims=dims,
        assumed=(*assumed, *_assumed(dims, shapes)),
        guessed=guessed,
        recorded=tuple(recorded),
    )


def axes_of(
    tensors: Mapping[str, torch.Tensor],
    groups: Mapping[str, Group],
    ranges: Mapping[str, DimSizes],
    kept: Mapping[str, Shape],
    kept_dims: Mapping[str, Dim] = MappingProxyType({}),
) -> Axes:
    """Return the axes if each group of axes is a dim of its name, beside the dims that are kept.

    A dim without a range goes from 1 to twice its size.
    """
    axes = {path: list(kept.get(path, _unchanged(tensor))) for path, tensor in tensors.items()}
    dims = {**kept_dims}
    for name, group in groups.items():
        for path, axis in group.items():
            axes[path][axis] = Expr(name)
            dims[name] = _dim(name, tensors[path].shape[axis], ranges.get(name))
    shapes = {path: tuple(shape) for path, shape in axes.items()}
    return Axes(shapes=shapes, dims=dims, assumed=_assumed(dims, shapes), guessed=True)


def named(shapes: Mapping[str, Shape]) -> set[tuple[str, int]]:
    return {(p, axis) for p, shape in shapes.items() for axis, e in enumerate(shape) if e.names}


def groups(
    tensors: Mapping[str, torch.Tensor],
    axis: int,
    taken: Collection[tuple[str, int]] = (),
) -> Iterator[Group]:
    """Yield sets of axes that may be one dim, the likeliest first; none of those that are taken.

    Those of one size: the first tensor's ``axis`` with the same axis of all tensors of this size;
    with the other one of the first two axes as well, as a state of an RNN has its batch; or without
    a tensor that has the size by chance. Then the same with the next tensor as the first.
    """

    def at(where: int, size: int) -> Group:
        return {
            path: where
            for path, tensor in tensors.items()
            if tensor.dim() > where and tensor.shape[where] == size and (path, where) not in taken
        }

    seen: list[Group] = []
    for first, tensor in tensors.items():
        if tensor.dim() <= axis or (first, axis) in taken:
            continue
        same, other = at(axis, tensor.shape[axis]), at(1 - axis, tensor.shape[axis])
        states = {path: where for path, where in other.items() if path != first}
        both = {**states, **same}
        candidates = [same, both, {first: axis}]
        for path in tensors:
            if path != first and path in both:
                candidates += [
                    {p: where for p, where in of_all.items() if p != path}
                    for of_all in (both, same)
                ]
        for group in (*candidates, {**same, **states}, {first: axis, **states}):
            if group not in seen:
                seen.append(group)
                yield group


def _dim(
    name: str,
    size: int,
    declared: DimSizes | None,
    recorded: Sequence[int] = (),
    *,
    only: bool = False,
) -> Dim:
    """Return the dim; ``only``: it has no sizes but those that were recorded."""
    if declared is not None:
        return Dim(name=name, sizes=declared, example=size, declared=True)
    if only:
        sizes = tuple(sorted({size, *recorded}))
        return Dim(name=name, sizes=sizes, example=size, declared=False)
    high = ASSUMED_FACTOR * max(*recorded, size, 1)
    low = min((1, *recorded))
    return Dim(name=name, sizes=range(low, high + 1), example=size, declared=False)


def _assumed(dims: Mapping[str, Dim], shapes: Mapping[str, Shape]) -> tuple[Assumption, ...]:
    assumed = []
    for dim in dims.values():
        if not dim.declared:
            places = [
                f"dim {axis} of {path}"
                for path, shape in shapes.items()
                for axis, expr in enumerate(shape)
                if dim.name in expr.names
            ]
            verb = "is" if len(places) == 1 else "are"
            text = f"{' and '.join(places)} {verb} {dim.name!r}, {dim.describe()}"
            assumed.append(Assumption("dim", text))
    return tuple(assumed)


def _from_strings(
    given: Mapping[str, Shape | None], tensors: Mapping[str, torch.Tensor]
) -> dict[str, Shape]:
    shapes = {}
    for path, shape in given.items():
        sizes = _unchanged(tensors[path])
        if shape is None:
            shapes[path] = sizes
            continue
        if len(shape) != len(sizes):
            text = " ".join(axis.text for axis in shape)
            raise ValueError(
                f"shapes: {path!r} is declared with {len(shape)} axes ({text!r}), but the "
                f"example has {len(sizes)}: {list(tensors[path].shape)}"
            )
        pairs = zip(shape, sizes, strict=True)
        shapes[path] = tuple(size if axis.text == "_" else axis for axis, size in pairs)
    return shapes


def _from_annotations(
    annotations: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
) -> dict[str, Shape]:
    """Read annotations like jaxtyping's ``Float[Tensor, "batch 3"]``.

    The string is in the language of ``shapes``; one that is not is ignored.
    """
    shapes: dict[str, Shape] = {}
    for path, tensor in tensors.items():
        text = getattr(annotations.get(path), "dim_str", None)
        try:
            shape = parse_shape(text) if isinstance(text, str) else None
        except ValueError:
            continue
        if shape is not None and len(shape) == tensor.dim():
            shapes |= _from_strings({path: shape}, tensors)
    return shapes


def _from_calls(
    leaves: Sequence[Leaf], others: Sequence[Sequence[Any]]
) -> tuple[dict[str, Shape], dict[str, Sequence[int]]]:
    """Return the shapes with a dim for each size that differed, and the sizes of each dim.

    Axes that had the same size in every call are one dim.
    """
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
            ahead = _ahead(history, names)
            if ahead:
                axes.append(Expr(ahead))
                continue
            if history not in names:
                used = names.values()
                name = f"{_identifier(path)}_{axis}" if axis or BATCH in used else BATCH
                while name in used:
                    name += "_"
                names[history] = name
            axes.append(Expr(names[history]))
        shapes[path] = tuple(axes)
    return shapes, {name: history for history, name in names.items()}


# Sizes that differ by the same number in so many calls do so by more than chance.
RELATED = 4


def _ahead(history: tuple[int, ...], names: Mapping[tuple[int, ...], str]) -> str:
    """Return the sizes of an axis as a dim plus a number: ``past+1``; empty if they are none."""
    if len(set(history)) >= RELATED and history not in names:
        for other, name in names.items():
            apart = {mine - its for mine, its in zip(history, other, strict=True)}
            if len(apart) == 1:
                return f"{name}{apart.pop():+d}"
    return ""


def _unchanged(tensor: torch.Tensor) -> Shape:
    return tuple(Expr(str(size)) for size in tensor.shape)


def _identifier(path: str) -> str:
    """Return a leaf's path as a name that a dim may have."""
    return "".join(c if c.isalnum() else "_" for c in path).strip("_")


# -- torch's dynamic_shapes ------------------------------------------------------------------------

# ``DimHint(AUTO``; in torch 2.9 ``_DimHint(type=<_DimHintType.AUTO: 1>``. Told by its text, because
# its class is private.
_HINT = re.compile(r"_?DimHint\((?:type=<_DimHintType\.)?(AUTO|DYNAMIC|STATIC)\b")


def _from_dynamic_shapes(
    given: Any, arguments: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]
) -> tuple[dict[str, Shape], dict[str, DimSizes]]:
    """Return the shapes of the leaves, and the ranges of the dims that declare one.

    ``given`` is a dict by argument or a tuple in order, as ``torch.export.export`` takes it.
    """
    # Dims without a name vary together if they have one size: torch does not document whether it
    # ties them.
    unnamed: dict[int, str] = {}
    ranges: dict[str, DimSizes] = {}
    shapes: dict[str, Shape] = {}
    for argument, entry in _by_argument(given, arguments):
        leaves, structure = flatten(arguments[argument], argument)
        of_leaves = _per_leaf(argument, structure, entry)
        for (path, leaf), of_leaf in zip(leaves, of_leaves, strict=True):
            if path not in tensors:
                continue
            axes = []
            of_axes = _per_axis(path, leaf, of_leaf)
            for axis, (item, size) in enumerate(zip(of_axes, leaf.shape, strict=True)):
                text = _text_of_axis(item, f"dim {axis} of {path!r}", size)
                text = text or unnamed.setdefault(size, f"{_identifier(path)}_{axis}")
                # Of ``2*batch``, the range is that of ``batch``.
                dim = getattr(item, "root", item)
                sizes = _range_of(dim, size)
                if sizes is not None:
                    ranges[getattr(dim, "__name__", text)] = sizes
                axes.append(Expr(text))
            shapes[path] = tuple(axes)
    return shapes, ranges


def _by_argument(given: Any, arguments: Mapping[str, Any]) -> list[tuple[str, Any]]:
    if isinstance(given, Mapping):
        entries: dict[Any, Any] = {}
        for name, entry in given.items():
            # Below the name of forward's ``**kwargs``.
            nested = isinstance(entry, Mapping) and name not in arguments
            nested = nested and entry and all(key in arguments for key in entry)
            entries |= entry if nested else {name: entry}
        for name in entries:
            if name not in arguments:
                raise ValueError(
                    f"dynamic_shapes: {name!r} is not an argument of this call; legal: "
                    f"{', '.join(arguments)}.{nearest(name, arguments)}"
                )
        return [(name, entries.get(name)) for name in arguments]
    if not isinstance(given, (tuple, list)):
        raise ValueError(f"dynamic_shapes: {given!r:.80} is not a dict or a tuple")
    if len(given) != len(arguments):
        raise ValueError(
            f"dynamic_shapes: has {len(given)} entries, but the call has {len(arguments)} "
            f"arguments ({', '.join(arguments)})"
        )
    return list(zip(arguments, given, strict=True))


def _per_leaf(path: str, structure: Structure, entry: Any) -> list[Any]:
    """Return the entry of ``dynamic_shapes`` of each leaf of an argument."""
    if structure.kind == "leaf" or entry is None:
        return [entry] * structure.count
    if isinstance(entry, Mapping):
        parts = [entry.get(ast.literal_eval(key[1:-1])) for key in structure.keys]
    else:
        parts = list(entry)
    if len(parts) != len(structure.children):
        raise ValueError(
            f"dynamic_shapes: {path!r} has {len(structure.children)} parts, "
            f"but {len(parts)} entries"
        )
    below = zip(structure.keys, structure.children, parts, strict=True)
    return [item for key, child, part in below for item in _per_leaf(f"{path}{key}", child, part)]


def _per_axis(path: str, tensor: torch.Tensor, entry: Any) -> list[Any]:
    dims = tensor.dim()
    if isinstance(entry, (tuple, list)) and len(entry) == dims:
        return list(entry)
    of_axes: list[Any] = [None] * dims
    if entry is not None and not isinstance(entry, Mapping):
        raise ValueError(f"dynamic_shapes: {entry!r:.60} does not fit {path!r} with {dims} dims")
    for axis, item in (entry or {}).items():
        if not isinstance(axis, int) or not -dims <= axis < dims:
            raise ValueError(
                f"dynamic_shapes: {path!r} has {dims} dims, so {axis!r} is not one of them"
            )
        of_axes[axis] = item
    return of_axes


def _text_of_axis(item: Any, place: str, size: int) -> str:
    """Return an axis as an expression; nothing for one that varies without a name."""
    if item is None or isinstance(item, int):
        return str(size)
    if isinstance(item, str):
        return item
    name = getattr(item, "__name__", None)
    if isinstance(name, str):
        return name.replace(" ", "")
    hint = _HINT.match(repr(item))
    if hint is None:
        raise ValueError(
            f"dynamic_shapes: {item!r:.60} for {place} is not a Dim, a string, "
            "an int, None, Dim.AUTO, Dim.DYNAMIC or Dim.STATIC"
        )
    return str(size) if hint[1] == "STATIC" else ""


def _range_of(dim: Any, size: int) -> DimSizes | None:
    """Return the sizes between the ``min`` and ``max`` of a Dim; None if it has neither."""
    low = max(int(getattr(dim, "min", None) or 0), 1)
    try:
        high = int(dim.max)
    except (TypeError, OverflowError, ValueError, AttributeError):  # none, or torch's infinity
        high = UNLIMITED + 1
    if high <= UNLIMITED:
        return range(low, high + 1)
    return range(low, max(ASSUMED_FACTOR * size, low) + 1) if low > 1 else None
