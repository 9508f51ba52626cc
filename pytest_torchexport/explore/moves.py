"""Moves from a call to other calls that may take another branch.

Each is a pure function of the spec, a recipe and what is known of a condition, and gives recipes.
The search decides which moves to make, and whether they helped.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from pytest_torchexport.explore.probe import Probe
from pytest_torchexport.explore.provenance import Combined, Compared, Computed, Reduced
from pytest_torchexport.inputs.recipes import (
    Recipe,
    build_leaves,
    example_recipe,
    plain_recipe,
    recorded_recipes,
    with_leaves,
)
from pytest_torchexport.inputs.spec import InputSpec, TensorLeaf, ValueLeaf
from pytest_torchexport.inputs.strategies import special_recipes, within_memory

# Lengths of a gradient step, in parts of the distance: safely beyond the threshold, just beyond it,
# half the way (the threshold of another condition may follow), and far for a distance that is
# curved.
STEPS = (1.1, 1.001, 0.5, 3.0)
# How far a float without a declared range may be moved, in multiples of the example's scale.
MAX_SCALE = 100.0
# A value that occurs at more positions of the input than this is not written to.
MAX_POSITIONS = 8
# Seeds that set two Python arguments.
MAX_PAIRS = 24


# -- seeds --------------------------------------------------------------------------------------


def plain_seeds(spec: InputSpec, constants: Sequence[float], seed: int) -> Iterator[Recipe]:
    """Yield diverse calls: those that the test made, fills, listed values, sizes."""
    yield from recorded_recipes(spec)
    example = spec.example_sizes
    for kind in ("normal", "zeros", "ones", "low", "high", "uniform", "ramp", "sparse"):
        yield plain_recipe(spec, kind, example, seed)
    yield from special_recipes(spec, seed)
    yield from _listed(spec, seed)
    yield from _sizes(spec, constants, seed)
    yield from itertools.islice(_paired(spec, seed), MAX_PAIRS)


def odd_seeds(spec: InputSpec, constants: Sequence[float], seed: int) -> Iterator[Recipe]:
    """Yield calls that a condition may need: other scales, equal inputs, the code's constants."""
    example = spec.example_sizes
    for scale in (0.1, 3.0, 10.0, 30.0, -1.0):
        yield scaled(plain_recipe(spec, "normal", example, seed + 1), scale)
    yield from _tied(spec, seed)
    for number in constants:
        yield from _filled(spec, number, seed)


def scaled(recipe: Recipe, scale: float) -> Recipe:
    """Return the recipe with this scale of its normal numbers."""
    leaves = tuple(
        dataclasses.replace(leaf, scale=scale) if leaf.kind == "normal" else leaf
        for leaf in recipe.leaves
    )
    return dataclasses.replace(recipe, leaves=leaves)


def _listed(spec: InputSpec, seed: int) -> Iterator[Recipe]:
    """Yield each listed value of a Python argument, or the ends of its range."""
    base = example_recipe(spec)
    for index, values in _choices(spec).items():
        for value in values:
            yield dataclasses.replace(with_leaves(base, {index: value}), seed=seed)


def _paired(spec: InputSpec, seed: int) -> Iterator[Recipe]:
    """Yield pairs of two Python arguments' values: conditions on both may be nested."""
    base = example_recipe(spec)
    for pair in itertools.combinations(_choices(spec).items(), 2):
        (first, some), (second, others) = pair
        for one, other in itertools.product(some, others):
            yield dataclasses.replace(with_leaves(base, {first: one, second: other}), seed=seed)


def _choices(spec: InputSpec) -> dict[int, Sequence[Any]]:
    return {
        index: leaf.values
        for index, leaf in enumerate(spec.leaves)
        if isinstance(leaf, ValueLeaf) and isinstance(leaf.values, (list, tuple))
    }


def _sizes(spec: InputSpec, constants: Sequence[float], seed: int) -> Iterator[Recipe]:
    """Yield sizes: the ends of each dim, beside the example's, and around the code's constants."""
    example = spec.example_sizes
    near = {int(c) + way for c in constants if c == int(c) for way in (-1, 0, 1)}
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
        yield from at(name, sorted(near))


def _filled(spec: InputSpec, number: float, seed: int) -> Iterator[Recipe]:
    """Yield all tensors filled with a constant, half filled with it, and filled with a bit more."""
    example = spec.example_sizes
    base = plain_recipe(spec, "normal", example, seed)
    built = build_leaves(spec, base)
    for share, value in ((1.0, number), (0.5, number), (1.0, number * 1.1 + 0.1)):
        values = {}
        for index, leaf in enumerate(spec.leaves):
            if built is not None and _may_change(leaf) and _holds(leaf, value):
                tensor = built[index].detach().clone()
                flat = tensor.view(-1) if tensor.is_contiguous() else tensor.reshape(-1)
                flat[: max(1, int(share * flat.numel()))] = value
                values[index] = flat.reshape(tensor.shape)
        if values:
            yield with_leaves(base, values)


def _holds(leaf: Any, value: float) -> bool:
    if leaf.domain.kind == "float":
        return float(legal(leaf, torch.tensor(float(value), dtype=torch.float64))) == float(value)
    low, high = leaf.domain.low or 0, leaf.domain.high or 0
    return leaf.domain.kind == "int" and value == int(value) and low <= value <= high


def _tied(spec: InputSpec, seed: int) -> Iterator[Recipe]:
    """Yield calls in which two inputs of one shape are equal, and in which they are opposite."""
    example = spec.example_sizes
    base = plain_recipe(spec, "normal", example, seed)
    built = build_leaves(spec, base)
    tensors = [i for i, leaf in enumerate(spec.leaves) if _may_change(leaf)]
    for first, second in itertools.pairwise(tensors):
        if built is None or built[first].shape != built[second].shape:
            continue
        yield with_leaves(base, {second: built[first].detach().clone()})
        if spec.leaves[first].domain.kind == "float":  # type: ignore[union-attr]
            yield with_leaves(base, {second: -built[first].detach()})


# -- towards one outcome ------------------------------------------------------------------------


def written(spec: InputSpec, recipe: Recipe, probe: Probe, wanted: bool) -> Iterator[Recipe]:
    """Write compared values to the positions of the input that the other operand was read from.

    The operand is a part of an input, or a number that an input contains.
    """
    built = build_leaves(spec, recipe)
    if built is None or probe.provenance is None:
        return
    for compared in _comparisons(probe.provenance):
        for mine, other, mirrored in (
            (compared.left, compared.right, False),
            (compared.right, compared.left, True),
        ):
            for index, positions in _positions_read(mine, probe.inputs, built, spec):
                leaf = spec.leaves[index]
                for value in _values(compared.operator, other, wanted, mirrored, leaf):
                    made = _put(leaf, built[index], positions, value)
                    if made is not None:
                        yield with_leaves(recipe, {index: made})


def placed(spec: InputSpec, recipe: Recipe, probe: Probe) -> Iterator[Recipe]:
    """Write a compared number to one position of the input that the other operand was read from.

    The last position comes first, then the first, and one between them.
    """
    built = build_leaves(spec, recipe)
    if built is None or probe.provenance is None:
        return
    for compared in _comparisons(probe.provenance):
        value = _one_number(compared.right)
        if value is None:
            continue
        number = torch.tensor(value, dtype=torch.float64)
        for index, positions in _positions_read(compared.left, probe.inputs, built, spec):
            flat = positions.reshape(-1)
            for place in dict.fromkeys((len(flat) - 1, 0, len(flat) // 2)):
                made = _put(spec.leaves[index], built[index], flat[place : place + 1], number)
                if made is not None:
                    yield with_leaves(recipe, {index: made})


def cornered(spec: InputSpec, recipe: Recipe, gradients: Mapping[int, Tensor]) -> Recipe | None:
    """Move each element of the float leaves to the end of its range, against the gradient.

    Return None if no leaf that may change has a range, or none has a gradient.
    """
    built = build_leaves(spec, recipe)
    moved = {}
    for index, gradient in gradients.items():
        leaf = spec.leaves[index]
        if built is None or not _may_change(leaf) or built[index].shape != gradient.shape:
            continue
        domain = cast(TensorLeaf, leaf).domain
        if domain.low is None or domain.high is None or not bool(gradient.any()):
            continue
        value = built[index].detach()
        ends = torch.where(gradient > 0, float(domain.low), float(domain.high))
        moved[index] = torch.where(gradient == 0, value, ends.to(value.dtype))
    return with_leaves(recipe, moved) if moved else None


def _comparisons(provenance: Any) -> list[Compared]:
    if isinstance(provenance, Compared):
        return [provenance]
    if isinstance(provenance, Combined):
        return [item for part in provenance.parts for item in _comparisons(part)]
    if isinstance(provenance, (Reduced, Computed)):
        return _comparisons(provenance.inner)
    return [Compared("!=", provenance.value, False)]


def _positions_read(
    operand: Any, inputs: Sequence[Tensor | None], built: Sequence[Any], spec: InputSpec
) -> Iterator[tuple[int, Tensor]]:
    """Yield leaves, by index, and the flat positions in them that an operand was read from.

    The positions are exact if the operand is a view of an input; else they are those that contain
    its value.
    """
    for index, given in enumerate(inputs):
        if (
            given is None
            or not _may_change(spec.leaves[index])
            or given.shape != built[index].shape
        ):
            continue
        if isinstance(operand, Tensor) and _is_view(operand, given):
            yield index, _positions(operand, given)
            return
    number = _one_number(operand)
    if number is None:
        return
    for index, leaf in enumerate(spec.leaves):
        if _may_change(leaf) and not built[index].is_complex():
            found = (built[index].detach().double().reshape(-1) == number).nonzero().reshape(-1)
            if 0 < len(found) <= MAX_POSITIONS:
                yield index, found


def _one_number(operand: Any) -> float | None:
    if isinstance(operand, Tensor):
        number = operand.numel() == 1 and not operand.is_complex()
        return float(operand.detach()) if number else None
    if isinstance(operand, (int, float)) and not isinstance(operand, bool):
        return float(operand)
    return None


def _is_view(operand: Tensor, given: Tensor) -> bool:
    if operand.layout != torch.strided or given.layout != torch.strided or not given.numel():
        return False
    same = operand.untyped_storage().data_ptr() == given.untyped_storage().data_ptr()
    return same and operand.dtype == given.dtype


def _positions(operand: Tensor, given: Tensor) -> Tensor:
    """Return the flat positions of a view's elements in its input, in the view's shape."""
    length = given.untyped_storage().nbytes() // given.element_size()
    flat = torch.zeros(length, dtype=torch.int64)
    own = torch.arange(given.numel()).reshape(given.shape)
    flat.as_strided(given.shape, given.stride(), given.storage_offset()).copy_(own)
    return flat.as_strided(operand.shape, operand.stride(), operand.storage_offset())


def _values(operator: str, other: Any, wanted: bool, mirrored: bool, leaf: Any) -> Iterator[Tensor]:
    """Yield values for which ``<value> operator other`` has the wanted outcome."""
    if isinstance(other, Tensor):
        base = other.detach().double()
    elif isinstance(other, (bool, int, float)):
        base = torch.tensor(float(other), dtype=torch.float64)
    else:
        return
    whole = leaf.domain.kind != "float"
    more = torch.ones_like(base) if whole else base.abs() * 0.1 + leaf.domain.scale * 0.1
    up = {">": True, ">=": True, "<": False, "<=": False}.get(operator)
    if up is None:
        same = (operator == "==") == wanted
        yield from ((base,) if same else (base + more, base - more))
        return
    upwards = (up == wanted) != mirrored
    yield base + more if upwards else base - more
    yield base + 10 * more if upwards else base - 10 * more


def _put(known: Any, leaf: Tensor, positions: Tensor, value: Tensor) -> Tensor | None:
    flat = leaf.detach().clone().reshape(-1)
    if known.domain.kind == "float" and not known.domain.choices:
        value = legal(known, value.double())
    try:
        flat[positions.reshape(-1)] = value.expand(positions.shape).reshape(-1).to(flat.dtype)
    except RuntimeError:  # ``map`` changed the shape, or the dtype does not hold the number
        return None
    return flat.reshape(leaf.shape)


def stepped(spec: InputSpec, recipe: Recipe, probe: Probe, step: float) -> Recipe | None:
    """Move all float leaves against the gradient of the distance, by ``step`` Newton steps.

    The direction is orthogonal to the gradients of the earlier conditions, which are to keep their
    outcomes. Return None if no direction is left.
    """
    direction = {
        index: gradient.double()
        for index, gradient in probe.gradients.items()
        if _may_change(spec.leaves[index])
    }
    for other in probe.earlier:
        before, direction = direction, _orthogonal(direction, other)
        if _square(direction) < 1e-6 * _square(before):
            direction = before
    missing = max(probe.missing, 0.0) * step + 1e-6
    return against(spec, recipe, direction, missing)


def against(
    spec: InputSpec, recipe: Recipe, gradients: Mapping[int, Tensor], amount: float
) -> Recipe | None:
    """Move float leaves against a gradient until its quantity falls by ``amount``, to first order.

    Return None if the gradient is zero, or if ``map`` gave forward other shapes than the recipe's.
    """
    built = build_leaves(spec, recipe)
    direction = {
        index: gradient.double()
        for index, gradient in gradients.items()
        if _may_change(spec.leaves[index])
    }
    square = _square(direction)
    if built is None or not square > 0:
        return None
    moved = {}
    for index, gradient in direction.items():
        leaf = built[index].detach()
        if leaf.shape != gradient.shape:
            return None
        target = leaf.double() - amount / square * gradient
        moved[index] = legal(spec.leaves[index], target).to(leaf.dtype)
    return with_leaves(recipe, moved)


def _orthogonal(direction: Mapping[int, Tensor], other: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Return the part of a direction that is orthogonal to the other one."""
    common = direction.keys() & other.keys()
    along = sum(float((direction[i] * other[i].double()).sum()) for i in common)
    square = _square({index: value.double() for index, value in other.items()})
    if not square > 0:
        return dict(direction)
    return {
        index: value - along / square * other[index].double() if index in other else value
        for index, value in direction.items()
    }


def _square(direction: Mapping[int, Tensor]) -> float:
    return sum(float(value.square().sum()) for value in direction.values())


def legal(leaf: Any, values: Tensor) -> Tensor:
    """Clamp values to the domain, or to ``MAX_SCALE`` times the example's scale."""
    domain = leaf.domain
    largest = min(MAX_SCALE * domain.scale, torch.finfo(leaf.dtype).max / 2)
    low = -largest if domain.low is None else float(domain.low)
    high = max(largest, low) if domain.high is None else float(domain.high)
    return values.nan_to_num(0.0).clamp(low, high)


def neighbours(spec: InputSpec, recipe: Recipe) -> list[Callable[[int], Recipe | None]]:
    """Return a function per dim and per Python number with a range.

    Called with a number of steps, it returns the recipe moved by so many, or None beyond the range.
    """
    numbers = [
        index
        for index, leaf in enumerate(spec.leaves)
        if isinstance(leaf, ValueLeaf)
        and isinstance(leaf.values, tuple)
        and isinstance(leaf.example, (int, float))
        and not isinstance(leaf.example, bool)
    ]
    return [
        *(functools.partial(_resized, spec, recipe, name) for name in spec.dims),
        *(functools.partial(_moved, spec, recipe, index) for index in numbers),
    ]


def _resized(spec: InputSpec, recipe: Recipe, name: str, steps: int) -> Recipe | None:
    dim = spec.dims[name]
    own = recipe.sizes.get(name, dim.example)
    position = dim.sizes.index(own) + steps if own in dim.sizes else -1
    if not 0 <= position < len(dim.sizes):
        return None
    changed = {**recipe.sizes, name: dim.sizes[position]}
    return dataclasses.replace(recipe, sizes=changed) if within_memory(spec, changed) else None


def _moved(spec: InputSpec, recipe: Recipe, index: int, steps: int) -> Recipe | None:
    leaf, item = cast(ValueLeaf, spec.leaves[index]), recipe.leaves[index]
    own = item.data if item.kind == "value" else leaf.example
    low, high = leaf.values[:2]
    value = own + steps * (1 if isinstance(leaf.example, int) else (high - low) / 64)
    return with_leaves(recipe, {index: value}) if low <= value <= high else None


# -- at random ----------------------------------------------------------------------------------


def mutated(
    spec: InputSpec, recipe: Recipe, rng: random.Random, constants: Sequence[float]
) -> Recipe:
    """Change a size, a Python argument, or some values of a leaf, at random."""
    choices = [i for i, leaf in enumerate(spec.leaves) if _may_change(leaf)]
    listed = [
        i
        for i, leaf in enumerate(spec.leaves)
        if isinstance(leaf, ValueLeaf) and isinstance(leaf.values, list)
    ]
    if spec.dims and rng.random() < (0.2 if choices else 0.7):
        name = rng.choice(list(spec.dims))
        changed = {**recipe.sizes, name: rng.choice(spec.dims[name].sizes)}
        return (
            dataclasses.replace(recipe, sizes=changed) if within_memory(spec, changed) else recipe
        )
    if listed and (not choices or rng.random() < 0.3):
        index = rng.choice(listed)
        values = spec.leaves[index].values  # type: ignore[union-attr]
        return with_leaves(recipe, {index: rng.choice(values)})
    built = build_leaves(spec, recipe)
    if not choices or built is None:
        return recipe
    index = rng.choice(choices)
    value = built[index].detach().clone(memory_format=torch.contiguous_format)
    return with_leaves(recipe, {index: _mutated(value, spec.leaves[index], rng, constants)})


def _mutated(value: Tensor, leaf: Any, rng: random.Random, constants: Sequence[float]) -> Tensor:
    if not value.numel() or value.is_complex():
        return value
    flat = value.view(-1)
    if leaf.domain.choices:
        picked: Any = rng.choice(leaf.domain.choices)
    elif leaf.domain.kind == "float":
        picked = _float(leaf, rng, constants)
    else:
        picked = _whole(leaf, rng, constants)
    start = rng.randrange(flat.numel())
    span = rng.choice(
        (1, 1, 2, 4, max(1, flat.numel() // 4), max(1, flat.numel() // 2), flat.numel())
    )
    kind = rng.random()
    if kind < 0.5 or leaf.domain.kind != "float" or leaf.domain.choices:
        flat[start : start + span] = picked
    elif kind < 0.65:
        flat[start : start + span] += picked
    elif kind < 0.85:
        flat.mul_(rng.choice((-1.0, 0.1, 0.5, 2.0, 10.0)))
    else:
        flat[start : start + span] = flat[rng.randrange(flat.numel())].clone()
    if leaf.domain.kind == "float" and not leaf.domain.choices:
        return legal(leaf, value.double()).to(value.dtype)
    return value


def _float(leaf: Any, rng: random.Random, constants: Sequence[float]) -> float:
    if constants and rng.random() < 0.3:
        value = rng.choice(constants) * rng.choice((1.0, 1.01, 0.99, -1.0))
    else:
        value = rng.gauss(0.0, 1.0) * leaf.domain.scale * rng.choice((0.1, 1.0, 3.0, 10.0))
    return float(legal(leaf, torch.tensor(value, dtype=torch.float64)))


def _whole(leaf: Any, rng: random.Random, constants: Sequence[float]) -> int:
    low, high = int(leaf.domain.low or 0), int(leaf.domain.high or 0)
    near = [int(c) for c in constants if c == int(c) and low <= c <= high]
    if near and rng.random() < 0.5:
        return rng.choice(near)
    return rng.randint(low, high)


def _may_change(leaf: TensorLeaf | ValueLeaf) -> bool:
    """Return True if the search may choose a leaf's numbers: no strategy or triangle does."""
    if not isinstance(leaf, TensorLeaf) or leaf.dtype.is_complex:
        return False
    return leaf.domain.elements is None and leaf.domain.triangle is None
