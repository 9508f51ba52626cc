"""checks/threads.py: calls are repeated with the threads that serve, and a result that changes is told."""

from __future__ import annotations

import torch
from small_models import of

from pytest_torchexport import check_export
from pytest_torchexport.checks import threads
from pytest_torchexport.inputs.pytrees import Call
from pytest_torchexport.outcomes.observe import Raised, Returned

X = torch.linspace(-1.0, 1.0, 6).reshape(2, 3)
# So many numbers that threads share the work, and add up in another order than one alone.
MANY = torch.linspace(-1.0, 1.0, 100_000) ** 3
EXACTLY = {"rtol": 0.0, "atol": 0.0, "shapes": {"x": "..."}}


def doubled(x):
    return x * 2


def served(module, x=X, **options):
    options = {"max_examples": 2, "checks": ("parity", "round_trip"), **options}
    return check_export(module, (x,), target="trace", **options)


def test_an_artifact_that_differs_with_many_threads_fails_as_usual():
    assert served(of(torch.sum), MANY, **EXACTLY).status == "passed"
    verdict = served(of(torch.sum), MANY, threads=3, **EXACTLY)
    assert verdict.failure == "OutputsDiffer"
    assert "with 3 threads (torchexport_threads); with one thread it agrees" in verdict.details[-1]
    assert verdict.call.startswith("x=float32[100000]")
    # The tolerance of the dtype allows it.
    assert served(of(torch.sum), MANY, threads=3, shapes={"x": "..."}).status == "passed"


def test_an_artifact_that_is_right_with_many_threads_passes():
    verdict = served(of(doubled), threads=2)
    assert verdict.status == "passed"
    assert not verdict.cautions
    assert "served" in verdict.seconds
    assert "served" not in served(of(doubled), threads=2, checks=("parity",)).seconds


def returned(*numbers):
    return Returned(torch.tensor(numbers), Call())


def test_repeats_differ_by_their_bits():
    bits = threads._bits
    assert bits(returned(0.0), frozenset()) != bits(returned(-0.0), frozenset())
    assert bits(returned(float("nan")), frozenset()) == bits(returned(float("nan")), frozenset())
    assert bits(returned(1.0), frozenset(["output"])) == bits(returned(2.0), frozenset(["output"]))
    assert bits(Raised("ValueError", "no"), frozenset()) != bits(returned(1.0), frozenset())
