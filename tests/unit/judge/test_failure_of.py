"""judge/failure_of.py: a guard on sizes is another failure than any other exception."""

from __future__ import annotations

import pytest

from pytest_torchexport.judge.failure_of import failure_class, failure_of
from pytest_torchexport.outcomes.messages import is_guard
from pytest_torchexport.results.failures import ArtifactRaised, DimsNarrowed, OutputsDiffer
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
    assert failure_class([raised]) is ArtifactRaised
    assert type(failure_of([raised], {})) is (DimsNarrowed if guard else ArtifactRaised)


def test_only_a_raise_can_be_a_guard():
    text = "Guard failed: x.size()[0] == 4"
    differs = Difference(kind="values", path="output", expected="1", actual=text)
    assert type(failure_of([differs], {})) is OutputsDiffer
