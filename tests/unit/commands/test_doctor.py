"""commands/doctor.py: what is there and what is not, each with the next step."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from types import SimpleNamespace

import pytest

from pytest_torchexport import targets
from pytest_torchexport.commands import doctor
from pytest_torchexport.results import reports

ROOT = Path(__file__).parents[3]
ALL = dict.fromkeys((*doctor.NEEDED, *doctor.EXTRA), "99.0") | {"python": "3.11.7"}


def target_that_lacks(what):
    return SimpleNamespace(unavailable={"cpu": what}.get)


def found_by_pytest(monkeypatch, names):
    points = EntryPoints(EntryPoint(name, "its.module", "pytest11") for name in names)
    monkeypatch.setattr(doctor.metadata, "entry_points", points.select)


@pytest.fixture
def call(monkeypatch, capsys):
    """Run the command with these packages and targets, and return its status and its lines."""
    monkeypatch.delenv("PYTORCH_JIT", raising=False)
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", raising=False)
    found_by_pytest(monkeypatch, ["torchexport"])

    def run(found=ALL, **others):
        monkeypatch.setattr(reports, "environment", lambda: dict(found))
        there = target_that_lacks(None)
        monkeypatch.setattr(targets, "get", lambda name: others.get(name, lambda: there)())
        return doctor.main("doctor", []), capsys.readouterr().out

    return run


def test_if_all_is_there_the_status_is_0(call):
    status, out = call()
    assert status == 0
    assert "  trace               can be checked on cpu" in out
    assert "onnx_legacy" in out
    assert "off by default" in out
    assert "next step: pip" not in out
    assert out.endswith("all defaults can be checked\n")


def test_with_v_the_tested_versions_are_listed(call, capsys):
    assert "tested torch" not in call()[1]
    doctor.main("doctor", ["-v"])
    assert "\n  tested torch 2.9.0 with Python 3.11 on the CPU, onnx" in capsys.readouterr().out


def test_a_package_that_is_missing_is_named_with_its_pip_line(call):
    found = {name: version for name, version in ALL.items() if name != "onnxscript"}
    lacks = target_that_lacks("its package is not installed: pip install it")
    status, out = call(found, onnx=lambda: lacks)
    assert status == 1
    assert "not installed; next step: pip install 'pytest-torchexport[onnx]'" in out
    assert "cannot be checked; not on cpu: its package is not installed: pip install it" in out
    assert out.endswith("the defaults need: onnxscript, onnx\n")


def test_a_target_whose_import_raises_is_told(call):
    status, out = call(trace=lambda: 1 / 0)
    assert status == 1
    assert "it cannot be imported: ZeroDivisionError: division by zero" in out


def test_surroundings_that_take_the_plugin_or_the_targets_away_are_told(call, monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    status, out = call()
    assert status == 0
    assert "next step: pytest -p pytest_torchexport.plugin" in out
    found_by_pytest(monkeypatch, [])
    monkeypatch.setenv("PYTORCH_JIT", "0")
    monkeypatch.setattr(doctor.kernel, "landlock_version", lambda: -1)
    status, out = call()
    assert status == 1
    assert "trace and script make no program; next step: unset PYTORCH_JIT" in out
    assert "next step: check such files in a container" in out
    assert out.endswith("the defaults need: pytest, torch.jit\n")


def test_it_runs_where_nothing_is_installed():
    done = subprocess.run(
        [sys.executable, "-S", "-m", "pytest_torchexport", "doctor"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert "not installed; next step: pip install 'pytest-torchexport[torch]'\n" in done.stdout
    assert "not installed; next step: pip install pytest-torchexport\n" in done.stdout
    assert "cannot be used: torch is not installed" in done.stdout
    assert "the defaults need: torch, numpy, " in done.stdout
