"""checks/serving.py: the artifact as it is served, with more threads."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from pytest_torchexport import check_export
from pytest_torchexport.checks import serving
from pytest_torchexport.inputs.pytrees import Call
from pytest_torchexport.outcomes.observe import Raised, Returned

X = torch.linspace(-1.0, 1.0, 6).reshape(2, 3)
# So many numbers that threads share the work, and add up in another order than one alone.
MANY = torch.linspace(-1.0, 1.0, 100_000) ** 3
EXACTLY = {"rtol": 0.0, "atol": 0.0, "shapes": {"x": "..."}}


class Summed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum()


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


def checked(module, target, x=X, **options):
    options = {"max_examples": 2, "checks": ("parity", "round_trip"), **options}
    return check_export(module, (x,), target=target, **options)


def test_an_artifact_that_differs_with_many_threads_fails_as_usual():
    assert checked(Summed(), "trace", MANY, **EXACTLY).status == "passed"
    verdict = checked(Summed(), "trace", MANY, threads=3, **EXACTLY)
    assert verdict.failure == "OutputsDiffer"
    assert "with 3 threads (torchexport_threads); with one thread it agrees" in verdict.details[-1]
    assert verdict.call.startswith("x=float32[100000]")
    # The tolerance of the dtype allows it.
    assert checked(Summed(), "trace", MANY, threads=3, shapes={"x": "..."}).status == "passed"


@pytest.mark.parametrize("target", ["trace", "onnx"])
def test_an_artifact_that_is_right_with_many_threads_passes(target):
    verdict = checked(Doubled(), target, threads=2)
    assert verdict.status == "passed"
    assert not verdict.cautions
    assert "served" in verdict.seconds
    assert "served" not in checked(Doubled(), target).seconds


def test_without_a_file_there_is_nothing_to_repeat():
    verdict = checked(Doubled(), "trace", threads=2, checks=("parity",))
    assert "served" not in verdict.seconds


def returned(*numbers):
    return Returned(torch.tensor(numbers), Call())


def test_repeats_differ_by_their_bits():
    bits = serving._bits
    assert bits(returned(0.0), frozenset()) != bits(returned(-0.0), frozenset())
    assert bits(returned(float("nan")), frozenset()) == bits(returned(float("nan")), frozenset())
    assert bits(returned(1.0), frozenset(["output"])) == bits(returned(2.0), frozenset(["output"]))
    assert bits(Raised("ValueError", "no"), frozenset()) != bits(returned(1.0), frozenset())


def test_a_result_of_which_each_repeat_differs_is_kept_each_time():
    runner = SimpleNamespace(run=lambda *_: returned(float(next(numbers))))
    numbers = iter(range(100))
    case = SimpleNamespace(plan=SimpleNamespace(seed=0), random_paths=frozenset())
    found = serving._repeated(case, runner, Call())
    assert [outcome.value.item() for outcome in found] == list(range(serving.REPEATS))
