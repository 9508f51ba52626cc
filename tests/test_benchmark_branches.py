"""Run the benchmark of the search for branches on one model of the zoo."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from slow import slow

pytestmark = slow

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "branches.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_search_finds_what_normal_numbers_do_not() -> None:
    done = run("--rows", "prompt prefix", "--seeds", "0,1")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    assert head[1:4] == ["outcomes at 50", "outcomes at 200", "beyond the example's"]
    found = {way: cells for way, *cells in rows}
    assert found.keys() == {"plain random", "plain Hypothesis", "search"}
    assert found["plain random"][1] == "50.0% (50.0%)"  # only those of the example
    assert found["search"][1] == "100.0% (100.0%)"
    assert done.stdout.endswith("nothing\n")


def test_a_name_that_no_model_has_is_an_error() -> None:
    done = run("--rows", "no such model")
    assert done.returncode != 0
    assert "'no such model'" in done.stderr
