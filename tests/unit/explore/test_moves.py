"""explore/moves.py: from a call to others, all of them legal, that come nearer to an outcome."""

# ruff: noqa: ARG005  # the parameters are what a spec reads of a function

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from specs import spec_of
from specs_of_leaves import CONSTANTS, SPEC, legal_leaves

from pytest_torchexport.explore import moves
from pytest_torchexport.explore.probe import Gap, Probe
from pytest_torchexport.explore.provenance import NEGATED, Compared
from pytest_torchexport.explore.recorder import OPERATORS
from pytest_torchexport.inputs.building import build, build_leaves
from pytest_torchexport.inputs.recipes import example_recipe

# -- written -----------------------------------------------------------------------------------------------------

FREE = spec_of(
    lambda x, ids: x, torch.arange(6.0).reshape(2, 3) + 0.5, torch.tensor([[5, 9], [6, 7]])
)


def probe_of(origin, inputs=(None, None), missing=1.0, gradients=None, wanted=True):
    return Probe(
        missing=missing,
        demands=(Gap(missing, gradients or {}),),
        provenance=origin,
        wanted=wanted,
        inputs=tuple(inputs),
    )


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("sign", NEGATED)
def test_a_view_of_an_input_is_written_exactly_there(sign, wanted, mirrored):
    recipe = example_recipe(FREE)
    inputs = build_leaves(FREE, recipe)
    view = inputs[0].t()[1, 1]
    sides = (40.25, view) if mirrored else (view, 40.25)
    made = list(
        moves.written(FREE, recipe, probe_of(Compared(sign, *sides), inputs, wanted=wanted))
    )
    assert made
    outcomes = []
    for changed in made:
        x, ids = build_leaves(FREE, changed)
        there = x != inputs[0]
        assert there.sum() <= 1
        assert not there.sum() or there[1, 1]
        assert torch.equal(ids, inputs[1])
        operands = (40.25, x[1, 1]) if mirrored else (x[1, 1], 40.25)
        outcomes.append(bool(OPERATORS[sign](*operands)))
    assert all(outcome == wanted for outcome in outcomes)


@pytest.mark.parametrize(
    "origin",
    [
        None,
        Compared("==", "a", "b"),
        Compared(">", None, 1),
        Compared("<", 1, 10**400),
        Compared.of_truth(True),
    ],
)
def test_nothing_is_written_where_no_tensor_is_compared(origin):
    recipe = example_recipe(FREE)
    inputs = build_leaves(FREE, recipe)
    assert list(moves.written(FREE, recipe, probe_of(origin, inputs))) == []


# -- stepped -----------------------------------------------------------------------------------------------------


def test_a_step_stays_within_the_domain():
    x = torch.tensor([0.5, 0.75])
    spec = spec_of(lambda x: x, x, values={"x": (0.0, 2.0)})
    probe = probe_of(None, (x,), missing=50.0, gradients={0: torch.tensor([-1.0, 1.0])})
    made = moves.stepped(spec, example_recipe(spec), probe, 1.1)
    assert build(spec, made).args[0].tolist() == [2.0, 0.0]


def step(start, *wanted, kept=(), low=-100.0, high=100.0):
    """The step from a row of numbers; quantities are pairs of a gradient and a most."""
    start = torch.tensor(start, dtype=torch.float64)
    made = moves.smallest_step(
        start,
        torch.stack([torch.full_like(start, low), torch.full_like(start, high)]),
        torch.tensor([slope for slope, _ in (*wanted, *kept)], dtype=torch.float64),
        torch.tensor([most for _, most in (*wanted, *kept)], dtype=torch.float64),
        len(wanted),
    )
    return None if made is None else made.tolist()


def test_several_quantities_fall_together():
    # Along the first gradient alone, the second quantity would rise.
    moved = step([0.0, 0.0], ([1.0, 1.0], -2.0), ([-1.0, 0.5], -1.0))
    assert moved[0] + moved[1] <= -2.0 + 1e-5
    assert -moved[0] + 0.5 * moved[1] <= -1.0 + 1e-5


@pytest.mark.parametrize(("slope", "there"), [(-1.0, [0.0, -2.0]), (1.0, [-1.0, -1.0])])
def test_a_quantity_that_is_kept_may_fall_and_not_rise(slope, there):
    moved = step([0.0, 0.0], ([1.0, 1.0], -2.0), kept=[([slope, 0.0], 0.0)])
    assert moved == pytest.approx(there, abs=1e-5)


def test_the_other_numbers_go_on_where_one_is_at_the_end_of_its_range():
    assert step([0.5, 0.0], ([1.0, 1.0], -4.0), low=0.0, high=9.0) == pytest.approx([0.0, 0.0])
    moved = step([0.5, 9.0], ([1.0, 1.0], -4.0), low=0.0, high=9.0)
    assert moved == pytest.approx([0.0, 5.5])


def test_what_is_not_finite_stays_and_the_other_numbers_move():
    assert step([-math.inf, 2.0], ([1.0, 2.0], -4.0)) == [-math.inf, 0.0]
    assert step([-math.inf, 2.0], ([1.0, 0.0], -4.0)) is None


# -- neighbours --------------------------------------------------------------------------------------------------


def test_neighbours_step_dims_and_numbers_within_their_ranges():
    base = example_recipe(SPEC)
    ways = moves.neighbours(SPEC, base)
    reached = set()
    for way in ways:
        for steps in (-100, -2, -1, 1, 2, 100):
            made = way(steps)
            if made is not None:
                leaves = legal_leaves(SPEC, made)
                reached.add((*made.sizes.values(), leaves[6], leaves[7]))
    assert len(ways) == 5
    assert {(3, 3, 2, 3, 0.5), (2, 6, 2, 3, 0.5), (2, 3, 5, 3, 0.5), (2, 3, 2, 4, 0.5)} <= reached
    assert not any(way(100) for way in ways)


# -- mutated -----------------------------------------------------------------------------------------------------


@settings(
    max_examples=120,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(st.integers(0, 2**30))
def test_mutations_are_legal_and_leave_strategies_alone(seed):
    rng = random.Random(seed)
    recipe = example_recipe(SPEC)
    for _ in range(6):
        recipe = moves.mutated(SPEC, recipe, rng, CONSTANTS)
        legal_leaves(SPEC, recipe)
        assert recipe.leaves[4].kind == "example"
        assert recipe.leaves[10].kind == "example"
