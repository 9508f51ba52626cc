"""How often noise is taken for a slower artifact, or for one that keeps memory.

Times and grows pairs of identical networks, which must never be told apart, and networks that run
twice or keep a tensor per size, which must always be. ``python benchmarks/noise.py [PAIRS]``.
"""

from __future__ import annotations

import copy
import statistics
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pytest_torchexport.outcomes.fork import Death
from pytest_torchexport.outcomes.resident_memory import growth
from pytest_torchexport.outcomes.timing import Pairs, timed_in_turn

SECONDS = 60.0
SIZES = range(300, 260, -1)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).eval()


def timed(eager: Callable[[], object], artifact: Callable[[], object]) -> Pairs:
    found = timed_in_turn(eager, artifact, SECONDS)
    assert isinstance(found, Pairs)
    return found


def grown(run: Callable[[Tensor], object]) -> list[float]:
    found = growth(lambda size: run(torch.randn(size, 64)), SIZES, SECONDS)
    assert not isinstance(found, Death), found
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


def memory(pairs: int) -> None:
    alarms, largest, seen, keeping = 0, 0.0, 0, max(1, pairs // 10)
    for _ in range(pairs):
        net = network()
        more = [b - a for a, b in zip(grown(net), grown(copy.deepcopy(net)), strict=True)]
        alarms += min(more) > 0
        largest = max(largest, *map(abs, more))
    for _ in range(keeping):
        net, kept = network(), []
        found = grown(lambda x: (kept.append(torch.ones(2**18)), net(x)))  # noqa: B023  # at once
        more = [b - a for a, b in zip(grown(net), found, strict=True)]
        seen += min(more) > 2**19
    print(f"memory: {alarms} of {pairs} identical pairs exceed a limit of 0 in every group")
    print(f"  largest difference of a group {largest / 1024:.1f} KiB per size")
    print(f"  {seen} of {keeping} that keep 1 MiB per size exceed a limit of 0.5 MiB")


def main() -> None:
    torch.set_num_threads(1)
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with torch.no_grad():
        latency(pairs)
        memory(max(1, pairs // 5))


if __name__ == "__main__":
    main()
