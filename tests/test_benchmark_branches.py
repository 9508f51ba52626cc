"""Run the benchmark of the search for branches on one model of the zoo."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from slow import slow

pytestmark = slow

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "branches.py"


@pytest.fixture(scope="module")
def printed() -> list[str]:
    command = [sys.executable, str(SCRIPT), "--rows", "prompt prefix", "--seeds", "0,1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_has_a_row_per_way(printed: list[str]) -> None:
    head, _, *rows = (cells(line) for line in printed if line.startswith("|"))
    assert head == [
        "way",
        "outcomes at 50",
        "outcomes at 200",
        "beyond the example's",
        "modules complete at 200",
        "ms per call",
    ]
    assert [row[0] for row in rows] == ["plain random", "plain Hypothesis", "search"]
    assert all(len(row) == len(head) for row in rows)


def test_the_search_finds_what_normal_numbers_do_not(printed: list[str]) -> None:
    by_way = {cells(line)[0]: cells(line)[1:] for line in printed if line.startswith("|")}
    assert by_way["plain random"][1] == "50.0% (50.0%)"  # only those of the example
    assert by_way["search"][1] == "100.0% (100.0%)"
    assert printed[-1] == "nothing"


def test_a_name_that_no_model_has_is_an_error() -> None:
    command = [sys.executable, str(SCRIPT), "--rows", "no such model"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "'no such model'" in done.stderr
