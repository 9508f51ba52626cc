from __future__ import annotations

import pytest
import torch
from torch import nn


class Score(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x):
        return torch.tanh(self.linear(x))


@pytest.mark.torchexport("trace")
def test_default():
    torch.manual_seed(0)
    Score()(torch.randn(2, 4))


@pytest.mark.torchexport("trace", rtol=1e-2, atol=1e-2)
def test_loose():
    torch.manual_seed(0)
    Score()(torch.randn(2, 4))
