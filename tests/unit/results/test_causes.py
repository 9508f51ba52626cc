"""results/causes.py: failures of one mistake are one cause."""

from __future__ import annotations

import dataclasses

import pytest
from sample import SAMPLE, failed, item, known_and_fixed, verdict

from pytest_torchexport.results.causes import causes
from pytest_torchexport.results.diagnosis import Diagnosis, Known
from pytest_torchexport.results.entries import entries
from pytest_torchexport.results.source_line import SourceLine


def grouped(*items):
    return [[str(entry) for entry in cause.entries] for cause in causes(entries(items))]


def test_one_line_that_fails_several_items_is_one_cause_and_the_largest_comes_first():
    other = item("c", failed(line=40))
    assert grouped(other, item("a", failed()), item("b", failed("onnx"))) == [
        ["a[trace-cpu]", "b[onnx-cpu]"],
        ["c[trace-cpu]"],
    ]


def test_what_is_green_has_no_cause():
    assert grouped(item("a", verdict()), item("b", failed(), outcome="xfailed")) == []


def test_failures_of_which_nothing_is_known_are_grouped_only_if_they_say_the_same():
    unknown = {"where": None, "diagnosis": Diagnosis(), "failure": "OutputsDiffer", "reason": ""}
    items = [
        item(name, failed(subject=subject, **unknown))
        for name, subject in [("a", "Net"), ("b", "Net"), ("c", "Other")]
    ]
    assert grouped(*items) == [["a[trace-cpu]", "b[trace-cpu]"], ["c[trace-cpu]"]]


def test_a_known_defect_of_another_package_is_one_cause():
    known = Diagnosis(known=(Known(issue="https://example.org/1", text="wrong"),))
    lines = [failed(line=line, diagnosis=known) for line in (1, 2)]
    assert len(grouped(item("a", lines[0]), item("b", lines[1]))) == 1


def test_the_titles_of_failures_with_and_without_a_verdict():
    titles = [cause.title for cause in causes(entries(SAMPLE.items))]
    assert titles == [
        "BranchFrozen: if x.sum() > 0 (net.py:12)",
        "BranchFrozen: y (/usr/lib/x.py:3)",
        "no verdict: assert 2 == 3",
        "the process ended while the item ran",
    ]


@pytest.mark.parametrize("file", ["/usr/lib/x.py", "../x.py", "<string>", "C:\\x.py", ""])
def test_a_line_outside_the_directory_of_the_run_is_not_pointed_at(file):
    (cause,) = causes(entries([item("a", failed(where=SourceLine(file, 3, "y")))]))
    assert cause.where is None
    (cause,) = causes(entries([item("a", failed())]))
    assert cause.where == SourceLine("net.py", 12, "if x.sum() > 0:")


def test_what_one_change_fixes_is_one_cause():
    (cause,) = causes(entries([known_and_fixed("a"), known_and_fixed("b")]))
    assert cause.title.endswith("does not occur any more (and 1 more)")
    assert "remove the entries, or let them be removed: pytest --torchexport-known=tighten" in (
        cause.text
    )
    other = known_and_fixed("c")
    match = other.known[0]
    other = dataclasses.replace(
        other, known=(dataclasses.replace(match, now=dataclasses.replace(match.now, subject="B")),)
    )
    assert len(causes(entries([known_and_fixed("a"), other]))) == 2


def test_many_entries_that_are_fixed_are_not_all_listed():
    (cause,) = causes(entries([known_and_fixed(f"a{number}") for number in range(13)]))
    assert cause.text.count("known/a.toml") == 10
    assert "+ 3 more" in cause.text


def test_a_known_failure_that_is_fixed_says_what_to_do():
    (cause,) = causes(entries([known_and_fixed("a")]))
    assert cause.title == "Fixed: BranchFrozen of Net on trace-cpu does not occur any more"
    assert "--torchexport-known=tighten" in cause.text
