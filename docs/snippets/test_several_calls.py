from __future__ import annotations

import pytest
import torch
from torch import nn


@pytest.mark.torchexport("trace")
def test_any_image_size():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for batch, size in [(2, 32), (4, 64), (1, 48)]:
        assert net(torch.randn(batch, 3, size, size)).shape == (batch, 4)
