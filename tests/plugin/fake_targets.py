"""Targets whose artifacts do what a test wants to see, without the seconds of a real exporter.

The plugin's tests copy this file as the conftest of the suites that they run.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pytest_torchexport import NotApplicable, register_target
from pytest_torchexport.testing import FakeTarget


def mirror(module):
    return module


def liar(module):
    """Wrong by one at batch size 1."""
    return lambda x: module(x) + float(len(x) == 1)


def raiser(module):
    def run(x):
        if len(x) > 2:
            raise RuntimeError("too many rows")
        return module(x)

    return run


def refuser(module):
    raise ValueError("no such operator: frobnicate")


def picky(module):
    return NotApplicable("only for functions")


for fake in (mirror, liar, raiser, refuser, picky):
    register_target(fake.__name__, FakeTarget(fake))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 2))

    def forward(self, x):
        return x @ self.weight


@pytest.fixture
def x():
    return torch.linspace(-1, 1, 6).reshape(2, 3)
