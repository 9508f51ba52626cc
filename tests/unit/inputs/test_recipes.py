"""inputs/recipes.py: a recipe survives JSON, and prints on a line."""

# ruff: noqa: ARG005  # the parameters are what a spec reads of a function

from __future__ import annotations

import json
import math

import pytest
import torch
from specs import spec_of

from pytest_torchexport.inputs.building import build
from pytest_torchexport.inputs.recipes import (
    Edit,
    LeafRecipe,
    Literal,
    Recipe,
    describe_recipe,
    example_recipe,
)


def test_recipes_survive_json():
    edits = (Edit(3, 1.5), Edit(0, -math.inf), Edit(1, 2.0, "row"))
    recipe = Recipe(
        sizes={"a": 0, "b": 7},
        leaves=(
            LeafRecipe(kind="normal", scale=0.1, edits=edits, layout="strided"),
            LeafRecipe(kind="value", data=None),
            LeafRecipe(kind="value", data="nan"),
            LeafRecipe(kind="elements", data=[1.0, math.inf]),
            LeafRecipe(kind="recorded", data=1),
        ),
        seed=2**31,
    )
    assert Recipe.from_dict(json.loads(json.dumps(recipe.as_dict(), allow_nan=False))) == recipe


def test_a_recipe_prints_on_a_line():
    spec = spec_of(lambda x, y, n: x, torch.randn(2, 3), torch.randn(2), 5)
    recipe = Recipe(
        sizes={"batch": 4},
        leaves=(
            LeafRecipe(kind="zeros", edits=(Edit(3, 1.5),), layout="strided"),
            LeafRecipe(kind="normal", scale=0.1),
            LeafRecipe(kind="example"),
        ),
        seed=7,
    )
    text = describe_recipe(spec, recipe, build(spec, recipe))
    assert text == (
        "x=float32[4, 3] zeros with [1, 0]=1.5 strided, y=float32[4] normal x 0.1 (seed 7), n=5"
    )
    nothing = spec_of(lambda: None)
    empty = example_recipe(nothing)
    assert describe_recipe(nothing, empty, build(nothing, empty)) == "no arguments"


LITERALS = {
    "floats": torch.tensor([[1.5, math.nan], [-0.0, math.inf]]),
    "halves": torch.tensor([1.0, 65504.0]).half(),
    "a scalar": torch.tensor(2**60),
    "nothing": torch.empty(0, 3),
    "a view": torch.arange(12.0).reshape(3, 4).t()[1:],
    "differentiable": torch.tensor([1.0], requires_grad=True),
}


@pytest.mark.parametrize("name", LITERALS)
def test_a_literal_survives_json_bit_by_bit(name):
    tensor = LITERALS[name]
    again = Literal.from_dict(json.loads(json.dumps(Literal(tensor).as_dict())))
    assert again == Literal(tensor)
    assert hash(again) == hash(Literal(tensor))
    assert (again.tensor.dtype, again.tensor.shape) == (tensor.dtype, tensor.shape)
    same = [repr(value) for value in tensor.detach().flatten().tolist()]
    assert [repr(value) for value in again.tensor.flatten().tolist()] == same


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"dtype": "nothing", "shape": [0], "base64": ""},
        {"dtype": "float32", "shape": [1], "base64": "????"},
        {"dtype": "float32", "shape": [2], "base64": "AAAAAA=="},
    ],
)
def test_what_is_no_literal_is_a_value_error(data):
    with pytest.raises(ValueError):
        Literal.from_dict(data)
