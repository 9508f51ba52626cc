"""explore/seeds.py: diverse calls, all of them legal."""

# ruff: noqa: ARG005  # the parameters are what a spec reads of a function

from __future__ import annotations

import torch
from hypothesis import strategies as st
from specs import spec_of, within

from pytest_torchexport.explore import seeds
from pytest_torchexport.inputs.recipes import build_leaves
from pytest_torchexport.inputs.spec import TensorLeaf

SPEC = spec_of(
    lambda x, ids, mask, choice, own, z, n, f, name, flag, odd: x,
    torch.randn(2, 3),
    torch.tensor([[5, 9], [6, 7]]),
    torch.tensor([[True, False], [True, True]]),
    torch.tensor([0.5, 2.0]),
    torch.zeros(2),
    torch.zeros(2, dtype=torch.complex64),
    3,
    0.5,
    "a",
    False,
    object(),
    shapes={"x": "b w", "ids": "b t", "mask": "b t", "choice": "b", "own": "b", "z": "b"},
    dims={"b": (1, 4), "w": range(3, 13, 3), "t": [1, 2, 5]},
    values={
        "x": (-4.0, 8.0),
        "ids": (0, 50),
        "choice": [0.5, 2.0],
        "own": st.sampled_from([0.0, 1.0]),
        "n": (1, 6),
        "f": (-1.0, 1.0),
        "name": ["a", "b"],
        "flag": [False, True],
    },
)
CONSTANTS = (512.0, 7, 3.5, -2.25, 40)


def legal_leaves(spec, recipe):
    """The leaves of a recipe, which must be legal."""
    assert all(recipe.sizes.get(name, d.example) in d.sizes for name, d in spec.dims.items())
    leaves = build_leaves(spec, recipe)
    for leaf, value in zip(spec.leaves, leaves, strict=True):
        if isinstance(leaf, TensorLeaf):
            assert value.dtype == leaf.dtype
            if not leaf.dtype.is_complex and leaf.domain.elements is None:
                plain = value if value.is_floating_point() else value.to(torch.int64)
                assert within(plain, leaf.domain), (leaf.path, value)
            if leaf.domain.rows_keep and value.numel():
                assert value.any(-1).all()
        elif isinstance(leaf.values, list):
            assert value in leaf.values
        elif isinstance(leaf.values, tuple):
            assert leaf.values[0] <= value <= leaf.values[1]
            assert type(value) is type(leaf.example)
        else:
            assert type(value) is type(leaf.example)
    return leaves


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
