"""Diverse calls with which the search for branches begins."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from pytest_torchexport.explore import moves
from pytest_torchexport.inputs.pytrees import builtin_base, is_plain
from pytest_torchexport.inputs.recipes import Recipe, plain_recipe, some_recorded, with_leaves
from pytest_torchexport.inputs.spec import InputSpec
from pytest_torchexport.inputs.strategies import listed_recipes


def first(spec: InputSpec, seed: int) -> Iterator[Recipe]:
    """Yield calls after which the search ends if no condition seems to depend on the input.

    Those that the test made, listed values, and other values, at other sizes too.
    """
    yield from some_recorded(spec)
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
# A longer text is a message; a longer number in one is none of a size or an element.
MAX_KEY = 16
_DIGITS = re.compile(r"(?<!\d)[0-9]{1,9}(?!\d)")
# The attributes of every module.
_OF_MODULES = frozenset(vars(torch.nn.Module()))
# Nearly all code has these, and boundary calls use them already.
_UBIQUITOUS = (0, 1, -1, 2)


def constants_of(code: Iterable[Any], module: torch.nn.Module | None) -> tuple[float, ...]:
    """Return the finite numbers among the code's constants and in the modules, without duplicates.

    ``code`` yields the constants of the code; they come first. Of the modules, attributes and
    small buffers and parameters are read.
    """
    found: dict[float, None] = {}
    numbers = [number for value in code for number in _numbers(value, MAX_DEPTH)]
    for part in module.modules() if module is not None else ():
        numbers += itertools.chain.from_iterable(_numbers(each, MAX_DEPTH) for each in _own(part))
        for tensor in [*part.parameters(recurse=False), *part.buffers(recurse=False)]:
            numbers += _elements(tensor)
    for value in numbers:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        # The range first: an integer may be too large for a float.
        if number and abs(value) < 2**53 and math.isfinite(value) and value not in _UBIQUITOUS:
            found[value] = None
    return tuple(found)[:MAX_CONSTANTS]


def lengths_of(module: torch.nn.Module | None) -> Iterator[int]:
    """Yield the lengths of the containers that a module's attributes are, and its buffers' sizes.

    Not those of torch's own modules.
    """
    for part in module.modules() if module is not None else ():
        for value in _own(part):
            if isinstance(value, (list, tuple, dict, deque)):
                yield getattr(value, "maxlen", None) or len(value)
        if not _is_torchs(part):
            for buffer in part.buffers(recurse=False):
                yield from buffer.shape


def _own(part: torch.nn.Module) -> list[Any]:
    """Return the attributes of a module, and of its class, that are the user's and not torch's."""
    if _is_torchs(part):
        return []
    own = [value for name, value in vars(part).items() if name not in _OF_MODULES]
    kind = type(part)
    for cls in kind.__mro__[: kind.__mro__.index(torch.nn.Module)]:
        own += [value for name, value in vars(cls).items() if not name.startswith("__")]
    return own


def _is_torchs(part: torch.nn.Module) -> bool:
    return type(part).__module__.startswith("torch.")


def _numbers(value: Any, depth: int) -> Iterator[Any]:
    """Yield the numbers in an attribute or constant, also in a container or a config object.

    A short text is a key perhaps, made of the numbers in it.
    """
    if isinstance(value, (int, float)):
        yield value
    elif isinstance(value, str):
        yield from map(int, _DIGITS.findall(value) if len(value) <= MAX_KEY else ())
    elif isinstance(value, torch.Tensor):
        yield from _elements(value)
    elif depth and (base := builtin_base(value, (list, tuple, set, frozenset))) is not None:
        for item in itertools.islice(base.__iter__(value), MAX_NUMEL):
            yield from _numbers(item, depth - 1)
    elif depth and isinstance(value, dict):
        for item in itertools.chain.from_iterable(list(dict.items(value))[: 4 * MAX_NUMEL]):
            yield from _numbers(item, depth - 1)
    elif depth and hasattr(value, "__dict__") and not callable(value):
        yield from _numbers(dict(vars(value)), depth)  # the dict takes one level of depth


def _elements(tensor: torch.Tensor) -> Iterator[Any]:
    if is_plain(tensor) and tensor.numel() <= MAX_NUMEL and not tensor.is_complex():
        yield from tensor.detach().flatten().tolist()
