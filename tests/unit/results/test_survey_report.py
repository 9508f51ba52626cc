"""results/survey_report.py: the table, the reasons, and markers to try."""

from __future__ import annotations

from sample import failed, verdict

from pytest_torchexport.results.survey_report import Surveyed, survey_lines

TARGETS = ("trace", "onnx")
GOOD = Surveyed(
    name="a.Good",
    items=("t.py::one", "t.py::two"),
    checked_in="t.py::one",
    verdicts=(verdict(), verdict("onnx")),
)
FROZEN = Surveyed(name="a.Frozen", items=("t.py::two",), verdicts=(failed(), failed("onnx")))
HALF = Surveyed(
    name="a.Half",
    items=("t.py::one", "t.py::three"),
    checked_in="t.py::one",
    verdicts=(failed(), verdict("onnx")),
)
LATE = Surveyed(name="a.Late", items=("t.py::four",), verdicts=(verdict(),), late=("onnx",))
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
        Surveyed(name=f"a.{n}", items=items, checked_in=items[n], verdicts=(verdict(),))
        for n in range(2)
    )
    marker = '  t.py::both: @pytest.mark.torchexport("trace")'
    assert list(survey_lines([one], TARGETS))[-1] == f"{marker} (items checked: 1 of 4)"
    assert list(survey_lines([one, other], TARGETS))[-1] == f"{marker} (items checked: 2 of 4)"
    alone = Surveyed(name="a.Alone", items=items[:1], checked_in=items[0], verdicts=(verdict(),))
    assert list(survey_lines([alone], TARGETS))[-1] == marker


def test_classes_with_one_reason_share_a_line():
    scripted = [
        Surveyed(
            name=f"N{number} (ScriptModule)",
            items=(),
            verdicts=(verdict("onnx", "skipped", reason="onnx does not take TorchScript"),),
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
