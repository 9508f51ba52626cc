"""outcomes/observe.py with scripted and frozen modules."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pytest_torchexport.outcomes.observe import State


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_state_of_nothing_of_scripted_and_of_frozen_modules():
    assert not State(None).restore()
    scripted = torch.jit.trace(nn.BatchNorm1d(2).train(), torch.randn(4, 2), check_trace=False)
    state, before = State(scripted, thorough=True), scripted.running_mean.tolist()
    scripted(torch.randn(4, 2))
    state.restore()
    assert scripted.running_mean.tolist() == before
    with torch.inference_mode():
        inference = nn.Linear(2, 2)
    assert not State(inference).restore()
