"""checks/serving.py: the artifact as it is served, on other devices and with more threads."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from pytest_torchexport import check_export
from pytest_torchexport.checks import serving
from pytest_torchexport.eager.reference import Reference
from pytest_torchexport.inputs.pytrees import Call
from pytest_torchexport.judge.case import Case
from pytest_torchexport.outcomes.observe import Raised, Returned

X = torch.linspace(-1.0, 1.0, 6).reshape(2, 3)


# -- devices ---------------------------------------------------------------------------------------


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.rand(3)


@pytest.fixture
def second_device(monkeypatch):
    """Stand in for a GPU where there is none: a device of that name is the CPU, with a random stream of its own."""
    plain, judge_of = serving._outcome_on, Case.judge_of

    def on(case, device, call):
        other = dataclasses.replace(case.plan, seed=case.plan.seed + 1)
        return plain(dataclasses.replace(case, plan=other), "cpu", call)

    def on_cpu(case, *args):
        plan = dataclasses.replace(case.plan, device="cpu")
        return judge_of(dataclasses.replace(case, plan=plan), *args)

    monkeypatch.setattr(serving, "unusable_device", lambda _: None)
    monkeypatch.setattr(Case, "judge_of", on_cpu)
    monkeypatch.setattr(Reference, "on_device", lambda *args: args[2])
    monkeypatch.setattr(serving, "_outcome_on", on)


@pytest.mark.parametrize("module", [nn.Linear(3, 3), Noisy()])
def test_what_is_right_on_another_device_passes(second_device, module):
    verdict = served(module, torch.eye(3), serve_on=["cuda"], shapes={}, mode="train")
    assert verdict.status == "passed", (verdict.failure, verdict.reason, verdict.differences)


def test_what_is_wrong_on_another_device_fails(second_device, monkeypatch):
    plain = serving._outcome_on

    def on(case, device, call):
        outcome = plain(case, device, call)
        return dataclasses.replace(outcome, value=outcome.value + 1)

    monkeypatch.setattr(serving, "_outcome_on", on)
    verdict = served(nn.Linear(3, 2), serve_on=["cuda"])
    assert verdict.failure == "RoundTripDiffers"
    assert "loaded on cuda" in verdict.reason
    assert verdict.differences


# -- with the threads of production ----------------------------------------------------------------

# So many numbers that threads share the work, and add up in another order than one alone.
MANY = torch.linspace(-1.0, 1.0, 100_000) ** 3
EXACTLY = {"rtol": 0.0, "atol": 0.0, "shapes": {"x": "..."}}


class Summed(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum()


class Doubled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2


def served(module, x=X, **options):
    options = {"max_examples": 2, "checks": ("parity", "round_trip"), **options}
    return check_export(module, (x,), target="trace", **options)


def test_an_artifact_that_differs_with_many_threads_fails_as_usual():
    assert served(Summed(), MANY, **EXACTLY).status == "passed"
    verdict = served(Summed(), MANY, threads=3, **EXACTLY)
    assert verdict.failure == "OutputsDiffer"
    assert "with 3 threads (torchexport_threads); with one thread it agrees" in verdict.details[-1]
    assert verdict.call.startswith("x=float32[100000]")
    # The tolerance of the dtype allows it.
    assert served(Summed(), MANY, threads=3, shapes={"x": "..."}).status == "passed"


def test_an_artifact_that_is_right_with_many_threads_passes():
    verdict = served(Doubled(), threads=2)
    assert verdict.status == "passed"
    assert not verdict.cautions
    assert "served" in verdict.seconds
    assert "served" not in served(Doubled(), threads=2, checks=("parity",)).seconds


def returned(*numbers):
    return Returned(torch.tensor(numbers), Call())


def test_repeats_differ_by_their_bits():
    bits = serving._bits
    assert bits(returned(0.0), frozenset()) != bits(returned(-0.0), frozenset())
    assert bits(returned(float("nan")), frozenset()) == bits(returned(float("nan")), frozenset())
    assert bits(returned(1.0), frozenset(["output"])) == bits(returned(2.0), frozenset(["output"]))
    assert bits(Raised("ValueError", "no"), frozenset()) != bits(returned(1.0), frozenset())
