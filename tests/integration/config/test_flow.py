"""config/flow.py: a check of one's own, run with an exporter."""

from __future__ import annotations

import sys
import types

import pytest

from pytest_torchexport import check_export, item
from pytest_torchexport.config import flow
from pytest_torchexport.config.flow import FLOW, Step
from pytest_torchexport.judge.case import Case
from pytest_torchexport.results.failures import OutputsDiffer, SpecError


def refuse(case: Case) -> None:
    """Raise OutputsDiffer for every artifact."""
    raise OutputsDiffer(f"{case.plan.target} never passes")


@pytest.fixture
def _check_named_toy(monkeypatch):
    """Follow the recipe "a check" of CONTRIBUTING.md: a file below ``checks``, and a row of FLOW.

    The file is a module in memory, because the package may be installed read-only.
    """
    module = types.ModuleType("pytest_torchexport.checks.toy", "The check ``toy``: none passes.")
    module.refuse = refuse
    monkeypatch.setitem(sys.modules, module.__name__, module)
    table = (*FLOW, Step(name="refusal", run="toy:refuse", checks=("toy",)))
    monkeypatch.setattr(flow, "FLOW", table)
    monkeypatch.setattr(item, "FLOW", table)


@pytest.mark.usefixtures("_check_named_toy")
@pytest.mark.parametrize(
    ("chosen", "failure", "reason"),
    [
        ({"checks": ["toy"]}, "OutputsDiffer", "trace never passes"),
        ({}, "OutputsDiffer", "trace never passes"),
        ({"checks": ["dims"]}, None, ""),
    ],
)
def test_a_check_is_a_file_and_a_row(chosen, failure, reason):
    import torch

    example = (torch.randn(2, 3),)
    verdict = check_export(torch.nn.Linear(3, 2), example, target="trace", **chosen)
    assert (verdict.failure, verdict.reason) == (failure, reason)


def test_without_its_row_the_name_of_a_check_is_wrong():
    import torch

    with pytest.raises(SpecError, match="'toy'"):
        check_export(torch.nn.Linear(3, 2), (torch.randn(2, 3),), target="trace", checks=["toy"])
