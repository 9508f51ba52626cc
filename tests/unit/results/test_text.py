"""results/text.py: what a failure says, and who is to write what instead; tests/golden has whole reports."""

from __future__ import annotations

import dataclasses

import pytest
from sample import EMPTY, FULL, SKIPPED

from pytest_torchexport.results import failures
from pytest_torchexport.results.diagnosis import Cause, Diagnosis, Known
from pytest_torchexport.results.text import failure_text, failure_texts, raise_for_failure


def test_the_report_of_a_recorded_module_names_the_tests_line():
    first, _, subject, recorded, *_ = failure_text(FULL).splitlines()
    assert first == "OutputsDiffer: aten.view at net.py:4: size 2 is a constant"
    assert subject == "  subject  Net (2nd of 3) on onnx-cuda:1: outputs differ from eager"
    line = "2nd of 3 recorded Net, called with float32[2]: test_net.py:9  Net()(x)"
    assert recorded == f"           {line}"


def numbered(verdict, number):
    return dataclasses.replace(
        verdict, recorded=dataclasses.replace(FULL.recorded, number=number), seed=number
    )


def test_recorded_modules_that_fail_alike_have_one_report():
    other = dataclasses.replace(numbered(FULL, 3), reason="another")
    alike, own = failure_texts([numbered(FULL, 1), numbered(FULL, 2), other])
    assert "subject  Net (2 of 3) on onnx-cuda:1: " in alike
    assert alike.count("of 3 recorded Net") == 2
    assert "subject  Net (3rd of 3) on onnx-cuda:1: " in own
    (every,) = failure_texts(numbered(FULL, number) for number in (1, 2, 3))
    assert "subject  Net (all 3) on onnx-cuda:1: " in every


def test_a_failed_verdict_alone_raises_its_class_with_its_text():
    with pytest.raises(failures.OutputsDiffer, match="outputs differ from eager") as caught:
        raise_for_failure(FULL)
    assert caught.value.verdicts == (FULL,)
    raise_for_failure(EMPTY)
    raise_for_failure(SKIPPED)


def test_a_known_defect_is_named_with_its_thread_and_what_to_write_instead():
    defect = Known(issue="https://example.org/1", text="f is 0", remedy="g(x)")
    text = failure_text(dataclasses.replace(FULL, diagnosis=Diagnosis(known=(defect,))))
    assert (
        "known    looks like: f is 0: https://example.org/1, no release without it is known" in text
    )
    assert "remedy   g(x)" in text
    fixed = dataclasses.replace(defect, issue="", fixed_in="onnxscript 0.8")
    text = failure_text(dataclasses.replace(FULL, diagnosis=Diagnosis(known=(fixed,))))
    assert "known    looks like: f is 0: not reported yet, fixed in onnxscript 0.8" in text


def test_the_remedy_of_a_cause_stands_for_that_of_a_known_defect():
    cause = Cause(kind="exporter's optimizer", text="a rule", remedy="optimize=False")
    defect = Known(issue="", text="f is 0", remedy="g(x)")
    text = failure_text(
        dataclasses.replace(FULL, diagnosis=Diagnosis(causes=(cause,), known=(defect,)))
    )
    assert "remedy   optimize=False" in text
    assert "g(x)" not in text
    longer = dataclasses.replace(defect, remedy="optimize=False, or a larger epsilon")
    text = failure_text(
        dataclasses.replace(FULL, diagnosis=Diagnosis(causes=(cause,), known=(longer,)))
    )
    assert "remedy   optimize=False, or a larger epsilon" in text
    assert text.count("optimize=False") == 1
    other = Cause(kind="frozen size", text="a size", remedy="keep the size")
    both = Diagnosis(causes=(cause, other), known=(longer,))
    text = failure_text(dataclasses.replace(FULL, diagnosis=both))
    assert "remedy   keep the size" in text


def test_a_step_among_many_details_is_shown_as_the_remedy():
    details = (*(f"fact {number}" for number in range(20)), "remedy: import the library", "a fact")
    reason = "RuntimeError:\n\nUnknown builtin op\nmore"
    verdict = dataclasses.replace(
        FULL, diagnosis=Diagnosis(), differences=(), details=details, reason=reason
    )
    text = failure_text(verdict, whole=False)
    assert f"  remedy   {details[-2].removeprefix('remedy: ')}" in text.splitlines()
    assert text.startswith(f"{FULL.failure}: RuntimeError: Unknown builtin op")
