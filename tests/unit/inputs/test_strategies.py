"""inputs/strategies.py: which calls are drawn, how many, and which are always run."""

# ruff: noqa: ARG005  # the parameters are what a spec reads of a function

from __future__ import annotations

from collections import defaultdict

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from specs import spec_of
from specs_of_leaves import SPEC, legal_leaves

from pytest_torchexport.config.options import Options
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.config.settings import Settings
from pytest_torchexport.inputs.building import build
from pytest_torchexport.inputs.drawing import for_each
from pytest_torchexport.inputs.recipes import (
    LeafRecipe,
    Recipe,
    plain_recipe,
    with_leaves,
)
from pytest_torchexport.inputs.strategies import (
    DRAWN_CAP,
    EXAMPLE_FACTOR,
    MEMORY_CAP,
    NewSizes,
    boundary_recipes,
    examples,
    has_varied_values,
    recipes,
    within_memory,
)


def draw(spec, *known):
    """The recipes that are drawn for a spec."""
    drawn = []
    for_each(recipes(spec, known), drawn.append, seed=0, most=120)
    return drawn


def test_drawn_recipes_are_always_within_the_spec():
    for recipe in draw(SPEC):
        legal_leaves(SPEC, recipe)


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


def test_the_boundary_moves_one_dim_at_a_time_and_then_all():
    dims = {"b": (1, 6), "t": (4, 32)}
    spec = spec_of(lambda x: x, torch.randn(3, 8), shapes={"x": "b t"}, dims=dims)
    sizes = {(r.sizes["b"], r.sizes["t"]) for r in boundary_recipes(spec, 0)}
    assert sizes == {(1, 8), (3, 8), (6, 8), (3, 4), (3, 32), (1, 4), (6, 32)}


@pytest.mark.parametrize("columns", [1, MEMORY_CAP])
def test_calls_beyond_the_memory_cap_are_not_made(columns):
    spec = spec_of(lambda x: x, torch.empty(2, 1).expand(2, columns), dims={"batch": (1, 2**30)})
    largest = max(MEMORY_CAP // columns, 2 * EXAMPLE_FACTOR)
    assert within_memory(spec, {"batch": largest})
    assert not within_memory(spec, {"batch": largest + 1})


@pytest.mark.parametrize("sizes", [(1, 2**60), range(1, 2**60, 2), [1, 2, 2**60]], ids=str)
def test_drawn_calls_are_smaller_than_those_of_the_boundary(sizes):
    spec = spec_of(lambda x: x, torch.zeros(1, 3), shapes={"x": "b 3"}, dims={"b": sizes})
    drawn = {recipe.sizes["b"] for recipe in draw(spec)}
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
    drawn = draw(spec, known)
    near = [recipe for recipe in drawn if recipe.leaves[0].kind == "literal"]
    assert known in near
    assert len({recipe.sizes["batch"] for recipe in near}) > 2
    assert any(recipe.leaves[0].edits for recipe in near)
    for recipe in near:
        assert recipe.leaves[0].data == known.leaves[0].data
        assert build(spec, recipe).args[1] == 77
    assert len(near) < len(drawn) - 5


def spec_with(**dims):
    dims = {"b": (1, 6), **dims}
    return spec_of(lambda x: x, torch.randn(3, 8), shapes={"x": "b t"}, dims=dims)


def instead(new, **sizes):
    return new.instead_of(Recipe(sizes=sizes, leaves=(LeafRecipe(kind="ramp"),), seed=0)).sizes


def test_each_size_of_a_small_range_is_run_with_varied_values():
    spec, met = spec_with(t=(4, 23)), defaultdict(set)

    def drawn(recipe):
        if has_varied_values(spec, recipe):
            for name, size in recipe.sizes.items():
                met[name].add(size)

    for_each(recipes(spec, (), NewSizes(spec, met).instead_of), drawn, seed=0, most=50)
    assert met == {"b": set(range(1, 7)), "t": set(range(4, 24))}


def test_a_call_at_a_new_size_gets_varied_values_unless_it_has_some():
    spec = spec_of(lambda x, y: x, torch.randn(3), torch.randn(3), shapes={"x": "b", "y": "b"})
    new = NewSizes(spec, {})

    def kinds(*given):
        drawn = plain_recipe(spec, given, {"b": 2}, 0)
        return [item.kind for item in new.instead_of(drawn).leaves]

    assert kinds("zeros", "flat") == ["normal", "normal"]
    assert kinds("zeros", "ladder") == ["zeros", "ladder"]


def test_a_refused_size_is_tried_once_more_beside_the_examples_and_then_no_more():
    new = NewSizes(spec_with(t=(1, 1000)), {"t": [2, 3], "b": range(1, 6)})
    assert instead(new, b=1, t=7) == {"b": 6, "t": 999}
    new.refused({"b": 6, "t": 999})
    assert instead(new, b=1, t=7) == {"b": 6, "t": 8}
    new.refused({"b": 6, "t": 8})
    assert instead(new, b=1, t=7) == {"b": 3, "t": 999}
    new.refused({"b": 3, "t": 999})
    assert instead(new, b=1, t=7) == {"b": 1, "t": 7}


@pytest.mark.parametrize(
    ("flag", "marker", "ini", "count"), [(3, 7, 9, 3), (None, 7, 9, 7), (None, None, None, 20)]
)
def test_the_flag_goes_before_the_marker_and_the_ini_file_before_the_profile(
    flag, marker, ini, count
):
    hypothesis.settings.register_profile("forty", max_examples=40)
    before = hypothesis.settings.get_current_profile_name()
    hypothesis.settings.load_profile("forty")
    try:
        plan = Plan(
            target="trace",
            device="cpu",
            max_examples=flag,
            options=Options(max_examples=marker),
            settings=Settings(max_examples=ini),
        )
        assert examples(plan) == count
    finally:
        hypothesis.settings.load_profile(before)
