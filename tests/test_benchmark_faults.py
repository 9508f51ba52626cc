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


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    path = tmp_path_factory.mktemp("faults") / "records.json"
    arguments = ["--networks", "2", "--seed", "3", "--targets", "trace", "--jobs", "1"]
    command = [sys.executable, str(SCRIPT), *arguments, "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "| an output dropped | 1 / 1 | 1 / 1 |" in done.stdout
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def test_healthy_random_networks_pass(records: list[dict[str, object]]) -> None:
    assert [record["healthy"] for record in records] == ["passed", "passed"]


def test_the_same_networks_with_a_fault_fail(records: list[dict[str, object]]) -> None:
    assert [(record["fault"], record["found"]) for record in records] == [
        ("an output dropped", True),
        ("two outputs exchanged", True),
    ]


def test_another_process_draws_the_same_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A seed names a network only if the draw depends on no hash order and no global state."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from networks import draw

    command = [sys.executable, str(SCRIPT), "--show", "17"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown == draw(17).source
    assert "class Faulty(nn.Module)" in shown
