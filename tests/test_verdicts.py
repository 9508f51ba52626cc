"""scripts/verdicts.py: dumps of the same verdicts compare as equal, and a changed one is told."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch

from pytest_torchexport.results.diagnosis import Diagnosis
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.results.verdict import Verdict

PASSED = Verdict(
    subject="Net",
    target="trace",
    device="cpu",
    status="passed",
    seconds={"parity": 1.0},
    where=SourceLine("net.py", 3, "x = x + 1"),
)


@pytest.fixture
def script(load_script, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)  # for all of its process
    return load_script("verdicts.py")


@pytest.fixture
def compare(script, monkeypatch, tmp_path, capsys):
    """Dump verdicts twice, and compare the files. Returns the exit status and what is printed."""

    def run(before, after, *arguments):
        paths = [tmp_path / "before.jsonl", tmp_path / "after.jsonl"]
        for path, verdict in zip(paths, (before, after), strict=True):
            script.dump(path, {"zoo/net/trace": lambda found=verdict: found}, "1/1")
        monkeypatch.setattr(sys, "argv", ["verdicts.py", "compare", *map(str, paths), *arguments])
        return script.main(), capsys.readouterr().out

    return run


def test_verdicts_that_differ_in_their_time_alone_are_equal(compare):
    status, printed = compare(PASSED, replace(PASSED, seconds={"parity": 9.0}, max_error=1e-7))
    assert (status, printed) == (0, "\n1 items in both, 0 differences\n1 s before, 9 s after\n")


def test_a_verdict_that_changed_is_told_with_its_fields(compare):
    status, printed = compare(PASSED, replace(PASSED, status="failed", where=None))
    assert status == 1
    assert "zoo/net/trace  status\n    - passed\n    + failed" in printed
    assert "zoo/net/trace  where\n    - {'file': 'net.py', 'line': 3," in printed


def test_fields_that_are_not_asked_for_do_not_count(compare):
    assert compare(PASSED, replace(PASSED, where=None), "--fields", "status")[0] == 0


def test_of_golden_verdicts_class_owner_line_and_cause_count(compare):
    blamed = replace(PASSED, subject="Other", diagnosis=Diagnosis(owner="capture"))
    status, printed = compare(PASSED, blamed, "--golden")
    assert (status, printed.count("zoo/net/trace")) == (1, 1)
    assert "zoo/net/trace  owner\n    - None\n    + capture" in printed


def test_a_dump_goes_on_where_it_ended_and_keeps_to_its_shard(script, tmp_path):
    made = []

    def raises():
        made.append("c")
        raise ValueError("cannot be checked")

    checks = {"a": lambda: made.append("a"), "b": lambda: made.append("b"), "c": raises}
    path = tmp_path / "verdicts.jsonl"
    path.write_text('["a", {"status": "passed"}]\n')
    script.dump(path, checks, "1/2")
    assert made == ["c"]
    assert script.read(path) == {
        "a": {"status": "passed"},
        "c": {"error": "ValueError: cannot be checked"},
    }
