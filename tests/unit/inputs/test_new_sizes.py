"""inputs/new_sizes.py: drawn calls take sizes that were not run, and a refused size twice at most."""

# ruff: noqa: ARG005  # the parameters are what a spec reads of a function

from __future__ import annotations

from collections import defaultdict

import pytest
import torch
from specs import spec_of

from pytest_torchexport.inputs.drawing import for_each
from pytest_torchexport.inputs.new_sizes import NewSizes, has_varied_values
from pytest_torchexport.inputs.recipes import LeafRecipe, Recipe, example_recipe, plain_recipe
from pytest_torchexport.inputs.strategies import DRAWN_CAP, drawn_sizes, recipes


def spec_with(columns=8, **dims):
    return spec_of(
        lambda x: x, torch.randn(3, columns), shapes={"x": "b t"}, dims={"b": (1, 6), **dims}
    )


def new_sizes(spec, **met):
    return NewSizes(spec, drawn_sizes(spec), met)


def instead(new, **sizes):
    return new.instead_of(Recipe(sizes=sizes, leaves=(LeafRecipe(kind="ramp"),), seed=0)).sizes


def run(spec, most=50, seed=0, takes=lambda sizes: True):
    """Draw calls as the check parity does; return the sizes of each, and those met by dim."""
    met, tried = defaultdict(set), []
    new = NewSizes(spec, drawn_sizes(spec), met)

    def drawn(recipe):
        tried.append(dict(recipe.sizes))
        if not takes(recipe.sizes):
            new.refused(recipe.sizes)
        elif has_varied_values(spec, recipe):
            for name, size in recipe.sizes.items():
                met[name].add(size)

    for_each(recipes(spec, (), new.instead_of), drawn, seed=seed, most=most)
    return tried, met


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_each_size_of_a_small_range_is_run_with_varied_values(seed):
    spec = spec_with(t=(4, 23))
    _, met = run(spec, seed=seed)
    assert met == {"b": set(range(1, 7)), "t": set(range(4, 24))}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("sizes", "beside"),
    [((4, 1000), {5, 6, 999}), (range(8, 801, 8), {16, 24, 792}), ((0, 99), {1, 2, 98})],
    ids=["a range", "steps", "from 0"],
)
def test_the_sizes_beside_the_ends_of_a_large_range_are_run_first(sizes, beside, seed):
    _, met = run(spec_with(t=sizes), most=12, seed=seed)
    assert beside <= met["t"]


def test_the_sizes_beside_the_ends_of_a_small_range_come_before_the_others():
    new = new_sizes(spec_with(t=(1, 20)), t=[2])
    assert instead(new, b=1, t=12)["t"] == 19
    assert instead(new, b=1, t=4)["t"] == 3


def test_the_new_size_is_the_nearest_to_the_one_that_was_drawn():
    new = new_sizes(spec_with(t=(1, 20)), t=[2, 3, 19, 10, 9])
    assert instead(new, b=1, t=10)["t"] == 11
    assert instead(new, b=1, t=16)["t"] == 16


def test_new_sizes_of_several_dims_share_a_call():
    new = new_sizes(spec_with(t=(1, 4)))
    assert instead(new, b=2, t=2) == {"b": 2, "t": 2}
    assert instead(new, b=6, t=1) == {"b": 5, "t": 2}


def test_sizes_stay_as_drawn_if_none_is_left():
    spec = spec_with(t=(1, 1000))
    new = new_sizes(spec, b=range(1, 7), t=[2, 3, 999])
    assert instead(new, b=4, t=500) == {"b": 4, "t": 500}


def test_a_call_without_new_sizes_stays_as_drawn():
    spec = spec_with(t=[2, 8])
    new = new_sizes(spec, b=range(1, 7), t=[2, 8])
    zeros = plain_recipe(spec, "zeros", {"b": 4, "t": 2}, 0)
    assert new.instead_of(zeros) is zeros
    without = spec_of(lambda n: n, 3)
    assert new_sizes(without).instead_of(example_recipe(without)) == example_recipe(without)


def test_a_call_at_a_new_size_gets_varied_values_unless_it_has_some():
    spec = spec_of(lambda x, y: x, torch.randn(3), torch.randn(3), shapes={"x": "b", "y": "b"})
    new = new_sizes(spec)

    def kinds(*given):
        drawn = plain_recipe(spec, given, {"b": 2}, 0)
        return [item.kind for item in new.instead_of(drawn).leaves]

    assert kinds("zeros", "flat") == ["normal", "normal"]
    assert kinds("zeros", "ladder") == ["zeros", "ladder"]


def test_a_refused_size_is_tried_once_more_beside_the_examples_and_then_no_more():
    new = new_sizes(spec_with(t=(1, 1000)), t=[2, 3], b=range(1, 6))
    assert instead(new, b=1, t=7) == {"b": 6, "t": 999}
    new.refused({"b": 6, "t": 999})
    assert instead(new, b=1, t=7) == {"b": 6, "t": 8}
    new.refused({"b": 6, "t": 8})
    assert instead(new, b=1, t=7) == {"b": 3, "t": 999}
    new.refused({"b": 3, "t": 999})
    assert instead(new, b=1, t=7) == {"b": 1, "t": 7}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_size_that_is_refused_beside_some_sizes_of_another_dim_is_run(seed):
    spec = spec_with(t=(1, 12))
    _, met = run(spec, seed=seed, takes=lambda sizes: sizes["b"] <= sizes["t"] != 7)
    assert met["b"] == set(range(1, 7))
    assert set(range(3, 13)) - {7} <= met["t"]


def test_no_size_is_taken_that_is_too_large_to_be_drawn():
    spec = spec_of(lambda x: x, torch.zeros(1, 3), shapes={"x": "b 3"}, dims={"b": [1, 2, 2**40]})
    tried, _ = run(spec, most=10)
    assert max(sizes["b"] for sizes in tried) <= DRAWN_CAP


def test_the_same_seed_leads_to_the_same_calls():
    spec = spec_with(t=(1, 30))
    assert run(spec, seed=5)[0] == run(spec, seed=5)[0]
    assert run(spec, seed=5)[0] != run(spec, seed=6)[0]


@pytest.mark.parametrize(
    ("kind", "varied"),
    [
        ("zeros", False),
        ("flat", False),
        ("sparse", False),
        ("normal", True),
        ("example", True),
    ],
)
def test_constant_tensors_do_not_show_a_size(kind, varied):
    spec = spec_with()
    assert has_varied_values(spec, plain_recipe(spec, kind, {}, 0)) is varied


def test_one_tensor_that_varies_is_enough():
    spec = spec_of(lambda x, y: x, torch.randn(3), torch.randn(3))
    assert has_varied_values(spec, plain_recipe(spec, ("zeros", "normal"), {}, 0))
