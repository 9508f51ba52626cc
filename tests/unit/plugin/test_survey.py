"""plugin/survey.py: the report: a table, what keeps the others, and the markers to try."""

from __future__ import annotations

from sample import failed, verdict

from pytest_torchexport.plugin.survey import Surveyed, survey_lines

TARGETS = ("trace", "onnx")


def surveyed(name, *items, **fields):
    return Surveyed(name=name, items=dict.fromkeys(items), **fields)


BOTH = [failed(), failed("onnx")]
GOOD = surveyed("a.Good", "t.py::one", "t.py::two", verdicts=[verdict(), verdict("onnx")])
FROZEN = surveyed("a.Frozen", "t.py::two", verdicts=BOTH)
HALF = surveyed("a.Half", "t.py::one", "t.py::three", verdicts=[failed(), verdict("onnx")])
LATE = surveyed("a.Late", "t.py::four", verdicts=[verdict()], late=["onnx"])
OPEN = surveyed("a.Open", "t.py::five", problem="it cannot be copied")


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
        '  t.py::four: @pytest.mark.torchexport("trace")',
    ]


def test_a_survey_that_ended_early_or_found_nothing_says_so():
    assert list(survey_lines([], TARGETS)) == ["no test called a module"]
    first, *_ = survey_lines([GOOD], TARGETS, ended="interrupted after 1 of 2 classes")
    assert first == "ended early: interrupted after 1 of 2 classes"
