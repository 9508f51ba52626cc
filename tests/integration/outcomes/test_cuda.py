"""outcomes/cuda.py: the verdicts on a GPU that is lost or full, with facts that a test makes up."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pytest_torchexport import check_export, engine
from pytest_torchexport.checks import exporting
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.eager.reference import Reference
from pytest_torchexport.inputs.pytrees import Call
from pytest_torchexport.judge.runner import InProcess
from pytest_torchexport.outcomes import cuda
from pytest_torchexport.outcomes.subject import Subject

FULL = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8.00 GiB"


def check(**options):
    options = {"target": "trace", "max_examples": 2, "checks": ("parity",), **options}
    return check_export(nn.Linear(3, 3), (torch.ones(2, 3),), **options)


@pytest.fixture
def artifact_raises(monkeypatch):
    """Return a function that makes the artifact raise at its second call."""

    def install(error):
        calls = []

        def run(self, call, seed, **how):
            calls.append(call)
            if len(calls) > 1:
                raise error
            return plain(self, call, seed, **how)

        plain = InProcess.run
        monkeypatch.setattr(InProcess, "run", run)

    return install


def test_an_artifact_that_loses_the_context_is_red_with_its_call(artifact_raises):
    artifact_raises(cuda.ContextLost("CUDA error: device-side assert triggered"))
    verdict = check()
    assert verdict.failure == "ArtifactCrashed", verdict
    assert "made CUDA unusable for the rest of this process" in verdict.reason
    assert any("CUDA_LAUNCH_BLOCKING" in line for line in verdict.details)


@pytest.mark.parametrize(("strict", "status"), [(False, "skipped"), (True, "failed")])
def test_a_full_device_judges_nothing(artifact_raises, strict, status):
    artifact_raises(torch.OutOfMemoryError(FULL))
    verdict = check(strict=strict)
    assert verdict.status == status
    assert "cpu is out of memory: CUDA out of memory" in verdict.reason
    assert verdict.failure == ("Ineffective" if strict else None)


def test_eager_that_runs_on_the_cpu_only_is_said_to(monkeypatch):
    """The device is the CPU under another name, and eager's weights do not fit there."""

    def to(self, device):
        if device == "cuda":
            self.module.weight = nn.Parameter(torch.ones(3, 4))
        return self

    monkeypatch.setattr(Subject, "to", to)
    monkeypatch.setattr(Call, "to", lambda self, *_: self)
    monkeypatch.setattr(exporting, "unusable_device", lambda _: None)
    verdict = check(device="cuda")
    assert verdict.failure == "SpecError"
    assert "eager raises on cuda, and not on the CPU" in verdict.reason
    plan = Plan(target="trace", device="cuda", device_named=False)
    verdict = engine.check(nn.Linear(3, 3), [Call((torch.ones(2, 3),))], plan)
    assert verdict.status == "skipped"
    assert "nobody named cuda" in verdict.reason


def test_calls_for_which_a_device_has_no_memory_are_left_out_with_a_note(monkeypatch):
    plain = Reference._on
    sizes = []

    def on(self, device, call, *more):
        if device == "cuda":
            sizes.append(call.args[0].shape[0])
            if sizes[-1] > 2:
                raise torch.OutOfMemoryError(FULL)
        return plain(self, device, call, *more)

    monkeypatch.setattr(Reference, "_on", on)
    monkeypatch.setattr(Subject, "to", lambda self, *_: self)
    monkeypatch.setattr(Call, "to", lambda self, *_: self)
    monkeypatch.setattr(exporting, "unusable_device", lambda _: None)
    verdict = check(device="cuda")
    assert verdict.status == "passed", verdict
    assert max(sizes) > 2
    assert any("left out: cuda: OutOfMemoryError" in note for note in verdict.notes), verdict.notes
