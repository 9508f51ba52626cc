"""results/summary.py: the table, the reasons, the self-test's table, what "ok" leaves out, and a survey."""

from __future__ import annotations

import pytest
from sample import failed as failing
from sample import verdict as made

from pytest_torchexport.results.summary import (
    NAME_TARGETS,
    Surveyed,
    not_covered_lines,
    summary_lines,
    survey_lines,
    table,
)
from pytest_torchexport.results.verdict import ItemResult, Recorded, SeededBug, Uncovered, Verdict


def verdict(target="trace", status="passed", device="cpu", **fields):
    return Verdict(subject="Net", target=target, device=device, status=status, **fields)


def result(nodeid, *verdicts, outcome=None):
    return ItemResult(nodeid, outcome or verdicts[0].status, verdicts)


def test_rows_are_tests_and_columns_are_variants():
    results = [
        result("t.py::test_a[trace-cpu-1]", verdict()),
        result("t.py::test_a[1-script-cuda1]", verdict("script", device="cuda:1")),
        result("t.py::test_b[trace-cpu]", verdict(status="failed"), outcome="xfailed"),
    ]
    assert table(results) == (
        {
            "t.py::test_a[1]": {"trace-cpu": "passed", "script-cuda:1": "passed"},
            "t.py::test_b": {"trace-cpu": "xfailed"},
        },
        ["trace-cpu", "script-cuda:1"],
    )


def test_a_cell_shows_the_worst_of_its_verdicts():
    both = result("t.py::T::test_a", verdict(), verdict(status="failed"), outcome="failed")
    assert table([both])[0] == {"t.py::T::test_a": {"trace-cpu": "failed"}}


def test_a_reason_of_one_of_several_recorded_modules_names_it():
    def numbered(number, **fields):
        recorded = Recorded(number=number, count=2, call="float32[2]", where=None)
        return verdict(recorded=recorded, **fields)

    weak = [numbered(1), numbered(2, ineffective=("constant output",))]
    both = [numbered(number, cautions=("eager returns nan",)) for number in (1, 2)]
    lines = list(summary_lines([result("t.py::a", *weak), result("t.py::b", *both)]))
    assert "warn: t.py::a Net (2nd of 2): constant output" in lines
    assert "warn: t.py::b: eager returns nan" in lines


def test_a_refusal_by_a_target_that_nobody_named_says_how_to_make_it_a_failure():
    refused = verdict(status="skipped", skip="refused", reason="script refused the module: x")
    assert NAME_TARGETS in summary_lines([result("t.py::a", refused)])
    # The kind decides, and not the words of the reason.
    other = verdict(status="skipped", skip="not judged", reason="it refused the module: x")
    assert NAME_TARGETS not in summary_lines([result("t.py::a", other)])


def lacking(*names, **fields):
    return verdict(status="failed", failure="LoadFailed", imports=names, **fields)


def test_imports_that_several_items_lack_are_one_setting():
    results = [
        result("t.py::a", lacking("lib.outputs", "lib.generic")),
        result("t.py::b", lacking("ops"), lacking("lib.outputs", target="export")),
    ]
    (line,) = (line for line in summary_lines(results) if line.startswith("imports: "))
    assert "2 items" in line
    assert line.endswith(" torchexport_runtime_imports = lib.generic lib.outputs ops")
    (line,) = (x for x in summary_lines(results, toml=True) if x.startswith("imports: "))
    assert line.endswith(' torchexport_runtime_imports = ["lib.generic", "lib.outputs", "ops"]')


def test_the_setting_for_imports_keeps_what_it_has():
    results = [result("t.py::a", lacking("ops")), result("t.py::b", lacking("boxes", "ops"))]
    (line,) = (
        line
        for line in summary_lines(results, runtime_imports=["zoo", "boxes"])
        if line.startswith("imports: ")
    )
    assert line.endswith(" = zoo boxes ops")


@pytest.mark.parametrize(
    "results",
    [
        pytest.param([result("t.py::a", lacking("ops"))], id="one item"),
        pytest.param(
            [
                result("t.py::a", lacking("ops")),
                result("t.py::b", lacking("ops"), outcome="xfailed"),
            ],
            id="expected",
        ),
        pytest.param(
            [result("t.py::a", lacking("ops")), result("t.py::b", lacking("zoo"))], id="given"
        ),
        pytest.param(
            [result("t.py::a", lacking("ops")), result("t.py::b", verdict(status="failed"))],
            id="other",
        ),
    ],
)
def test_imports_of_a_single_item_are_left_to_its_report(results):
    lines = summary_lines(results, runtime_imports=["zoo"])
    assert not [line for line in lines if line.startswith("imports: ")]


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


def test_only_what_has_a_color_is_styled():
    def style(text, **markup):
        return f"<{text}:{','.join(markup)}>"

    lines = list(summary_lines([result("t.py::a", verdict())], style))
    assert lines[1] == "t.py::a  <ok       :green>"


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


# -- a survey ----------------------------------------------------------------------------------------

TARGETS = ("trace", "onnx")
GOOD = Surveyed(
    name="a.Good",
    items=("t.py::one", "t.py::two"),
    checked_in="t.py::one",
    verdicts=(made(), made("onnx")),
)
FROZEN = Surveyed(name="a.Frozen", items=("t.py::two",), verdicts=(failing(), failing("onnx")))
HALF = Surveyed(
    name="a.Half",
    items=("t.py::one", "t.py::three"),
    checked_in="t.py::one",
    verdicts=(failing(), made("onnx")),
)
LATE = Surveyed(name="a.Late", items=("t.py::four",), verdicts=(made(),), late=("onnx",))
OPEN = Surveyed(name="a.Open", items=("t.py::five",), problem="it cannot be copied")


def test_the_report_of_a_survey():
    assert list(survey_lines([GOOD, FROZEN, HALF, LATE, OPEN], TARGETS)) == [
        "5 module classes, 4 checked",
        "          trace         onnx",
        "a.Good    ok            ok",
        "a.Frozen  BranchFrozen  BranchFrozen",
        "a.Half    BranchFrozen  ok",
        "a.Late    ok            time",
        "a.Open",
        "a.Frozen on trace, onnx: BranchFrozen: if x.sum() > 0 (net.py:12)",
        "a.Half on trace: BranchFrozen: if x.sum() > 0 (net.py:12)",
        "a.Late on onnx: not judged in its time (100 s for a class, 1800 s for all)",
        "a.Open: it cannot be copied",
        "markers to try, a test for each class, of which one instance was checked:",
        '  t.py::one: @pytest.mark.torchexport("onnx")',
        '  t.py::four: @pytest.mark.torchexport("trace") (items checked: 0 of 1)',
    ]


def test_a_parametrized_test_says_how_many_of_its_items_were_checked():
    items = tuple(f"t.py::both[{n}]" for n in range(4))
    one, other = (
        Surveyed(name=f"a.{n}", items=items, checked_in=items[n], verdicts=(made(),))
        for n in range(2)
    )
    marker = '  t.py::both: @pytest.mark.torchexport("trace")'
    assert list(survey_lines([one], TARGETS))[-1] == f"{marker} (items checked: 1 of 4)"
    assert list(survey_lines([one, other], TARGETS))[-1] == f"{marker} (items checked: 2 of 4)"
    alone = Surveyed(name="a.Alone", items=items[:1], checked_in=items[0], verdicts=(made(),))
    assert list(survey_lines([alone], TARGETS))[-1] == marker


def test_classes_with_one_reason_share_a_line():
    scripted = [
        Surveyed(
            name=f"N{number} (ScriptModule)",
            items=(),
            verdicts=(made("onnx", "skipped", reason="onnx does not take TorchScript"),),
        )
        for number in range(5)
    ]
    assert list(survey_lines(scripted, ("onnx",)))[-1] == (
        "N0 (ScriptModule), N1 (ScriptModule), N2 (ScriptModule) and 2 more on onnx: skip: onnx does "
        "not take TorchScript"
    )


def test_a_survey_that_ended_early_or_found_nothing_says_so():
    assert list(survey_lines([], TARGETS)) == ["no test called a module"]
    first, *_ = survey_lines([GOOD], TARGETS, ended="interrupted after 1 of 2 classes")
    assert first == "ended early: interrupted after 1 of 2 classes"


def test_no_marker_is_proposed_where_none_would_pass():
    assert not any("markers" in line for line in survey_lines([FROZEN], TARGETS))
