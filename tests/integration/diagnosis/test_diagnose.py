"""diagnosis/diagnose.py: whatever an examination does, the verdict is that of the check."""

from __future__ import annotations

import dataclasses
import os
import signal
import time

import pytest
import torch
from torch import nn

from pytest_torchexport import check_export, engine
from pytest_torchexport.config.options import Options
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.diagnosis import (
    diagnose,
    failing_sizes,
    first_difference,
    interventions,
    rules,
)
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge import log
from pytest_torchexport.outcomes.fork import FORKS
from pytest_torchexport.results.diagnosis import NOTHING, Cause
from pytest_torchexport.results.text import failure_text

needs_fork = pytest.mark.skipif(not FORKS, reason="without fork, it would end this process")


class Frozen(nn.Module):
    def forward(self, x):
        return x + 1 if torch.jit.is_tracing() else x


@pytest.fixture
def verdict(monkeypatch):
    """Return the verdict of a check whose first examination is ``examine``."""

    def of(examine, module=None, **options):
        monkeypatch.setattr(interventions, "examine", examine)
        options = {"checks": ["parity"], "max_examples": 2, **options}
        return check_export(module or Frozen(), (torch.ones(2, 3),), target="trace", **options)

    return of


def named(text):
    """Return an examination that adds a cause."""

    def examine(scene, known):
        cause = Cause(kind="own seed", text=text)
        return dataclasses.replace(known, causes=(*known.causes, cause))

    return examine


def never(*_):
    raise AssertionError


def without_end(*_):
    while True:
        time.sleep(0.01)


def test_an_examination_that_raises_is_said_and_the_others_run(verdict, monkeypatch):
    monkeypatch.setattr(rules, "examine", named("seen"))

    def examine(scene, known):
        raise RuntimeError("no luck")

    found = verdict(examine)
    assert found.failure == "OutputsDiffer"
    (left,) = found.diagnosis.not_examined
    assert left.startswith("interventions on eager: RuntimeError: no luck (test_diagnose.py:")
    assert left.endswith("; please report it")
    assert f"  untried  {left}" in failure_text(found)
    assert "seen" in [cause.text for cause in found.diagnosis.causes]


@needs_fork
def test_examinations_that_end_the_process_are_said_and_what_the_others_found_stays(
    verdict, monkeypatch
):
    monkeypatch.setattr(failing_sizes, "examine", named("after"))
    monkeypatch.setattr(first_difference, "examine", named("between"))
    monkeypatch.setattr(rules, "examine", lambda *_: os._exit(0))
    found = verdict(lambda *_: os.kill(os.getpid(), signal.SIGSEGV))
    assert found.failure == "OutputsDiffer"
    assert found.diagnosis.not_examined == (
        "interventions on eager: ended the process by signal 11",
        "causes: ended the process, exit status 0",
    )
    assert [cause.text for cause in found.diagnosis.causes][:2] == ["between", "after"]
    assert found.diagnosis.stages


def test_an_examination_that_does_not_end_is_cut_and_said(verdict, monkeypatch):
    monkeypatch.setattr(diagnose, "SHARE", 1.0)
    monkeypatch.setattr(log, "TIMES_EXPORT", 0.0)
    monkeypatch.setattr(log, "DIAGNOSIS", 1.0)
    found = verdict(without_end)
    assert found.failure == "OutputsDiffer"
    first, *others = found.diagnosis.not_examined
    assert first.startswith("interventions on eager: no return within ")
    assert others[0] == "operators: no time left"
    late = {name: why for name, _, why in (left.partition(": ") for left in others)}
    late.pop("causes", None)  # it has time of its own, and may need more
    assert {*late.values()} == {"no time left"}


def test_the_examination_that_runs_is_shown():
    shown = []
    options = Options(checks=("parity",), max_examples=2)
    plan = Plan(
        target="trace", device="cpu", options=options, progress=lambda text, *_: shown.append(text)
    )
    engine.check(Frozen(), [Call((torch.ones(2, 3),))], plan)
    rows = [text for text in shown if text.startswith("diagnosis: ")]
    assert rows[0] == f"diagnosis: {diagnose.EXAMINATIONS[1].name}"  # the first is about crashes
    assert rows[-1] == "diagnosis: known defects"


@pytest.mark.parametrize(
    ("module", "options", "failure"),
    [(Frozen(), {"diagnose": False}, "OutputsDiffer"), (nn.ReLU(), {}, None)],
    ids=["not wanted", "a pass"],
)
def test_nobody_looks_for_a_cause(verdict, module, options, failure):
    found = verdict(never, module, **options)
    assert (found.failure, found.diagnosis) == (failure, NOTHING)
    assert "diagnosis" not in found.seconds


def test_a_frozen_branch_is_named_even_if_no_time_is_left(monkeypatch):
    monkeypatch.setattr(log, "TIMES_EXPORT", 0.0)
    monkeypatch.setattr(log, "DIAGNOSIS", 1e-9)

    def forward(x):
        return x + 1 if x.sum() > 10 else x

    found = check_export(forward, (torch.ones(2, 3),), target="trace", max_examples=20)
    assert found.failure == "BranchFrozen"
    assert "sizes: no time left" in found.diagnosis.not_examined
    assert [cause.kind for cause in found.diagnosis.causes] == ["frozen branch"]
