"""explore/pursuit.py: in which order moves are made, and from which call."""

from __future__ import annotations

import torch
from specs import spec_of

from pytest_torchexport.explore.pursuit import Base, Pursuit, World
from pytest_torchexport.inputs.recipes import example_recipe


def test_two_sizes_are_changed_to_where_the_distance_ends():
    spec = spec_of(
        lambda x: x,
        torch.randn(3, 4),
        shapes={"x": "b t"},
        dims={"b": (1, 20), "t": (1, 20)},
    )

    class Sizes(World):
        def near(self, recipe, goal):
            self.spent += 1
            return Base(recipe, float(abs(7 * recipe.sizes["b"] - 13 * recipe.sizes["t"])))

        def _probe(self, call, base, goal):
            return None

    world = Sizes(spec, 0, None)
    pursuit = Pursuit(world, None, world.near(example_recipe(spec), None))
    for _ in pursuit.make(["two sizes"]):
        if pursuit.base.far == 0:
            break
    assert pursuit.base.recipe.sizes == {"b": 13, "t": 7}
    assert world.spent < 100
