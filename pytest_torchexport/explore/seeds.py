"""Diverse calls with which the search for branches begins."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from pytest_torchexport.explore import moves
from pytest_torchexport.inputs.pytrees import builtin_base, is_plain
from pytest_torchexport.inputs.recipes import (
    Recipe,
    plain_recipe,
    recorded_recipes,
    with_leaves,
)
from pytest_torchexport.inputs.spec import InputSpec
from pytest_torchexport.inputs.strategies import listed_recipes


def first(spec: InputSpec, seed: int) -> Iterator[Recipe]:
    """Yield calls after which the search ends if no condition seems to depend on the input.

    Those that the test made, listed values, and other values, at other sizes too.
    """
    yield from recorded_recipes(spec)
    yield plain_recipe(spec, "normal", spec.example_sizes, seed)
    yield plain_recipe(spec, "low", {name: dim.low for name, dim in spec.dims.items()}, seed)
    yield plain_recipe(spec, "high", {name: dim.high for name, dim in spec.dims.items()}, seed)
    yield from listed_recipes(spec, seed)


def plain(spec: InputSpec, constants: Sequence[float], seed: int) -> Iterator[Recipe]:
    """Yield more fills, and sizes."""
    for kind in ("zeros", "ones", "low", "high", "uniform", "ramp", "sparse"):
        yield plain_recipe(spec, kind, spec.example_sizes, seed)
    yield from _sizes(spec, constants, seed)


def odd(spec: InputSpec, constants: Sequence[float], seed: int) -> Iterator[Recipe]:
    """Yield calls at other scales; and with the code's constants, or a bit more, in all tensors."""
    for scale in (0.1, 3.0, 10.0, 30.0, -1.0):
        yield scaled(plain_recipe(spec, "normal", spec.example_sizes, seed + 1), scale)
    base = plain_recipe(spec, "normal", spec.example_sizes, seed)
    leaves = moves.numbers(spec, base)
    of_constants = (((1.0, each), (0.5, each), (1.0, each * 1.1 + 0.1)) for each in constants)
    for share, number in itertools.chain.from_iterable(of_constants):
        written = torch.tensor(float(number), dtype=torch.float64)
        values = {}
        for index, leaf in leaves.items():
            low, high = moves.range_of(spec.leaves[index])
            whole = leaf.is_floating_point() or (leaf.dtype != torch.bool and number % 1 == 0)
            if whole and low <= number <= high:
                some = slice(max(1, int(share * leaf.numel())))
                values[index] = moves.put(spec.leaves[index], leaf, some, written)
        if values:
            yield with_leaves(base, values)


def scaled(recipe: Recipe, scale: float) -> Recipe:
    leaves = tuple(
        dataclasses.replace(leaf, scale=scale) if leaf.kind == "normal" else leaf
        for leaf in recipe.leaves
    )
    return dataclasses.replace(recipe, leaves=leaves)


def _sizes(spec: InputSpec, constants: Sequence[float], seed: int) -> Iterator[Recipe]:
    """Yield sizes: the ends of each dim, beside the example's, and around the code's constants."""
    example = spec.example_sizes
    near = sorted({int(c) + way for c in constants if c == int(c) for way in (-1, 0, 1)})
    seen = {name: {dim.example} for name, dim in spec.dims.items()}

    def at(name: str, sizes: Iterable[int]) -> Iterator[Recipe]:
        for size in sizes:
            if size in spec.dims[name].sizes and size not in seen[name]:
                seen[name].add(size)
                yield plain_recipe(spec, "normal", {**example, name: size}, seed)

    for name, dim in spec.dims.items():
        yield from at(name, (dim.low, dim.high, 1, 2, dim.example + 1, dim.example - 1))
    if spec.dims:
        yield plain_recipe(spec, "normal", {n: d.low for n, d in spec.dims.items()}, seed)
        yield plain_recipe(spec, "normal", {n: d.high for n, d in spec.dims.items()}, seed)
    # Last, so that many constants do not keep another dim from its turn.
    for name in spec.dims:
        yield from at(name, near)


# A container or tensor with more numbers is a table and not a threshold.
MAX_NUMEL = 16
MAX_CONSTANTS = 48
MAX_DEPTH = 3
# Nearly all code has these, and boundary calls use them already.
_UBIQUITOUS = (0, 1, -1, 2)


def constants_of(code: Iterable[Any], module: torch.nn.Module | None) -> tuple[float, ...]:
    """Return the finite numbers among the code's constants and in the modules, without duplicates.

    ``code`` yields the constants of the code; they come first. Of the modules, attributes and
    small buffers and parameters are read.
    """
    found: dict[float, None] = {}
    numbers = [*code]
    for part in module.modules() if module is not None else ():
        if not type(part).__module__.startswith("torch."):
            own = [value for name, value in vars(part).items() if not name.startswith("_")]
            numbers += itertools.chain.from_iterable(_numbers(value, MAX_DEPTH) for value in own)
        for tensor in [*part.parameters(recurse=False), *part.buffers(recurse=False)]:
            numbers += _elements(tensor)
    for value in numbers:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        # The range first: an integer may be too large for a float.
        if number and abs(value) < 2**53 and math.isfinite(value) and value not in _UBIQUITOUS:
            found[value] = None
    return tuple(found)[:MAX_CONSTANTS]


def _numbers(value: Any, depth: int) -> Iterator[Any]:
    """Yield the numbers in an attribute, also in a container or a config object."""
    if isinstance(value, (int, float)):
        yield value
    elif isinstance(value, torch.Tensor):
        yield from _elements(value)
    elif depth and (base := builtin_base(value, (list, tuple, set, frozenset))) is not None:
        for item in itertools.islice(base.__iter__(value), MAX_NUMEL):
            yield from _numbers(item, depth - 1)
    elif depth and isinstance(value, dict):
        for item in list(dict.values(value))[: 4 * MAX_NUMEL]:
            yield from _numbers(item, depth - 1)
    elif depth and hasattr(value, "__dict__") and not callable(value):
        yield from _numbers(dict(vars(value)), depth)  # the dict takes one level of depth


def _elements(tensor: torch.Tensor) -> Iterator[Any]:
    if is_plain(tensor) and tensor.numel() <= MAX_NUMEL and not tensor.is_complex():
        yield from tensor.detach().flatten().tolist()
