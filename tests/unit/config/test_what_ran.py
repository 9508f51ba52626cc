"""config/what_ran.py: what reports say of a run beside versions."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from pytest_torchexport.config.what_ran import MOST, what_ran
from pytest_torchexport.results.verdict import RUN_FACTS


@pytest.fixture
def command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *argv: monkeypatch.setattr(sys, "argv", [*argv])


def test_each_fact_is_a_text_with_a_name_that_reports_know(command):
    command("/bin/pytest", "-k", "a or b")
    subprocess.run("git init -q && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m x", shell=True, check=True)  # fmt: skip
    facts = what_ran(start=datetime.now(UTC) - timedelta(seconds=90), seed=0)
    assert tuple(facts) == RUN_FACTS
    assert facts["command"] == "pytest -k 'a or b'"
    assert (facts["duration"], facts["seed"]) == ("90 s", "0")
    assert datetime.fromisoformat(facts["date"]).utcoffset() == timedelta(0)
    assert len(facts["commit"]) == 40


@pytest.mark.parametrize("git", [True, False])
def test_what_there_is_not_is_left_out(command, monkeypatch, git):
    if not git:
        monkeypatch.setenv("PATH", "")
    command("/lib/pytest/__main__.py", "x" * 2 * MOST)
    facts = what_ran()
    assert set(facts) == {"os", "date", "command"}
    assert facts["command"].startswith("python -m pytest xxx")
    assert len(facts["command"]) == MOST
