"""plugin/replay.py: the answer for each stored failure."""

import dataclasses
from pathlib import Path

import pytest

from pytest_torchexport.plugin.replay import Replay, answer_of
from pytest_torchexport.results import json
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.results.verdict import Difference, ItemResult, RunResults, Verdict

ROOT = Path("/home/me/project")
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
OUTPUT = dataclasses.replace(
    STORED,
    where=None,
    differences=(Difference(kind="values", path="output[0]", expected="1", actual="2"),),
)
ANOTHER = dataclasses.replace(
    STORED,
    where=None,
    differences=(Difference(kind="values", path="output[1]", expected="1", actual="2"),),
)
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
    assert answer_of(STORED, result, ROOT).startswith(answer)


def test_an_item_that_did_not_run_has_no_answer():
    assert answer_of(STORED, None, ROOT).startswith("not run: no test of this name")


def test_the_same_class_at_another_output_is_a_different_failure():
    answer = answer_of(OUTPUT, ItemResult("test_it.py::test", "failed", (ANOTHER,)), ROOT)
    assert answer.startswith("different: OutputsDiffer")


@pytest.mark.parametrize(
    ("file", "answer"), [("net.pt", "still failing"), ("other.pt", "different")]
)
def test_a_path_of_this_machine_is_that_which_the_stored_failure_names_below_the_project(
    file, answer
):
    stored = dataclasses.replace(STORED, where=None, reason="there is no file net.pt")
    again = dataclasses.replace(stored, reason=f"there is no file {ROOT}/{file}")
    result = ItemResult("test_it.py::test", "failed", (again,))
    assert answer_of(stored, result, ROOT).startswith(answer)


def stored(directory, verdict, version=None):
    item = ItemResult("test_it.py::test", "failed", (verdict,))
    text = json.render(RunResults(items=(item,), environment={}, complete=True))
    if version is not None:
        text = text.replace('"version": 2', f'"version": {version}')
    (directory / json.OF_A_FAILURE).write_text(text)


def test_a_text_that_is_the_name_of_a_number_is_read_as_a_text(tmp_path, pytestconfig):
    recipe = {"leaves": [{"kind": "value", "data": "nan"}, {"data": {"float": "nan"}}]}
    stored(tmp_path, dataclasses.replace(STORED, recipe=recipe))
    replay = Replay(pytestconfig, str(tmp_path))
    assert replay.corpus("test_it.py::test").load("") == [recipe]


def test_a_file_of_a_newer_version_says_so(tmp_path, pytestconfig):
    stored(tmp_path, STORED, version=99)
    with pytest.raises(pytest.UsageError, match="a newer pytest-torchexport has written it"):
        Replay(pytestconfig, str(tmp_path))
