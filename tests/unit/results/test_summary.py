"""results/summary.py: the table, the reasons, the self-test, and what "ok" leaves out."""

from __future__ import annotations

from sample import item, verdict

from pytest_torchexport.results.summary import (
    NAME_TARGETS,
    not_covered_lines,
    slowest_lines,
    summary_lines,
)
from pytest_torchexport.results.text import SHORTER, details, longest_stage
from pytest_torchexport.results.verdict import ItemResult, SeededBug, Uncovered


def test_a_refusal_by_a_target_that_nobody_named_says_how_to_make_it_a_failure():
    refused = verdict(status="skipped", skip="refused", reason="script refused the module: x")
    assert NAME_TARGETS in summary_lines([item("t.py::a", refused)])
    # The kind decides, and not the words of the reason.
    other = verdict(status="skipped", skip="not judged", reason="it refused the module: x")
    assert NAME_TARGETS not in summary_lines([item("t.py::a", other)])


def lacking(name, *imports, target="trace", **fields):
    failed = verdict(target, "failed", failure="LoadFailed", imports=imports)
    return item(f"t.py::{name}", failed, **fields)


def imports(*results, **settings):
    found = [line for line in summary_lines(results, **settings) if line.startswith("imports: ")]
    return found[0] if found else ""


def test_imports_that_several_items_lack_are_one_setting():
    one = lacking("a", "lib.outputs", "lib.generic")
    two = [one, lacking("b", "ops"), lacking("b", "lib.outputs", target="export")]
    setting = "torchexport_runtime_imports ="
    assert "3 items" in imports(*two)
    assert imports(*two).endswith(f"{setting} lib.generic lib.outputs ops")
    given = imports(*two, runtime_imports=["zoo"], toml=True)
    assert given.endswith(f'{setting} ["zoo", "lib.generic", "lib.outputs", "ops"]')
    given = imports(*two, runtime_imports=["zoo"])
    assert given.endswith(f"{setting} zoo lib.generic lib.outputs ops")
    assert not imports(*two, runtime_imports=["ops", "lib.outputs"])
    assert not imports(one)  # its report says it
    assert not imports(one, lacking("b", "ops", outcome="xfailed"))


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
    found = lines(ran("test_a", 1, 2, same_scale=True, tied=("memory",)), ran("test_b", 1, 2), idle)
    assert found == [
        "memory had the batch of the other inputs in 1 of 2 items, eager takes another one: say if it has its own with shapes=",
        "no float left the example's scale in 1 of 2 items: say which are legal with values=",
        "1 item checked nothing (test_idle)",
    ]


def test_nothing_is_said_of_items_that_did_not_pass_or_of_what_was_declared():
    failed = ran("test_a", 2, status="failed", fixed_sizes=True, same_scale=True)
    assert lines(failed, item("t.py::test_broken"), ran("test_b", 1, 2)) == []


QUICK = verdict("trace", seconds={"eager": 0.5, "parity": 1.5})
SLOW = verdict("onnx", seconds={"eager": 1.0, "export": 30.1, "parity": 10.1})


def test_the_slowest_items_name_their_longest_stage_and_what_shortens_it():
    results = [item("t.py::a", QUICK), item("t.py::b", SLOW), item("t.py::c", verdict())]
    b, a = slowest_lines(results, 0)
    longest = f"41.2 s, of which 30.1 s export: shorter with {SHORTER['export']}"
    assert b == f"slowest: t.py::b[onnx-cpu] {longest}"
    assert a.startswith("slowest: t.py::a[trace-cpu] 2.0 s, of which 1.5 s parity: ")
    assert list(slowest_lines(results, 1)) == [b]
    assert not list(slowest_lines(results, None))


def test_a_stage_that_nothing_shortens_is_named_alone():
    found = verdict(seconds={"diagnosis": 8.0})
    assert longest_stage(found) == "8.0 s, of which 8.0 s diagnosis"


def test_the_details_of_a_slow_verdict_alone_say_what_shortens_it():
    (of_slow,), (of_quick,) = (
        [block.lines for block in details(each) if block.label == "time"] for each in (SLOW, QUICK)
    )
    assert of_slow == ["eager 1.00 s, export 30.10 s, parity 10.10 s", longest_stage(SLOW)]
    assert len(of_quick) == 1
