"""judge/doubts.py: differences within the table that are no rounding are found at the end."""

from __future__ import annotations

import torch

from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.calibrate import Calibration
from pytest_torchexport.judge.doubts import Doubts
from pytest_torchexport.judge.other_runs import OtherRuns
from pytest_torchexport.outcomes.compare import Tolerance, compare_values
from pytest_torchexport.outcomes.subject import Subject

X = torch.linspace(-1.0, 1.0, 50)


def doubted(eager, artifact, *inputs):
    """Return the doubts about an artifact that returned these values, on calls in a row."""
    doubts = Doubts()
    for x in inputs:
        left, right = eager(x), artifact(x)
        assert compare_values(left, right, Tolerance()) == [], "the table must pass first"
        doubts.saw(Call((x,)), {"output": left}, {"output": right})
    return list(doubts.judged(Calibration(OtherRuns(Subject.of(eager), 0))))


def shares(x):
    return (x * 3).softmax(0) * 1e-3


def test_half_precision_within_an_output_of_small_numbers_is_doubted():
    ((doubt, found),) = doubted(shares, lambda x: (x * 3).half().float().softmax(0) * 1e-3, X)
    assert doubt.units > 1000
    assert found.in_own_errors > 100
    assert found.max_abs < 1e-5


def test_eagers_own_error_is_not_doubted():
    def cancelling(x):
        return ((x + 1e4) - 1e4) * 1e-4

    assert doubted(cancelling, lambda x: x * 1e-4, X) == []
    assert doubted(shares, lambda x: shares(x) * (1 + 1e-6), X) == []


def test_the_largest_of_several_differences_is_judged():
    def off(x):
        return shares(x) * (1 + 1e-4 * float(x[0]))

    ((_, found),) = doubted(shares, off, X, X * 0.1, X * 2)
    assert found.max_rel > 1e-4 * 1.9


def test_an_output_that_is_small_on_one_call_is_measured_on_the_first_one():
    def tail(x):
        return torch.sigmoid(x) + 5e-8

    assert doubted(torch.sigmoid, tail, X, X - 17) == []
    assert len(doubted(torch.sigmoid, tail, X - 17)) == 1


def test_integers_and_tensors_of_other_shapes_are_left_to_the_comparison():
    doubts = Doubts()
    doubts.saw(Call(), {"a": torch.ones(2), "b": torch.ones(2)}, {"a": torch.zeros(3)})
    doubts.saw(Call(), {"a": torch.ones(2).long(), "b": 1.0}, {"a": torch.zeros(2).long(), "b": 2})
    assert list(doubts.judged(Calibration(OtherRuns(Subject.of(shares), 0)))) == []
