from __future__ import annotations

import pytest
import torch
from torch import nn


class SumsOfParts(nn.Module):
    """Sums consecutive parts of x, after its own check of the lengths."""

    def forward(self, x, lengths):
        if int(lengths.sum()) != len(x):
            return torch.zeros(len(lengths))
        return torch.segment_reduce(x, "sum", lengths=lengths, unsafe=True)


@pytest.mark.torchexport("trace", shapes={"x": "6", "lengths": "3"}, values={"lengths": (0, 2**38)})
def test_sums():
    SumsOfParts()(torch.randn(6), torch.tensor([1, 2, 3]))
