"""results/survey_report.py: the table, the reasons, and markers that would pass."""

from __future__ import annotations

from sample import failed, verdict

from pytest_torchexport.results.survey_report import Surveyed, survey_lines

TARGETS = ("trace", "onnx")
GOOD = Surveyed(
    name="a.Good", tests=("t.py::one", "t.py::two"), verdicts=(verdict(), verdict("onnx"))
)
FROZEN = Surveyed(name="a.Frozen", tests=("t.py::two",), verdicts=(failed(), failed("onnx")))
HALF = Surveyed(
    name="a.Half", tests=("t.py::one", "t.py::three"), verdicts=(failed(), verdict("onnx"))
)
LATE = Surveyed(name="a.Late", tests=("t.py::four",), verdicts=(verdict(),), late=("onnx",))
OPEN = Surveyed(name="a.Open", tests=("t.py::five",), problem="it cannot be copied")


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
        "a.Late on onnx: not judged in its time (torchexport_survey_limit, torchexport_survey_total)",
        "a.Open: it cannot be copied",
        "markers that would pass, a test for each class:",
        '  t.py::one: @pytest.mark.torchexport("onnx")',
        '  t.py::four: @pytest.mark.torchexport("trace")',
    ]


def test_classes_with_one_reason_share_a_line():
    scripted = [
        Surveyed(
            name=f"N{number} (ScriptModule)",
            tests=(),
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
