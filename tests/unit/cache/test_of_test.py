"""cache/of_test.py: the items of a test are told what eager did in one that passed, if the module is the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pytest_torchexport.cache import of_test
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.inputs.call import Call
from pytest_torchexport.results.verdict import Verdict

CALL = Call((torch.ones(2, 3),))


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setattr(of_test, "_kept", {})


def net():
    torch.manual_seed(0)
    return nn.Linear(3, 2)


def told(thing, target="script", nodeid="test_net.py::test_net", status="passed", forget=False):
    """Return True if eager is not run again on the call."""
    ran = []

    def check(plan):
        if forget:
            plan.earlier.forget()
        plan.earlier.run("outcome", CALL, lambda: ran.append(True))
        return Verdict(subject="Net", target=target, device="cpu", status=status)

    plan = Plan(target=target, device="cpu", nodeid=f"{nodeid}[{target}-cpu]" if nodeid else "")
    of_test.with_earlier_runs(check, thing, plan)
    return not ran


def test_another_target_of_the_test_is_told():
    assert not told(net(), "trace")
    assert told(net(), "script")
    assert told(net(), "onnx")


def test_other_weights_another_mode_and_another_test_are_not_told():
    told(net(), "trace")
    assert not told(nn.Linear(3, 2))
    assert not told(net().eval())
    assert not told(net(), nodeid="test_net.py::test_other")
    with torch.no_grad():
        assert not told(net())
    assert told(net())


def test_a_check_without_a_test_is_not_told():
    told(net(), "trace", nodeid="")
    assert not told(net(), "script", nodeid="")


def test_only_an_item_that_passed_and_forgot_nothing_tells():
    for options in ({"status": "failed"}, {"forget": True}):
        told(net(), "trace", **options)
        assert not told(net(), "trace", status="failed")


def test_a_module_that_has_no_digest_is_checked():
    module = net()
    module.held = (part for part in ())
    assert not told(module, "trace")
    assert not told(module, "script")


def test_only_the_last_subjects_are_kept(monkeypatch):
    monkeypatch.setattr(of_test, "MOST_SUBJECTS", 2)
    for number in range(3):
        told(net(), "trace", nodeid=f"test_net.py::test_{number}")
    assert [told(net(), nodeid=f"test_net.py::test_{n}", status="failed") for n in range(3)] == [
        False,
        True,
        True,
    ]
