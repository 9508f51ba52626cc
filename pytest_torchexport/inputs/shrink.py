"""Shrink a failing call of any origin to one that a person can read.

Hypothesis's own shrink phase is off, because it only knows the calls that it drew, and stored,
boundary and explored calls need shrinking too.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator

import torch

from pytest_torchexport.config.named_dims import Dim
from pytest_torchexport.inputs.building import build_leaves
from pytest_torchexport.inputs.recipes import (
    AS_GIVEN,
    SPECIAL,
    SWITCHED,
    Edit,
    LeafRecipe,
    Literal,
    Recipe,
    with_leaves,
)
from pytest_torchexport.inputs.spec import InputSpec, TensorLeaf, ValueLeaf

# Kinds of leaves, the easiest to read first.
RANK = (
    *("zeros", "ones", "low", "high", "ramp", "uniform", "normal", "sparse", "grid", "flat"),
    *("twins", "offset", "ladder", "elements", "example", "recorded", "literal"),
    *(SWITCHED, SPECIAL),
)
MAX_TRIES = 150


def shrink(spec: InputSpec, recipe: Recipe, still_fails: Callable[[Recipe], bool]) -> Recipe:
    """Return a simpler recipe for which ``still_fails`` is true, or the given one.

    ``still_fails`` must test for the same failure class, so that shrinking does not lead to another
    bug. It is asked once per recipe, and about ``MAX_TRIES`` recipes.
    """
    answers: dict[str, bool] = {}

    def fails(candidate: Recipe) -> bool:
        key = repr(candidate)
        if key not in answers:
            if len(answers) >= MAX_TRIES:
                return False
            answers[key] = still_fails(candidate)
        return answers[key]

    seen: set[str] = set()
    while repr(recipe) not in seen:
        seen.add(repr(recipe))
        for name, dim in spec.dims.items():
            recipe = _smaller_dim(name, dim, recipe, fails)
        built = build_leaves(spec, recipe) or ()
        # Numbers of a literal beyond the sizes of the call are not used.
        larger = {
            index: value.detach()
            for index, (item, value) in enumerate(zip(recipe.leaves, built, strict=False))
            if item.kind == "literal" and item.data.tensor.shape != value.shape
        }
        recipe = with_leaves(recipe, larger) if larger else recipe
        same = repr(recipe)
        candidates = (each for each in _simpler(spec, recipe) if repr(each) != same)
        recipe = next(filter(fails, candidates), recipe)
    return recipe


def _smaller_dim(name: str, dim: Dim, recipe: Recipe, fails: Callable[[Recipe], bool]) -> Recipe:
    """Return the recipe with the smallest size that bisection finds to fail."""

    def at(index: int) -> Recipe:
        return dataclasses.replace(recipe, sizes={**recipe.sizes, name: dim.sizes[index]})

    size = recipe.sizes.get(name, dim.example)
    failing = bisect.bisect_left(dim.sizes, size)
    if failing == 0 or failing >= len(dim.sizes):
        return recipe
    if fails(at(0)):
        return at(0)
    passing = 0
    while failing - passing > 1:
        middle = (passing + failing) // 2
        if fails(at(middle)):
            failing = middle
        else:
            passing = middle
    return at(failing) if dim.sizes[failing] < size else recipe


def _simpler(spec: InputSpec, recipe: Recipe) -> Iterator[Recipe]:
    for index, (leaf, item) in enumerate(zip(spec.leaves, recipe.leaves, strict=True)):
        for simpler in _simpler_leaf(leaf, item):
            leaves = (*recipe.leaves[:index], simpler, *recipe.leaves[index + 1 :])
            yield dataclasses.replace(recipe, leaves=leaves)
    if recipe.seed:
        yield dataclasses.replace(recipe, seed=0)
    marked = [index for index, item in enumerate(recipe.leaves) if item.kind == SPECIAL]
    built = build_leaves(spec, recipe) if marked else None
    if built is not None:
        yield with_leaves(recipe, {index: built[index].detach() for index in marked})


def _simpler_leaf(leaf: TensorLeaf | ValueLeaf, item: LeafRecipe) -> Iterator[LeafRecipe]:
    if isinstance(leaf, ValueLeaf):
        if item.kind in ("value", "recorded"):
            yield AS_GIVEN
        return
    if leaf.domain.elements is None:
        yield from _simpler_kinds(leaf, item)
    elif len(item.data or ()) > 1:
        yield dataclasses.replace(item, data=item.data[-1:])
    for number, edit in enumerate(item.edits):
        for instead in ((), *((simpler,) for simpler in _simpler_edit(edit))):
            edits = (*item.edits[:number], *instead, *item.edits[number + 1 :])
            yield dataclasses.replace(item, edits=edits)
    yield dataclasses.replace(item, layout="contiguous")
    yield dataclasses.replace(item, scale=1.0)


def _simpler_kinds(leaf: TensorLeaf, item: LeafRecipe) -> Iterator[LeafRecipe]:
    for kind in RANK[: RANK.index(item.kind)]:
        if kind not in ("elements", "recorded", "literal"):
            yield LeafRecipe(kind=kind)
            yield LeafRecipe(kind=kind, edits=item.edits)
            yield dataclasses.replace(item, kind=kind, scale=1.0, data=None)
    if item.kind == "literal":
        for numbers in _simpler_numbers(item.data.tensor):
            yield dataclasses.replace(item, data=Literal(numbers))
    if item.kind == SPECIAL:
        for value, extent in itertools.product(leaf.domain.special, ("element", "all")):
            yield LeafRecipe(kind="normal", edits=(Edit(0, value, extent),))


def _simpler_numbers(values: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield numbers that are easier to read: with zeros, all equal, or with fewer digits."""
    flat = values.reshape(-1)
    # In halves, quarters and eighths.
    for part in (2, 4, 8):
        width = -(-flat.numel() // part)
        for start in range(0, flat.numel(), width) if part <= flat.numel() else ():
            fewer = flat.clone()
            fewer[start : start + width] = 0
            yield fewer.reshape(values.shape)
    # Only if nothing is zero yet, because this would undo the zeros.
    if flat.numel() and values.dtype != torch.bool and bool((flat != 0).all()):
        yield torch.full_like(values, flat[flat.abs().argmax()].item())
    if values.is_floating_point():
        for digits in (0, 1, 2):
            rounded = values.double().round(decimals=digits).to(values.dtype)
            if Literal(rounded) != Literal(values):
                yield rounded
                return


def _simpler_edit(edit: Edit) -> Iterator[Edit]:
    """Yield edits of one element, of a rounder number, and at the first position."""
    if edit.extent != "element":
        yield Edit(edit.position, edit.value)
    if edit.position:
        yield Edit(0, edit.value, edit.extent)
    if math.isfinite(edit.value):
        value = edit.value
        for rounder in map(type(value), (0, 1, round(value))):
            if abs(rounder) < abs(value) or (rounder != value and rounder == round(value)):
                yield Edit(0, rounder, edit.extent)
                yield Edit(edit.position, rounder, edit.extent)
