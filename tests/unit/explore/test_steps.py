"""explore/steps.py: the smallest step that lets quantities fall, within ranges."""

from __future__ import annotations

import math

import pytest
import torch
from pytest_torchexport.explore.steps import Quantity, stepped


def step(start, *wanted, kept=(), low=-100.0, high=100.0):
    """The step from a row of numbers; quantities are pairs of a gradient and a most."""
    made = stepped(
        {0: torch.tensor(start)},
        {0: (low, high)},
        [Quantity({0: torch.tensor(slope)}, most) for slope, most in wanted],
        [Quantity({0: torch.tensor(slope)}, most) for slope, most in kept],
    )
    return None if made is None else made[0].tolist()


def test_one_quantity_falls_along_its_gradient():
    assert step([1.0, 2.0], ([2.0, 0.0], -4.0)) == pytest.approx([-1.0, 2.0])


def test_several_quantities_fall_together():
    # Along the first gradient alone, the second quantity would rise.
    moved = step([0.0, 0.0], ([1.0, 1.0], -2.0), ([-1.0, 0.5], -1.0))
    assert moved[0] + moved[1] <= -2.0 + 1e-5
    assert -moved[0] + 0.5 * moved[1] <= -1.0 + 1e-5


def test_a_quantity_that_is_kept_may_fall_and_not_rise():
    assert step([0.0, 0.0], ([1.0, 1.0], -2.0), kept=[([-1.0, 0.0], 0.0)]) == pytest.approx(
        [0.0, -2.0], abs=1e-5
    )
    assert step([0.0, 0.0], ([1.0, 1.0], -2.0), kept=[([1.0, 0.0], 0.0)]) == pytest.approx(
        [-1.0, -1.0], abs=1e-5
    )


def test_what_is_kept_is_given_up_where_it_leaves_no_way():
    assert step([0.0], ([1.0], -2.0), kept=[([-1.0], 0.0)]) == pytest.approx([-2.0])


def test_the_other_numbers_go_on_where_one_is_at_the_end_of_its_range():
    assert step([0.5, 0.0], ([1.0, 1.0], -4.0), low=0.0, high=9.0) == pytest.approx([0.0, 0.0])
    moved = step([0.5, 9.0], ([1.0, 1.0], -4.0), low=0.0, high=9.0)
    assert moved == pytest.approx([0.0, 5.5])


def test_there_is_no_step_without_a_slope():
    assert step([0.0, 1.0], ([0.0, 0.0], -1.0)) is None


def test_what_is_not_finite_stays_and_the_other_numbers_move():
    assert step([-math.inf, 2.0], ([1.0, 2.0], -4.0)) == [-math.inf, 0.0]
    assert step([-math.inf, 2.0], ([1.0, 0.0], -4.0)) is None


def test_a_quantity_without_end_is_left_out():
    assert step([1.0], ([1.0], -2.0), ([1.0], -math.inf)) == pytest.approx([-1.0])
    assert step([1.0], ([1.0], -2.0), kept=[([-1.0], math.inf)]) == pytest.approx([-1.0])
    assert step([1.0], ([1.0], -math.inf)) is None
