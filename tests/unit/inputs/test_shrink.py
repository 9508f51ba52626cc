"""inputs/shrink.py: what comes back still fails, and is as simple as a person would write it."""

# ruff: noqa: ARG005  # the parameters are what a spec reads of a function

from __future__ import annotations

import math

import pytest
import torch
from specs import spec_of

from pytest_torchexport.inputs.building import build
from pytest_torchexport.inputs.recipes import (
    SPECIAL,
    Edit,
    LeafRecipe,
    Literal,
    Recipe,
    plain_recipe,
    with_leaves,
)
from pytest_torchexport.inputs.shrink import MAX_TRIES, shrink


def one(**options):
    return spec_of(lambda x: x, torch.randn(4, 3), **options)


def call_of(spec, recipe):
    return build(spec, recipe).args[0]


BUSY = LeafRecipe(kind="normal", scale=3.0, edits=(Edit(1, 7.5), Edit(4, -2.0)), layout="strided")


# A leaf, what fails of the leaf and its tensor, and the leaf that is left.
LEFT = [
    (BUSY, lambda item, x: True, LeafRecipe(kind="zeros")),
    (LeafRecipe(kind="example"), lambda item, x: True, LeafRecipe(kind="zeros")),
    (
        BUSY,
        lambda item, x: bool((x == -2.0).any()),
        LeafRecipe(kind="zeros", edits=(Edit(0, -2.0),)),
    ),
    (
        LeafRecipe(kind="zeros", edits=(Edit(2, 3.731),)),
        lambda item, x: float(x.max()) > 2,
        LeafRecipe(kind="zeros", edits=(Edit(0, 4.0),)),
    ),
    (
        BUSY,
        lambda item, x: not x.is_contiguous(),
        LeafRecipe(kind="zeros", layout="strided"),
    ),
    (BUSY, lambda item, x: item.scale == 3.0, LeafRecipe(kind="normal", scale=3.0)),
]


@pytest.mark.parametrize(("item", "fails", "left"), LEFT)
def test_what_matters_of_a_leaf_is_left(item, fails, left):
    spec = one(dims={"batch": (1, 64)}, values={"x": (-10.0, 10.0)})
    recipe = Recipe(sizes={"batch": 37}, leaves=(item,), seed=99)
    found = shrink(spec, recipe, lambda r: fails(r.leaves[0], call_of(spec, r)))
    assert found.leaves == (left,)
    assert found.seed == 0
    if left.layout == "contiguous":
        assert found.sizes == {"batch": 1}


@pytest.mark.parametrize("threshold", [2, 33, 64])
def test_a_size_shrinks_to_the_smallest_that_fails(threshold):
    spec = one(dims={"batch": (1, 64)})
    recipe = plain_recipe(spec, "normal", {"batch": 64}, 3)
    found = shrink(spec, recipe, lambda r: r.sizes["batch"] >= threshold)
    assert found.sizes == {"batch": threshold}
    assert found.leaves[0].kind == "zeros"


@pytest.mark.parametrize("kind", ["example", "elements"])
def test_no_candidate_is_asked_twice_and_asking_ends(kind):
    spec = one(dims={"batch": (1, 4000)})
    item = LeafRecipe(kind=kind, data=[1.0] if kind == "elements" else None, edits=(Edit(1, 2.7),))
    asked = []

    def fails(recipe):
        asked.append(repr(recipe))
        return len(asked) % 3 == 0

    shrink(spec, Recipe(sizes={"batch": 4000}, leaves=(item,), seed=1), fails)
    assert len(asked) == len(set(asked))
    assert len(asked) <= MAX_TRIES + 1


# -- literals ----------------------------------------------------------------------------------------------------


def literal(*numbers):
    return LeafRecipe(kind="literal", data=Literal(torch.tensor(numbers)))


def shrunk(item, fails):
    """The only leaf after shrinking, and its numbers."""
    size = len(item.data.tensor)
    spec = spec_of(lambda x: x, torch.linspace(-2.5, 3.7, size), dims={"batch": [size]})
    recipe = Recipe(sizes={"batch": size}, leaves=(item,), seed=3)
    found = shrink(spec, recipe, lambda candidate: fails(call_of(spec, candidate)))
    assert found.leaves[0].kind == "literal"
    return call_of(spec, found).tolist()


def test_parts_of_a_literal_that_do_not_matter_become_zero():
    last = literal(42.42).data.tensor[0]
    numbers = shrunk(literal(*[1.5] * 7, 42.42), lambda x: bool(x[-1] == last) and x[0] != x[-1])
    assert numbers[:-1] == [0] * 7


def test_a_literal_becomes_round_where_it_may():
    numbers = shrunk(
        literal(12.3456, -6.9876, 3.14159),
        lambda x: bool(x[0] > 11 and x[1] < -6 and 2 < x[2] < 4),
    )
    assert numbers == [12, -7, 3]


def test_the_sizes_of_a_literal_shrink_with_the_call():
    """And the search for simpler numbers ends, although what lies beyond the size is free."""
    spec = spec_of(lambda x: x, torch.randn(4, 3), dims={"batch": (1, 8)})
    recipe = with_leaves(
        plain_recipe(spec, "normal", {"batch": 8}, 0), {0: torch.full((8, 3), 7.5)}
    )

    def fails(candidate):
        call = build(spec, candidate)
        return call is not None and bool((call.args[0] == 7.5).all())

    found = shrink(spec, recipe, fails)
    assert found.sizes == {"batch": 1}
    assert found.leaves[0].data.tensor.shape == (1, 3)


# -- special values ----------------------------------------------------------------------------------


def shrunk_special(fails, item, **options):
    spec = spec_of(lambda x: x, torch.randn(4, 3), **options)

    def still(recipe):
        return fails(build(spec, recipe).args[0])

    made = (Recipe(sizes={"batch": 4}, leaves=(item,), seed=seed) for seed in range(50))
    recipe = next(filter(still, made))
    return spec, shrink(spec, recipe, still)


def test_a_value_that_matters_shrinks_to_one_element():
    item = LeafRecipe(kind=SPECIAL, scale=3.0)
    _, found = shrunk_special(lambda x: bool(x.isnan().any()), item, values={"x": "edges"})
    assert repr(found.leaves[0]) == repr(LeafRecipe(kind="zeros", edits=(Edit(0, math.nan),)))
    item = LeafRecipe(kind="normal", edits=(Edit(7, -math.inf, "all"),))
    _, found = shrunk_special(lambda x: bool(x.isinf().any()), item, values={"x": "inf"})
    assert found.leaves[0] == LeafRecipe(kind="zeros", edits=(Edit(0, -math.inf),))


def test_values_that_matter_together_become_numbers_to_read():
    spec, found = shrunk_special(
        lambda x: bool(x.isnan().any() and (x == math.inf).any()),
        LeafRecipe(kind=SPECIAL),
        values={"x": "edges"},
    )
    numbers = build(spec, found).args[0]
    assert found.leaves[0].kind == "literal"
    assert isinstance(found.leaves[0].data, Literal)
    assert int((numbers == 0).sum()) >= numbers.numel() // 2
