"""The marker on tests you already have: their bodies stay as they are.

Each test becomes one item per target: ``test_net[trace-cpu]``, ``test_net[onnx-cpu]``, ... The body runs
first and must pass; then the module it called is exported and compared with eager on other inputs.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pytest_torchexport import ArtifactRaised, ExportRefused


# --8<-- [start:net]
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, kernel_size=3, padding=1)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        features = torch.relu(self.conv(x))
        return self.head(features.mean(dim=(2, 3)))


@pytest.mark.torchexport
def test_net():
    logits = Net()(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, 10)


# --8<-- [end:net]


# --8<-- [start:frozen]
class FrozenBatch(nn.Module):
    """Right in eager. But len() is a Python number, and all that is not a tensor becomes a constant."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(12, 10)

    def forward(self, x):
        return self.head(x.reshape(len(x), -1))  # x.flatten(1) would be right everywhere


# --8<-- [end:frozen]


# --8<-- [start:xfail]
# A strict xfail masks exactly the failure it names: another one is still red, and so is the day on which the
# model is mended. The same line breaks two targets, each in its own way, and script not at all.
@pytest.mark.torchexport(
    "trace",
    "script",
    "export",
    xfail={
        "trace": (ArtifactRaised, "the batch of the example is baked in"),
        "export": (ExportRefused, "torch.export sees that the batch cannot vary"),
    },
)
def test_frozen_batch():
    logits = FrozenBatch()(torch.randn(2, 3, 4))
    assert logits.shape == (2, 10)


# --8<-- [end:xfail]
