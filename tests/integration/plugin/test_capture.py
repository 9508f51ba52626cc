"""plugin/capture.py with exporters: calls that torch itself makes, and scripted subjects."""

from __future__ import annotations

import torch
from torch import nn

from pytest_torchexport.outcomes.subject import Subject
from pytest_torchexport.plugin.capture import CallRecorder


class Inner(nn.Module):
    def forward(self, x, scale=1.0):
        return x * scale


def recorded(body):
    with CallRecorder() as recorder:
        body()
    return recorder.recordings


def test_what_torch_itself_calls_is_not_the_users():
    def body():
        torch.jit.trace(Inner(), torch.ones(2), check_trace=False)
        torch.export.export(Inner(), (torch.ones(2),))

    assert recorded(body) == []


# -- subjects --------------------------------------------------------------------------------------


def test_scripted_subjects_are_known():
    assert Subject.of(torch.jit.trace(Inner(), torch.ones(2), check_trace=False)).scripted
    assert not Subject.of(Inner()).scripted
