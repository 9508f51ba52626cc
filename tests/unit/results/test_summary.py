"""results/summary.py: the table, the reasons, the self-test, and what "ok" leaves out."""

from __future__ import annotations

from sample import item, verdict

from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.results.summary import not_covered_lines, reason_lines, summary_lines
from pytest_torchexport.results.verdict import ItemResult, SeededBug, Uncovered


def test_the_self_test_counts_what_applies_and_names_what_was_missed():
    bugs = tuple(
        SeededBug(kind=kind, dim=dim, result=result, explanation="why")
        for kind, result, dim in (
            ("frozen size", "missed", "batch"),
            ("frozen size", "caught", "time"),
            ("cast to half", "caught", ""),
            ("swapped branch", "does not apply", ""),
        )
    )
    lines = list(summary_lines([item("t.py::a", verdict(self_test=bugs))]))
    assert lines[2] == "self-test: 2 of 3 seeded bugs would be caught"
    assert lines[3:] == ["missed: t.py::a[trace-cpu]: frozen size of batch: why"]


# -- what "ok" does not cover ----------------------------------------------------------------------


def ran(name, *sizes, status="passed", **uncovered):
    """An item whose batch had these sizes."""
    reached = {"batch": sizes} if sizes else {}
    return item(
        f"t.py::{name}", verdict(status=status, reached=reached, uncovered=Uncovered(**uncovered))
    )


def lines(*results):
    return [line.removeprefix("not covered: ") for line in not_covered_lines(results)]


def test_sizes_are_counted_over_items():
    some = [ran(f"test_{n}", 1, 2, fixed_sizes=True) for n in range(60)]
    none = [ran(f"test_{n}", 2, fixed_sizes=True) for n in "abcd"]
    rest = [ran(f"test_r{n}", 1, 2) for n in range(6)]
    (line,) = lines(*some, *none, *rest)
    only, nothing = line.split("; ")
    assert only == "only batch varied in 60 of 70 items: say which others do with shapes="
    assert nothing.startswith(
        "no size varied in 4 of 70 items (test_a, test_b, test_c and 1 more): "
    )


def test_each_verdict_of_an_item_counts():
    """The last one of an item does not hide that no size of the first one varied."""
    varied = ran("test_a", 1, 2, fixed_sizes=True).verdicts[0]
    fixed = ran("test_a", 2, fixed_sizes=True).verdicts[0]
    for both in ((fixed, varied), (varied, fixed)):
        (line,) = lines(item("t.py::test_a", *both))
        assert line == (
            "only batch varied in 1 of 1 item: say which others do with shapes=; "
            "no size varied in 1 of 1 item (test_a): say which do with shapes="
        )


def test_what_was_not_covered_is_one_line_unless_all_of_it_is_asked_for():
    results = [
        ran("test_a", 1, 2, same_scale=True, fixed_sizes=True),
        ran("test_b", 1, 2, same_scale=True),
        ran("test_c", 1, 2),
    ]
    _, *rest = summary_lines(results)
    assert rest[-1] == "not covered: sizes or values in 2 of 3 items: which ones, with -v"
    assert [line for line in rest if "not covered" in line] == rest[-1:]
    half = SourceLine("net.py", 5, "n = int(x.shape[1] / 2)")
    traced = ran("test_d", 1, 2, same_scale=True, fixed_sizes=True, constants=(half,))
    *_, last = summary_lines([*results, traced])
    assert "in 3 of 4 items, and a trace has constants at net.py:5: which" in last
    assert [*summary_lines(results, whole=True)][-2:] == [*not_covered_lines(results)]
    (only,) = not_covered_lines(results[1:])
    assert [*summary_lines(results[1:])][-1] == only


def test_an_item_that_passes_with_a_warning_is_shown_as_such():
    weak = item("t.py::a", verdict(ineffective=("all outputs are constant",)))
    _, row, warned = summary_lines([weak])
    assert row.split() == ["t.py::a", "ok", "(warn)"]
    assert warned == "warn: t.py::a[trace-cpu]: all outputs are constant"
    failing = item("t.py::a", verdict(cautions=("odd",)), outcome="failed")
    assert [*summary_lines([failing])][1].split() == ["t.py::a", "FAILED"]


def test_the_range_that_most_items_have_is_named():
    few = [ran(f"test_{n}", 1, 2, 8, open_dims=("batch",)) for n in range(3)]
    other = ran("test_other", 1, 64, open_dims=("batch",))
    (line,) = lines(*few, other)
    assert line == (
        "batch was run at 1..8, the file takes any size in 3 items, 1 more with other sizes: "
        "say which with dims="
    )
    assert lines(ItemResult(other.nodeid, "passed", other.verdicts * 3)) == lines(other)


def test_values_tied_batches_and_tests_that_called_nothing():
    idle = item("t.py::test_idle", outcome="passed")
    results = [ran("test_a", 1, 2, same_scale=True, tied=("memory",)), ran("test_b", 1, 2), idle]
    found = [*lines(*results), *reason_lines(results)]
    assert found == [
        "memory had the batch of the other inputs in 1 of 2 items, eager takes another one: say if it has its own with shapes=",
        "no float left the example's scale in 1 of 2 items: say which are legal with values=",
        "warn: 1 item checked nothing (test_idle)",
    ]


def test_nothing_is_said_of_items_that_did_not_pass_or_of_what_was_declared():
    failed = ran("test_a", 2, status="failed", fixed_sizes=True, same_scale=True)
    assert lines(failed, item("t.py::test_broken"), ran("test_b", 1, 2)) == []
