"""Decide which axes of which leaves vary, and under which names.

The first rule that applies counts: ``dynamic_shapes``, ``shapes``, jaxtyping annotations, sizes
that differed between recorded calls, and last a guess: the batch. Which tensors have a batch axis
the shapes alone do not tell; ``eager/batch_axes.py`` asks eager. Separate from ``spec``, because
these rules grow on their own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from pytest_torchexport.config.named_dims import Dim, Expr, Shape, parse_shape, solve
from pytest_torchexport.config.options import Options
from pytest_torchexport.config.validate import nearest
from pytest_torchexport.inputs.given_dynamic_shapes import (
    ASSUMED_FACTOR,
    DimSizes,
    identifier,
    read_dynamic_shapes,
    unchanged,
)
from pytest_torchexport.inputs.pytrees import Leaf
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


def _check_ranges(given: Mapping[str, DimSizes], found: Mapping[str, int]) -> None:
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
