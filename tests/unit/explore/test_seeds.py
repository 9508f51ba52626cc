"""explore/seeds.py: diverse calls, all of them legal."""

# ruff: noqa: ARG005  # the parameters are what a spec reads of a function

from __future__ import annotations

import math

import pytest
import torch
from specs import spec_of
from specs_of_leaves import CONSTANTS, SPEC, legal_leaves

from pytest_torchexport.explore import seeds
from pytest_torchexport.inputs.building import build_leaves


def made_of(spec, constants=CONSTANTS, seed=0):
    return [
        *seeds.plain(spec, constants, seed),
        *seeds.odd(spec, constants, seed),
    ]


def test_seeds_are_legal_and_the_same_for_a_seed():
    first = made_of(SPEC)
    for recipe in first:
        legal_leaves(SPEC, recipe)
    assert first == made_of(SPEC)


def test_seeds_hold_every_listed_value_the_ends_of_ranges_and_of_dims():
    made = made_of(SPEC)
    values = {6: set(), 7: set(), 8: set(), 9: set()}
    for recipe in made:
        for index, leaf in enumerate(build_leaves(SPEC, recipe)):
            if index in values:
                values[index].add(leaf)
    assert values[6] >= {1, 6}
    assert values[7] >= {-1.0, 1.0}
    assert values[8] == {"a", "b"}
    assert values[9] == {True, False}
    for name, sizes in {"b": {1, 4}, "w": {3, 12}, "t": {1, 5}}.items():
        assert sizes <= {recipe.sizes.get(name, SPEC.dims[name].example) for recipe in made}


def test_seeds_set_two_arguments_at_a_time():
    pairs = {tuple(build_leaves(SPEC, recipe)[8:10]) for recipe in made_of(SPEC)}
    assert ("b", True) in pairs


def test_seeds_hold_the_constants_of_the_code_where_they_are_legal():
    made = [build_leaves(SPEC, recipe) for recipe in made_of(SPEC)]
    assert any(bool((leaves[0] == 3.5).all()) for leaves in made)
    assert any(bool((leaves[1] == 40).all()) for leaves in made)
    assert not any(bool((leaves[1] == 512).any()) for leaves in made)


def test_sizes_beside_the_constants_of_the_code_are_tried():
    spec = spec_of(lambda x: x, torch.randn(2, 8), shapes={"x": "2 t"}, dims={"t": (1, 1000)})
    tried = {recipe.sizes.get("t", 8) for recipe in made_of(spec, (512.0, 3.5))}
    assert {1, 2, 7, 9, 511, 512, 513, 1000} <= tried


def test_inputs_of_one_shape_are_tied():
    spec = spec_of(lambda x, y: x, torch.randn(2, 3), torch.randn(2, 3))
    made = [build_leaves(spec, recipe) for recipe in made_of(spec)]
    assert any(torch.equal(x, y) and x.unique().numel() > 1 for x, y in made)
    assert any(torch.equal(x, -y) and x.unique().numel() > 1 for x, y in made)


RELATIONS = {
    "product": (35, lambda b, t: b * t == 35),
    "sum": (31, lambda b, t: b + t == 31),
    "difference": (13, lambda b, t: abs(b - t) == 13),
    "multiple": (143, lambda b, t: b * t % 143 == 0),
    "number of elements": (3 * 7 * 11, lambda b, t: 3 * b * t == 3 * 7 * 11),
}


@pytest.mark.parametrize("name", RELATIONS)
def test_two_sizes_are_tried_that_have_a_constant_of_the_code_together(name):
    number, holds = RELATIONS[name]
    dims = {"b": (1, 16), "t": (1, 16)}
    spec = spec_of(lambda x: x, torch.randn(3, 4, 3), shapes={"x": "b t 3"}, dims=dims)
    made = list(seeds.sized_together(spec, (2.5, number), 0))
    assert any(holds(**recipe.sizes) for recipe in made)
    assert all(recipe.sizes[name] in spec.dims[name].sizes for recipe in made for name in dims)


def test_numbers_that_no_sizes_can_have_are_left_out():
    spec = spec_of(lambda x: x, torch.randn(3, 4, 16), shapes={"x": "b t 16"})
    assert list(seeds.sized_together(spec, (math.inf, -math.inf, math.nan, 0.0), 0)) == []
    # Four elements are no sixteenth of anything.
    assert all(recipe.sizes for recipe in seeds.sized_together(spec, (4.0,), 0))
