"""judge/modes.py: eager in other modes and with more threads is tried on every call, if code asks."""

from __future__ import annotations

import torch
from torch import nn

from pytest_torchexport import check_export
from pytest_torchexport.outcomes import torch_state

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def warnings(net, mode=torch.enable_grad):
    with mode():
        verdict = check_export(net, (X,), target="trace", max_examples=3)
    assert verdict.status == "passed", verdict
    return verdict.cautions


def test_a_tensor_that_is_asked_if_it_is_of_inference_mode_is_a_warning():
    class Inside(nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor

        def forward(self, x):
            y = x + 1
            return y * self.factor if y.is_inference() else y * 2

    (text,) = warnings(Inside(3.0))
    assert "return y * self.factor if y.is_inference() else y * 2" in text
    assert warnings(Inside(2.0)) == ()


def test_a_module_that_does_not_ask_is_run_in_the_mode_of_the_call_but_once(monkeypatch):
    entered = []
    real = torch_state.GradMode.entered

    def counted(mode):
        entered.append(mode)
        return real(mode)

    monkeypatch.setattr(torch_state.GradMode, "entered", counted)
    assert warnings(nn.Linear(3, 3)) == ()
    assert torch_state.GradMode.INFERENCE not in entered
