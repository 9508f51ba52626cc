"""diagnosis/interventions.py: the one is named with which eager does what the artifact does."""

from __future__ import annotations

import torch
from torch import nn

from pytest_torchexport import check_export

X = torch.ones(3, 4)


class Together(nn.Module):
    """Neither answer alone gives what the trace computes."""

    def forward(self, x):
        x = x + 1 if torch.jit.is_tracing() else x
        return x * 3 if torch.jit.is_tracing() else x


class Shorter(nn.Module):
    """The old ONNX exporter returns a list of one as its element."""

    def forward(self, x):
        return [x + 1] if torch.jit.is_tracing() else [x + 1, x]


def diagnosis_of(module, *args, target="trace", failure="OutputsDiffer", **options):
    found = check_export(
        module, args or (X,), target=target, checks=["parity"], max_examples=5, **options
    )
    assert found.failure == failure, found
    assert found.diagnosis.not_examined == ()
    return found.diagnosis


def test_a_question_is_the_cause_of_what_torch_captured_though_the_file_returns_yet_something_else():
    found = diagnosis_of(Shorter(), target="onnx_legacy", failure="StructureDiffers")
    (cause,) = found.causes
    assert cause.text.endswith("with this answer eager returns what torch captured")
    assert cause.where.text.startswith("return [x + 1] if torch.jit.is_tracing()")
    assert found.owner == "model"


def test_questions_that_only_together_are_the_cause_are_all_named():
    (cause,) = diagnosis_of(Together()).causes
    assert len(cause.details) == 2
