"""plugin/replay.py: the answer for each stored failure."""

import dataclasses

import pytest

from pytest_torchexport.plugin.replay import answer_of
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.results.verdict import ItemResult, Verdict

WHERE = SourceLine("net.py", 5, "return x * 2")
STORED = Verdict(
    subject="Net",
    target="trace",
    device="cpu",
    status="failed",
    failure="OutputsDiffer",
    where=WHERE,
)
PASSED = Verdict(subject="Net", target="trace", device="cpu", status="passed")
MOVED = dataclasses.replace(STORED, where=SourceLine("src/net.py", 7, "return x * 2"))
ELSEWHERE = dataclasses.replace(STORED, where=SourceLine("net.py", 6, "return x + 2"))
OTHER = dataclasses.replace(STORED, failure="ArtifactRaised")
SKIPPED = dataclasses.replace(PASSED, status="skipped", reason="no target")


@pytest.mark.parametrize(
    ("verdicts", "answer"),
    [
        ((PASSED,), "fixed"),
        ((STORED,), "still failing: OutputsDiffer"),
        ((MOVED,), "still failing: OutputsDiffer"),
        ((PASSED, STORED), "still failing: OutputsDiffer"),
        ((OTHER,), "different: ArtifactRaised"),
        ((ELSEWHERE,), "different: OutputsDiffer"),
        ((SKIPPED,), "not judged: no target"),
        ((dataclasses.replace(PASSED, subject="Other"),), "not run: the test no longer checks Net"),
        ((dataclasses.replace(PASSED, target="script"),), "not run: the test no longer checks Net"),
        ((), "not run: the body failed"),
    ],
)
def test_the_answer_is_that_of_the_verdict_on_the_same_subject(verdicts, answer):
    reason = "" if verdicts else "the body failed"
    result = ItemResult("test_it.py::test", "failed", verdicts, reason=reason)
    assert answer_of(STORED, result).startswith(answer)


def test_an_item_that_did_not_run_has_no_answer():
    assert answer_of(STORED, None).startswith("not run: no test of this name")
