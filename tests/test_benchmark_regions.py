"""Run the benchmark of faults in a corner on two models, and hold what it asks of each model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from slow import slow
from torch import Tensor, nn

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "regions.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def regions(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import regions

    return regions


@slow
def test_a_fault_is_found_and_its_healthy_twin_passes(tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    chosen = ["--rows", "AllMaxima", "--seeds", "1", "--targets", "trace", "--jobs", "1"]
    done = run(*chosen, "--json", str(path))
    assert done.returncode == 0, done.stderr
    (record,) = json.loads(path.read_text())
    wanted = {"healthy": "passed", "counted": True, "found": True, "uniform": False, "volume": 0.0}
    assert {name: record[name] for name in wanted} == wanted
    assert "| all, seed 1 | 1 | 0 / 1 | 1 / 1 (100%) | 1 / 1 (100%) |" in done.stdout
    assert done.stdout.endswith("no miss, no false alarm\n")


@slow
def test_a_steep_model_passes() -> None:
    done = run("--rows", "StableLogSumExp", "--seeds", "1", "--targets", "trace", "--jobs", "1")
    assert done.returncode == 0, done.stderr
    assert "| passed | 1 | 1 |" in done.stdout


@slow
def test_each_fault_is_in_a_corner_that_its_witness_reaches(regions: ModuleType) -> None:
    for row in regions.FAULTY:
        regions.examine(row)


def test_a_class_does_not_show_its_fault_to_a_search(regions: ModuleType) -> None:
    assert not [
        row.name for row in regions.FAULTY if {"shipped", "witness"} & set(dir(row.build()))
    ]


def witness(x: Tensor) -> Callable[[nn.Module], tuple[Tensor]]:
    return lambda _: (x,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"witness": witness(torch.zeros(9, 9))}, "the witness is illegal"),
        ({"witness": witness(torch.full((1, 9), torch.inf))}, "the witness is illegal"),
        ({"witness": witness(torch.linspace(0, 1, 9)[None])}, "does not show the fault"),
        ({"shipped": lambda net, x: net(x) + 1.0}, "3000 uniform calls differ"),
    ],
    ids=["shape", "values", "no fault", "everywhere"],
)
def test_a_model_that_proves_nothing_is_refused(
    regions: ModuleType, change: dict[str, Any], message: str
) -> None:
    marked = next(row for row in regions.FAULTY if row.name == "AllMaximaAreMarked")
    with pytest.raises(AssertionError, match=message):
        regions.examine(replace(marked, **change))


@slow
def test_a_name_that_no_model_has_is_an_error() -> None:
    done = run("--rows", "no such model")
    assert done.returncode != 0
    assert "'no such model'" in done.stderr
