"""inputs/strategies.py: whatever is drawn is legal, and the boundary is always there."""

# ruff: noqa: ARG005  # the parameters are what a spec reads of a function

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from specs import spec_of, within

from pytest_torchexport.explore.seeds import odd, plain
from pytest_torchexport.inputs.building import build
from pytest_torchexport.inputs.recipes import (
    EXTENTS,
    Recipe,
    example_recipe,
    plain_recipe,
    with_leaves,
)
from pytest_torchexport.inputs.spec import TensorLeaf
from pytest_torchexport.inputs.strategies import (
    DRAWN_CAP,
    EXAMPLE_FACTOR,
    MEMORY_CAP,
    boundary_recipes,
    recipes,
    within_memory,
)

QUICK = settings(
    max_examples=120,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)

SPEC = spec_of(
    lambda image, ids, mask, unit, n, f, name, odd: image,
    torch.randn(2, 3, 4, 8),
    torch.tensor([[5, 9], [6, 7]]),
    torch.tensor([[True, False], [True, True]]),
    torch.rand(2, dtype=torch.float64),
    3,
    0.5,
    "a",
    torch.zeros(2, dtype=torch.uint8),
    shapes={"image": "b 3 h 2*h", "ids": "b t", "mask": "b t", "unit": "b", "odd": "b"},
    dims={"b": (0, 4), "h": range(4, 17, 4), "t": [1, 2, 5]},
    values={"n": (1.5, 6), "f": (-1, 1), "name": ["a", "b"], "odd": [3, 200]},
)


@QUICK
@given(recipes(SPEC))
def test_drawn_recipes_are_always_within_the_spec(recipe):
    for name, dim in SPEC.dims.items():
        assert recipe.sizes[name] in dim.sizes
    call = build(SPEC, recipe)
    leaves = dict(SPEC.flatten(call))
    assert leaves["image"].shape == (
        recipe.sizes["b"],
        3,
        recipe.sizes["h"],
        2 * recipe.sizes["h"],
    )
    for leaf in SPEC.leaves:
        value = leaves[leaf.path]
        if isinstance(leaf, TensorLeaf):
            assert value.dtype == leaf.dtype
            wide = value if value.is_floating_point() else value.to(torch.int64)
            assert within(wide, leaf.domain), (leaf.path, value)
    assert leaves["n"] in (2, 3, 4, 5, 6)
    assert -1 <= leaves["f"] <= 1
    assert isinstance(leaves["f"], float)
    assert leaves["name"] in ("a", "b")
    mask = leaves["mask"]
    assert bool(mask.any(-1).all())
    edits = [edit for leaf in recipe.leaves for edit in leaf.edits]
    assert {edit.extent for edit in edits} <= set(EXTENTS)


@QUICK
@given(recipes(SPEC))
def test_drawn_recipes_survive_json_and_make_the_same_call(recipe):
    again = Recipe.from_dict(json.loads(json.dumps(recipe.as_dict())))
    assert again == recipe
    first, second = build(SPEC, recipe), build(SPEC, again)
    for (_, left), (_, right) in zip(SPEC.flatten(first), SPEC.flatten(second), strict=True):
        same = torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right
        assert same


def test_a_strategy_of_the_users_own_gives_the_elements():
    spec = spec_of(lambda x: x, torch.zeros(2, 3), values={"x": st.sampled_from([0.5, 4.0])})

    @QUICK
    @given(recipes(spec))
    def drawn(recipe):
        assert set(build(spec, recipe).args[0].reshape(-1).tolist()) <= {0.5, 4.0}

    drawn()


def test_every_other_call_keeps_to_the_users_strategy_too():
    spec = spec_of(lambda x: x, torch.zeros(2, 3), values={"x": st.sampled_from([0.5, 4.0])})
    made = [*boundary_recipes(spec, 0), *plain(spec, (3.0,), 0), *odd(spec, (3.0,), 0)]
    made.append(with_leaves(made[0], {0: torch.full((2, 3), -0.29)}))
    for recipe in made:
        assert set(build(spec, recipe).args[0].reshape(-1).tolist()) <= {0.5, 4.0}, recipe


@pytest.mark.parametrize(
    "strategy",
    [st.floats(width=32), st.just(float("nan")), st.floats(0.25, 0.75), st.integers(2, 5)],
)
def test_a_strategy_gives_some_of_its_values_to_every_call(strategy):
    spec = spec_of(lambda x: x, torch.zeros(2, 3), values={"x": strategy})
    some = torch.tensor(spec.leaves[0].domain.choices, dtype=torch.float32)
    for recipe in boundary_recipes(spec, 0):
        numbers = build(spec, recipe).args[0].reshape(-1, 1)
        assert ((numbers == some) | (numbers.isnan() & some.isnan())).any(-1).all()


def test_a_strategy_for_a_python_argument_gives_the_argument():
    spec = spec_of(lambda n: n, 3, values={"n": st.integers(7, 9)})
    seen = set()

    @QUICK
    @given(recipes(spec))
    def drawn(recipe):
        seen.add(build(spec, recipe).args[0])

    drawn()
    assert seen == {7, 8, 9}


def test_drawing_reaches_kinds_layouts_and_sizes():
    spec = spec_of(lambda x: x, torch.randn(2, 3))
    kinds, layouts, sizes = Counter(), Counter(), Counter()

    @QUICK
    @given(recipes(spec))
    def drawn(recipe):
        kinds[recipe.leaves[0].kind] += 1
        layouts[recipe.leaves[0].layout] += 1
        sizes[recipe.sizes["batch"]] += 1

    drawn()
    assert len(kinds) >= 6
    assert set(layouts) == {"contiguous", "strided"}
    assert set(sizes) == {1, 2, 3, 4}


def test_a_call_without_arguments_has_a_strategy():
    spec = spec_of(lambda: None)
    seen = []

    @QUICK
    @given(recipes(spec))
    def drawn(recipe):
        seen.append(build(spec, recipe))

    drawn()
    assert seen


def boundary_sizes(spec):
    return [dict(recipe.sizes) for recipe in boundary_recipes(spec, 0)]


def test_the_boundary_moves_one_dim_at_a_time_and_then_all():
    spec = spec_of(
        lambda x: x,
        torch.randn(3, 8),
        shapes={"x": "b t"},
        dims={"b": (1, 6), "t": (4, 32)},
    )
    sizes = boundary_sizes(spec)
    for one in (1, 3, 6):
        assert {"b": one, "t": 8} in sizes
    for one in (4, 8, 32):
        assert {"b": 3, "t": one} in sizes
    assert {"b": 1, "t": 4} in sizes
    assert {"b": 6, "t": 32} in sizes
    mixed = [item for item in sizes if item["b"] != 3 and item["t"] != 8]
    assert mixed == [{"b": 1, "t": 4}, {"b": 6, "t": 32}]


def test_the_boundary_has_zero_and_one_where_they_are_legal():
    spec = spec_of(lambda x: x, torch.randn(3, 2), dims={"batch": (0, 6)})
    sizes = [item["batch"] for item in boundary_sizes(spec)]
    assert {0, 1, 3, 6} <= set(sizes)


def test_the_boundary_has_the_corners_of_the_values_at_the_examples_sizes():
    spec = spec_of(lambda x: x, torch.randn(3, 2), values={"x": (-2.0, 5.0)})
    made = [build(spec, recipe).args[0] for recipe in boundary_recipes(spec, 0)]
    at_example = [tensor for tensor in made if tensor.shape == (3, 2)]
    assert any(bool((tensor == 0).all()) for tensor in at_example)
    assert any(bool((tensor == -2).all()) for tensor in at_example)
    assert any(bool((tensor == 5).all()) for tensor in at_example)


def test_the_boundary_has_every_listed_value_of_a_python_argument():
    spec = spec_of(lambda x, n: x, torch.randn(3), 1, values={"n": [1, 2, 9]})
    assert {build(spec, recipe).args[1] for recipe in boundary_recipes(spec, 0)} == {1, 2, 9}


def test_the_boundary_has_both_ends_of_a_python_arguments_range():
    spec = spec_of(lambda x, n: x, torch.randn(3), 1, values={"n": (0, 4)})
    assert {0, 4} <= {build(spec, recipe).args[1] for recipe in boundary_recipes(spec, 0)}


def test_no_boundary_size_is_run_twice():
    spec = spec_of(lambda x: x, torch.randn(1, 2))
    plain = [
        tuple(recipe.sizes.items())
        for recipe in boundary_recipes(spec, 0)
        if recipe.leaves[0].kind == "normal"
    ]
    assert len(plain) == len(set(plain))


def test_a_spec_without_tensors_has_no_corners():
    assert list(boundary_recipes(spec_of(lambda n: n, 3), 0)) == []


@pytest.mark.parametrize("columns", [1, MEMORY_CAP])
def test_calls_beyond_the_memory_cap_are_not_made(columns):
    spec = spec_of(lambda x: x, torch.empty(2, 1).expand(2, columns), dims={"batch": (1, 2**30)})
    largest = max(MEMORY_CAP // columns, 2 * EXAMPLE_FACTOR)
    assert within_memory(spec, {"batch": largest})
    assert not within_memory(spec, {"batch": largest + 1})


@pytest.mark.parametrize("sizes", [(1, 2**60), range(1, 2**60, 2), [1, 2, 2**60]], ids=str)
def test_drawn_calls_are_smaller_than_those_of_the_boundary(sizes):
    spec = spec_of(lambda x: x, torch.zeros(1, 3), shapes={"x": "b 3"}, dims={"b": sizes})
    drawn = set()

    @QUICK
    @given(recipes(spec))
    def draw(recipe):
        drawn.add(recipe.sizes["b"])

    draw()
    assert len(drawn) > 1
    assert max(drawn) <= DRAWN_CAP // 3
    assert max(item.sizes["b"] for item in boundary_recipes(spec, 0)) > 2**60 - 2


def test_known_calls_are_drawn_too_as_they_are_and_varied():
    spec = spec_of(
        lambda x, n: x, torch.randn(2, 3), 4, dims={"batch": (1, 6)}, values={"n": (0, 99)}
    )
    known = with_leaves(
        plain_recipe(spec, "normal", {"batch": 5}, 11), {0: torch.full((5, 3), 1234.5), 1: 77}
    )
    near, exact, resized, others = Counter(), 0, set(), 0

    @QUICK
    @given(recipes(spec, [known]))
    def drawn(recipe):
        nonlocal exact, others
        x, n = build(spec, recipe).args
        assert recipe.sizes["batch"] in spec.dims["batch"].sizes
        if recipe.leaves[0].kind != "literal":
            others += 1
            return
        exact += recipe == known
        near[bool((x == 1234.5).any())] += 1
        resized.add(recipe.sizes["batch"])
        assert n == 77
        assert recipe.leaves[0].data == known.leaves[0].data

    drawn()
    assert near[True] > 5
    assert exact
    assert len(resized) > 2
    assert others > 5


def test_known_calls_are_varied_within_the_spec():
    base = example_recipe(SPEC)
    known = with_leaves(
        base,
        {
            1: torch.full_like(SPEC.leaves[1].example, 6),
            2: torch.zeros_like(SPEC.leaves[2].example),
            4: 6,
            7: torch.full_like(SPEC.leaves[7].example, 200),
        },
    )

    @QUICK
    @given(recipes(SPEC, [known]))
    def drawn(recipe):
        leaves = dict(SPEC.flatten(build(SPEC, recipe)))
        for leaf in SPEC.leaves:
            value = leaves[leaf.path]
            if isinstance(leaf, TensorLeaf):
                assert value.dtype == leaf.dtype
                assert within(
                    value if value.is_floating_point() else value.to(torch.int64), leaf.domain
                )
        assert bool(leaves["mask"].any(-1).all())
        assert leaves["n"] in range(2, 7)

    drawn()
