"""explore/seeds.py: diverse calls, all of them legal."""

from __future__ import annotations

import itertools
import math
from collections import deque

import pytest
import torch
from specs_of_leaves import CONSTANTS, SPEC, legal_leaves
from torch import nn

from pytest_torchexport.explore import seeds
from pytest_torchexport.explore.seeds import MAX_NUMEL, constants_of, lengths_of
from pytest_torchexport.inputs.building import build_leaves


def made_of(spec):
    more = seeds.plain(spec, CONSTANTS, 0), seeds.odd(spec, CONSTANTS, 0)
    return list(itertools.chain(seeds.first(spec, 0), *more))


def test_seeds_are_legal_and_the_same():
    first = made_of(SPEC)
    for recipe in first:
        legal_leaves(SPEC, recipe)
    assert first == made_of(SPEC)


def test_seeds_hold_listed_values_and_the_ends_of_dims():
    made = made_of(SPEC)
    assert {build_leaves(SPEC, recipe)[8] for recipe in made} == {"a", "b"}
    for name, sizes in {"b": {1, 4}, "w": {3, 12}, "t": {1, 5}}.items():
        assert sizes <= {recipe.sizes.get(name, SPEC.dims[name].example) for recipe in made}


def test_seeds_hold_the_constants_of_the_code_where_they_are_legal():
    made = [build_leaves(SPEC, recipe) for recipe in made_of(SPEC)]
    assert any(bool((leaves[0] == 3.5).all()) for leaves in made)
    assert any(bool((leaves[1] == 40).all()) for leaves in made)
    assert not any(bool((leaves[1] == 512).any()) for leaves in made)


class Config:
    def __init__(self, **values):
        vars(self).update(values)


class Holder(nn.Module):
    def __init__(self, **values):
        super().__init__()
        for name, value in values.items():
            setattr(self, name, value)


def test_what_every_code_holds_is_left_out():
    found = constants_of(
        [0, 1, -1, 2, True, False, 1.0, math.inf, math.nan, 2**60, 5j, b"5", 3], None
    )
    assert found == (3,)


@pytest.mark.parametrize(
    "value",
    [
        9.5,
        [9.5],
        {"a": {"b": (9.5, "c")}},
        Config(inner=Config(limit=9.5)),
        torch.tensor(9.5),
        torch.tensor([[9.5]], dtype=torch.float64),
        {9.5},
        {9.5: "c"},
        {("c", 9.5): None},
    ],
    ids=["number", "list", "dict", "config", "scalar", "matrix", "set", "key", "keys"],
)
def test_attributes_are_looked_into(value):
    assert constants_of([], Holder(value=value)) == (9.5,)
    assert constants_of([], nn.Sequential(nn.Identity(), Holder(value=value))) == (9.5,)


class OfClass(nn.Module):
    limits = (9.5, "n7")


def test_attributes_of_the_class_are_looked_into():
    assert constants_of([], OfClass()) == (9.5, 7)


def test_small_buffers_and_parameters_are_looked_into():
    module = Holder(scale=nn.Parameter(torch.tensor([4.5])))
    module.register_buffer("limit", torch.tensor(50256))
    module.register_buffer("table", torch.arange(3.0, MAX_NUMEL + 4))
    module.register_buffer("none", None)
    module.register_buffer("complex", torch.tensor(3 + 4j))
    assert constants_of([], module) == (4.5, 50256)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("n137", (137,)), ("137x3", (137, 3)), ("expected 4 dims, got 137", ()), ("1" * 12, ())],
)
def test_short_texts_are_keys_of_numbers(text, numbers):
    assert constants_of([text], None) == numbers
    assert constants_of([], Holder(table={text: 1.0})) == numbers


def test_lengths_are_those_of_the_users_containers_and_buffers():
    module = Holder(kinds=["a", "b"], last=deque(maxlen=16))
    module.register_buffer("ring", torch.zeros(15, 7))
    assert sorted(lengths_of(nn.Sequential(nn.BatchNorm1d(5), module))) == [2, 7, 15, 16]
