"""Moves from a call to other calls that may take another branch.

Each is a pure function of the spec, a recipe and what is known of a condition, and gives recipes.
The search decides which moves to make, and whether they helped.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from pytest_torchexport.explore.probe import Probe
from pytest_torchexport.explore.provenance import Compared
from pytest_torchexport.inputs.building import build_leaves
from pytest_torchexport.inputs.domains import Domain
from pytest_torchexport.inputs.recipes import Recipe, with_leaves
from pytest_torchexport.inputs.spec import InputSpec, TensorLeaf, ValueLeaf
from pytest_torchexport.inputs.strategies import within_memory
from pytest_torchexport.torch_private.memory import memory_of

# Lengths of a step along slopes, in parts of the distance: safely beyond the threshold, parts of
# the way (the distance may be curved, or another threshold may follow), and far beyond.
LENGTHS = (1.1, 1.001, 0.4, 0.1, 3.0)
# How far beyond a threshold a step goes at least, in the units of the threshold.
LEAST_BEYOND = 1e-6
# The part of the way to its threshold that a condition which is to keep its outcome may go.
KEPT = 0.9
# How far a float without a declared range may be moved, in multiples of the example's scale.
MAX_SCALE = 100.0
# A value that occurs at more positions of the input than this is not written to.
MAX_POSITIONS = 8
# How often a random change repeats a whole number, exchanges two of them, or takes a constant.
CHANCE = 0.3
# Rows that are tried in place of all others.
MAX_ROWS = 4
# How often the solver of steps goes over the multipliers. It ends before that if none of them moves
# the step by more than this part of what is missing.
SWEEPS, SETTLED = 60, 1e-6
# How often a step is continued with the elements that are not yet at an end of their range.
CONTINUED = 4
# A step that reaches less than this part of the amount gives up the other quantities.
ENOUGH = 0.5

Range = tuple[float, float]


# -- towards one outcome ------------------------------------------------------------------------


def written(spec: InputSpec, recipe: Recipe, probe: Probe) -> Iterator[Recipe]:
    """Write compared values to the positions of the input that the other operand was read from.

    The operand is a part of an input, or a number that an input contains. Before all positions come
    single ones, the last first, if any of them will do. If several comparisons have to hold, all of
    them come last.
    """
    built = build_leaves(spec, recipe)
    if built is None or probe.provenance is None:
        return
    comparisons = probe.provenance.comparisons
    for compared in comparisons:
        for made in _written(spec, probe, compared, built):
            yield with_leaves(recipe, made)
    if len(comparisons) > 1:
        together: dict[int, Tensor] = {}
        for compared in comparisons:
            now = [together.get(index, leaf) for index, leaf in enumerate(built)]
            together |= next(_written(spec, probe, compared, now), {})
        if together:
            yield with_leaves(recipe, together)


def _written(
    spec: InputSpec, probe: Probe, compared: Compared, built: Sequence[Any]
) -> Iterator[dict[int, Tensor]]:
    for mine, other, mirrored in (
        (compared.left, compared.right, False),
        (compared.right, compared.left, True),
    ):
        for index, positions in _positions_read(mine, probe.inputs, built, spec):
            leaf, flat = spec.leaves[index], positions.reshape(-1)
            for value in _values(compared.operator, other, probe.wanted, mirrored, leaf):
                single = value.numel() == 1 and len(flat) > 1 and compared is probe.provenance
                places = (len(flat) - 1, 0, len(flat) // 2) if single else ()
                for where in (*(flat[place : place + 1] for place in places), positions):
                    made = _put(leaf, built[index], where, value)
                    if made is not None:
                        yield {index: made}


def cornered(spec: InputSpec, recipe: Recipe, probe: Probe) -> Recipe | None:
    """Move each element of the float leaves to the end of its range, against the gradient.

    Return None if no leaf that may change has a range, or none has a gradient.
    """
    built = build_leaves(spec, recipe)
    moved: dict[int, Tensor] = {}
    gradients: dict[int, Tensor] = {}
    for gap in probe.demands:
        for index, gradient in gap.gradients.items():
            gradients[index] = gradients.get(index, 0.0) + gradient
    for index, gradient in gradients.items():
        leaf = spec.leaves[index]
        if built is None or not may_change(leaf) or built[index].shape != gradient.shape:
            continue
        domain = domain_of(spec, index)
        if domain.low is None or domain.high is None or not bool(gradient.any()):
            continue
        value = built[index].detach()
        ends = torch.where(gradient > 0, float(domain.low), float(domain.high))
        moved[index] = torch.where(gradient == 0, value, ends.to(value.dtype))
    return with_leaves(recipe, moved) if moved else None


def _positions_read(
    operand: Any, inputs: Sequence[Tensor | None], built: Sequence[Any], spec: InputSpec
) -> Iterator[tuple[int, Tensor]]:
    """Yield leaves, by index, and the flat positions in them that an operand was read from.

    The positions are exact if the operand is a view of an input; else they are those that contain
    its value.
    """
    for index, given in enumerate(inputs):
        if given is None or not may_change(spec.leaves[index]) or given.shape != built[index].shape:
            continue
        strided = isinstance(operand, Tensor) and operand.layout == given.layout == torch.strided
        if not strided or operand.dtype != given.dtype or not given.numel():
            continue
        if memory_of(operand) == memory_of(given):
            # The flat positions of the view's elements.
            places = torch.zeros(
                given.untyped_storage().nbytes() // given.element_size(), dtype=torch.int64
            )
            own = torch.arange(given.numel()).reshape(given.shape)
            places.as_strided(given.shape, given.stride(), given.storage_offset()).copy_(own)
            place = operand.storage_offset()
            yield index, places.as_strided(operand.shape, operand.stride(), place)
            return
    if isinstance(operand, Tensor) and operand.numel() == 1 and not operand.is_complex():
        operand = float(operand.detach())
    if not isinstance(operand, (int, float)) or isinstance(operand, bool):
        return
    for index, leaf in enumerate(spec.leaves):
        if may_change(leaf) and not built[index].is_complex():
            found = (built[index].detach().double().reshape(-1) == operand).nonzero().reshape(-1)
            if 0 < len(found) <= MAX_POSITIONS:
                yield index, found


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


def stepped(
    spec: InputSpec,
    recipe: Recipe,
    probe: Probe,
    length: float,
) -> Recipe | None:
    """Move the float leaves until every demand is met, to first order, in parts of the distance.

    The earlier conditions keep their outcomes, to first order, if they leave a way. Return None if
    no leaf has a gradient.
    """
    wanted = [
        Quantity(
            gap.gradients,
            -gap.missing * (length if gap.missing > 0 else 1.0)
            - (0.0 if gap.exact else LEAST_BEYOND),
        )
        for gap in probe.demands
    ]
    kept = [Quantity(gap.gradients, max(0.0, -KEPT * gap.missing)) for gap in probe.earlier()]
    built = build_leaves(spec, recipe)
    if built is None:
        return None
    shapes = {i: item.shape for quantity in wanted for i, item in quantity.gradients.items()}
    usable = [i for i in shapes if may_change(spec.leaves[i])]
    # One of some numbers moves only if nothing else does: it is rounded, or it stays.
    free = [i for i in usable if (of := domain_of(spec, i)).kind == "float" and not of.choices]
    values = {i: built[i].detach() for i in free or usable}
    if not values or any(value.shape != shapes[index] for index, value in values.items()):
        return None
    ranges = {index: range_of(spec.leaves[index]) for index in values}
    moved = smallest_step(values, ranges, wanted, kept)
    if moved is None:
        return None
    return with_leaves(recipe, {i: value.to(built[i].dtype) for i, value in moved.items()})


def swapped(spec: InputSpec, recipe: Recipe, probe: Probe) -> Iterator[Recipe]:
    """Replace indices by those that let the distance fall most: at all places, some, and one."""
    built = build_leaves(spec, recipe)
    if built is None:
        return
    for swaps in probe.swaps():
        for leaf, positions in _positions_read(swaps.indices, probe.inputs, built, spec):
            domain = domain_of(spec, leaf)
            low, high = int(domain.low or 0), int(domain.high or 0)
            best = swaps.gains[:, low : high + 1].min(-1)
            order = best.values.argsort()
            order = order[best.values[order] < 0]
            for number in dict.fromkeys((len(order), 4, 1)):
                places = order[:number]
                made = _put(
                    spec.leaves[leaf],
                    built[leaf],
                    positions.reshape(-1)[places],
                    best.indices[places] + low,
                )
                if number and made is not None:
                    yield with_leaves(recipe, {leaf: made})


def slopes(spec: InputSpec, probe: Probe) -> bool:
    """Return True if some float leaf that may change moves what is missing."""
    return any(
        may_change(spec.leaves[index]) and bool(gradient.any())
        for gap in probe.demands
        if gap.missing > 0
        for index, gradient in gap.gradients.items()
    )


def legal(leaf: Any, values: Tensor) -> Tensor:
    return values.nan_to_num(0.0).clamp(*range_of(leaf))


def range_of(leaf: Any) -> Range:
    """Return the range of a float leaf's domain, or ``MAX_SCALE`` times the example's scale."""
    domain = leaf.domain
    largest = min(MAX_SCALE * domain.scale, torch.finfo(leaf.dtype).max / 2)
    low = -largest if domain.low is None else float(domain.low)
    return low, max(largest, low) if domain.high is None else float(domain.high)


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

    def resized(name: str, steps: int) -> Recipe | None:
        dim = spec.dims[name]
        own = recipe.sizes.get(name, dim.example)
        position = dim.sizes.index(own) + steps if own in dim.sizes else -1
        if not 0 <= position < len(dim.sizes):
            return None
        changed = {**recipe.sizes, name: dim.sizes[position]}
        return dataclasses.replace(recipe, sizes=changed) if within_memory(spec, changed) else None

    def moved(index: int, steps: int) -> Recipe | None:
        leaf, item = cast(ValueLeaf, spec.leaves[index]), recipe.leaves[index]
        own = item.data if item.kind == "value" else leaf.example
        low, high = leaf.values[:2]
        value = own + steps * (1 if isinstance(leaf.example, int) else (high - low) / 64)
        return with_leaves(recipe, {index: value}) if low <= value <= high else None

    return [
        *(functools.partial(resized, name) for name in spec.dims),
        *(functools.partial(moved, index) for index in numbers),
    ]


def repeated(spec: InputSpec, recipe: Recipe) -> Iterator[Recipe]:
    """Yield calls in which one row of the tensors is repeated; tensors of one length together."""
    built = build_leaves(spec, recipe)
    if built is None:
        return
    lengths: dict[int, list[int]] = {}
    for index, leaf in enumerate(spec.leaves):
        if may_change(leaf) and built[index].dim():
            lengths.setdefault(built[index].shape[0], []).append(index)
    for length, indices in lengths.items():
        for row in range(length if length >= 2 else 0)[:MAX_ROWS]:
            rows = {
                i: built[i].detach()[row : row + 1].expand_as(built[i]).clone() for i in indices
            }
            yield with_leaves(recipe, rows)


# -- at random ----------------------------------------------------------------------------------


def mutated(
    spec: InputSpec, recipe: Recipe, rng: random.Random, constants: Sequence[float]
) -> Recipe:
    """Change a size, a Python argument, or some values of a leaf, at random."""
    choices = [i for i, leaf in enumerate(spec.leaves) if may_change(leaf)]
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
    picked = _picked(flat, leaf, rng, constants)
    start = rng.randrange(flat.numel())
    span = rng.choice(
        (1, 1, 2, 4, max(1, flat.numel() // 4), max(1, flat.numel() // 2), flat.numel())
    )
    kind = rng.random()
    if leaf.domain.kind == "int" and kind < CHANCE:
        other = rng.randrange(flat.numel())
        flat[[start, other]] = flat[[other, start]]
    elif kind < 0.5 or leaf.domain.kind != "float" or leaf.domain.choices:
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


def _picked(flat: Tensor, leaf: Any, rng: random.Random, constants: Sequence[float]) -> Any:
    if leaf.domain.choices:
        return rng.choice(leaf.domain.choices)
    if leaf.domain.kind == "float":
        if constants and rng.random() < CHANCE:
            return rng.choice(constants) * rng.choice((1.0, 1.01, 0.99, -1.0))
        return rng.gauss(0.0, 1.0) * leaf.domain.scale * rng.choice((0.1, 1.0, 3.0, 10.0))
    if rng.random() < CHANCE:
        return int(flat[rng.randrange(flat.numel())])
    low, high = int(leaf.domain.low or 0), int(leaf.domain.high or 0)
    near = [int(c) for c in constants if c == int(c) and low <= c <= high]
    return rng.choice(near) if near and rng.random() < 0.5 else rng.randint(low, high)


def domain_of(spec: InputSpec, index: int) -> Domain:
    return cast(TensorLeaf, spec.leaves[index]).domain


def may_change(leaf: TensorLeaf | ValueLeaf) -> bool:
    """Return True if the search may choose a leaf's numbers: no strategy or triangle does."""
    if not isinstance(leaf, TensorLeaf) or leaf.dtype.is_complex:
        return False
    return leaf.domain.elements is None and leaf.domain.triangle is None


# -- the size of a step -------------------------------------------------------------------------


@dataclass(frozen=True)
class Quantity:
    """A quantity of a call: its gradients per float leaf, and the most that it may change by.

    A negative ``most`` says how far it has to fall.
    """

    gradients: Mapping[int, Tensor]
    most: float


def smallest_step(
    values: Mapping[int, Tensor],
    ranges: Mapping[int, Range],
    wanted: Sequence[Quantity],
    kept: Sequence[Quantity] = (),
) -> dict[int, Tensor] | None:
    """Return the leaves after the smallest step that lets quantities fall by given amounts.

    To first order. The step stays within the inputs' ranges, and other quantities rise by no more
    than they may: they are the distances at which earlier conditions would change. The problem is
    the quadratic program ``min |step|²`` with one linear constraint per quantity; it has few
    constraints and is solved by coordinate ascent on their multipliers (C. Hildreth, 1957). None if
    no quantity that is to fall depends on the leaves.

    If the kept quantities leave no way to half of what is wanted, the step ignores them. Elements
    that are not finite stay as they are, and quantities that are not finite do not count.
    """
    wanted, kept = (
        [item for item in items if math.isfinite(item.most)] for items in (wanted, kept)
    )
    if not wanted:
        return None
    own = _flat(values, values)
    fixed = ~own.isfinite()
    start = own.masked_fill(fixed, 0.0)
    low, high = (
        _flat({i: torch.full_like(v, ranges[i][end]) for i, v in values.items()}, values)
        for end in (0, 1)
    )
    low, high = low.masked_fill(fixed, 0.0), high.masked_fill(fixed, 0.0)
    slopes = torch.stack([_flat(item.gradients, values) for item in (*wanted, *kept)]) * ~fixed
    most = torch.tensor([item.most for item in (*wanted, *kept)], dtype=torch.float64)
    number = len(wanted)
    if not slopes[:number].square().sum() > 0:
        return None
    there = _within(start, low, high, slopes, most)
    missing = -most[:number].clamp(max=0.0).sum()
    left = (slopes[:number] @ (there - start) - most[:number]).clamp(min=0.0).sum()
    if kept and not left <= ENOUGH * missing:
        there = _within(start, low, high, slopes[:number], most[:number])
    there = torch.where(fixed, own, there)
    parts = torch.split(there, [value.numel() for value in values.values()])
    return {
        index: part.reshape(value.shape)
        for (index, value), part in zip(values.items(), parts, strict=True)
    }


def _flat(tensors: Mapping[int, Tensor], like: Mapping[int, Tensor]) -> Tensor:
    """Return the tensors of these leaves in one row; zeros for those that are missing."""
    return torch.cat(
        [tensors.get(i, torch.zeros_like(leaf)).double().reshape(-1) for i, leaf in like.items()]
    )


def _within(start: Tensor, low: Tensor, high: Tensor, slopes: Tensor, most: Tensor) -> Tensor:
    """Return where the step ends. Elements that reach an end of their range stay there."""
    there = start.clamp(low, high)
    free = torch.ones_like(there, dtype=torch.bool)
    for _ in range(CONTINUED):
        change = _smallest(slopes * free, most - slopes @ (there - start))
        there = (there + change).clamp(low, high)
        stuck = ((there == low) & (change < 0)) | ((there == high) & (change > 0))
        if not (stuck & free).any():
            break
        free &= ~stuck
    return there


def _smallest(slopes: Tensor, most: Tensor) -> Tensor:
    """Return the smallest change for which ``slopes @ change <= most``."""
    products: list[list[float]] = (slopes @ slopes.T).tolist()
    missing: list[float] = (-most).tolist()
    pulls = [0.0] * len(missing)
    for _ in range(SWEEPS if len(pulls) > 1 else 1):
        moved = 0.0
        for number, row in enumerate(products):
            if row[number] > 0:
                left = missing[number] - sum(map(operator.mul, row, pulls))
                pull = max(0.0, pulls[number] + left / row[number])
                moved = max(moved, abs(pull - pulls[number]) * math.sqrt(row[number]))
                pulls[number] = pull
        if moved <= SETTLED * max(map(abs, missing)):
            break
    return -(torch.tensor(pulls, dtype=slopes.dtype, device=slopes.device) @ slopes)
