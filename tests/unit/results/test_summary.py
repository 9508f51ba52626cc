"""results/summary.py: the table, the reasons, the self-test, and what "ok" leaves out."""

from __future__ import annotations

from pytest_torchexport.results.summary import NAME_TARGETS, not_covered_lines, summary_lines
from pytest_torchexport.results.verdict import ItemResult, SeededBug, Uncovered, Verdict


def verdict(target="trace", status="passed", device="cpu", **fields):
    return Verdict(subject="Net", target=target, device=device, status=status, **fields)


def result(nodeid, *verdicts, outcome=None):
    return ItemResult(nodeid, outcome or verdicts[0].status, verdicts)


def test_a_refusal_by_a_target_that_nobody_named_says_how_to_make_it_a_failure():
    refused = verdict(status="skipped", skip="refused", reason="script refused the module: x")
    assert NAME_TARGETS in summary_lines([result("t.py::a", refused)])
    # The kind decides, and not the words of the reason.
    other = verdict(status="skipped", skip="not judged", reason="it refused the module: x")
    assert NAME_TARGETS not in summary_lines([result("t.py::a", other)])


def lacking(*names, **fields):
    return verdict(status="failed", failure="LoadFailed", imports=names, **fields)


def imports(results, **settings):
    found = [line for line in summary_lines(results, **settings) if line.startswith("imports: ")]
    return found[0] if found else ""


def test_imports_that_several_items_lack_are_one_setting():
    one = result("t.py::a", lacking("lib.outputs", "lib.generic"))
    two = [one, result("t.py::b", lacking("ops"), lacking("lib.outputs", target="export"))]
    assert "2 items" in imports(two)
    assert imports(two, runtime_imports=["ops", "lib.outputs"]) == ""
    setting = "torchexport_runtime_imports ="
    assert imports(two).endswith(f"{setting} lib.generic lib.outputs ops")
    given = imports(two, runtime_imports=["zoo"], toml=True)
    assert given.endswith(f'{setting} ["zoo", "lib.generic", "lib.outputs", "ops"]')
    assert not imports([one])  # its report says it
    assert not imports([one, result("t.py::b", lacking("ops"), outcome="xfailed")])


def bug(kind, outcome, dim=""):
    return SeededBug(kind=kind, dim=dim, result=outcome, explanation="why")


def test_the_self_test_counts_what_applies_and_names_what_was_missed():
    bugs = (
        bug("frozen size", "missed", "batch"),
        bug("frozen size", "caught", "time"),
        bug("cast to half", "caught"),
        bug("swapped branch", "does not apply"),
    )
    lines = list(summary_lines([result("t.py::a", verdict(self_test=bugs))]))
    assert lines[2] == "self-test: 2 of 3 seeded bugs would be caught"
    assert lines[3:] == ["missed: t.py::a: frozen size of batch: why"]


# -- what "ok" does not cover ----------------------------------------------------------------------


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
