"""plugin/survey.py: the report: a table, what keeps the others, and the markers to try."""

from __future__ import annotations

from sample import failed, verdict

from pytest_torchexport.plugin.survey import LATE, Surveyed, cell_of, survey_lines

TARGETS = ("trace", "onnx")


def surveyed(name, *items, **fields):
    """Return a class; what is given for a target is a verdict, or the cell itself."""
    cells = {
        target: found if isinstance(found, tuple) else cell_of(found)
        for target in TARGETS
        if (found := fields.pop(target, None))
    }
    return Surveyed(name=name, items=dict.fromkeys(items), cells=cells, **fields)


GOOD = surveyed("a.Good", "t.py::one", "t.py::two", trace=verdict(), onnx=verdict())
FROZEN = surveyed("a.Frozen", "t.py::two", trace=failed(), onnx=failed())
HALF = surveyed("a.Half", "t.py::one", "t.py::three", trace=failed(), onnx=verdict())
TIMED = surveyed("a.Late", "t.py::four", trace=verdict(), onnx=LATE)
OPEN = surveyed("a.Open", "t.py::five", problem="it cannot be copied")


def test_the_report_of_a_survey():
    assert list(survey_lines([GOOD, FROZEN, HALF, TIMED, OPEN], TARGETS)) == [
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
        '  t.py::one: @pytest.mark.torchexport("trace", "onnx")  # red now: trace: BranchFrozen',
        '  t.py::two: @pytest.mark.torchexport("trace", "onnx")  # red now: trace: BranchFrozen, onnx: BranchFrozen',
        '  t.py::four: @pytest.mark.torchexport("trace")',
    ]


def test_a_survey_that_ended_early_or_found_nothing_says_so():
    assert list(survey_lines([], TARGETS)) == ["no test called a module"]
    first, *_ = survey_lines([GOOD], TARGETS, ended="interrupted after 1 of 2 classes")
    assert first == "ended early: interrupted after 1 of 2 classes"
