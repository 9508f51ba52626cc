"""judge/own_error.py: the cause of a difference, given eager's other runs of the call."""

from __future__ import annotations

import math

import pytest
import torch

from pytest_torchexport.judge.own_error import (
    ENOUGH,
    FAR,
    MULTIPLE,
    Seen,
    is_far_beyond,
    with_cause,
)
from pytest_torchexport.outcomes.compare import Tolerance, compare_values

EAGER = torch.tensor([1.0, 2.0, 3.0])
# Eager's error on each element.
OWN = 2.0**-10


def judged(wanted, found, *others, truth=None):
    (difference,) = compare_values(wanted, found, Tolerance(0.0, 0.0))
    return with_cause(difference, Seen(truth=truth, others=list(others)), wanted, found)


@pytest.mark.parametrize(("times", "cause"), [(MULTIPLE, "rounding"), (2 * MULTIPLE, "bug")])
def test_a_few_of_eagers_own_errors_are_rounding_and_more_are_a_bug(times, cause):
    found = judged(EAGER, EAGER + times * OWN, EAGER + OWN)
    assert (found.cause, found.own_error) == (cause, OWN)


def test_the_run_in_float64_counts_unless_it_computes_something_else():
    found = EAGER + 2 * OWN
    assert judged(EAGER, found, EAGER, truth=EAGER.double() + OWN).cause == "bug"
    assert judged(EAGER, found, EAGER + OWN / 8, truth=EAGER.double() + OWN).cause == "rounding"


def test_nothing_is_known_without_a_run():
    found = judged(EAGER, EAGER + OWN)
    assert (found.cause, found.own_error) == ("", None)


def test_an_integer_that_no_run_has_otherwise_is_a_bug():
    two, three = torch.tensor([2, 5]), torch.tensor([3, 5])
    assert judged(two, three, three).cause == "tie"
    assert judged(two, three, two).cause == "bug"
    assert judged(two, torch.tensor([3, 6]), three).cause == "bug"


def test_an_error_as_large_as_the_output_decides_nothing():
    assert judged(EAGER, EAGER * 1.5, EAGER * 2).cause == "ambiguous"


def test_a_number_that_some_runs_do_not_have_decides_nothing():
    infinite = torch.tensor([1.0, 2.0, math.inf])
    assert judged(EAGER, infinite, infinite).cause == "ambiguous"
    assert judged(EAGER, infinite, EAGER).cause == "bug"


def beyond(found, *others):
    (difference,) = compare_values(EAGER, found, Tolerance(0.0, 0.0))
    return is_far_beyond(difference, Seen(others=list(others)), EAGER, found)


def test_no_further_run_explains_what_is_far_beyond_the_error_of_enough_runs():
    runs = [EAGER + OWN] * ENOUGH
    assert beyond(EAGER + 2 * FAR * OWN, *runs)
    assert not beyond(EAGER + FAR / 2 * OWN, *runs)
    assert not beyond(EAGER + 2 * FAR * OWN, *runs[1:])  # too few
    assert not beyond(EAGER + 2 * FAR * OWN, *runs[1:], EAGER + 99 * OWN)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_what_is_no_number_may_be_another_order_of_a_sum(value):
    runs = [EAGER] * ENOUGH
    assert not beyond(torch.tensor([1.0, 2.0, value]), *runs)
    assert not beyond(EAGER + 99.0, *runs[1:], torch.tensor([1.0, 2.0, value]))
