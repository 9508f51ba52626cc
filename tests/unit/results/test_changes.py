"""results/changes.py: failures of one mistake are one cause; what changed between two runs."""

from __future__ import annotations

import dataclasses

import pytest
from sample import RUN, failed, item, known_and_fixed, run_of, verdict

from pytest_torchexport.results.changes import causes, changes_of, counted, entry_of
from pytest_torchexport.results.diagnosis import Diagnosis, Known
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.results.verdict import ArtifactSize, KnownMatch, Latency, entries

PASSED, FAILED = item("a", verdict()), item("a", failed())
EXPECTED = item("a", failed(), outcome="xfailed")
SKIPPED = item("a", verdict(status="skipped", reason="no onnx"))
BODY, DIED = item("a", reason="assert False"), item("a", outcome="running")

# -- failures grouped by cause ---------------------------------------------------------------------


def grouped(*items):
    return [[str(entry) for entry in cause.entries] for cause in causes(entries(items))]


def test_one_line_that_fails_several_items_is_one_cause_and_the_largest_comes_first():
    other = item("c", failed(line=40))
    assert grouped(other, item("a", failed()), item("b", failed("onnx"))) == [
        ["a[trace-cpu]", "b[onnx-cpu]"],
        ["c[trace-cpu]"],
    ]


def test_a_known_defect_of_another_package_is_one_cause():
    known = Diagnosis(known=(Known(issue="https://example.org/1", text="wrong"),))
    lines = [failed(line=line, diagnosis=known) for line in (1, 2)]
    assert len(grouped(item("a", lines[0]), item("b", lines[1]))) == 1


def test_a_line_outside_the_directory_of_the_run_is_not_pointed_at():
    for file in ("/usr/lib/x.py", "../x.py", "<string>", "C:\\x.py", ""):
        (cause,) = causes(entries([item("a", failed(where=SourceLine(file, 3, "y")))]))
        assert cause.where is None
    (cause,) = causes(entries([item("a", failed())]))
    assert cause.where == SourceLine("net.py", 12, "if x.sum() > 0:")


def test_pipelines_that_fail_at_one_line_or_one_step_by_other_texts_are_other_causes():
    plain = {"diagnosis": Diagnosis(), "reason": "step postprocess"}
    left, right = (
        dataclasses.replace(failed().differences[0], path=path) for path in ("result[0]", "result")
    )
    differ = {**plain, "failure": "OutputsDiffer", "where": None}
    raises = {**plain, "failure": "PipelineFailed", "differences": ()}
    assert grouped(
        item("a", failed(**differ, differences=(left,))),
        item("b", failed(**differ, differences=(right,))),
        item("c", failed(**differ, differences=(right,))),
        item("d", failed(**raises)),
        item("e", failed(**{**raises, "reason": "assert 1 == 2"})),
    ) == [["b[trace-cpu]", "c[trace-cpu]"], ["a[trace-cpu]"], ["d[trace-cpu]"], ["e[trace-cpu]"]]


def test_what_one_change_fixes_is_one_cause():
    (cause,) = causes(entries([known_and_fixed("a"), known_and_fixed("b")]))
    assert cause.title.endswith("does not occur any more (and 1 more)")
    assert "remove the entries, or let them be removed: pytest --torchexport-known=tighten" in (
        cause.text
    )


# -- two runs compared -----------------------------------------------------------------------------


def lines(old, new):
    return [*map(str, changes_of(run_of(*new, before=run_of(*old))))]


def kinds(old, new):
    return [change.kind for change in changes_of(run_of(*new, before=run_of(*old)))]


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        ([EXPECTED], [FAILED], "new failure"),
        ([], [FAILED], "new failure"),
        ([PASSED], [BODY], "new failure"),
        ([BODY], [DIED], "other failure"),
        ([EXPECTED], [PASSED], "fixed"),
        ([BODY], [PASSED], "fixed"),
        ([FAILED], [EXPECTED], "now expected"),
        ([FAILED], [SKIPPED], "not checked"),
        ([PASSED], [], "gone"),
    ],
)
def test_each_change_has_its_kind(old, new, kind):
    assert kinds(old, new) == [kind]


def test_a_failure_that_is_not_accepted_any_more_is_no_new_one():
    now = entry_of(FAILED.verdicts[0], FAILED.nodeid)
    lapsed = KnownMatch("expired", now=now, known=now, why="it was accepted until 2026-01-01")
    (line,) = lines([EXPECTED], [dataclasses.replace(FAILED, known=(lapsed,))])
    assert line.startswith(
        "expired: a[trace-cpu]: Expired: BranchFrozen: if x.sum() > 0 (net.py:12)"
    )


def test_the_same_failure_with_other_numbers_is_no_change():
    moved = failed(line=70, seed=4, call="x=float32[7]", seconds={"export": 99.0})
    assert kinds([FAILED], [item("a", moved)]) == []


def test_another_failure_says_what_it_was():
    (line,) = lines([FAILED], [item("a", failed(failure="OutputsDiffer"))])
    assert line.startswith("other failure: a[trace-cpu]: OutputsDiffer: ")
    assert "; before: BranchFrozen: if x.sum() > 0 (net.py:12)" in line
    assert kinds([FAILED], [item("a", failed(where=SourceLine("net.py", 12, "if x.any():")))]) == [
        "other failure"
    ]


def test_two_equal_runs_have_no_change():
    assert changes_of(dataclasses.replace(RUN, before=RUN)) == []
    assert counted([]) == "no change"


def exported(seconds):
    return {"seconds": {"export": seconds}}


def saved(mebibytes):
    return {"size": ArtifactSize(files=int(mebibytes * 2**20), weights=1000)}


def timed(ratio, spread=0.05):
    found = Latency(sizes={"batch": 4}, eager=1e-3, artifact=ratio * 1e-3, ratio=ratio, low=ratio - spread, high=ratio + spread, pairs=30, slower=30)  # fmt: skip
    return {"latency": (found,)}


@pytest.mark.parametrize(
    ("before", "now", "change"),
    [
        (exported(1.0), exported(2.5), "slower export: a[trace-cpu]: 2.5 s, 1.0 s before"),
        (exported(1.0), exported(1.9), None),  # not twice
        (exported(0.1), exported(0.9), None),  # nine times, but nobody waits
        (saved(10), saved(11), "larger file: a[trace-cpu]: 11 MiB, 10 MiB before"),
        (saved(10), saved(10.4), None),
        (saved(0.001), saved(0.009), None),
        (timed(1.0), timed(1.5), "slower artifact: a[trace-cpu]: 1.5 times eager (1.45 to 1.55) at batch = 4, 1 times eager (0.95 to 1.05) before"),
        (timed(1.5), timed(1.0), None),
        (timed(1.0, 0.6), timed(1.5), None),  # within the noise
        (timed(1.0, 0.01), timed(1.05, 0.01), None),
        ({}, timed(9.0), None),
    ],
)  # fmt: skip
def test_what_costs_more_than_before_is_named(before, now, change):
    found = lines([item("a", verdict(**before))], [item("a", verdict(**now))])
    assert found == ([change] if change else [])


def test_the_items_of_a_test_that_is_gone_are_one_change():
    old = [item(f"a[{number}]", verdict(), outcome="passed") for number in range(2)]
    old += [item("a[0]", failed("onnx")), item("b", verdict())]
    assert lines(old, []) == [
        "gone: a[0][trace-cpu]: passed, failed before; and 2 more items of this test",
        "gone: b[trace-cpu]: passed before",
    ]


def test_of_two_modules_of_one_name_each_has_its_changes():
    both = item("a", verdict(), verdict(), outcome="passed")
    first, second = (
        item("a", failed(), verdict(), outcome="failed"),
        item("a", verdict(), failed(), outcome="failed"),
    )
    assert kinds([both], [first]) == kinds([both], [second]) == ["new failure"]
    assert kinds([first], [both]) == kinds([second], [both]) == ["fixed"]
    assert kinds([both], [both]) == []
