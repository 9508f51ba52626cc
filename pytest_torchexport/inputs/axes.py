"""Decide which axes of which leaves vary, and under which names.

The first rule that applies counts: ``dynamic_shapes`` in any form that torch takes, ``shapes``,
jaxtyping annotations, sizes that differed between recorded calls, and last a guess: the batch.
Which tensors have a batch axis the shapes alone do not tell; ``eager/batch_axes.py`` asks eager.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from pytest_torchexport.config.named_dims import Dim, Expr, Shape, parse_shape, solve
from pytest_torchexport.config.options import Options
from pytest_torchexport.config.validate import nearest
from pytest_torchexport.inputs.pytrees import Leaf, Structure, flatten
from pytest_torchexport.results.verdict import Assumption

BATCH = "batch"
# Axes by the path of their tensor.
Group = Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Axes:
    """Per tensor leaf its shape, per dim its sizes, and what was assumed about both.

    ``guessed``: nothing but the shapes of one example tells which axes vary.
    """

    shapes: Mapping[str, Shape]
    dims: Mapping[str, Dim]
    assumed: tuple[Assumption, ...] = ()
    guessed: bool = False


@dataclass(frozen=True, kw_only=True)
class _Rule:
    """The result of a rule: shapes of some leaves, and what was declared or recorded of dims."""

    shapes: Mapping[str, Shape]
    assumed: Sequence[Assumption] = ()
    ranges: Mapping[str, DimSizes] = field(default_factory=dict)
    recorded: Mapping[str, Sequence[int]] = field(default_factory=dict)
    guessed: bool = False


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
    free = {path: tensor for path, tensor in tensors.items() if path not in tied}
    rule = _apply_rules(leaves, tensors, free, others, options, annotations, arguments)
    shapes = {path: rule.shapes.get(path, unchanged(tensor)) for path, tensor in tensors.items()}
    sizes = _solve(shapes, tensors)
    _check_ranges(options.dims or {}, sizes)
    ranges = {**(options.dims or {}), **rule.ranges}
    only = {name for path in tied if path in shapes for axis in shapes[path] for name in axis.names}
    dims = {
        name: _dim(name, size, ranges.get(name), rule.recorded.get(name, [size]), name in only)
        for name, size in sizes.items()
    }
    assumed = [*rule.assumed]
    assumed += [_assumption(dim, shapes) for dim in dims.values() if not dim.declared]
    return Axes(shapes=shapes, dims=dims, assumed=tuple(assumed), guessed=rule.guessed)


def axes_of(
    tensors: Mapping[str, torch.Tensor],
    groups: Mapping[str, Group],
    ranges: Mapping[str, DimSizes],
) -> Axes:
    """Return the axes if each group of axes is a dim of its name.

    A dim without a range goes from 1 to twice its size.
    """
    axes = {path: list(unchanged(tensor)) for path, tensor in tensors.items()}
    dims = {}
    for name, group in groups.items():
        for path, axis in group.items():
            axes[path][axis] = Expr(name)
            size = tensors[path].shape[axis]
            dims[name] = _dim(name, size, ranges.get(name), [size], only=False)
    shapes = {path: tuple(shape) for path, shape in axes.items()}
    assumed = tuple(_assumption(dim, shapes) for dim in dims.values() if not dim.declared)
    return Axes(shapes=shapes, dims=dims, assumed=assumed, guessed=True)


def groups(tensors: Mapping[str, torch.Tensor], axis: int) -> Iterator[Group]:
    """Yield sets of axes that may be one dim, the likeliest first.

    Those of one size: the first tensor's ``axis`` with the same axis of all tensors of this size;
    with the other one of the first two axes as well, as a state of an RNN has its batch; or without
    a tensor that has the size by chance. Then the same with the next tensor as the first.
    """
    seen: list[Group] = []
    for first, tensor in tensors.items():
        if tensor.dim() > axis:
            for group in _of_size(tensors, first, axis, tensor.shape[axis]):
                if group not in seen:
                    seen.append(group)
                    yield group


def _of_size(
    tensors: Mapping[str, torch.Tensor], first: str, axis: int, size: int
) -> Iterator[Group]:
    def at(where: int) -> Group:
        return {p: where for p, t in tensors.items() if t.dim() > where and t.shape[where] == size}

    same, other = at(axis), at(1 - axis)
    states = {path: where for path, where in other.items() if path != first}
    yield same
    yield {**states, **same}
    yield {first: axis}
    for path in tensors:
        if path != first and (path in same or path in states):
            yield {p: a for p, a in {**states, **same}.items() if p != path}
            yield {p: a for p, a in same.items() if p != path}
    yield {**same, **states}
    yield {first: axis, **states}


def _apply_rules(
    leaves: Sequence[Leaf],
    tensors: Mapping[str, torch.Tensor],
    free: Mapping[str, torch.Tensor],
    others: Sequence[Sequence[Any]],
    options: Options,
    annotations: Mapping[str, Any],
    arguments: Mapping[str, Any],
) -> _Rule:
    if options.dynamic_shapes is not None:
        shapes, ranges = read_dynamic_shapes(options.dynamic_shapes, arguments, tensors)
        return _Rule(shapes=shapes, ranges=ranges)
    if options.shapes is not None:
        unnamed = [path for path in tensors if path not in options.shapes]
        words = "is exactly as in the example (shapes does not name it)"
        assumed = [Assumption("shape", f"{path} {words}", path) for path in unnamed]
        return _Rule(shapes=_from_strings(options.shapes, tensors), assumed=assumed)
    annotated = _from_annotations(annotations, tensors)
    if annotated:
        text = f"dims of {', '.join(annotated)} are as its jaxtyping annotation says"
        return _Rule(shapes=annotated, assumed=[Assumption("annotations", text)])
    shapes, recorded = _from_calls(leaves, others)
    if recorded:
        text = f"the sizes that differed between {len(others) + 1} recorded calls vary"
        assumed = [Assumption("recorded calls", text)]
        return _Rule(shapes=shapes, assumed=assumed, recorded=recorded)
    guess = next(groups(free, 0), {})
    return _Rule(shapes=axes_of(tensors, {BATCH: guess}, {}).shapes, guessed=True)


def _dim(
    name: str, size: int, declared: DimSizes | None, recorded: Sequence[int], only: bool
) -> Dim:
    """Return the dim; ``only``: it has no sizes but those that were recorded."""
    if declared is not None:
        return Dim(name=name, sizes=declared, example=size, declared=True)
    if only:
        sizes = tuple(sorted({size, *recorded}))
        return Dim(name=name, sizes=sizes, example=size, declared=False)
    high = ASSUMED_FACTOR * max(*recorded, size, 1)
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
                f"shapes: {path!r} is declared with {len(shape)} axes ({text!r}), but the "
                f"example has {tensors[path].dim()}: {list(tensors[path].shape)}"
            )
    try:
        return solve([(shape, list(tensors[path].shape)) for path, shape in shapes.items()])
    except ValueError as error:
        raise ValueError(f"shapes: {error}") from None


def _check_ranges(given: Mapping[str, DimSizes], sizes: Mapping[str, int]) -> None:
    for name in given:
        if name not in sizes:
            raise ValueError(
                f"dims: {name!r} is not a dim of this call; its dims: "
                f"{', '.join(sizes) or 'none'}.{nearest(name, sizes)}"
            )


def _from_strings(
    given: Mapping[str, Shape | None], tensors: Mapping[str, torch.Tensor]
) -> dict[str, Shape]:
    shapes = {}
    for path, shape in given.items():
        tensor = tensors[path]
        if shape is None:
            shapes[path] = unchanged(tensor)
        elif len(shape) == tensor.dim():
            sizes = zip(shape, tensor.shape, strict=True)
            shapes[path] = tuple(Expr(str(n)) if axis.text == "_" else axis for axis, n in sizes)
        else:
            shapes[path] = shape
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
    leaves: Sequence[Leaf], others: Sequence[Sequence[Any]]
) -> tuple[dict[str, Shape], dict[str, list[int]]]:
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
            if history not in names:
                names[history] = _new_name(path, axis, names.values())
            axes.append(Expr(names[history]))
        shapes[path] = tuple(axes)
    return shapes, {name: list(history) for history, name in names.items()}


def _new_name(path: str, axis: int, used: Collection[str]) -> str:
    name = BATCH if axis == 0 else f"{identifier(path)}_{axis}"
    while name in used:
        name = f"{identifier(path)}_{axis}" if name == BATCH else f"{name}_"
    return name


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
    for name, entry in _by_argument(given, arguments):
        leaves, structure = flatten(arguments[name], name)
        for (path, _), of_leaf in zip(leaves, _per_leaf(name, structure, entry), strict=True):
            if path in tensors:
                shapes[path] = reader.axes(path, tensors[path], of_leaf)
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


def _per_leaf(path: str, structure: Structure, entry: Any) -> list[Any]:
    """Return the entry of ``dynamic_shapes`` of each leaf of an argument."""
    if structure.kind == "leaf":
        return [entry]
    if entry is None:
        return [None] * structure.count
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
