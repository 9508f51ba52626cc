"""How often noise is taken for a slower artifact.

Times pairs of identical networks, which must never be told apart, and networks that run twice,
which must always be. ``python benchmarks/noise.py [PAIRS]``.
"""

from __future__ import annotations

import copy
import statistics
import sys
from collections.abc import Callable

import torch
from torch import nn

from pytest_torchexport.checks.latency import Pairs, timed_in_turn

SECONDS = 60.0


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).eval()


def timed(eager: Callable[[], object], artifact: Callable[[], object]) -> Pairs:
    found = timed_in_turn(eager, artifact, SECONDS)
    assert isinstance(found, Pairs)
    return found


def latency(pairs: int) -> None:
    x, alarms, ratios, seen = torch.randn(32, 64), 0, [], 0
    for _ in range(pairs):
        net = network()
        other = copy.deepcopy(net)
        found = timed(lambda: net(x), lambda: other(x))  # noqa: B023  # called at once
        alarms += found.exceeds(1.0)
        ratios.append(statistics.median(found.ratios))
    for _ in range(max(1, pairs // 10)):
        net = network()
        seen += timed(lambda: net(x), lambda: (net(x), net(x))).exceeds(1.5)  # noqa: B023  # too
    print(f"latency: {alarms} of {pairs} identical pairs called slower with a limit of 1")
    print(f"  median ratios {min(ratios):.3f} to {max(ratios):.3f}")
    print(f"  {seen} of {max(1, pairs // 10)} that run twice called slower with a limit of 1.5")


def main() -> None:
    torch.set_num_threads(1)
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with torch.no_grad():
        latency(pairs)


if __name__ == "__main__":
    main()
