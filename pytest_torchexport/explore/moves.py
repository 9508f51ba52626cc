"""Moves from a call to other calls that may come nearer to a goal.

Each is a pure function of the spec, a recipe and what a probe says, and gives recipes. A pursuit
decides which moves to make, and whether they helped.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor

from pytest_torchexport.explore.probe import Probe
from pytest_torchexport.explore.provenance import Compared
from pytest_torchexport.inputs.building import build_leaves
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


# -- the numbers of a call ------------------------------------------------------------------------


def may_change(leaf: TensorLeaf | ValueLeaf) -> TypeGuard[TensorLeaf]:
    """Return True if the search may choose a leaf's numbers: no strategy or triangle does."""
    if not isinstance(leaf, TensorLeaf) or leaf.dtype.is_complex or leaf.same_as:
        return False
    return leaf.domain.elements is None and leaf.domain.triangle is None


def is_free(leaf: TensorLeaf | ValueLeaf) -> TypeGuard[TensorLeaf]:
    """Return True if each number of a leaf may be any one in its range."""
    if not may_change(leaf):
        return False
    bound = leaf.domain.choices or leaf.domain.rows_keep is not None or leaf.index is not None
    return leaf.domain.kind != "bool" and not bound


def range_of(leaf: TensorLeaf | ValueLeaf) -> tuple[float, float]:
    """Return the range of a tensor's numbers, of floats perhaps ``MAX_SCALE`` times the scale."""
    leaf = cast(TensorLeaf, leaf)
    domain = leaf.domain
    if domain.kind != "float":
        return domain.low or 0, domain.high or 0
    largest = min(MAX_SCALE * domain.scale, torch.finfo(leaf.dtype).max / 2)
    return domain.ends(largest)


def numbers(spec: InputSpec, recipe: Recipe) -> dict[int, Tensor]:
    """Return the tensors of a call whose numbers may be chosen, by the position of their leaf."""
    built = build_leaves(spec, recipe) or ()
    pairs = enumerate(zip(spec.leaves, built, strict=False))
    return {index: value.detach() for index, (leaf, value) in pairs if may_change(leaf)}


def put(leaf: TensorLeaf | ValueLeaf, tensor: Tensor, places: Any, values: Tensor) -> Tensor:
    """Return a leaf's tensor with other numbers at flat positions.

    A recipe makes them legal; here floats without a range are kept near the example's.
    """
    if is_free(leaf) and values.is_floating_point():
        values = values.nan_to_num(0.0).clamp(*range_of(leaf))
    flat = tensor.clone(memory_format=torch.contiguous_format).view(-1)
    flat[places] = values.to(flat.dtype)
    return flat.view(tensor.shape)


# -- towards a goal -------------------------------------------------------------------------------


def written(spec: InputSpec, recipe: Recipe, probe: Probe) -> Iterator[Recipe]:
    """Write compared values to the positions of the input that the other operand was read from.

    The operand is a part of an input, or a number that an input contains. Before all positions come
    single ones, the last first, if any of them will do. If several comparisons have to hold, all of
    them come last.
    """
    leaves = numbers(spec, recipe)
    comparisons = probe.provenance.comparisons if probe.provenance is not None else ()
    for compared in comparisons:
        for made in _written(spec, probe, compared, leaves):
            yield with_leaves(recipe, made)
    if len(comparisons) > 1:
        together: dict[int, Tensor] = {}
        for compared in comparisons:
            together |= next(_written(spec, probe, compared, leaves | together), {})
        if together:
            yield with_leaves(recipe, together)


def _written(
    spec: InputSpec, probe: Probe, compared: Compared, leaves: Mapping[int, Tensor]
) -> Iterator[dict[int, Tensor]]:
    sides = compared.left, compared.right
    if any(isinstance(side, int) and abs(side) > sys.float_info.max for side in sides):
        return  # no tensor can hold it
    for mine, other, mirrored in (
        (compared.left, compared.right, False),
        (compared.right, compared.left, True),
    ):
        for index, positions in _positions_read(mine, probe.inputs, leaves):
            leaf = spec.leaves[index]
            for value in _values(compared.operator, other, probe.wanted, mirrored, leaf):
                single = value.numel() == 1 and len(positions) > 1 and compared is probe.provenance
                places = (len(positions) - 1, 0, len(positions) // 2) if single else ()
                for where in (*(positions[each : each + 1] for each in places), positions):
                    if value.numel() in (1, len(where)):
                        yield {index: put(leaf, leaves[index], where, value.reshape(-1))}


def _positions_read(
    operand: Any, inputs: Sequence[Tensor | None], leaves: Mapping[int, Tensor]
) -> Iterator[tuple[int, Tensor]]:
    """Yield leaves, by index, and the flat positions in them that an operand was read from.

    The positions are exact if the operand is a view of an input; else they are those that contain
    its value.
    """
    for index, leaf in leaves.items():
        given = inputs[index] if isinstance(operand, Tensor) else None
        if given is None or given.shape != leaf.shape or operand.dtype != given.dtype:
            continue
        if not operand.layout == given.layout == torch.strided or not given.numel():
            continue
        if memory_of(operand) == memory_of(given):
            # The flat positions of the view's elements.
            size = given.untyped_storage().nbytes() // given.element_size()
            places = torch.zeros(size, dtype=torch.int64)
            own = torch.arange(given.numel()).reshape(given.shape)
            places.as_strided(given.shape, given.stride(), given.storage_offset()).copy_(own)
            place = operand.storage_offset()
            yield index, places.as_strided(operand.shape, operand.stride(), place).reshape(-1)
            return
    if isinstance(operand, Tensor) and operand.numel() == 1 and not operand.is_complex():
        operand = float(operand.detach())
    if not isinstance(operand, (int, float)) or isinstance(operand, bool):
        return
    for index, leaf in leaves.items():
        found = (leaf.double().reshape(-1) == operand).nonzero().reshape(-1)
        if 0 < len(found) <= MAX_POSITIONS:
            yield index, found


def _values(operator: str, other: Any, wanted: bool, mirrored: bool, leaf: Any) -> Iterator[Tensor]:
    """Yield values for which ``<value> operator other`` has the wanted outcome."""
    if isinstance(other, (bool, int, float)):
        other = torch.tensor(float(other), dtype=torch.float64)
    if not isinstance(other, Tensor):
        return
    base = other.detach().double()
    whole = leaf.domain.kind != "float"
    more = torch.ones_like(base) if whole else base.abs() * 0.1 + leaf.domain.scale * 0.1
    up = {">": True, ">=": True, "<": False, "<=": False}.get(operator)
    if up is None:
        same = (operator == "==") == wanted
        yield from ((base,) if same else (base + more, base - more))
        return
    way = 1 if (up == wanted) != mirrored else -1
    yield base + way * more
    yield base + 10 * way * more


def stepped(spec: InputSpec, recipe: Recipe, probe: Probe, length: float) -> Recipe | None:
    """Move the float leaves until every demand is met, to first order, in parts of the distance.

    The earlier conditions keep their outcomes, to first order, if they leave a way. Return None if
    no leaf has a gradient.
    """
    wanted, kept = (
        [gap for gap in gaps if math.isfinite(gap.missing)]
        for gaps in (probe.demands, probe.earlier())
    )
    leaves = {
        index: value
        for index, value in numbers(spec, recipe).items()
        if any(index in gap.gradients for gap in wanted)
        and all(gap.gradients.get(index, value).shape == value.shape for gap in (*wanted, *kept))
    }
    # One of some numbers moves only if nothing else does: it is rounded, or it stays.
    leaves = {i: value for i, value in leaves.items() if is_free(spec.leaves[i])} or leaves
    if not leaves:
        return None
    falls = [
        -gap.missing * (length if gap.missing > 0 else 1.0) - LEAST_BEYOND * (not gap.exact)
        for gap in wanted
    ]
    rises = [max(0.0, -KEPT * gap.missing) for gap in kept]
    ranges = [range_of(spec.leaves[index]) for index in leaves]
    sizes = [value.numel() for value in leaves.values()]
    ends = torch.tensor(ranges, dtype=torch.float64).repeat_interleave(torch.tensor(sizes), 0)
    there = smallest_step(
        _flat(leaves, leaves),
        ends.T,
        torch.stack([_flat(gap.gradients, leaves) for gap in (*wanted, *kept)]),
        torch.tensor([*falls, *rises], dtype=torch.float64),
        len(wanted),
    )
    if there is None:
        return None
    parts = zip(leaves.items(), torch.split(there, sizes), strict=True)
    return with_leaves(recipe, {i: part.reshape(v.shape).to(v.dtype) for (i, v), part in parts})


def _flat(tensors: Mapping[int, Tensor], like: Mapping[int, Tensor]) -> Tensor:
    """Return the tensors of these leaves in one row; zeros for those that are missing."""
    return torch.cat(
        [tensors.get(i, torch.zeros_like(leaf)).double().reshape(-1) for i, leaf in like.items()]
    )


def slopes(spec: InputSpec, probe: Probe) -> bool:
    """Return True if some float leaf that may change moves what is missing."""
    return any(
        may_change(spec.leaves[index]) and bool(gradient.any())
        for gap in probe.demands
        if gap.missing > 0
        for index, gradient in gap.gradients.items()
    )


def swapped(spec: InputSpec, recipe: Recipe, probe: Probe) -> Iterator[Recipe]:
    """Replace indices by those that let the distance fall most: at all places, some, and one."""
    leaves = numbers(spec, recipe)
    for swaps in probe.swaps():
        for index, positions in _positions_read(swaps.indices, probe.inputs, leaves):
            leaf = spec.leaves[index]
            low, high = map(int, range_of(leaf))
            best = swaps.gains[:, low : high + 1].min(-1)
            order = best.values.argsort()
            order = order[best.values[order] < 0]
            for number in dict.fromkeys((len(order), 4, 1)):
                places = order[:number]
                made = put(leaf, leaves[index], positions[places], best.indices[places] + low)
                if number:
                    yield with_leaves(recipe, {index: made})


def repeated(spec: InputSpec, recipe: Recipe) -> Iterator[Recipe]:
    """Yield calls in which one row of the tensors is repeated; tensors of one length together."""
    lengths: dict[int, dict[int, Tensor]] = {}
    for index, leaf in numbers(spec, recipe).items():
        if leaf.dim() and len(leaf) > 1:
            lengths.setdefault(len(leaf), {})[index] = leaf
    for length, leaves in lengths.items():
        for row in range(min(length, MAX_ROWS)):
            rows = {i: leaf[row : row + 1].expand_as(leaf).clone() for i, leaf in leaves.items()}
            yield with_leaves(recipe, rows)


def neighbours(spec: InputSpec, recipe: Recipe) -> list[Callable[[int], Recipe | None]]:
    """Return a function per dim and per Python number with a range.

    Called with a number of steps, it returns the recipe moved by so many, or None beyond the range.
    """

    def resized(name: str, steps: int) -> Recipe | None:
        dim = spec.dims[name]
        own = recipe.sizes.get(name, dim.example)
        position = dim.sizes.index(own) + steps if own in dim.sizes else -1
        return (
            _resized(spec, recipe, name, dim.sizes[position])
            if 0 <= position < len(dim.sizes)
            else None
        )

    def moved(index: int, steps: int) -> Recipe | None:
        leaf, item = cast(ValueLeaf, spec.leaves[index]), recipe.leaves[index]
        own = item.data if item.kind == "value" else leaf.example
        low, high = leaf.values[:2]
        value = own + steps * (1 if isinstance(leaf.example, int) else (high - low) / 64)
        return with_leaves(recipe, {index: value}) if low <= value <= high else None

    return [
        *(functools.partial(resized, name) for name in spec.dims),
        *(
            functools.partial(moved, index)
            for index, leaf in enumerate(spec.leaves)
            if isinstance(leaf, ValueLeaf)
            and isinstance(leaf.values, tuple)
            and type(leaf.example) in (int, float)
        ),
    ]


def _resized(spec: InputSpec, recipe: Recipe, name: str, size: int) -> Recipe | None:
    sizes = {**recipe.sizes, name: size}
    return dataclasses.replace(recipe, sizes=sizes) if within_memory(spec, sizes) else None


# -- at random ------------------------------------------------------------------------------------


def mutated(
    spec: InputSpec, recipe: Recipe, rng: random.Random, constants: Sequence[float]
) -> Recipe:
    """Change a size, a Python argument, or some values of a leaf, at random."""
    leaves = numbers(spec, recipe)
    listed = [
        i
        for i, leaf in enumerate(spec.leaves)
        if isinstance(leaf, ValueLeaf) and isinstance(leaf.values, list)
    ]
    if spec.dims and rng.random() < (0.2 if leaves else 0.7):
        name = rng.choice(list(spec.dims))
        return _resized(spec, recipe, name, rng.choice(spec.dims[name].sizes)) or recipe
    if listed and (not leaves or rng.random() < 0.3):
        index = rng.choice(listed)
        values = spec.leaves[index].values  # type: ignore[union-attr]
        return with_leaves(recipe, {index: rng.choice(values)})
    if not leaves:
        return recipe
    index = rng.choice(list(leaves))
    value = leaves[index].clone(memory_format=torch.contiguous_format)
    if value.numel():
        _mutate(value.view(-1), cast(TensorLeaf, spec.leaves[index]), rng, constants)
    return with_leaves(recipe, {index: value})


def _mutate(flat: Tensor, leaf: TensorLeaf, rng: random.Random, constants: Sequence[float]) -> None:
    domain, (low, high) = leaf.domain, range_of(leaf)
    floats = domain.kind == "float" and not domain.choices
    known = [each for each in constants if low <= each <= high and (floats or each == int(each))]
    one, other = rng.randrange(len(flat)), rng.randrange(len(flat))
    if domain.choices:
        number = rng.choice(domain.choices)
    elif known and rng.random() < CHANCE:
        number = rng.choice(known) * (rng.choice((1.0, 1.01, 0.99, -1.0)) if floats else 1)
    elif rng.random() < CHANCE:
        number = flat[other].item()
    else:
        wide = domain.scale * rng.choice((0.1, 1.0, 3.0, 10.0))
        number = rng.gauss(0.0, wide) if floats else rng.randint(int(low), int(high))
    span = rng.choice((1, 1, 2, 4, max(1, len(flat) // 4), max(1, len(flat) // 2), len(flat)))
    kind = rng.random()
    if kind < CHANCE and not floats:
        flat[[one, other]] = flat[[other, one]]
    elif kind < 0.6 or not floats:
        flat[one : one + span] = number
    elif kind < 0.75:
        flat[one : one + span] += number
    else:
        flat *= rng.choice((-1.0, 0.1, 0.5, 2.0, 10.0))
    if floats:
        flat.clamp_(low, high)


# -- the size of a step ---------------------------------------------------------------------------


def smallest_step(
    numbers: Tensor, ends: Tensor, slopes: Tensor, most: Tensor, wanted: int
) -> Tensor | None:
    """Return the numbers after the smallest step that lets quantities fall by given amounts.

    ``slopes`` has a row for each quantity, and ``most`` is the most that it may change by, to first
    order: the first ``wanted`` are to fall by the negative amount, and the others are the distances
    at which earlier conditions would change. The step stays within the ``ends`` of each number's
    range. The problem is the quadratic program ``min |step|²`` with one linear constraint per
    quantity; it has few constraints and is solved by coordinate ascent on their multipliers (C.
    Hildreth, 1957). Numbers that are not finite stay as they are. None if no quantity that is to
    fall depends on the numbers.
    """
    fixed = ~numbers.isfinite()
    start, slopes = numbers.masked_fill(fixed, 0.0), slopes * ~fixed
    if not slopes[:wanted].square().sum() > 0:
        return None
    return torch.where(fixed, numbers, _within(start, ends, slopes, most))


def _within(start: Tensor, ends: Tensor, slopes: Tensor, most: Tensor) -> Tensor:
    """Return where the step ends. Elements that reach an end of their range stay there."""
    low, high = ends
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
    return -(torch.tensor(pulls, dtype=slopes.dtype) @ slopes)
