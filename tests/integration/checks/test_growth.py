"""checks/growth.py: which sizes are called, what is said of it, and the limit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pytest_torchexport import check_export
from pytest_torchexport.checks import growth
from pytest_torchexport.config.options import parse_options
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.config.settings import settings_from
from pytest_torchexport.engine import check_artifact
from pytest_torchexport.inputs.call import Call
from pytest_torchexport.outcomes.fork import FORKS, Death

X = torch.linspace(-1.0, 1.0, 150).reshape(50, 3)
WIDE = {"shapes": {"x": "time 3"}, "dims": {"time": (1, 300)}}
KIB, MIB = 2.0**10, 2.0**20

pytestmark = pytest.mark.skipif(not FORKS, reason="needs a fork")


class Doubled(nn.Module):
    def forward(self, x):
        return x * 2


class Keeping:
    """An artifact that is right, and that keeps a mebibyte for each size."""

    def __init__(self):
        self.kept = {}

    def __call__(self, x):
        self.kept.setdefault(len(x), torch.ones(2**18))
        return x * 2


def checked(**settings):
    settings = {"max_examples": 1, "checks": ("parity",), **settings}
    return check_export(Doubled(), (X,), target="trace", **settings)


def foreign(made, **settings):
    plan = Plan(
        target="trace",
        device="cpu",
        options=parse_options((), {"max_examples": 1, **WIDE}),
        settings=settings_from(settings),
    )
    return check_artifact(made, Doubled(), Call((X,)), plan)


def test_an_artifact_that_keeps_memory_for_each_size_fails():
    verdict = foreign(Keeping(), max_growth=0.5)
    assert verdict.failure == "ArtifactGrows"
    assert verdict.growth.dim == "time"
    assert verdict.growth.artifact == pytest.approx(MIB, rel=0.1)
    assert verdict.growth.eager < MIB / 16
    assert "the limit is 512 KiB more (torchexport_max_growth)" in verdict.reason


def test_its_healthy_kin_passes():
    verdict = checked(max_growth=0.5, **WIDE)
    assert verdict.status == "passed"
    assert verdict.growth.sizes == 30
    assert abs(verdict.growth.artifact) < MIB / 16


def test_every_group_has_to_exceed_the_limit_beyond_eager(monkeypatch):
    sides = []
    monkeypatch.setattr(growth, "growth", lambda *_: sides.pop(0))

    def status(eager, artifact, limit=0.5):
        sides.extend([eager, artifact])
        return checked(max_growth=limit, **WIDE).status

    assert status([0.0] * 10, [MIB] * 10) == "failed"
    assert status([MIB] * 10, [MIB] * 10) == "passed"
    assert status([0.0] * 10, [MIB] * 9 + [0.0]) == "passed"
    assert status([0.0] * 10, [MIB] * 10, limit=2) == "passed"


def test_the_sizes_are_new_and_near_the_example(monkeypatch):
    asked = []
    monkeypatch.setattr(growth, "growth", lambda _, sizes, __: asked.append(sizes) or [0.0] * 10)
    verdict = checked(max_growth=0.5, shapes={"x": "time 3"}, dims={"time": (1, 100_000)})
    sizes, again = asked
    assert sizes == again == sorted(set(sizes), reverse=True)
    assert len(sizes) == growth.SIZES
    assert not {*sizes} & {*verdict.reached["time"]}
    assert max(abs(size - 50) for size in sizes) < 50


def test_what_is_not_measured_is_said_as_a_warning_if_there_is_a_limit(monkeypatch):
    few = growth.FEW.format(growth.SIZES)
    assert few in checked(max_growth=1, shapes={"x": "..."}).cautions
    strict = checked(max_growth=1, shapes={"x": "..."}, strict=True)
    assert (strict.failure, strict.reason) == ("Ineffective", few)
    assert few in checked(latency=True, shapes={"x": "..."}, strict=True).notes
    monkeypatch.setattr(growth, "growth", lambda *_: Death(raised="ValueError: no"))
    assert (
        "memory growth not measured: eager raised ValueError: no"
        in checked(max_growth=1, **WIDE).cautions
    )
    monkeypatch.setattr(growth, "can_fork", lambda: False)
    assert growth.ELSEWHERE in checked(max_growth=1, **WIDE).cautions
