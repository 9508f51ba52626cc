"""engine.py: which steps an item takes, and who is blamed if one of them does not end."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from pytest_torchexport import check_export


class Frozen(nn.Module):
    """A trace keeps the branch that the example took."""

    def forward(self, x):
        if x.sum() > 0:
            return x + 1
        return x - 1


class SlowOnOneValue(nn.Module):
    """Eager does not return for one value, which only the branch search finds."""

    def forward(self, x):
        if x[0, 0] == 7.25:
            time.sleep(60)
        return x * 2


EXAMPLE = (torch.full((2, 3), 0.5),)


@pytest.mark.parametrize("checks", [("control_flow",), ("parity", "control_flow")])
def test_a_frozen_branch_fails_with_control_flow_alone_and_beside_parity(checks):
    verdict = check_export(Frozen(), EXAMPLE, target="trace", checks=checks)
    assert verdict.failure == "BranchFrozen"
    assert "if x.sum() > 0:" in str(verdict.where)
    assert verdict.calls["explored"] >= 1
    assert {status for branch in verdict.branches for status in branch.status.values()} == {
        "verified",
        "diverges",
    }


def test_control_flow_alone_makes_no_drawn_calls():
    verdict = check_export(Frozen(), EXAMPLE, target="script", checks=("control_flow",))
    assert verdict.status == "passed"
    assert verdict.calls["example"] == 1
    assert verdict.calls["explored"] >= 1
    assert verdict.calls["drawn"] == verdict.calls["boundary"] == 0
    assert verdict.branch_coverage == 100.0


def test_control_flow_alone_keeps_its_promise_on_coverage():
    class Unreachable(nn.Module):
        def forward(self, x):
            if torch.sin(x.sum() * 1e6) > 0.9999999999:
                return x + 1
            return x

    verdict = check_export(
        Unreachable(),
        EXAMPLE,
        target="script",
        checks=("control_flow",),
        min_branch_coverage=100,
        explore_calls=20,
    )
    assert verdict.failure == "Ineffective"


@pytest.mark.parametrize("checks", [None, ("control_flow",), ("parity", "control_flow")])
def test_a_hang_of_eager_is_eagers_own(checks):
    verdict = check_export(
        SlowOnOneValue(),
        EXAMPLE,
        target="trace",
        checks=checks,
        values={"x": (0.0, 10.0)},
        time_limit=6,
        max_examples=5,
    )
    assert verdict.failure == "SpecError"
    assert "eager did not return" in verdict.reason
    assert any("7.25" in line for line in verdict.details)
