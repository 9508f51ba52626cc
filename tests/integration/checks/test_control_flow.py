"""checks/control_flow.py on whole models: the failure class, the line and the call; and healthy look-alikes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pytest_torchexport import check_export
from pytest_torchexport.checks import control_flow

CHECKS = ("parity", "control_flow")


def verdict_of(module, *args, target="trace", kwargs=None, **options):
    return check_export(
        module.eval(), args, kwargs, target=target, checks=CHECKS, max_examples=5, **options
    )


class Lengths(nn.Module):
    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        total = torch.zeros(x.shape[0])
        for t in range(int(lengths.max())):
            total = total + x[:, t]
        return total


def test_a_loop_that_ran_another_number_of_times_is_shrunk_and_listed():
    options = {"shapes": {"x": "2 5", "lengths": "2"}, "values": {"lengths": (0, 5)}}
    found = verdict_of(Lengths(), torch.randn(2, 5), torch.tensor([3, 2]), **options)
    assert found.failure == "BranchFrozen"
    assert "for t in range(int(lengths.max()))" in found.where.text
    assert "normal" not in found.call
    assert any("diverges" in row.status.values() for row in found.branches if row.kind == "for")


class Configured(nn.Module):
    """Nothing that an input steers: flags, types, a helper that is asked for names."""

    def __init__(self) -> None:
        super().__init__()
        self.flag = False
        self.depth = 2

    def pick(self, name: str) -> float:
        return 1.0 if name != "zzz" and name in ("a", "b") else 2.0

    def forward(self, x: Tensor) -> Tensor:
        y = x * 2 if x.sum() > 0 else x + x
        if self.flag or hasattr(self, "nothing") or isinstance(x, list):
            y = y + 1
        n = int((x > 100).sum())
        if self.depth == 0:
            y = y - 1
        return y * self.pick("a") * self.pick("b") + n * 0


def test_the_configuration_is_no_branch_of_the_inputs():
    found = verdict_of(Configured(), torch.randn(3, 4))
    assert found.status == "passed"
    assert found.ineffective == ()
    assert [row.text for row in found.branches if row.steered] == ["x.sum() > 0"]


class NotReentrant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.busy = [False]

    def forward(self, x: Tensor) -> Tensor:
        if self.busy[0]:
            raise RuntimeError("reentrant")
        self.busy[0] = True
        y = x * 2 if x.sum() > 13 * x.abs().max() else x + x
        self.busy[0] = False
        return y


def test_no_call_of_the_search_is_cut_in_the_middle():
    found = verdict_of(NotReentrant(), torch.randn(3, 4))
    assert found.status == "passed", found.reason


class TwoSides(nn.Module):
    """Both sides are the same: no call can fail, and only the search knows what it has not seen."""

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 1e6:
            return x * 2
        return x + x


@pytest.mark.parametrize("strict", [False, True])
def test_a_search_that_time_ended_is_a_warning_and_a_failure_under_strict(monkeypatch, strict):
    monkeypatch.setattr(control_flow, "BEFORE_CALLS", 0.0)
    found = verdict_of(TwoSides(), torch.rand(3, 4), values={"x": (0.0, 1.0)}, strict=strict)
    assert [
        line for line in found.ineffective if line.startswith("the search for branches stopped")
    ]
    assert found.failure == ("Ineffective" if strict else None)


def by_a_size(self, x):
    return x * 2 if x.shape[0] == 37 else x + 1


def by_a_key(self, x):
    return x * {19: 2.0, 51: 3.0}.get(x.shape[0], 1.0)


def by_a_count(self, x):
    return x * 2 if len(torch.nonzero(x > 7)) == 3 else x


OF_64 = {"shapes": {"x": "batch 4"}, "dims": {"batch": (1, 64)}}


@pytest.mark.parametrize(
    ("forward", "options"), [(by_a_size, OF_64), (by_a_key, OF_64), (by_a_count, {})]
)
def test_what_only_a_constant_of_the_code_leads_to_is_found(forward, options):
    module = type("Net", (nn.Module,), {"forward": forward})()
    found = verdict_of(module, torch.linspace(-2, 2, 8).reshape(2, 4), diagnose=False, **options)
    assert found.failure in ("BranchFrozen", "OutputsDiffer"), found
