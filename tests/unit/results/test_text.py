"""results/text.py: what a failure says, and who is to write what instead; tests/golden has whole reports."""

from __future__ import annotations

import dataclasses

import pytest
from sample import FROZEN, failed, recorded, verdict

from pytest_torchexport.results import failures
from pytest_torchexport.results.diagnosis import Cause, Diagnosis, Known
from pytest_torchexport.results.text import failure_text, failure_texts, raise_for_failure


def test_recorded_modules_that_fail_alike_have_one_report():
    first, second, third = (
        failed(recorded=recorded(number, 3), seed=number) for number in (1, 2, 3)
    )
    other = dataclasses.replace(third, reason="another")
    alike, own = failure_texts([first, second, other])
    assert "subject  Net (2 of 3) on trace-cpu: " in alike
    assert alike.count("of 3 recorded Net") == 2
    assert "subject  Net (3rd of 3) on trace-cpu: " in own
    assert "3rd of 3 recorded Net, called with float32[2]: test_net.py:9  Net()(x)\n" in own
    (every,) = failure_texts([first, second, third])
    assert "subject  Net (all 3) on trace-cpu: " in every


def test_a_failed_verdict_alone_raises_its_class_with_its_text():
    with pytest.raises(failures.BranchFrozen, match="a branch is frozen") as caught:
        raise_for_failure(FROZEN)
    assert caught.value.verdicts == (FROZEN,)
    raise_for_failure(verdict())
    raise_for_failure(verdict(status="skipped"))


CAUSE = Cause(kind="exporter's optimizer", text="a rule", remedy="optimize=False")
OTHER = Cause(kind="frozen size", text="a size", remedy="keep the size")
KNOWN = Known(issue="", text="f is 0", remedy="g(x)")
LONGER = dataclasses.replace(KNOWN, remedy="optimize=False, or a larger epsilon")


@pytest.mark.parametrize(
    ("causes", "known", "remedies"),
    [
        ([], KNOWN, ["g(x)"]),
        ([CAUSE], KNOWN, ["optimize=False"]),
        ([CAUSE], LONGER, ["optimize=False, or a larger epsilon"]),
        ([CAUSE, OTHER], LONGER, ["keep the size", "optimize=False, or a larger epsilon"]),
    ],
)
def test_the_remedy_of_a_cause_stands_for_that_of_a_known_defect(causes, known, remedies):
    text = failure_text(failed(diagnosis=Diagnosis(causes=tuple(causes), known=(known,))))
    assert "  known    looks like: f is 0: not reported yet, no release without it is known" in text
    lines = [line for line in text.splitlines() if line.startswith("  remedy   ")]
    assert lines == [f"  remedy   {remedy}" for remedy in remedies]


def test_a_step_among_many_details_is_shown_as_the_remedy():
    details = (*(f"fact {number}" for number in range(20)), "remedy: import the library", "a fact")
    found = failed(
        failure="LoadFailed",
        reason="RuntimeError:\n\nUnknown builtin op\nmore",
        where=None,
        differences=(),
        details=details,
        diagnosis=Diagnosis(),
    )
    text = failure_text(found, whole=False)
    assert "  remedy   import the library" in text.splitlines()
    assert text.startswith("LoadFailed: RuntimeError: Unknown builtin op")
