"""judge/searched.py: the search knows if every call runs the same operators."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pytest_torchexport import check_export
from pytest_torchexport.judge import searched

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


class Configured(nn.Module):
    def __init__(self):
        super().__init__()
        self.twice = True

    def forward(self, x):
        return torch.relu(x) * 2 if self.twice else x


class Gated(nn.Module):
    def forward(self, x):
        return torch.relu(x) if x.sum() > 100 else torch.tanh(x)


class Sized(nn.Module):
    def forward(self, x):
        return torch.relu(x) if len(x) > 2 else torch.tanh(x)


@pytest.mark.parametrize(
    ("net", "checks", "straight"),
    [
        (nn.ReLU(), ["parity", "control_flow"], True),
        (Configured(), ["parity", "control_flow"], True),
        (Gated(), ["parity", "control_flow"], False),
        (Sized(), ["parity", "control_flow"], False),
        (nn.ReLU(), ["parity"], False),
    ],
    ids=["no condition", "of the configuration", "on values", "on a size", "not followed"],
)
def test_code_is_straight_if_no_condition_depends_on_the_input(monkeypatch, net, checks, straight):
    said, search = [], searched.DifferenceSearch

    def made(*args, **kwargs):
        said.append(kwargs["straight"])
        return search(*args, **kwargs)

    monkeypatch.setattr(searched, "DifferenceSearch", made)
    check_export(net, (X,), target="script", checks=checks, max_examples=2)
    assert said == [straight]
