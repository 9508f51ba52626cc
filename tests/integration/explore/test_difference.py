"""explore/difference.py: calls that it aims at what only the artifact has show it."""

# ruff: noqa: ARG005  # a condition may be on the inputs or on the outputs alone

from __future__ import annotations

import pytest
import torch
from torch import nn

from pytest_torchexport import check_export


class ClampedDeeper(nn.Module):
    """Clamps what a network gives just below its most, and only in a trace."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(5)
            layers = [nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4)]
            self.net = nn.Sequential(*layers)
            with torch.no_grad():
                self.most = float(self.net(torch.empty(50_000, 8).uniform_(-3, 3)).max())

    def forward(self, x):
        # Half way from one bound to the other is more than the network gives.
        bound = self.most - 0.02 if torch.jit.is_tracing() else self.most + 1
        return self.net(x).clamp(max=bound)


def test_a_bound_that_the_network_hardly_reaches_is_met():
    example = torch.linspace(-2, 2, 32).reshape(4, 8)
    verdict = check_export(ClampedDeeper(), (example,), target="trace", values={"x": (-3.0, 3.0)})
    assert verdict.failure == "OutputsDiffer"


class EqualIds(nn.Module):
    """Compares neighbours, in a trace as float32."""

    def forward(self, x):
        x = x.float() if torch.jit.is_tracing() else x
        return (x[:, 1:] == x[:, :-1]).sum(1)


class EqualInHalf(nn.Module):
    """Compares with a bound, in a trace as float16."""

    def forward(self, x):
        x = x.half() if torch.jit.is_tracing() else x
        return (x >= 0.75).sum(1)


def test_numbers_that_only_the_artifact_makes_equal_are_met():
    ids = torch.arange(24).reshape(4, 6)
    verdict = check_export(EqualIds(), (ids,), target="trace", values={"x": (0, 2**30)})
    assert verdict.failure == "OutputsDiffer"
    example = torch.linspace(-2, 2, 32).reshape(4, 8)
    verdict = check_export(EqualInHalf(), (example,), target="trace")
    assert verdict.failure == "OutputsDiffer"


class Narrowed(nn.Module):
    """Chooses the largest output of a network, in a trace from float32."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4)).double()

    def forward(self, x):
        y = self.net(x)
        return (y.float() if torch.jit.is_tracing() else y).argmax(1)


def test_outputs_of_a_network_that_only_the_artifact_makes_equal_are_met():
    example = torch.linspace(-2, 2, 32, dtype=torch.float64).reshape(4, 8)
    assert check_export(Narrowed(), (example,), target="trace").failure == "OutputsDiffer"


class Together(nn.Module):
    """Has another value if several conditions hold at once, and only in a trace."""

    def __init__(self, mask):
        super().__init__()
        self.mask = mask
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))

    def forward(self, x):
        y = self.net(x)
        return y - self.mask(x, y).reshape(-1, 1).to(y) if torch.jit.is_tracing() else y


MASKS = {
    "outputs": lambda x, y: (y[:, 0] > 0.5) * (y[:, 1] < -0.3) * (y[:, 2] < 0.2),
    "band": lambda x, y: (y[:, 0] > 0.2345) & (y[:, 0] < 0.2347),
    "bump of two": lambda x, y: torch.exp(
        -(((x[:, 0] - 0.7) / 1e-3) ** 2) - ((x[:, 1] + 1.2) / 1e-3) ** 2
    ),
}


@pytest.mark.parametrize("name", MASKS)
def test_conditions_that_hold_at_once_are_met(name):
    example = torch.linspace(-2, 2, 32).reshape(4, 8)
    options = {"target": "trace", "values": {"x": (-3.0, 3.0)}}
    assert check_export(Together(MASKS[name]), (example,), **options).failure == "OutputsDiffer"


class Doubled(nn.Module):
    """Doubles what a network gives near its most, and only in a trace."""

    def __init__(self, activation):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            layers = [nn.Linear(8, 32), activation(), nn.Linear(32, 32), activation()]
            self.net = nn.Sequential(*layers, nn.Linear(32, 4)).requires_grad_(False)
            most = torch.empty(50_000, 8).uniform_(-3, 3)
            self.most = float(self.net(most).max())

    def forward(self, x):
        y = self.net(x)
        return torch.where(y > self.most, y * 2, y) if torch.jit.is_tracing() else y


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU])
def test_a_bound_near_the_most_that_a_network_gives_is_met(activation):
    example = torch.linspace(-2, 2, 32).reshape(4, 8)
    options = {"target": "trace", "values": {"x": (-3.0, 3.0)}}
    assert check_export(Doubled(activation), (example,), **options).failure == "OutputsDiffer"
