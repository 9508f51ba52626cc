"""checks/latency.py: what is timed, what is said of it, and the limit. No test asserts a time."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

from pytest_torchexport import check_export
from pytest_torchexport.checks import latency
from pytest_torchexport.checks.latency import Pairs
from pytest_torchexport.config.options import parse_options
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.config.settings import settings_from
from pytest_torchexport.engine import check, check_artifact
from pytest_torchexport.inputs.pytrees import Call

X = torch.linspace(-1.0, 1.0, 6).reshape(2, 3)


class Growing(nn.Module):
    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(1)
        return x * 2


class Doubled(nn.Module):
    def forward(self, x):
        return x * 2


@pytest.fixture
def slow_at_batch_4(monkeypatch):
    """Every call of the artifact takes as long as eager's, but for 3 times at batch 4."""
    ran = []

    def timed(eager, artifact, seconds):
        size = len(eager())
        artifact()
        ran.append(size)
        return Pairs([0.001] * 20, [0.003 if size == 4 else 0.001] * 20)

    monkeypatch.setattr(latency, "timed_in_turn", timed)
    return ran


def checked(module=None, **settings):
    settings = {"max_examples": 1, "checks": ("parity",), **settings}
    return check_export(module or Doubled(), (X,), target="trace", **settings)


def test_the_example_and_the_ends_of_the_sizes_are_timed():
    verdict = checked(max_slowdown=math.inf)
    assert verdict.status == "passed"
    assert [row.at for row in verdict.latency] == ["batch = 2", "batch = 1", "batch = 4"]
    assert all(row.low <= row.ratio <= row.high for row in verdict.latency)
    assert all(row.pairs >= 10 and row.workers == 1 for row in verdict.latency)
    assert "latency" not in checked().seconds


def test_a_call_that_exceeds_the_limit_fails(slow_at_batch_4):
    verdict = checked(max_slowdown=2)
    assert verdict.failure == "ArtifactSlower"
    assert verdict.reason == (
        "it takes 3 times eager (3 to 3) at batch = 4; the limit is 2 (torchexport_max_slowdown)"
    )
    assert "3 ms, eager 1 ms: 3 times eager (3 to 3), at batch = 4" in verdict.details
    assert verdict.call.startswith("x=float32[4, 3]")
    assert slow_at_batch_4 == [2, 1, 4]
    assert checked(max_slowdown=3).status == "passed"
    assert checked(max_slowdown=math.inf).status == "passed"


@pytest.mark.parametrize(("overhead", "limit"), [(0.0011, 2), (0.0009, 2.5)])
def test_the_way_into_a_runtime_is_not_slower(slow_at_batch_4, monkeypatch, overhead, limit):
    monkeypatch.setattr(latency, "OVERHEAD", overhead)
    verdict = checked(max_slowdown=limit)
    assert verdict.status == "passed"
    (caution,) = (each for each in verdict.cautions if "latency" in each)
    assert "not limited at batch = 4: a call takes 3 ms, and the way into a runtime" in caution
    assert checked(max_slowdown=limit, strict=True).failure == "Ineffective"
    assert checked(max_slowdown=4, strict=True).status == "passed"


def test_what_is_not_timed_is_said(tmp_path, monkeypatch):
    assert checked(
        isolate=True, max_slowdown=math.inf, checks=("parity", "round_trip")
    ).cautions == (latency.ELSEWHERE,)
    assert latency.CHANGES in checked(Growing(), max_slowdown=2).cautions
    strict = checked(Growing(), max_slowdown=2, strict=True)
    assert (strict.failure, strict.reason) == ("Ineffective", latency.CHANGES)
    assert checked(Growing(), max_slowdown=math.inf, strict=True).status == "passed"
    path = tmp_path / "model.pt"
    torch.jit.save(torch.jit.trace(Doubled(), X), path)
    plan = Plan(
        target="trace",
        device="cpu",
        options=parse_options((), {"max_examples": 1}),
        settings=settings_from({"max_slowdown": math.inf}),
    )
    verdict = check_artifact(path, Doubled(), Call((X,)), plan)
    assert latency.ELSEWHERE in verdict.cautions
    assert not verdict.latency
    monkeypatch.setattr(latency, "timed_in_turn", lambda *_: None)
    plan = dataclasses.replace(plan, workers=3)
    beside, slow = check(Doubled(), [Call((X,))], plan).cautions
    assert "while 3 workers of pytest-xdist are at work" in beside
    assert slow == latency.TOO_SLOW
    limited = {"max_slowdown": 2.0, "strict": True}
    plan = dataclasses.replace(plan, settings=settings_from(limited))
    assert check(Doubled(), [Call((X,))], plan).failure == "Ineffective"
