"""Run each benchmark on a model or two, and hold what it asks of its models.

Benchmarks run seldom: that they name only modules and functions that exist is held apart.
"""

from __future__ import annotations

import ast
import importlib
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

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / f"{name}.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_a_benchmark_imports_only_names_that_exist(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("pytest_torchexport"):
            found = importlib.import_module(node.module)
            for name in (alias.name for alias in node.names):
                assert hasattr(found, name) or importlib.import_module(f"{node.module}.{name}")


@slow
@pytest.mark.parametrize("name", ["branches", "lines", "reach", "regions"])
def test_a_name_that_no_model_has_is_an_error(name: str) -> None:
    done = run(name, "--rows", "no such model")
    assert done.returncode != 0
    assert "'no such model'" in done.stderr


@slow
def test_one_sample_does_not_see_a_frozen_branch() -> None:
    done = run("by_hand", "branch", "buffer")
    assert done.returncode == 0, done.stderr
    assert "trace_by_hand  1 of 2: buffer\n" in done.stdout
    assert "onnx_here      2 of 2: branch, buffer\n" in done.stdout


@slow
@pytest.mark.parametrize(
    ("name", "model", "row"),
    [
        ("lines", "two lines: values", "| all | 1 / 0 / 0 | 1 / 0 / 0 |"),
        ("reach", "state: over twelve", "| all | 3 / 3 | 3 / 3 |"),
        ("reach", "state: kin scratch", "| passed | 3 | 3 |"),
    ],
)
def test_a_model_is_counted(name: str, model: str, row: str) -> None:
    done = run(name, "--rows", model, "--targets", "trace", "--jobs", "1")
    assert done.returncode == 0, done.stderr
    assert row in done.stdout.splitlines()


# -- branches --------------------------------------------------------------------------------------


@slow
def test_the_search_finds_what_normal_numbers_do_not() -> None:
    done = run("branches", "--rows", "prompt prefix", "--seeds", "0,1")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    assert head[1:4] == ["outcomes at 50", "outcomes at 200", "beyond the example's"]
    found = {way: cells for way, *cells in rows}
    assert found.keys() == {"plain random", "plain Hypothesis", "search"}
    assert found["plain random"][1] == "50.0% (50.0%)"  # only those of the example
    assert found["search"][1] == "100.0% (100.0%)"
    assert done.stdout.endswith("nothing\n")


# -- random networks -------------------------------------------------------------------------------


@slow
def test_healthy_networks_pass_and_the_same_with_a_fault_fail(tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    arguments = ["--networks", "2", "--seed", "3", "--targets", "trace", "--jobs", "1"]
    done = run("faults", *arguments, "--json", str(path))
    assert done.returncode == 0, done.stderr
    assert "| an output dropped | 1 / 1 | 1 / 1 |" in done.stdout
    records = json.loads(path.read_text())
    assert [(each["mechanism"], each["healthy"], each["found"]) for each in records] == [
        ("an output dropped", "passed", True),
        ("two outputs exchanged", "passed", True),
    ]


@slow
def test_another_process_draws_the_same_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A seed names a network only if the draw depends on no hash order and no global state."""
    monkeypatch.syspath_prepend(str(FOLDER))
    from networks import Network

    shown = run("faults", "--show", "17").stdout
    assert shown == Network(17).source
    assert "class Faulty(nn.Module)" in shown


# -- faults in a corner ----------------------------------------------------------------------------


@pytest.fixture
def regions(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    import regions

    return regions


ONE_RUN = ("--seeds", "1", "--targets", "trace", "--jobs", "1")


@slow
def test_a_fault_is_found_and_its_healthy_twin_passes(tmp_path: Path) -> None:
    path = tmp_path / "records.json"
    done = run("regions", "--rows", "AllMaxima", *ONE_RUN, "--json", str(path))
    assert done.returncode == 0, done.stderr
    (record,) = json.loads(path.read_text())
    wanted = {"healthy": "passed", "counted": True, "found": True, "uniform": False, "volume": 0.0}
    assert {name: record[name] for name in wanted} == wanted
    assert "| all, seed 1 | 1 | 0 / 1 | 1 / 1 | 1 / 1 |" in done.stdout
    assert done.stdout.endswith("no miss, no false alarm\n")


@slow
def test_a_steep_model_passes() -> None:
    done = run("regions", "--rows", "StableLogSumExp", *ONE_RUN)
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
