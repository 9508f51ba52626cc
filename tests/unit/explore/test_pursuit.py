"""explore/pursuit.py: in which order moves are made, and from which call."""

from __future__ import annotations

import pytest
import torch
from specs import spec_of

from pytest_torchexport.explore import moves
from pytest_torchexport.explore.probe import Gap, Probe
from pytest_torchexport.explore.pursuit import Base, Pursuit
from pytest_torchexport.inputs.recipes import Recipe, example_recipe

GOAL = (("condition", ""), True)


class Trials:
    """Calls with a number each, and how far each number is from the outcome."""

    def __init__(self, far):
        self.spec = None
        self.far = far
        self.probed = 0

    def near(self, recipe, goal):
        return self.base(recipe)

    def base(self, recipe):
        return Base(recipe, self.far[recipe.sizes["n"]], 0)

    def probe(self, base, goal):
        self.probed += 1
        gap = Gap(base.far, {0: torch.ones(1)})
        return Probe(
            missing=base.far,
            provenance=None,
            inputs=(),
            demands=(gap,),
        )


def call(number):
    return Recipe(sizes={"n": number}, leaves=())


@pytest.fixture
def one_by_one(monkeypatch):
    """A step leads to the call with the next number."""

    def stepped(spec, recipe, probe, *_):
        return call(recipe.sizes["n"] + 1)

    monkeypatch.setattr(moves, "stepped", stepped)
    monkeypatch.setattr(moves, "slopes", lambda *_: True)


def pursuit_on(far):
    trials = Trials(far)
    return Pursuit(trials, GOAL, trials.base(call(0))), trials


@pytest.mark.usefixtures("one_by_one")
def test_where_it_is_known_that_no_step_helps_nothing_is_probed():
    pursuit, trials = pursuit_on([1.5] * 9)
    for _ in pursuit.descend():
        pass
    before = trials.probed
    for _ in pursuit.descend():
        pass
    assert trials.probed == before


def test_two_sizes_are_changed_to_where_the_distance_ends():
    spec = spec_of(
        lambda x: x,
        torch.randn(3, 4),
        shapes={"x": "b t"},
        dims={"b": (1, 20), "t": (1, 20)},
    )

    class Sizes(Trials):
        def __init__(self):
            super().__init__({})
            self.spec, self.ran = spec, []

        def base(self, recipe):
            self.ran.append(recipe.sizes)
            far = abs(7 * recipe.sizes["b"] - 13 * recipe.sizes["t"])
            return Base(recipe, float(far), 0)

    trials = Sizes()
    start = trials.base(example_recipe(spec))
    pursuit = Pursuit(trials, GOAL, start)
    for _ in pursuit.two_sizes():
        if pursuit.base.far == 0:
            break
    assert pursuit.base.recipe.sizes == {"b": 13, "t": 7}
    assert len(trials.ran) < 100
