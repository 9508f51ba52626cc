"""explore/pursuit.py: in which order moves are made, and from which call."""

from __future__ import annotations

import math

import torch
from specs import spec_of

from pytest_torchexport.explore.pursuit import Base, Pursuit, World
from pytest_torchexport.inputs.recipes import example_recipe


class Sizes(World):
    """Where a function of the sizes tells how far a call is."""

    def __init__(self, spec, far):
        super().__init__(spec, 0, None)
        self._far = far

    def near(self, recipe, goal):
        self.spent += 1
        return Base(recipe, float(self._far(**recipe.sizes)))

    def _probe(self, call, base, goal):
        return None


def pursued(move, far, **dims):
    spec = spec_of(
        lambda x: x, torch.randn(*[4] * len(dims)), shapes={"x": " ".join(dims)}, dims=dims
    )
    world = Sizes(spec, far)
    pursuit = Pursuit(world, None, world.near(example_recipe(spec), None))
    for _ in pursuit.make([move]):
        if pursuit.base.far == 0:
            break
    return pursuit.base.recipe.sizes, world.spent


def test_a_size_is_changed_to_where_the_distance_ends():
    sizes, spent = pursued("size", lambda b: abs(b - 137), b=(1, 300))
    assert sizes == {"b": 137}
    assert spent < 50


def test_every_size_is_tried_where_no_distance_leads_to_it():
    def far(b, t):
        return 0.0 if (b, t) == (4, 29) else math.inf

    sizes, _ = pursued("every size", far, b=(1, 6), t=(1, 40))
    assert sizes == {"b": 4, "t": 29}


def test_two_sizes_are_changed_to_where_the_distance_ends():
    sizes, spent = pursued("two sizes", lambda b, t: abs(7 * b - 13 * t), b=(1, 20), t=(1, 20))
    assert sizes == {"b": 13, "t": 7}
    assert spent < 100
