"""engine.py: which steps an item takes, and who is blamed if one of them does not end."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from pytest_torchexport import SpecError, check_export, register_target
from pytest_torchexport.config import names
from pytest_torchexport.targets import TargetTraits


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


def test_arguments_that_are_no_tuple_are_refused():
    with pytest.raises(SpecError, match=r"Tensor is not a tuple.*args=\(x,\)"):
        check_export(nn.Linear(8, 2), torch.randn(1, 8), target="trace")


def test_an_artifact_without_its_members_is_the_targets_fault(monkeypatch):
    class Bare:
        def unavailable(self, device):
            return None

        traits = TargetTraits()

        def export(self, module, example, spec, **options):
            return torch.jit.trace(module, example.args)

        def load(self, path, device):
            return torch.jit.load(path)

    monkeypatch.setattr(names, "_registered", {})
    register_target("bare", Bare())
    verdict = check_export(nn.Linear(8, 2), (torch.randn(2, 8),), target="bare")
    assert verdict.failure == "ExportRefused"
    assert "target 'bare' breaks the contract" in verdict.reason
    assert "facts" in verdict.reason
    with pytest.raises(ValueError, match="is a class"):
        register_target("again", Bare)


def test_the_self_test_needs_the_calls_of_parity():
    verdict = check_export(
        Frozen(), EXAMPLE, target="script", checks=("control_flow",), self_test=True, strict=True
    )
    assert verdict.status == "passed"
    (bug,) = verdict.self_test
    assert bug.result == "does not apply"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"target": None}, "target: None is not the name of one target"),
        ({"target": "trace,script"}, "is not the name of one target"),
        ({"device": "cpu,cuda"}, "is not the name of one device"),
        ({"seed": 1.5}, "seed: 1.5 is not a whole number"),
        ({"strict": "false"}, "strict: 'false' is neither true nor false"),
        ({"follow": "torchvision"}, "follow: 'torchvision' is not a list of names"),
        ({"runtime_imports": [1]}, "runtime_imports: .* something else than names"),
        ({"time_limit": 0}, "time_limit: 0 is not a positive number of seconds"),
    ],
)
def test_a_wrong_argument_is_named_with_its_value(wrong, words):
    with pytest.raises(ValueError, match=words):
        check_export(nn.Linear(3, 2), EXAMPLE, **{"target": "trace", **wrong})


def test_an_isolated_artifact_that_crashes_fails_its_round_trip(monkeypatch):
    from pytest_torchexport.checks import round_trip
    from pytest_torchexport.outcomes.observe import Crashed

    crash = Crashed("it was killed by SIGSEGV")
    monkeypatch.setattr(round_trip, "_call_there", lambda *_, **__: (crash, {}))
    for isolate in (True, False):
        verdict = check_export(
            nn.Linear(3, 2), EXAMPLE, target="trace", checks=["round_trip"], isolate=isolate
        )
        assert verdict.failure == "ArtifactCrashed"
        assert verdict.isolated


def test_a_skip_does_not_hide_what_the_round_trip_found(monkeypatch):
    from pytest_torchexport.checks import round_trip
    from pytest_torchexport.results.failures import LoadFailed

    class Noise(nn.Module):
        def forward(self, x):
            return x + torch.rand_like(x)

    def moved(case):
        raise LoadFailed("nobody can load it")

    example = check_export(Noise(), EXAMPLE, target="onnx", checks=["parity"], max_examples=1)
    assert example.status == "skipped"
    monkeypatch.setattr(round_trip, "_moved", moved)
    verdict = check_export(Noise(), EXAMPLE, target="onnx", max_examples=1)
    assert verdict.failure == "LoadFailed"
