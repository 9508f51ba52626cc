"""Draw calls: the input spec as a Hypothesis strategy of recipes, led to sizes that are new.

Hypothesis draws recipes and sizes, never elements (docs/decisions.md), from one seed,
with nothing stored and nothing shrunk. Of the profile of the user's suite only the number of
examples counts. The boundary recipes are always run.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import hypothesis
import torch
from hypothesis import strategies as st

from pytest_torchexport.config.plan import Plan
from pytest_torchexport.inputs.recipes import (
    AS_GIVEN,
    EXTENTS,
    KINDS,
    LAYOUTS,
    MAX_EDITS,
    SCALES,
    SPECIAL,
    Edit,
    LeafRecipe,
    Recipe,
    example_recipe,
    plain_recipe,
    with_leaves,
)
from pytest_torchexport.inputs.spec import InputSpec, TensorLeaf, ValueLeaf

# A generated call has at most so many elements, which fit any CI machine, or so many times as many
# as the user's example.
MEMORY_CAP = 2**22
EXAMPLE_FACTOR = 16
# So many of a call that is drawn, of which there are many: a large one that fails takes seconds,
# because its rounding is weighed. The ends of a range are run in any case.
DRAWN_CAP = 2**18
# Edits of floats without a range go up to so many times the example's scale.
EDIT_SCALE = 4.0
# Calls in which the special values of all leaves meet each other.
MIXED = 4
CORNERS = ("zeros", "ones", "low", "high", "ramp", "uniform")
# A dim with at most this many sizes is led to each of them, one with more to those beside its ends.
FEW = 32
# A wrong scale, order or choice of elements may not show on a leaf of such a kind. A sparse one is
# all zeros if it is small.
CONSTANT = ("zeros", "ones", "low", "high", "flat", "sparse")


def recipes(
    spec: InputSpec,
    known: Sequence[Recipe] = (),
    instead: Callable[[Recipe], Recipe] = lambda recipe: recipe,
) -> st.SearchStrategy[Recipe]:
    """Return recipes of legal calls; some are ``known`` ones with other sizes or elements.

    ``instead`` returns what to take in place of a recipe that is no known one.
    """
    sizes = {
        name: st.integers(drawn[0], drawn[-1])
        if isinstance(drawn, range) and drawn.step == 1
        else st.sampled_from(drawn)
        for name, drawn in drawn_sizes(spec).items()
    }
    fresh = st.builds(
        lambda sizes, leaves, seed: instead(Recipe(sizes=sizes, leaves=leaves, seed=seed)),
        st.fixed_dictionaries(sizes),
        st.tuples(*(_value(x) if isinstance(x, ValueLeaf) else _tensor(x) for x in spec.leaves)),
        st.integers(0, 2**31 - 1),
    )
    if not known:
        return fresh

    def varied(recipe: Recipe, fresh: Recipe, resized: bool) -> Recipe:
        leaves = tuple(
            dataclasses.replace(item, edits=other.edits) if isinstance(leaf, TensorLeaf) else item
            for leaf, item, other in zip(spec.leaves, recipe.leaves, fresh.leaves, strict=True)
        )
        sizes = fresh.sizes if resized else recipe.sizes
        return dataclasses.replace(recipe, sizes=sizes, leaves=leaves)

    return st.one_of(fresh, fresh, st.builds(varied, st.sampled_from(known), fresh, st.booleans()))


def _tensor(leaf: TensorLeaf) -> st.SearchStrategy[LeafRecipe]:
    domain = leaf.domain
    if domain.elements is not None:
        points = st.lists(domain.elements, min_size=1, max_size=MAX_EDITS + 1)
        return points.map(lambda data: LeafRecipe(kind="elements", data=list(data)))
    scales = SCALES if domain.kind == "float" and not domain.choices else (1.0,)
    # One draw for kind, scale and layout together: a draw costs more than making a small tensor.
    kinds = (*KINDS, SPECIAL) if domain.special else KINDS
    variants = list(itertools.product(kinds, scales, layouts_of(leaf)))
    positions = st.integers(0, 2**16)
    # st.builds draws a text for the third field of a NamedTuple, though it has a default.
    edits = st.builds(Edit, positions, _number(leaf), st.just("element"))
    if domain.special:
        special = st.sampled_from(domain.special)
        edits |= st.builds(Edit, positions, special, st.sampled_from(EXTENTS))
    return st.builds(
        lambda variant, edits: LeafRecipe(
            kind=variant[0], scale=variant[1], layout=variant[2], edits=tuple(edits)
        ),
        st.sampled_from(variants),
        st.lists(edits, max_size=MAX_EDITS),
    )


def layouts_of(leaf: TensorLeaf) -> tuple[str, ...]:
    dims = len(leaf.shape)
    return (*LAYOUTS[: 2 if dims >= 2 else 1], *(LAYOUTS[2:] if dims == 4 else ()))


def _number(leaf: TensorLeaf) -> st.SearchStrategy[Any]:
    domain = leaf.domain
    if domain.choices:
        return st.integers(0, len(domain.choices) - 1)
    if domain.kind != "float":
        return st.integers(int(domain.low or 0), int(domain.high or 0))
    # Half the dtype's maximum, so that sums do not overflow. Of complex numbers the real part is
    # edited.
    largest = min(EDIT_SCALE * domain.scale, torch.finfo(leaf.dtype).max / 2)
    return st.floats(*domain.ends(largest), allow_nan=False)


def _value(leaf: ValueLeaf) -> st.SearchStrategy[LeafRecipe]:
    values = leaf.values
    if values is None:
        return st.just(AS_GIVEN)
    drawn: st.SearchStrategy[Any] = values
    if isinstance(values, list):
        drawn = st.sampled_from(values)
    elif isinstance(values, tuple):
        low, high, *special = values
        whole = isinstance(leaf.example, int) and not isinstance(leaf.example, bool)
        drawn = (
            st.integers(math.ceil(low), math.floor(high))
            if whole
            else st.floats(float(low), float(high))
        )
        drawn = drawn | st.sampled_from(special) if special else drawn
    return drawn.map(lambda value: LeafRecipe(kind="value", data=value))


# -- calls that are always made --------------------------------------------------------------------


def boundary_recipes(spec: InputSpec, seed: int) -> Iterator[Recipe]:
    """Yield the recipes that are always run.

    First each dim at its boundary sizes, one at a time, then all at min and all at max. Then, at
    the example's sizes: the extremes of the value domains, of declared ones also one low beside
    another high, the special values of each, and every listed value of a Python argument.
    """
    example = spec.example_sizes
    sizes = [{**example, name: n} for name, dim in spec.dims.items() for n in dim.boundary()]
    if spec.dims:
        sizes.append({name: dim.low for name, dim in spec.dims.items()})
        sizes.append({name: dim.high for name, dim in spec.dims.items()})
    for of_call in {tuple(each.values()): each for each in sizes}.values():
        yield plain_recipe(spec, "normal", of_call, seed)
    if spec.tensors:
        for kind in CORNERS:
            yield plain_recipe(spec, kind, example, seed)
    if sum(leaf.domain.declared for leaf in spec.tensors) > 1:
        yield plain_recipe(spec, ("low", "high"), example, seed)
        yield plain_recipe(spec, ("high", "low"), example, seed)
    yield from listed_recipes(spec, seed)


def listed_recipes(spec: InputSpec, seed: int) -> Iterator[Recipe]:
    """Yield calls with the special values of a leaf in one element, in a row, and in all.

    First some of all leaves at once, so that they meet each other; at the end each listed value of
    a Python argument, or the ends of its range.
    """
    example = spec.example_sizes
    marked = {
        index: leaf.domain.special
        for index, leaf in enumerate(spec.leaves)
        if isinstance(leaf, TensorLeaf) and leaf.domain.special
    }
    for number in range(MIXED if marked else 0):
        yield plain_recipe(spec, SPECIAL, example, seed + number * len(spec.leaves))
    plain = plain_recipe(spec, "normal", example, seed)
    for index, special in marked.items():
        for value, extent in itertools.product(special, EXTENTS):
            edited = LeafRecipe(kind="normal", edits=(Edit(0, value, extent),))
            leaves = (*plain.leaves[:index], edited, *plain.leaves[index + 1 :])
            yield dataclasses.replace(plain, leaves=leaves)
    for index, leaf in enumerate(spec.leaves):
        if isinstance(leaf, ValueLeaf) and isinstance(leaf.values, (list, tuple)):
            for value in leaf.values:
                chosen = with_leaves(example_recipe(spec), {index: value})
                yield dataclasses.replace(chosen, seed=seed)


# -- sizes -----------------------------------------------------------------------------------------


def within_memory(spec: InputSpec, sizes: Mapping[str, int]) -> bool:
    return _has_at_most(MEMORY_CAP, spec, spec.all_sizes(sizes))


def _has_at_most(cap: int, spec: InputSpec, sizes: Mapping[str, int]) -> bool:
    """Return True if a call has so many elements at most, or not many more than the example."""
    try:
        return spec.numel(sizes) <= max(cap, EXAMPLE_FACTOR * spec.numel(spec.example_sizes))
    except (ValueError, RuntimeError):
        return True  # an expression of dims has no size; ``build`` returns None


def drawn_sizes(spec: InputSpec) -> dict[str, range | tuple[int, ...]]:
    """Return by dim the sizes at which a call is small enough to be drawn, or the smallest."""

    def is_large(name: str, size: int) -> bool:
        return not _has_at_most(DRAWN_CAP, spec, spec.all_sizes({name: size}))

    return {
        name: dim.sizes[
            : max(bisect.bisect_left(dim.sizes, True, key=functools.partial(is_large, name)), 1)
        ]
        for name, dim in spec.dims.items()
    }


def has_varied_values(spec: InputSpec, recipe: Recipe) -> bool:
    """Return True if the elements of some tensor of the call may differ from each other."""
    return any(
        isinstance(leaf, TensorLeaf) and item.kind not in CONSTANT
        for leaf, item in zip(spec.leaves, recipe.leaves, strict=True)
    )


class NewSizes:
    """The sizes of each dim that are still to be run.

    ``met``: those that were run with varied values, by dim; it may grow meanwhile. A size that was
    refused beside other new ones is tried once more, with the other dims as in the example.
    """

    def __init__(self, spec: InputSpec, met: Mapping[str, Collection[int]]) -> None:
        self._spec = spec
        self._sizes = drawn_sizes(spec)
        self._met = met
        # A dim and its size; True if the other dims were as in the example.
        self._refused: dict[tuple[str, int], bool] = {}

    def instead_of(self, recipe: Recipe) -> Recipe:
        """Return the recipe at the nearest new sizes, then with varied values; else as it is."""
        new = self._nearest(recipe.sizes, None)
        sizes = {**recipe.sizes, **new}
        if not new:
            alone = [*self._nearest(recipe.sizes, False).items()][:1]
            if not alone:
                return recipe
            sizes = {**self._spec.example_sizes, **dict(alone)}
        leaves = recipe.leaves
        if not has_varied_values(self._spec, recipe):
            leaves = tuple(
                dataclasses.replace(item, kind="normal") if item.kind in CONSTANT else item
                for item in leaves
            )
        return dataclasses.replace(recipe, sizes=sizes, leaves=leaves)

    def refused(self, sizes: Mapping[str, int]) -> None:
        for name, size in sizes.items():
            alone = sizes == {**self._spec.example_sizes, name: size}
            self._refused[name, size] = alone or self._refused.get((name, size), False)

    def _nearest(self, drawn: Mapping[str, int], refused: bool | None) -> dict[str, int]:
        """Return by dim the nearest size that is still to be run.

        ``refused`` is None for sizes that were not tried, False for those not tried alone.
        """
        nearest = {}
        for name, sizes in self._sizes.items():
            # Those beside the ends first, which are more often special; the others if they are few.
            beside = {*sizes[1:3], *sizes[-2:-1]}
            left = [
                size
                for size in (sizes if len(sizes) <= FEW else beside)
                if size not in self._met.get(name, ())
                and self._refused.get((name, size)) is refused
            ]
            own = drawn[name]
            if left:
                nearest[name] = min(left, key=lambda n: (n not in beside, abs(n - own), n))
        return nearest


# Of the calls that may be drawn, this part is drawn in any case.
LEAST = 5


def examples(plan: Plan) -> int:
    """Return how many calls to draw at most: as the user or Hypothesis's profile says."""
    # Half of Hypothesis's own 100, as one of ours is a call of eager and of an artifact.
    return _asked_for(plan) or max(1, hypothesis.settings().max_examples // 2)


def least_examples(plan: Plan) -> int:
    """Return how many calls to draw even if they bring nothing new: all that the user asks for.

    Of the profile's, a fifth. Of 428 items with a bug, the ten of the default find 392, and fifty
    drawn calls three more.
    """
    return _asked_for(plan) or max(1, examples(plan) // LEAST)


def _asked_for(plan: Plan) -> int | None:
    return plan.max_examples or plan.options.max_examples or plan.settings.max_examples
