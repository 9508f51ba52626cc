"""A device assert in an artifact makes CUDA unusable for its process: pytest and all other items go on."""

from __future__ import annotations

import json

import pytest
from gpu.trial import DEVICE, ON_CUDA

SUITE = """
import pytest, torch
from torch import nn

class Frozen(nn.Module):
    '''A trace keeps the example's size as an index, which is out of range at smaller sizes.'''
    def forward(self, x):
        last = torch.tensor([int(x.shape[0]) - 1], device=x.device)
        return x[last]

class Healthy(nn.Module):
    def forward(self, x):
        return x * 2

mark = pytest.mark.torchexport("trace", checks={checks})

@mark
def test_1_healthy():
    Healthy()(torch.randn(3, 2))

@mark
def test_2_frozen():
    Frozen()(torch.randn(3, 2))

@mark
def test_3_healthy():
    Healthy()(torch.randn(3, 2))
"""
# With the round trip, the clean process runs the call first; without it, this process is lost.
CONTAINED, HERE = ("round_trip", "parity"), ("parity",)


@pytest.mark.parametrize("checks", [CONTAINED, HERE], ids=["contained", "here"])
def test_the_other_items_have_their_verdicts(pytester, monkeypatch, checks):
    pytester.makepyfile(SUITE.format(checks=checks))
    devices = [f"--torchexport-devices={DEVICE}", "-o", f"torchexport_devices=cpu {DEVICE}"]
    report = "--torchexport-report=json:report.json"
    # By name, so that it makes no difference whether the package is installed.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    plugins = ["-p", "pytest_torchexport.plugin", "-p", "_hypothesis_pytestplugin"]
    result = pytester.runpytest_subprocess(*plugins, *devices, report, "--hypothesis-seed=1")
    text = result.stdout.str()
    verdicts = _verdicts(json.loads((pytester.path / "report.json").read_text()))
    assert verdicts["test_1_healthy"] == ("passed", None), text
    status, failure = verdicts["test_2_frozen"]
    assert status == "failed", text
    assert failure == ("ArtifactCrashed" if ON_CUDA else "ArtifactRaised"), text
    # A process that has lost CUDA judges nothing on it.
    lost = ON_CUDA and checks == HERE
    assert verdicts["test_3_healthy"] == ("skipped" if lost else "passed", None), text


def _verdicts(report):
    return {
        item["nodeid"].rpartition("::")[2].partition("[")[0]: (
            item["verdicts"][0]["status"],
            item["verdicts"][0]["failure"],
        )
        for item in report["items"]
    }
