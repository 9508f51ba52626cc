"""judge/other_runs.py: eager runs again on calls, as often as somebody looks."""

from __future__ import annotations

import pytest
import torch

from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.decisions import NOTHING_HELD
from pytest_torchexport.judge.other_runs import OtherRuns, leaves_after
from pytest_torchexport.outcomes.limits import TimeLimitExceeded
from pytest_torchexport.outcomes.observe import observe
from pytest_torchexport.outcomes.subject import Subject
from pytest_torchexport.results.failures import NotRepeatable

CALL = Call((torch.linspace(0.1, 1.0, 50),))
PATHS = ["output"]


def other_runs(function, *, stateful=False):
    subject = Subject.of(function)
    expected = leaves_after(observe(subject.function, CALL, seed=0), {})
    runs = OtherRuns(subject, 0, stateful=stateful, device="cpu", may_go_on=lambda: True)
    return runs, expected


def counted_runs():
    def function(x):
        calls.append(x)
        return (x + 1e4) - 1e4

    calls = []
    return calls, *other_runs(function)


def test_a_run_in_float64_and_some_that_round_differently():
    _, runs, expected = counted_runs()
    found = runs.of([CALL], PATHS, expected, NOTHING_HELD)
    assert found.repeats
    assert found.truth["output"].dtype == torch.float64
    others = [leaves["output"] for batch in found.batches() for leaves in batch]
    assert len(others) > 10
    assert any(not torch.equal(other, expected["output"]) for other in others)


def test_what_was_run_is_not_run_again_for_an_equal_call():
    calls, runs, expected = counted_runs()
    first = runs.of([CALL], PATHS, expected, NOTHING_HELD)
    list(first.batches())
    made = len(calls)
    equal = Call((CALL.args[0].clone(),))
    second = runs.of([equal], PATHS, dict(expected), NOTHING_HELD)
    list(second.batches())
    assert second is first
    assert len(calls) == made


@pytest.mark.parametrize("what", ["call", "path", "expected"])
def test_something_else_is_run_anew(what):
    calls, runs, expected = counted_runs()
    first = runs.of([CALL], PATHS, expected, NOTHING_HELD)
    made = len(calls)
    call = Call((CALL.args[0] * 2,)) if what == "call" else CALL
    paths = ["inputs[0][0]"] if what == "path" else PATHS
    if what == "expected":
        expected = {**expected, "output": expected["output"] + 1}
    assert runs.of([call], paths, expected, NOTHING_HELD) is not first
    assert len(calls) > made


def test_two_copies_that_differ_are_not_repeatable():
    numbers = iter(range(100))
    runs, expected = other_runs(lambda x: x + next(numbers))
    with pytest.raises(NotRepeatable, match="from equal state and seed, differ"):
        runs.of([CALL], PATHS, expected, NOTHING_HELD)


def test_runs_that_a_time_limit_has_cut_are_made_anew():
    def function(x):
        if late:
            late.pop()()
        return (x + 1e4) - 1e4

    def end():
        raise TimeLimitExceeded("no return within 1 s")

    late = []
    runs, expected = other_runs(function)
    cut = runs.of([CALL], PATHS, expected, NOTHING_HELD)
    late.append(end)
    with pytest.raises(TimeLimitExceeded):
        list(cut.batches())
    anew = runs.of([CALL], PATHS, expected, NOTHING_HELD)
    assert len(list(anew.batches())) > len(cut.made)
