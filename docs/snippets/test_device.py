from __future__ import annotations

import pytest
import torch
from torch import nn


class Shifted(nn.Module):
    def forward(self, x):
        return x + torch.arange(x.size(1), device="cpu")


@pytest.mark.torchexport("trace", "export")
def test_shifted():
    Shifted()(torch.randn(2, 3))
