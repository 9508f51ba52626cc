"""judge/state_differences.py: the line that writes what differs."""

from __future__ import annotations

from pytest_torchexport.eager.state_ref import StateRef
from pytest_torchexport.judge.failure_of import failure_of
from pytest_torchexport.judge.state_differences import input_after_the_call, written_at
from pytest_torchexport.results.failures import StateDiffers
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.results.verdict import Difference

TOTAL, STEPS, X = (
    StateRef("buffer", "total"),
    StateRef("attribute", "steps"),
    StateRef("input", "x"),
)
LINES = {ref: SourceLine("net.py", number) for number, ref in enumerate((TOTAL, STEPS, X), start=1)}


def difference(path, kind="values"):
    return Difference(kind=kind, path=path, expected="0", actual="1")


def test_the_line_is_that_of_the_first_place_that_differs():
    assert written_at([difference("output"), difference("buffer total")], LINES) == LINES[TOTAL]
    written = difference(input_after_the_call("x"), "state")
    assert written_at([written], LINES) == LINES[X]
    failure = failure_of([written], LINES)
    assert (type(failure), failure.where) == (StateDiffers, LINES[X])


def test_outputs_that_differ_name_the_only_line_that_writes_the_modules_state():
    found = [difference("output")]
    assert written_at(found, {TOTAL: LINES[TOTAL], X: LINES[X]}) == LINES[TOTAL]
    assert written_at(found, LINES) is None
    assert written_at(found, {X: LINES[X]}) is None


def test_an_input_that_only_the_artifact_writes_has_no_line():
    written = difference(input_after_the_call("y"), "state")
    assert written_at([written], {TOTAL: LINES[TOTAL]}) is None
