"""diagnosis/diagnose.py: whatever an examination does, the verdict is that of the check."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from pytest_torchexport import check_export
from pytest_torchexport.diagnosis import attention, diagnose, masks
from pytest_torchexport.results.text import failure_text


class Frozen(nn.Module):
    def forward(self, x):
        return x + 1 if torch.jit.is_tracing() else x


@pytest.fixture
def verdict():
    """Return the verdict of a check whose first examination is ``examine``."""

    def of(examine, monkeypatch):
        monkeypatch.setattr(attention, "examine", examine)
        return check_export(
            Frozen(), (torch.ones(2, 3),), target="trace", checks=["parity"], max_examples=2
        )

    return of


def test_an_examination_that_raises_is_said_and_the_others_run(verdict, monkeypatch):
    seen = []
    monkeypatch.setattr(masks, "examine", lambda **given: seen.append(given) or given["known"])

    def examine(scene, known):
        raise RuntimeError("no luck")

    found = verdict(examine, monkeypatch)
    assert found.failure == "OutputsDiffer"
    (left,) = found.diagnosis.not_examined
    assert left.startswith("attention's fast path: RuntimeError: no luck (test_diagnose.py:")
    assert left.endswith("; please report it")
    assert f"  untried  {left}" in failure_text(found)
    assert len(seen) == 1


def test_an_examination_that_does_not_end_is_cut_and_said(verdict, monkeypatch):
    monkeypatch.setattr(diagnose, "SECONDS", 1.0)
    monkeypatch.setattr(diagnose, "TIMES_EXPORT", 0.0)

    def examine(scene, known):
        while True:
            time.sleep(0.01)

    found = verdict(examine, monkeypatch)
    assert found.failure == "OutputsDiffer"
    assert found.diagnosis.not_examined == (
        "attention's fast path: no time left",
        "questions about the export: no time left",
        "masked rows: no time left",
        "operators: no time left",
        "causes: no time left",
        "stages: no time left",
    )


def test_a_pass_is_not_diagnosed(verdict, monkeypatch):
    def examine(scene, known):
        raise AssertionError

    monkeypatch.setattr(attention, "examine", examine)
    passed = check_export(
        nn.ReLU(), (torch.ones(2, 3),), target="trace", checks=["parity"], max_examples=2
    )
    assert passed.status == "passed"
    assert "diagnosis" not in passed.seconds
