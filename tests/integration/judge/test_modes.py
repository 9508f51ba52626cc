"""judge/modes.py: eager in other modes and with more threads is tried on every call, if code asks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pytest_torchexport import check_export
from pytest_torchexport.outcomes import grad_mode

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


class Asks(nn.Module):
    """Multiplies by ``factor`` what has a large sum, if the question is answered so."""

    def __init__(self, question, factor):
        super().__init__()
        self.question, self.factor = question, factor

    def forward(self, x):
        if bool(x.sum() > 100) and self.asks():
            return x * self.factor
        return x * 2

    def asks(self):
        if self.question == "gradients":
            return not torch.is_grad_enabled()
        if self.question == "inference":
            return torch.is_inference_mode_enabled()
        return torch.get_num_threads() > 4


def warnings(net, mode=torch.enable_grad):
    with mode():
        verdict = check_export(net, (X,), target="trace", max_examples=3)
    assert verdict.status == "passed", verdict
    return verdict.cautions


@pytest.mark.parametrize(
    ("question", "line", "mode"),
    [
        ("gradients", "return not torch.is_grad_enabled()", torch.enable_grad),
        ("inference", "return torch.is_inference_mode_enabled()", torch.enable_grad),
        ("inference", "return torch.is_inference_mode_enabled()", torch.no_grad),
        ("threads", "return torch.get_num_threads() > 4", torch.enable_grad),
    ],
)
def test_another_result_in_a_corner_is_a_warning_with_the_line_that_asks(question, line, mode):
    (text,) = warnings(Asks(question, 3.0), mode)
    assert "eager returns something else" in text
    assert "asked at " in text
    assert line in text
    assert warnings(Asks(question, 2.0), mode) == ()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_not_tried_if_the_call_is_made_without(mode):
    class Trains(nn.Module):
        def forward(self, x):
            return x * 3 if torch.is_grad_enabled() else x * 2

    assert warnings(Trains(), mode) == ()
    assert len(warnings(Trains())) == 1


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


def test_more_threads_that_change_only_rounding_are_no_warning():
    class Chunks(nn.Module):
        def forward(self, x):
            return sum(chunk.sum() for chunk in x.chunk(torch.get_num_threads(), 1))

    assert warnings(Chunks()) == ()


def test_a_module_that_does_not_ask_is_run_in_the_mode_of_the_call_but_once(monkeypatch):
    entered = []
    real = grad_mode.GradMode.entered

    def counted(mode):
        entered.append(mode)
        return real(mode)

    monkeypatch.setattr(grad_mode.GradMode, "entered", counted)
    assert warnings(nn.Linear(3, 3)) == ()
    assert grad_mode.GradMode.INFERENCE not in entered
