"""Run the inputs that a model meets in production, beside those that are generated."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pytest_torchexport import OutputsDiffer


class Price(nn.Module):
    """Returns a price for a row of eight features."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, features):
        return self.layers(features)


houses = TensorDataset(torch.randn(400, 8) * 3, torch.rand(400))


# Of each pair of the DataLoader, `forward` takes the features; the labels are left out. The first
# 20 batches are used. What varies between them (here the size of the last one) is a dim.
@pytest.mark.torchexport("trace", "export", inputs=(DataLoader(houses, batch_size=24), 20))
def test_batches_of_a_loader():
    assert Price()(torch.randn(2, 8)).shape == (2, 1)


@pytest.fixture
def stored(tmp_path):
    """Store three calls as a service logs them; in one of them a feature is far off the others."""
    for number, largest in enumerate((1.0, 2.0, 90.0)):
        features = np.full((2, 8), 0.5, np.float32)
        features[0, 3] = largest
        np.savez(tmp_path / f"{number}.npz", features=features)
    return tmp_path


# A runtime that saturates at 50 agrees on all generated values: these have the example's scale. The
# failure names the file.
@pytest.mark.torchexport("onnx")
def test_a_call_of_production(torchexport, stored):
    model = Price().eval()

    def runtime(features):
        return model(features.clamp(-50, 50))

    with pytest.raises(OutputsDiffer, match=r"real inputs: 1 of 3 fail: .*2\.npz"):
        torchexport.using(inputs=stored).check_artifact(runtime, model, torch.randn(2, 8))
