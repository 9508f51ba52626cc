"""Run the benchmark of random networks on two networks, traced."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from slow import slow

pytestmark = slow

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "faults.py"


def test_healthy_networks_pass_and_the_same_with_a_fault_fail(tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    arguments = ["--networks", "2", "--seed", "3", "--targets", "trace", "--jobs", "1"]
    command = [sys.executable, str(SCRIPT), *arguments, "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "| an output dropped | 1 / 1 | 1 / 1 |" in done.stdout
    records = json.loads(path.read_text())
    assert [(record["fault"], record["healthy"], record["found"]) for record in records] == [
        ("an output dropped", "passed", True),
        ("two outputs exchanged", "passed", True),
    ]


def test_another_process_draws_the_same_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A seed names a network only if the draw depends on no hash order and no global state."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from networks import draw

    command = [sys.executable, str(SCRIPT), "--show", "17"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown == draw(17).source
    assert "class Faulty(nn.Module)" in shown
