"""results/not_covered.py: a few lines on what "ok" leaves out, for however many items."""

from __future__ import annotations

from pytest_torchexport.results.not_covered import not_covered_lines
from pytest_torchexport.results.verdict import ItemResult, Uncovered, Verdict


def item(name, *sizes, status="passed", dim="batch", **uncovered):
    verdict = Verdict(
        subject="Net",
        target="trace",
        device="cpu",
        status=status,
        reached={dim: sizes} if sizes else {},
        uncovered=Uncovered(**uncovered),
    )
    return ItemResult(f"t.py::{name}[trace-cpu]", status, (verdict,))


def lines(*results):
    return list(not_covered_lines(results))


def test_sizes_are_counted_over_items():
    some = [item(f"test_{n}", 1, 2, fixed_sizes=True) for n in range(60)]
    none = [item(f"test_{n}", 2, fixed_sizes=True) for n in "abcd"]
    rest = [item(f"test_r{n}", 1, 2) for n in range(6)]
    (line,) = lines(*some, *none, *rest)
    only, nothing = line.split("; ")
    assert (
        only == "not covered: only batch varied in 60 of 70 items: say which others do with shapes="
    )
    assert nothing.startswith("no size varied in 4 of 70 items (test_a, test_b, test_c, ...): ")


def test_the_range_that_most_items_have_is_named():
    few = [item(f"test_{n}", 1, 2, 8, open_dims=("batch",)) for n in range(3)]
    other = item("test_other", 1, 64, open_dims=("batch",))
    run = "not covered: batch was run at"
    assert lines(*few, other) == [
        f"{run} 1..8, the file takes any size in 3 items, 1 more with other sizes: say which with dims="
    ]
    assert lines(other) == [f"{run} 1..64, the file takes any size in 1 item: say which with dims="]
    modules = ItemResult(other.nodeid, "passed", other.verdicts * 3)
    assert lines(modules) == lines(other)


def test_values_and_tests_that_called_nothing():
    idle = ItemResult("t.py::test_idle[trace-cpu]", "passed", ())
    assert lines(item("test_a", 1, 2, same_scale=True), item("test_b", 1, 2), idle) == [
        "not covered: no float left the example's scale in 1 of 2 items: say which are legal with values=",
        "not covered: 1 item checked nothing (test_idle)",
    ]


def test_nothing_is_said_of_items_that_did_not_pass_or_of_what_was_declared():
    failed = item("test_a", 2, status="failed", fixed_sizes=True, same_scale=True)
    broken = ItemResult("t.py::test_broken[trace-cpu]", "failed", ())
    assert lines(failed, broken, item("test_b", 1, 2)) == []


def test_inputs_are_named_that_had_the_batch_of_the_others():
    only = lines(item("test_a", 1, 2, tied=("memory",)), item("test_b", 1, 2))
    text = "memory had the batch of the other inputs in 1 of 2 items, eager takes another one"
    assert only == [f"not covered: {text}: say if it has its own with shapes="]
