"""results/entries.py: each verdict once, and items that failed without one."""

from __future__ import annotations

import pytest
from sample import SAMPLE, failed, item, recorded, run_of, verdict

from pytest_torchexport.results.entries import entries, without_variant


def outcomes(*items):
    return [(str(entry), entry.outcome, entry.fails) for entry in entries(items)]


def test_a_single_verdict_has_the_outcome_of_its_item():
    assert outcomes(item("a", failed(), outcome="xfailed")) == [("a[trace-cpu]", "xfailed", False)]
    assert outcomes(item("a", verdict(), outcome="failed")) == [("a[trace-cpu]", "failed", True)]


def test_one_of_several_verdicts_has_its_own_outcome():
    both = (verdict(recorded=recorded(1)), failed(recorded=recorded(2)))
    names = ["a[trace-cpu] Net (1st of 2)", "a[trace-cpu] Net (2nd of 2)"]
    assert outcomes(item("a", *both, outcome="failed")) == [
        (names[0], "passed", False),
        (names[1], "failed", True),
    ]
    assert outcomes(item("a", *both, outcome="xfailed"))[1] == (names[1], "xfailed", False)
    # The test expects the failure itself.
    assert outcomes(item("a", *both, outcome="passed"))[1] == (names[1], "passed", False)


def test_an_item_that_fails_beside_its_verdicts_is_an_entry_of_its_own():
    found = outcomes(
        item("a", verdict(recorded=recorded(1)), verdict(recorded=recorded(2)), outcome="failed")
    )
    assert found[2:] == [("a[trace-cpu]", "failed", True)]


def test_an_item_that_did_not_end_and_an_unknown_outcome_are_failures():
    assert [
        entry.fails
        for entry in entries([item("a", outcome="running"), item("b", outcome="exploded")])
    ] == [True, True]


def test_keys_are_unique_within_a_run():
    keys = [entry.key for entry in entries(run_of(*SAMPLE.items).items)]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    ("nodeid", "test"),
    [
        ("a.py::test[onnx-cuda1]", "a.py::test"),
        ("a.py::test[onnx-cuda1-x-2]", "a.py::test[x-2]"),
        ("a.py::test[x-onnx-cuda1]", "a.py::test[x]"),
        ("a.py::TestIt::test", "a.py::TestIt::test"),
    ],
)
def test_a_test_is_named_without_target_and_device(nodeid, test):
    assert without_variant(nodeid, "onnx-cuda:1") == test
