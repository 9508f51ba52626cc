"""explore/difference.py: calls that it aims at what only the artifact has show it."""

from __future__ import annotations

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
