"""checks/parity.py: every call is judged, and the smallest that fails is shown."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from pytest_torchexport import check_export, engine
from pytest_torchexport.checks import parity
from pytest_torchexport.config.options import parse_options
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.eager.reference import Reference
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.judge import Judge
from pytest_torchexport.judge.log import Activity
from pytest_torchexport.outcomes.limits import TimeLimitExceeded
from pytest_torchexport.outcomes.observe import NotTransferable

TRIAL = parity._trial


@pytest.mark.parametrize("drawn", [1, 5])
def test_a_drawn_call_that_does_not_return_is_no_pass(monkeypatch, drawn):
    def trial(case, origin, recipe, repeats=1):
        if origin == "drawn" and case.log.calls["drawn"] >= drawn - 1:
            with case.log.during(Activity.ARTIFACT):
                raise TimeLimitExceeded
        return TRIAL(case, origin, recipe, repeats)

    monkeypatch.setattr(parity, "_trial", trial)
    verdict = check_export(
        torch.nn.Linear(3, 2), (torch.randn(2, 3),), target="script", checks=["parity"]
    )
    assert verdict.failure == "ArtifactHung", verdict
    assert verdict.calls["drawn"] == drawn - 1


def X(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def verdict_of(module, *args, target="trace", **options):
    return check_export(module, args, target=target, max_examples=10, **options)


def test_nan_at_a_declared_size_is_a_difference():
    class Mean(nn.Module):
        def forward(self, x):
            return x.nan_to_num().mean(0).nan_to_num() if torch.jit.is_tracing() else x.mean(0)

    found = verdict_of(Mean(), X(2, 3), shapes={"x": "n 3"}, dims={"n": (0, 4)})
    assert found.failure == "OutputsDiffer"
    assert found.differences[0].expected == "nan"


class KnowsOneNumber(nn.Module):
    """No generated call has the number, at which a trace of another call is wrong."""

    def forward(self, x):
        return x * 2 if bool((x == 0.1234567).any()) else x


def made_by_a_test(module, *calls, target="trace"):
    options = parse_options((), {"checks": ["parity"], "max_examples": 5})
    plan = Plan(target=target, device="cpu", options=options)
    return engine.check(module, [Call((x,)) for x in calls], plan)


def test_every_call_of_the_body_is_made_with_its_own_values():
    second = torch.tensor([[0.5, 0.1234567, 2.0]])
    found = made_by_a_test(KnowsOneNumber(), torch.ones(1, 3), torch.zeros(1, 3), second)
    assert (found.failure, found.calls["recorded"]) == ("OutputsDiffer", 2)
    assert "as recorded" in found.call or "0.1234567" in found.call
    found = made_by_a_test(KnowsOneNumber(), torch.ones(1, 3), second, target="script")
    assert (found.status, found.calls["recorded"]) == ("passed", 1)


class Entropy(nn.Module):
    """Nan at 0, which the example does not have."""

    def forward(self, x):
        y = x * x.log()
        return y.nan_to_num() if torch.jit.is_tracing() else y


def test_calls_left_out_because_eager_returns_nan_are_a_caution():
    found = verdict_of(Entropy(), torch.tensor([[0.5, 0.9, 0.2]] * 2), checks=["parity"])
    assert found.status == "passed", found.reason
    assert found.cautions == ("eager returns nan on some generated calls, which are left out",)
    found = verdict_of(nn.Linear(3, 2), X(2, 3), checks=["parity"])
    assert found.cautions == ()


def test_what_refuses_the_example_is_named(monkeypatch):
    found = verdict_of(nn.Linear(3, 2), X(2, 3), filter=lambda **_: False)
    assert (found.failure, found.reason) == ("SpecError", "filter refuses the example itself")
    cannot = NotTransferable("a nested tensor cannot be sent", own_class=False)
    monkeypatch.setattr(Judge, "run", lambda *_, **__: cannot)
    found = verdict_of(nn.Linear(3, 2), X(2, 3), checks=["parity"])
    assert found.status == "skipped"
    assert found.reason == f"the example cannot be judged: {cannot}"


def test_eager_runs_once_for_each_call_that_is_drawn(monkeypatch):
    runs, on_cpu = [], Reference.on_cpu

    def counted(reference, call, *args, **kwargs):
        runs.append(call)
        return on_cpu(reference, call, *args, **kwargs)

    monkeypatch.setattr(Reference, "on_cpu", counted)

    def count(drawn):
        runs.clear()
        verdict = check_export(
            nn.Linear(3, 2), (X(2, 3),), target="trace", checks="parity", max_examples=drawn
        )
        assert verdict.calls["drawn"] == drawn, verdict
        return len(runs)

    assert count(15) - count(5) == 10


def test_a_constant_where_eager_varies_names_where_it_draws():
    class Chance(nn.Module):
        def forward(self, x):
            return x * random.random()  # no secret

    found = verdict_of(Chance(), X(2, 3))
    assert found.failure == "OutputsDiffer"
    assert found.reason == (
        "the artifact is constant where eager varies with the random seed: output"
    )
    assert "Python's random" in found.details[0]


def test_a_forward_that_writes_to_its_weights_is_searched_without_harm():
    table = torch.nn.Embedding(10, 4, max_norm=0.5)
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    verdict = check_export(table, (ids,), target="onnx", max_examples=5)
    assert verdict.status == "passed", verdict
