"""A spec with every kind of leaf, and what is legal of its calls."""

# ruff: noqa: ARG005  # the parameters are what a spec reads of a function

from __future__ import annotations

import torch
from hypothesis import strategies as st
from specs import spec_of, within

from pytest_torchexport.inputs.building import build_leaves
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
            assert tuple(value.shape) == leaf.at(spec.all_sizes(recipe.sizes))
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
