"""config/flow.py: a check of one's own, run with an exporter."""

from __future__ import annotations

from pytest_torchexport import check_export, engine
from pytest_torchexport.config import flow
from pytest_torchexport.config.flow import FLOW, Step
from pytest_torchexport.judge.case import Case
from pytest_torchexport.results.failures import OutputsDiffer


def test_a_check_of_ones_own_is_a_function_and_a_row(monkeypatch):
    """The recipe "add a check" of CONTRIBUTING.md."""
    import torch

    from pytest_torchexport.checks import parity

    def refuse(case: Case) -> None:
        """Raise OutputsDiffer for every artifact."""
        raise OutputsDiffer(f"{case.plan.target} never passes")

    monkeypatch.setattr(parity, "refuse", refuse, raising=False)
    row = Step(name="refuse", run="parity:refuse", checks=("refuse",))
    table = (*FLOW, row)
    monkeypatch.setattr(flow, "FLOW", table)
    monkeypatch.setattr(engine, "FLOW", table)
    linear = torch.nn.Linear(3, 2)
    example = (torch.randn(2, 3),)
    verdict = check_export(linear, example, target="trace", checks=["refuse"])
    assert (verdict.failure, verdict.reason) == ("OutputsDiffer", "trace never passes")
    assert check_export(linear, example, target="trace", checks=["dims"]).status == "passed"
