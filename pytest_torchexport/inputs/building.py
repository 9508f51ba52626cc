"""Building: the call of a recipe, whose numbers are legal for each leaf, in the layout asked for.

Separate from the recipes, which are plain data: here the same recipe becomes the same tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from pytest_torchexport.inputs.domains import Domain, is_among
from pytest_torchexport.inputs.pytrees import copy_tensor, tiled
from pytest_torchexport.inputs.recipes import (
    AS_EXAMPLE,
    AS_GIVEN,
    GIVEN,
    SPECIAL,
    SWITCHED,
    LeafRecipe,
    Recipe,
)
from pytest_torchexport.inputs.spec import Call, InputSpec, TensorLeaf, ValueLeaf

SPARSE_SHARE = 0.1
# Rows of a ladder are this many powers of ten apart at most.
RUNGS = 7
# The noise on an offset, in parts of the scale.
NOISE = 1e-3
# The smallest normal number of a type with a wide range of exponents is below this.
WIDE = 1e-30


def build(spec: InputSpec, recipe: Recipe) -> Call | None:
    """Return the call of a recipe.

    None if the user's ``filter`` refuses it, or if an expression of dims has no size (``4//n`` at
    0, ``n-2`` at 1).
    """
    leaves = build_leaves(spec, recipe)
    return spec.call(leaves) if leaves is not None else None


def build_leaves(spec: InputSpec, recipe: Recipe) -> list[Any] | None:
    """Return the leaves of a recipe before ``map`` and ``filter``, or None if it has no sizes."""
    sizes = spec.all_sizes(recipe.sizes)
    try:
        shapes = {leaf.path: leaf.at(sizes) for leaf in spec.tensors}
    except ValueError:
        return None
    if any(size < 0 for shape in shapes.values() for size in shape):
        return None
    number = _recorded_number(spec, recipe, shapes)
    if number is None:
        return None
    leaves = [
        copy_tensor(leaf.given[number])
        if isinstance(leaf, TensorLeaf) and leaf.kept
        else _leaf(leaf, item, shapes, recipe.seed + index)
        for index, (leaf, item) in enumerate(zip(spec.leaves, recipe.leaves, strict=True))
    ]
    for first, *others in spec.aliases:
        if all(recipe.leaves[index] == AS_GIVEN for index in (first, *others)):
            leaves = [leaves[first] if index in others else x for index, x in enumerate(leaves)]
    by_path = {leaf.path: value for leaf, value in zip(spec.leaves, leaves, strict=True)}
    return [
        by_path[leaf.same_as] if isinstance(leaf, TensorLeaf) and leaf.same_as else value
        for leaf, value in zip(spec.leaves, leaves, strict=True)
    ]


def _recorded_number(
    spec: InputSpec, recipe: Recipe, shapes: Mapping[str, tuple[int, ...]]
) -> int | None:
    """Return the number of the recorded call of which a recipe keeps what is tied together.

    0 is the example. None if no call has these sizes.
    """
    held = [leaf for leaf in spec.tensors if leaf.holder is not None]
    if not held:
        return 0
    wanted = [shapes[leaf.path] for leaf in held]
    fitting = [
        number
        for number, tensors in enumerate(zip(*(leaf.given for leaf in held), strict=True))
        if [tuple(tensor.shape) for tensor in tensors] == wanted
    ]
    if not fitting:
        return None
    kinds = {item.kind: item.data for item in recipe.leaves}
    asked = kinds["recorded"] + 1 if "recorded" in kinds else 0 if "example" in kinds else None
    return asked if asked in fitting else fitting[recipe.seed % len(fitting)]


def readable(spec: InputSpec, stored: Iterable[Mapping[str, Any]]) -> list[Recipe]:
    """Return the stored recipes that fit the spec; another version may have written others."""
    recipes = []
    for data in stored:
        try:
            recipe = Recipe.from_dict(data)
            legal = all(recipe.sizes.get(n, d.example) in d.sizes for n, d in spec.dims.items())
            if legal and build_leaves(spec, recipe) is not None:
                recipes.append(recipe)
        except Exception:  # noqa: S112  # stored data may be anything
            continue
    return recipes


def _leaf(
    leaf: TensorLeaf | ValueLeaf,
    item: LeafRecipe,
    shapes: Mapping[str, tuple[int, ...]],
    seed: int,
) -> Any:
    given = leaf.recorded[item.data] if item.kind == "recorded" else leaf.example
    if isinstance(leaf, ValueLeaf):
        if item.kind == "value":
            return item.data
        return copy_tensor(given) if isinstance(given, torch.Tensor) else given
    shape, domain = shapes[leaf.path], leaf.domain
    as_given = item.kind in GIVEN and not item.edits and leaf.index is None
    if as_given and shape == tuple(given.shape):
        return copy_tensor(given).requires_grad_(leaf.example.requires_grad)
    tensor = tiled(given, shape) if item.kind in GIVEN else _fill(item, shape, leaf, seed)
    for edit in item.edits:
        if not is_among(edit.value, domain.special):
            edit.write(tensor, _legal(edit.value, leaf))
    _keep_masks(tensor, domain)
    if leaf.index is not None:
        tensor = leaf.index.fitted(tensor, shapes[leaf.index.into][0])
    tensor = _cast(tensor, leaf)
    _mark(tensor, item, domain, seed)
    if item.layout == "strided" and tensor.dim() >= 2:
        tensor = tensor.transpose(0, -1).contiguous().transpose(0, -1)
    if item.layout == "channels_last" and tensor.dim() == 4:
        tensor = tensor.contiguous(memory_format=torch.channels_last)
    if item.layout == AS_EXAMPLE:
        strides = leaf.example.stride()
        inner_last = sorted(range(tensor.dim()), key=strides.__getitem__, reverse=True)
        back = [inner_last.index(axis) for axis in range(tensor.dim())]
        tensor = tensor.permute(inner_last).contiguous().permute(back)
    return tensor.requires_grad_() if leaf.example.requires_grad else tensor


def _mark(tensor: torch.Tensor, item: LeafRecipe, domain: Domain, seed: int) -> None:
    """Write special values: last, because nothing that keeps values ordinary may change them."""
    if item.kind == SPECIAL and domain.special:
        numbers = _special_numbers(domain, tensor.dtype)
        drawn = torch.randint(0, 2 * len(numbers), tensor.shape, generator=_generator(seed))
        # torch has no index_put for uint16, uint32 and uint64.
        tensor.copy_(torch.where(drawn < len(numbers), numbers[drawn % len(numbers)], tensor))
    for edit in item.edits:
        if is_among(edit.value, domain.special):
            edit.write(tensor, edit.value)


def _special_numbers(domain: Domain, dtype: torch.dtype) -> torch.Tensor:
    wide = torch.int64 if domain.kind == "int" else torch.float64
    return torch.tensor(domain.special, dtype=wide).to(dtype)


def _cast(tensor: torch.Tensor, leaf: TensorLeaf) -> torch.Tensor:
    """Cast to the leaf's dtype. A narrow one saturates and has no -0.0: both may not be legal."""
    narrow = leaf.dtype.is_floating_point and leaf.dtype.itemsize < tensor.dtype.itemsize
    if not narrow or not tensor.is_floating_point() or leaf.domain.elements is not None:
        return tensor.to(leaf.dtype)
    limit = torch.finfo(leaf.dtype).max
    tensor = tensor.clamp(-limit, limit)
    # Not in the narrow dtype itself: torch has no masked_fill for float8.
    return tensor.masked_fill(tensor.to(leaf.dtype) == 0, 0.0).to(leaf.dtype)


def _fill(item: LeafRecipe, shape: tuple[int, ...], leaf: TensorLeaf, seed: int) -> torch.Tensor:
    domain = leaf.domain
    if item.kind == "literal":
        return _within(tiled(item.data.tensor, shape), domain)
    if item.kind == "elements":
        *points, rest = item.data
        tensor = torch.full(shape, rest, dtype=leaf.dtype)
        for index, value in enumerate(points if tensor.numel() else ()):
            tensor.view(-1)[(index * 7919) % tensor.numel()] = value
        return tensor
    generator = _generator(seed)
    if item.kind == SWITCHED:
        return _switched(shape, domain, generator)
    if domain.choices:
        places = Domain(kind="int", low=0, high=len(domain.choices) - 1)
        chosen = _int_fill(item.kind, shape, places, generator)
        return torch.tensor(domain.choices, dtype=leaf.dtype)[chosen]
    if domain.kind == "float":
        wide = leaf.dtype in (torch.float64, torch.complex128)
        dtype = torch.float64 if wide else torch.float32
        parts = [
            _float_fill(item.kind, shape, domain, item.scale, generator, dtype)
            for _ in ("real", "imag")[: 1 + leaf.dtype.is_complex]
        ]
        return torch.complex(*parts) if leaf.dtype.is_complex else _clamp(parts[0], domain)
    return _int_fill(item.kind, shape, domain, generator)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed % 2**63)


def _float_fill(
    kind: str,
    shape: tuple[int, ...],
    domain: Domain,
    scale: float,
    generator: torch.Generator,
    dtype: torch.dtype,
) -> torch.Tensor:
    size = min(domain.scale * scale, torch.finfo(dtype).max / 2)
    low, high = domain.ends(size)
    constants = {"zeros": 0.0, "ones": 1.0, "low": low, "high": high}
    if kind in constants:
        return torch.full(shape, constants[kind], dtype=dtype)
    if kind == "ramp":
        count = torch.Size(shape).numel()
        return torch.linspace(low, high, max(count, 1), dtype=dtype)[:count].reshape(shape)
    if kind == "uniform":
        return torch.rand(shape, generator=generator, dtype=dtype) * (high - low) + low
    normal = torch.randn(shape, generator=generator, dtype=dtype) * size
    if kind == "sparse":
        keep = torch.rand(shape, generator=generator) < SPARSE_SHARE
        return torch.where(keep, normal, torch.zeros((), dtype=dtype))
    if kind == "offset":
        return high - NOISE * normal.abs()
    if kind == "ladder":
        rows = shape[:-1] if len(shape) > 1 else shape
        scales = 10.0 ** -torch.randint(RUNGS, rows, generator=generator)
        normal = normal * (scales.unsqueeze(-1) if len(shape) > 1 else scales)
    if kind == "grid":  # so that some lie half way between integers; without -0.0
        normal = (2 * normal).round() / 2 + 0.0
    if kind == "twins":
        apart = NOISE * torch.randint(2, (), generator=generator)
        noise = apart * torch.rand(shape, generator=generator, dtype=dtype)
        normal = _repeated(normal, kind) * (1 + noise)
    if kind == "flat":
        normal = _repeated(normal, kind)
    return normal.abs() + low if domain.low is not None and domain.high is None else normal


def _repeated(values: torch.Tensor, kind: str) -> torch.Tensor:
    """Repeat the first element of each row (``flat``), or each first of two rows (``twins``)."""
    if not values.dim():
        return values
    if kind == "flat":
        return values[..., :1].expand(values.shape).clone()
    axis = next((axis for axis, size in enumerate(values.shape) if size > 1), 0)
    first = torch.arange(values.shape[axis]) // 2 * 2
    return values.index_select(axis, first)


def _int_fill(
    kind: str, shape: tuple[int, ...], domain: Domain, generator: torch.Generator
) -> torch.Tensor:
    low, high = int(domain.low or 0), int(domain.high or 0)
    constants = {"zeros": min(max(0, low), high), "ones": min(max(1, low), high)}
    constants |= {"low": low, "high": high}
    if kind in constants:
        return torch.full(shape, constants[kind], dtype=torch.int64)
    span = min(high - low + 1, 2**62)
    if kind == "ramp":
        count = torch.Size(shape).numel()
        return (torch.arange(count, dtype=torch.int64) % span + low).reshape(shape)
    drawn = torch.randint(0, span, shape, generator=generator, dtype=torch.int64) + low
    if kind == "grid" and drawn.numel():  # two different ones, so few that they collide
        return drawn.reshape(-1)[torch.randint(0, 2, shape, generator=generator) % drawn.numel()]
    if kind in ("flat", "twins"):
        return _repeated(drawn, kind)
    if kind == "sparse":
        keep = torch.rand(shape, generator=generator) < SPARSE_SHARE
        return torch.where(keep, drawn, torch.full((), low, dtype=torch.int64))
    return drawn


def _switched(shape: tuple[int, ...], domain: Domain, generator: torch.Generator) -> torch.Tensor:
    """Return rows of zeros and ones, or of two numbers that are legal, each another kind of mask.

    The kinds have a one nowhere, at one place, at the first few, at all but one, at the last few,
    and everywhere.
    """
    length = shape[-1] if shape else 1
    rows = torch.Size(shape[:-1]).numel()
    place, row = torch.arange(length), torch.arange(rows)
    few = torch.randint(1, max(length, 2), (rows, 1), generator=generator)
    masks = (few < 0, place == few, place < few, place != few, place >= few, few >= 0)
    kinds = torch.stack([mask.expand(rows, length) for mask in masks])
    kind = row + torch.randint(len(masks), (), generator=generator)
    on = kinds[kind % len(masks), row]
    off_on: tuple[float, float] = (0, 1)
    if domain.choices:
        off_on = min(domain.choices), max(domain.choices)
    elif not (_is_legal(0, domain) and _is_legal(1, domain)):
        low = (domain.high or 0) - 1 if domain.low is None else domain.low
        off_on = low, low + 1 if domain.high is None else domain.high
    dtype = torch.float64 if domain.kind == "float" else torch.int64
    return torch.tensor(off_on, dtype=dtype)[on.long()].reshape(shape)


def _within(values: torch.Tensor, domain: Domain) -> torch.Tensor:
    if domain.choices and not values.is_complex():
        choices = torch.tensor(domain.choices, dtype=torch.float64)
        distances = (values.double().unsqueeze(-1) - choices).abs()
        # Of infinity and itself the difference is NaN, of NaN and any other number too.
        alike = values.double().unsqueeze(-1) == choices
        nearest = distances.nan_to_num(torch.inf).masked_fill(alike, -1.0).argmin(-1)
        legal = torch.tensor(domain.choices)[nearest].to(values.dtype)
    else:
        legal = values != 0 if domain.kind == "bool" else _clamp(values, domain)
    if not domain.special:
        return legal
    numbers = _special_numbers(domain, values.dtype)
    special = (values.unsqueeze(-1) == numbers).any(-1)
    special |= values.isnan() & bool(numbers.isnan().any())
    return torch.where(special, values, legal)


def _clamp(values: torch.Tensor, domain: Domain) -> torch.Tensor:
    if values.is_complex() or (domain.low is None and domain.high is None):
        return values
    # torch has no clamp for uint16, uint32 and uint64.
    wide = values if values.is_floating_point() else values.long()
    # Not in place: integers that are written into a tensor of floats become floats.
    return wide.clamp(min=domain.low, max=domain.high).to(values.dtype)


def _legal(value: float, leaf: TensorLeaf) -> float:
    domain = leaf.domain
    if domain.choices:
        return domain.choices[int(value) % len(domain.choices)]  # type: ignore[no-any-return]
    if domain.low is not None:
        value = max(value, domain.low)
    if domain.high is not None:
        value = min(value, domain.high)
    if domain.kind != "float":
        return int(value)
    # The smallest positive number that is no special value (``numbers_of``). In float16 and
    # narrower types, ordinary numbers are denormal.
    facts = torch.finfo(leaf.dtype)
    smallest = facts.tiny * (facts.eps if facts.tiny > WIDE else 1.0)
    return 0.0 if _is_legal(0.0, domain) and abs(value) < smallest else value


def _is_legal(number: float, domain: Domain) -> bool:
    above = domain.low is None or domain.low <= number
    return above and (domain.high is None or number <= domain.high)


def _keep_masks(tensor: torch.Tensor, domain: Domain) -> None:
    """Make a causal mask one again, and give rows of a mask what each of them has."""
    if not tensor.dim() or not tensor.numel():
        return
    if domain.triangle is not None:
        below, above = domain.triangle
        outside = torch.ones(tensor.shape[-2:], dtype=torch.bool).triu(1)
        tensor.fill_(below).masked_fill_(outside, above)
    if domain.rows_keep is not None:
        first = tensor[..., 0]
        kept = ((tensor != 0) == domain.rows_keep).any(dim=-1)
        first[~kept] = torch.full((), float(domain.rows_keep)).to(tensor.dtype)
