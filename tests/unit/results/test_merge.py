"""results/merge.py: shards become one run, and of two results of an item the right one counts."""

from __future__ import annotations

import dataclasses

import pytest
from sample import ENVIRONMENT, failed, item, run_of, verdict

from pytest_torchexport.results.merge import CannotMerge, Report, merged


def merge(*runs):
    return merged([Report(f"{number}.json", run) for number, run in enumerate(runs)])


def outcome(*items):
    results, _ = merge(*map(run_of, items))
    (only,) = results.items
    return only


def test_shards_become_one_run():
    first, second = run_of(item("a", verdict())), run_of(item("b", failed()))
    results, notes = merge(first, second)
    assert results == run_of(*first.items, *second.items)
    assert notes == []


PASSED, FAILED = item("a", verdict()), item("a", failed())
SKIPPED, BODY = item("a", outcome="skipped", reason="not today"), item("a", reason="assert False")
DIED = item("a", outcome="running")


@pytest.mark.parametrize(
    ("first", "second", "counts"),
    [
        (FAILED, PASSED, PASSED),  # run again
        (PASSED, FAILED, FAILED),
        (FAILED, SKIPPED, FAILED),  # a skip says less
        (PASSED, BODY, BODY),
        (DIED, PASSED, PASSED),
        (PASSED, DIED, PASSED),
        (DIED, SKIPPED, SKIPPED),
        (SKIPPED, BODY, BODY),
    ],
)
def test_of_two_results_of_an_item_the_last_that_says_something_counts(first, second, counts):
    assert outcome(first, second) == counts


def test_items_in_several_reports_are_named():
    runs = [run_of(*(item(f"t{number}", verdict()) for number in range(5)))] * 2
    _, (note,) = merge(*runs)
    assert note == (
        "5 items are in several reports, the last result counts: t0[trace-cpu], t1[trace-cpu], t2[trace-cpu], ..."
    )


def test_one_run_that_did_not_end_makes_the_whole_incomplete():
    results, (note,) = merge(
        run_of(item("a", verdict())), run_of(item("b", verdict()), complete=False)
    )
    assert not results.complete
    assert note == "1.json: the run did not come to its end"


def other_torch(*items):
    return dataclasses.replace(run_of(*items), environment=ENVIRONMENT | {"torch": "2.14.0"})


def test_versions_that_differ_are_shown_beside_each_other():
    results, (note,) = merge(run_of(item("a", verdict())), other_torch(item("b", verdict())))
    assert results.environment == {"python": "3.11.9", "torch": "2.13.0, 2.14.0"}
    assert note == "0.json and 1.json have different versions: torch 2.13.0 and 2.14.0"


def test_two_results_of_an_item_with_different_versions_are_refused():
    with pytest.raises(
        CannotMerge, match=r"a\[trace-cpu\] is in 0.json and in 1.json, .*torch 2.13.0 and 2.14.0"
    ):
        merge(run_of(FAILED), other_torch(PASSED))
