"""One shrinker for all calls: stored, boundary and drawn ones become something a person can read.

Hypothesis's own shrink phase is off, because it only knows the calls it drew.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from pytest_torchexport.recipes import LeafRecipe, Recipe
from pytest_torchexport.spec.dims import Dim
from pytest_torchexport.spec.inputs import InputSpec, TensorLeaf

# Simplest first: what a person reads at a glance.
RANK = (
    "zeros",
    "ones",
    "low",
    "high",
    "ramp",
    "uniform",
    "normal",
    "sparse",
    "elements",
    "example",
)
MAX_TRIES = 150


def shrink(spec: InputSpec, recipe: Recipe, still_fails: Callable[[Recipe], bool]) -> Recipe:
    """A recipe, no less simple than the given one, for which ``still_fails`` is true.

    ``still_fails`` must ask for the same failure class, so that one bug never slips into another.
    """
    tried: set[str] = {repr(recipe)}
    progress = True
    while progress:
        progress = False
        for candidate in _simpler(spec, recipe):
            key = repr(candidate)
            if key in tried:
                continue
            if len(tried) > MAX_TRIES:
                return recipe
            tried.add(key)
            if still_fails(candidate):
                recipe = candidate
                progress = True
                break
    return recipe


def _simpler(spec: InputSpec, recipe: Recipe) -> Iterator[Recipe]:
    for name, dim in spec.dims.items():
        for size in _smaller(dim, recipe.sizes.get(name, dim.example)):
            yield dataclasses.replace(recipe, sizes={**recipe.sizes, name: size})
    for index, (leaf, item) in enumerate(zip(spec.leaves, recipe.leaves, strict=True)):
        for simpler in _simpler_leaf(leaf, item):
            leaves = (*recipe.leaves[:index], simpler, *recipe.leaves[index + 1 :])
            yield dataclasses.replace(recipe, leaves=leaves)
    if recipe.seed:
        yield dataclasses.replace(recipe, seed=0)


def _smaller(dim: Dim, size: int) -> Iterator[int]:
    below = [legal for legal in dim.sizes if legal < size] if len(dim.sizes) < 4096 else []
    if not below and dim.low < size:
        below = [dim.low, (dim.low + size) // 2, size - 1]
    seen = set()
    for position in (0, 1, len(below) // 4, len(below) // 2, len(below) - 1):
        if 0 <= position < len(below) and below[position] not in seen:
            seen.add(below[position])
            yield below[position]


def _simpler_leaf(leaf: object, item: LeafRecipe) -> Iterator[LeafRecipe]:
    if not isinstance(leaf, TensorLeaf):
        if item.kind == "value":
            yield LeafRecipe(kind="example")
        return
    if leaf.domain.elements is None:
        for kind in RANK[: RANK.index(item.kind)]:
            if kind != "elements":
                yield LeafRecipe(kind=kind)
                if item.edits:
                    yield LeafRecipe(kind=kind, edits=item.edits)
    elif item.data and len(item.data) > 1:
        yield dataclasses.replace(item, data=item.data[-1:])
    for position in range(len(item.edits)):
        edits = (*item.edits[:position], *item.edits[position + 1 :])
        yield dataclasses.replace(item, edits=edits)
    for position, (index, value) in enumerate(item.edits):
        for rounder in (0.0, 1.0, float(round(value))):
            if abs(rounder) < abs(value) or (rounder != value and rounder == round(value)):
                edit = ((0, rounder), (index, rounder))
                for choice in edit:
                    edits = (*item.edits[:position], choice, *item.edits[position + 1 :])
                    yield dataclasses.replace(item, edits=edits)
    if item.layout != "contiguous":
        yield dataclasses.replace(item, layout="contiguous")
    if item.scale != 1.0:
        yield dataclasses.replace(item, scale=1.0)
