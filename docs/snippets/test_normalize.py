from __future__ import annotations

import pytest
import torch
from torch import nn


class Normalize(nn.Module):
    def forward(self, x):
        if x.sum() > 10:
            x = 10 * x / x.sum()
        return {"scores": x * 2}


@pytest.mark.torchexport("trace", dims={"batch": (1, 8)})
def test_normalize():
    assert Normalize()(torch.ones(2, 3))["scores"].shape == (2, 3)
