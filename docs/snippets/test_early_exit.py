import pytest
import torch
from torch import nn


class EarlyExit(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)

    def forward(self, x):
        h = torch.tanh(self.first(x))
        if h.abs().mean() > 0.9:
            return h
        return torch.tanh(self.second(h))


@pytest.mark.torchexport("trace", "script")
def test_early_exit(torchexport):
    torch.manual_seed(0)
    torchexport.check(EarlyExit(), torch.randn(2, 4))
