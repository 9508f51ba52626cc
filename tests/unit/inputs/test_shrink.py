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
    example_recipe,
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


def test_what_fails_nowhere_else_stays():
    spec = one()
    recipe = Recipe(sizes={"batch": 3}, leaves=(BUSY,), seed=99)
    assert shrink(spec, recipe, lambda candidate: candidate == recipe) == recipe


@pytest.mark.parametrize("threshold", [2, 5, 17, 33, 64])
def test_a_size_shrinks_to_the_smallest_that_fails(threshold):
    spec = one(dims={"batch": (1, 64)})
    recipe = plain_recipe(spec, "normal", {"batch": 64}, 3)
    found = shrink(spec, recipe, lambda r: r.sizes["batch"] >= threshold)
    assert found.sizes == {"batch": threshold}
    assert found.leaves[0].kind == "zeros"


def test_sizes_from_a_list_and_a_stepped_range_stay_legal():
    spec = spec_of(
        lambda x: x,
        torch.randn(2, 32),
        shapes={"x": "b w"},
        dims={"b": [1, 2, 7, 9], "w": range(32, 257, 32)},
    )
    tried = []

    def fails(recipe):
        tried.append(recipe.sizes)
        return recipe.sizes["b"] > 2 and recipe.sizes["w"] > 64

    found = shrink(spec, plain_recipe(spec, "ones", {"b": 9, "w": 256}, 0), fails)
    assert found.sizes == {"b": 7, "w": 96}
    assert all(s["b"] in (1, 2, 7, 9) and s["w"] in range(32, 257, 32) for s in tried)


def test_a_huge_range_of_sizes_is_searched_by_halves():
    spec = one(dims={"batch": (1, 10**9)})
    found = shrink(
        spec, plain_recipe(spec, "zeros", {"batch": 10**6}, 0), lambda r: r.sizes["batch"] >= 1000
    )
    assert found.sizes["batch"] == 1000


def test_every_leaf_shrinks_on_its_own():
    spec = spec_of(lambda x, y, n: x, torch.randn(2), torch.randn(2), 1, values={"n": [1, 5]})
    recipe = Recipe(
        sizes={"batch": 4},
        leaves=(BUSY, LeafRecipe(kind="normal"), LeafRecipe(kind="value", data=5)),
        seed=3,
    )
    found = shrink(spec, recipe, lambda r: r.leaves[1].kind == "normal")
    assert [leaf.kind for leaf in found.leaves] == ["zeros", "normal", "example"]


def test_a_python_argument_that_matters_is_kept():
    spec = spec_of(lambda x, n: x, torch.randn(2), 1, values={"n": [1, 5]})
    recipe = Recipe(
        sizes={"batch": 4},
        leaves=(LeafRecipe(kind="normal"), LeafRecipe(kind="value", data=5)),
    )
    found = shrink(spec, recipe, lambda r: build(spec, r).args[1] == 5)
    assert found.leaves[1] == LeafRecipe(kind="value", data=5)
    assert found.sizes == {"batch": 1}


def test_elements_of_a_strategy_shrink_to_the_fill():
    from hypothesis import strategies as st

    spec = one(values={"x": st.floats(0, 1)})
    recipe = Recipe(sizes={"batch": 2}, leaves=(LeafRecipe(kind="elements", data=[0.1, 0.2, 0.9]),))
    found = shrink(spec, recipe, lambda r: True)
    assert found.leaves[0] == LeafRecipe(kind="elements", data=[0.9])


@pytest.mark.parametrize("kind", ["zeros", "example", "elements", "ramp"])
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


def test_candidates_are_always_buildable():
    spec = one(values={"x": [1.0, 2.0]})
    recipe = Recipe(
        sizes={"batch": 4}, leaves=(LeafRecipe(kind="sparse", edits=(Edit(3, 1),)),), seed=1
    )

    def fails(candidate):
        assert build(spec, candidate) is not None
        return bool((call_of(spec, candidate) == 2.0).any())

    found = shrink(spec, recipe, fails)
    assert bool((call_of(spec, found) == 2.0).any())


# -- literals ----------------------------------------------------------------------------------------------------


def literal(*numbers, dtype=torch.float32):
    return LeafRecipe(kind="literal", data=Literal(torch.tensor(numbers, dtype=dtype)))


def shrunk(item, fails, values=None, example=None):
    """The only leaf after shrinking, and its numbers."""
    size = len(item.data.tensor)
    example = torch.linspace(-2.5, 3.7, size) if example is None else example
    options = {"values": {"x": values}} if values else {}
    spec = spec_of(lambda x: x, example, dims={"batch": [size]}, **options)
    recipe = Recipe(sizes={"batch": size}, leaves=(item,), seed=3)
    found = shrink(spec, recipe, lambda candidate: fails(call_of(spec, candidate)))
    assert fails(call_of(spec, found))
    return found.leaves[0], call_of(spec, found).tolist()


def test_a_literal_whose_numbers_do_not_matter_becomes_zeros():
    item, numbers = shrunk(literal(3.25, -7.5, 0.125), lambda x: True)
    assert item.kind == "zeros"
    assert numbers == [0, 0, 0]


def test_parts_of_a_literal_that_do_not_matter_become_zero():
    item, numbers = shrunk(
        literal(*[1.5] * 7, 42.42),
        lambda x: bool(x[-1] == literal(42.42).data.tensor[0]) and x[0] != x[-1],
    )
    assert item.kind == "literal"
    assert numbers[:-1] == [0] * 7


def test_a_literal_becomes_round_where_it_may():
    item, numbers = shrunk(
        literal(12.3456, -6.9876, 3.14159),
        lambda x: bool(x[0] > 11 and x[1] < -6 and 2 < x[2] < 4),
    )
    assert numbers == [12, -7, 3]
    assert item.kind == "literal"


def test_numbers_of_a_literal_become_alike_where_they_may():
    item, numbers = shrunk(
        literal(5.0, 6.0, 7.0, dtype=torch.float32), lambda x: bool(x.min() >= 5)
    )
    assert numbers == [7, 7, 7]
    assert item.kind == "literal"


def test_a_literal_shrinks_to_what_is_legal():
    _, numbers = shrunk(
        literal(5, 6, 7, dtype=torch.int64),
        lambda x: bool(x.min() > 0),
        values=(2, 9),
        example=torch.tensor([2, 3, 4]),
    )
    assert all(2 <= value <= 9 for value in numbers)


def test_a_literal_of_a_mask_shrinks():
    _, numbers = shrunk(
        literal(*[True, False] * 4, dtype=torch.bool),
        lambda x: bool(x[0]),
        example=torch.ones(8, dtype=torch.bool),
    )
    assert numbers[0]
    assert sum(numbers) in (1, 8)


def test_an_empty_literal_shrinks():
    spec = spec_of(lambda x: x, torch.randn(2), dims={"batch": (0, 4)})
    recipe = with_leaves(
        Recipe(sizes={"batch": 0}, leaves=example_recipe(spec).leaves), {0: torch.empty(0)}
    )
    assert shrink(spec, recipe, lambda r: r.leaves[0].kind == "literal").leaves[0].data == Literal(
        torch.empty(0)
    )


@pytest.mark.parametrize("threshold", [0.5, 3.0, 100.0])
def test_a_shrunk_literal_is_still_on_its_side_of_a_threshold(threshold):
    _, numbers = shrunk(
        literal(threshold * 1.25, 0.3, -0.7), lambda x: bool(x.sum() > threshold * 0.5)
    )
    assert sum(numbers) > threshold * 0.5


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


def test_a_region_that_matters_as_a_whole_stays():
    item = LeafRecipe(kind="normal", edits=(Edit(0, -0.0, "all"), Edit(1, 2.0)))
    _, found = shrunk_special(lambda x: bool(x.signbit().all()), item, values={"x": "zero"})
    assert found.leaves[0].edits == (Edit(0, -0.0, "all"),)


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


def test_what_fails_without_the_region_loses_it():
    item = LeafRecipe(kind=SPECIAL)
    _, found = shrunk_special(lambda x: True, item, values={"x": "edges"})
    assert found.leaves[0] == LeafRecipe(kind="zeros")
