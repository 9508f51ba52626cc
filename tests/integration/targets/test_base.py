"""targets/base.py: ``traits.answers`` is what code that asks is answered while the target exports."""

from __future__ import annotations

import pytest
import torch
from specs import spec_of
from torch import nn

from pytest_torchexport import targets
from pytest_torchexport.inputs.pytrees import Call
from pytest_torchexport.outcomes.torch_state import quiet, suppress_output
from pytest_torchexport.torch_private.circumstances import export_queries

X = torch.ones(3, 4)
QUESTIONS = {name: getattr(*place) for name, place in export_queries().items()}


def exported(name, module):
    example = Call((X,))
    with quiet("cpu"), suppress_output():
        return targets.get(name).export(module, example, spec_of(module.forward, X))


@pytest.mark.parametrize("name", ["trace", "export", "onnx", "onnx_legacy"])
def test_forward_is_answered_as_the_traits_say(name):
    answers = []

    class Asks(nn.Module):
        def forward(self, x):
            answers.append({name: bool(ask()) for name, ask in QUESTIONS.items()})
            return x * 2

    Asks()(X)
    exported(name, Asks())
    eager, *_, last = answers
    assert {name: answer for name, answer in last.items() if answer != eager[name]} == {
        name: True for name in targets.get(name).traits.answers if name in QUESTIONS
    }


class AsksItself(nn.Module):
    def forward(self, x):
        scripting, state = torch.jit.is_scripting(), torch._C._get_tracing_state()
        return x * 2 if scripting and state is not None and not state else x


def test_a_script_is_answered_when_it_runs():
    answers = targets.get("script").traits.answers
    assert answers == {"torch.jit.is_scripting": True, "torch._C._get_tracing_state": False}
    assert torch.equal(exported("script", AsksItself())(X), X * 2)
    assert torch.equal(AsksItself()(X), X)
