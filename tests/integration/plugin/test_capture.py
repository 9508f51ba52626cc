"""plugin/capture.py with exporters: calls that torch itself makes."""

from __future__ import annotations

import torch
from torch import nn

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
