"""judge/judge.py: which failure stands for differences, and how state is compared."""

from __future__ import annotations

import pytest

from pytest_torchexport.eager.fingerprint import StateRef
from pytest_torchexport.judge.judge import (
    failure_of,
    input_after_the_call,
    written_at,
)
from pytest_torchexport.outcomes.messages import is_guard
from pytest_torchexport.results.failures import (
    ArtifactRaised,
    DimsNarrowed,
    StateDiffers,
)
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.results.verdict import Difference


@pytest.mark.parametrize(
    ("text", "guard"),
    [
        ("AssertionError: Guard failed: x.size()[0] == 4", True),
        ("AssertionError: Guard failed: -4 + x.size()[1] != 1", True),
        ("RuntimeError: Expected input at *args[0].shape[0] to be >= 2, but got 1", True),
        ("InvalidArgument: Got invalid dimensions for input: x for the following indices", True),
        ("AssertionError: Guard failed: k == 2", False),
        ("RuntimeError: shape '[2, 3]' is invalid for input of size 12", False),
    ],
)
def test_guards_on_sizes_are_told_from_other_exceptions(text, guard):
    assert is_guard(text) == guard
    raised = Difference(kind="raised", path="output", expected="a value", actual=text)
    assert type(failure_of([raised], {})) is (DimsNarrowed if guard else ArtifactRaised)


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
