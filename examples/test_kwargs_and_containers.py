"""Check modules with keyword arguments, Python arguments, and containers as inputs and outputs."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from pytest_torchexport import LoadFailed


class Scale(nn.Module):
    def forward(self, x: Tensor, weight: Tensor, bias: float = 0.0) -> Tensor:
        return x * weight + bias


# A Python argument keeps the example's value. All targets except `script` make it a constant; the
# report says so.
@pytest.mark.torchexport
def test_keyword_arguments():
    y = Scale()(torch.randn(4, 3), weight=torch.randn(4, 3), bias=0.5)
    assert y.shape == (4, 3)


class Layers(nn.Module):
    """Takes a list of tensors and returns a dict of tensors."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, features: list[Tensor]) -> dict[str, Tensor]:
        total = torch.zeros_like(features[0])
        for feature in features:
            total = total + self.linear(feature)
        return {"total": total, "mean": total / len(features)}


# A leaf of a container is named as in Python: features[0], batch['mask'].
@pytest.mark.torchexport(
    shapes={"features[0]": "batch 4", "features[1]": "batch 4"}, dims={"batch": (1, 8)}
)
def test_containers():
    out = Layers()([torch.randn(2, 4), torch.randn(2, 4)])
    assert set(out) == {"total", "mean"}


class Attend(nn.Module):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        scores = batch["scores"].masked_fill(batch["mask"] == 0, -1e4)
        return torch.softmax(scores, dim=-1)


# A generated mask has only zeros and ones too, and at least one 1 in each row, as in the example.
@pytest.mark.torchexport(
    shapes={"batch['scores']": "size time", "batch['mask']": "size time"},
    dims={"size": (1, 4), "time": (2, 8)},
)
def test_dict_of_tensors():
    batch = {"scores": torch.randn(2, 3), "mask": torch.tensor([[1, 1, 0], [1, 0, 0]])}
    assert Attend()(batch).shape == (2, 3)


class Stats(NamedTuple):
    mean: Tensor
    std: Tensor


class Describe(nn.Module):
    def forward(self, x: Tensor) -> Stats:
        return Stats(x.mean(dim=-1), x.std(dim=-1))


# The formats turn a namedtuple into a plain tuple; the values are compared. torch.export exports
# this module, but torch.export.save does not take the class. An artifact that cannot be saved is a
# failure.
@pytest.mark.torchexport(
    "trace",
    "script",
    "export",
    "onnx",
    xfail={"export": (LoadFailed, "torch.export cannot save an unregistered namedtuple")},
)
def test_named_tuple():
    stats = Describe()(torch.randn(2, 5))
    assert stats.mean.shape == stats.std.shape == (2,)
