"""Mark existing tests; their bodies stay as they are.

Each test becomes one item per target: ``test_net[trace-cpu]``, ``test_net[onnx-cpu]``, ... The body
runs first and must pass. Then the module that it called is exported and compared with eager on
other inputs.
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
    """Correct in eager. But len() returns a Python number, and a trace makes it a constant."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(12, 10)

    def forward(self, x):
        return self.head(x.reshape(len(x), -1))  # x.flatten(1) works for any batch


# --8<-- [end:frozen]


# --8<-- [start:xfail]
# A strict xfail expects exactly the failure that it names. The item fails if another failure
# occurs, and also if the target starts to pass. The same line breaks two targets in different ways;
# `script` works.
@pytest.mark.torchexport(
    "trace",
    "script",
    "export",
    xfail={
        "trace": (ArtifactRaised, "the batch of the example is baked in"),
        "export": (ExportRefused, "torch.export reports that the batch cannot vary"),
    },
)
def test_frozen_batch():
    logits = FrozenBatch()(torch.randn(2, 3, 4))
    assert logits.shape == (2, 10)


# --8<-- [end:xfail]
