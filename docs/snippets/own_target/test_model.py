from __future__ import annotations

import pytest
import torch
from torch import nn


@pytest.mark.torchexport("frozen", dims={"batch": (1, 8)})
def test_classifier():
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    assert model(torch.randn(3, 4)).shape == (3, 2)
