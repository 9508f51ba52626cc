"""Declare which inputs are legal: sizes, values, and dependencies between inputs."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.export import Dim


class Downsample(nn.Module):
    """Halves height and width twice; takes images of 4 x 4 pixels or more."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, kernel_size=3, padding=1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x):
        return self.pool(torch.relu(self.conv(self.pool(x))))


# `shapes` names the axes that vary (numbers are fixed). `dims` gives the range of each: (low, high)
# inclusive, a range, or a list. Eager and the artifact must take every size in the range.
@pytest.mark.torchexport(
    shapes={"x": "batch 3 height width"},
    dims={"batch": (1, 8), "height": range(16, 65, 16), "width": [16, 24, 32]},
)
def test_sizes():
    y = Downsample()(torch.randn(2, 3, 32, 32))
    assert y.shape == (2, 4, 8, 8)


class Embed(nn.Module):
    """Embeds words and divides by a temperature that must not be zero."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(100, 8)

    def forward(self, ids, temperature):
        return torch.softmax(self.words(ids) / temperature, dim=-1)


# Without `values`, numbers stay in the range of the example. Here, all ids of the embedding are
# legal, and no call sets the temperature to 0. "" is the shape of a scalar.
@pytest.mark.torchexport(
    shapes={"ids": "batch time", "temperature": ""},
    dims={"batch": (1, 4), "time": (1, 12)},
    values={"ids": (0, 99), "temperature": (0.5, 2.0)},
)
def test_values():
    probabilities = Embed()(torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor(1.0))
    assert probabilities.shape == (2, 3, 8)


class MaskedMean(nn.Module):
    """Returns the mean of each sequence up to its length."""

    def forward(self, x, lengths):
        steps = torch.arange(x.shape[1], device=x.device)
        keep = (steps < lengths[:, None]).unsqueeze(-1).to(x.dtype)
        return (x * keep).sum(dim=1) / lengths[:, None].to(x.dtype)


# `lengths` depends on `x`, so `map` changes each generated call. It is called with forward's
# arguments by name and returns the changed ones.
@pytest.mark.torchexport(
    shapes={"x": "batch time 4", "lengths": "batch"},
    dims={"batch": (1, 6), "time": (1, 9)},
    values={"lengths": (1, 9)},
    map=lambda x, lengths: {"lengths": lengths.clamp(max=x.shape[1])},
)
def test_lengths_within_the_time_axis():
    y = MaskedMean()(torch.randn(2, 5, 4), torch.tensor([5, 3]))
    assert y.shape == (2, 4)


class Cosine(nn.Module):
    """Returns the cosine of the angle between two vectors; undefined for a vector of zeros."""

    def forward(self, a, b):
        lengths = torch.linalg.vector_norm(a, dim=-1) * torch.linalg.vector_norm(b, dim=-1)
        return (a * b).sum(dim=-1) / lengths


def both_are_vectors(a, b):
    return all(bool((v.norm(dim=-1) > 0.1).all()) for v in (a, b))


# `filter` rejects a call. Use it if few calls are rejected; otherwise use `values` or `map`.
@pytest.mark.torchexport(values={"a": (-2.0, 2.0), "b": (-2.0, 2.0)}, filter=both_are_vectors)
def test_no_vector_of_zeros():
    assert Cosine()(torch.randn(3, 8), torch.randn(3, 8)).shape == (3,)


# If you already have an object for torch.export.export, pass it instead of shapes and dims.
@pytest.mark.torchexport(
    dynamic_shapes={"x": {0: Dim("batch", min=1, max=8), 2: Dim("height", min=8, max=64)}},
)
def test_the_shapes_of_torch_export():
    assert Downsample()(torch.randn(2, 3, 32, 32)).shape == (2, 4, 8, 8)
