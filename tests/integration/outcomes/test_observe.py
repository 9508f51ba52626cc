"""outcomes/observe.py with scripted and frozen modules."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pytest_torchexport.outcomes.observe import (
    State,
)

# -- state -----------------------------------------------------------------------------------------


def snapshot(module):
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def same(module, before):
    after = module.state_dict()
    return list(after) == list(before) and all(torch.equal(after[k], before[k]) for k in before)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_state_of_nothing_of_scripted_and_of_frozen_modules():
    assert not State(None).restore()
    scripted = torch.jit.trace(nn.BatchNorm1d(2).train(), torch.randn(4, 2), check_trace=False)
    state = State(scripted, thorough=True)
    before = snapshot(scripted)
    scripted(torch.randn(4, 2))
    state.restore()
    assert same(scripted, before)
    with torch.inference_mode():
        inference = nn.Linear(2, 2)
    assert not State(inference).restore()
