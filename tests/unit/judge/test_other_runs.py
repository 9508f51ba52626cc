"""judge/other_runs.py: eager runs again on calls."""

from __future__ import annotations

import pytest
import torch

from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.decisions import NOTHING_HELD
from pytest_torchexport.judge.other_runs import OtherRuns, leaves_after
from pytest_torchexport.outcomes.observe import observe
from pytest_torchexport.outcomes.subject import Subject
from pytest_torchexport.results.failures import NotRepeatable

CALL = Call((torch.linspace(0.1, 1.0, 50),))
PATHS = ["output"]


def other_runs(function):
    subject = Subject.of(function)
    expected = leaves_after(observe(subject.function, CALL, seed=0), {})
    runs = OtherRuns(subject, 0, stateful=False)
    return runs, expected


def test_two_copies_that_differ_are_not_repeatable():
    numbers = iter(range(100))
    runs, expected = other_runs(lambda x: x + next(numbers))
    with pytest.raises(NotRepeatable, match="from equal state and seed, differ"):
        next(runs.of([CALL], PATHS, expected, NOTHING_HELD))
