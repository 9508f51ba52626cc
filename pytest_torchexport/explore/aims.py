"""What a call may be moved towards if its condition's own distance leads nowhere.

A condition may depend on a place that ``argmax`` or ``topk`` chose, or on a number that was read
from a tensor and computed with in Python. Then any other place or number may give it the other
outcome. Each aim is a list of distances that all have to go.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from pytest_torchexport.explore.distance import number, operands_of, singled_out
from pytest_torchexport.explore.provenance import Provenance
from pytest_torchexport.explore.slopes import Choice

# The last choices and numbers of a call that are aimed at.
CHOICES, READS = 3, 2
# Places of one choice that are aimed at.
MOST_PLACES = 8
# How far other numbers are: steps of an integer, and parts of the size of a float.
STEPS = (1, -1, 2, -2, 4, -4)


def aims(
    provenance: Provenance | None,
    missing: float | None,
    choices: Sequence[Choice],
    reads: Sequence[tuple[float, Tensor]],
) -> Iterator[list[Tensor]]:
    """Yield the aims of a condition: other places that are chosen, then other numbers.

    ``reads`` are the last numbers that were read, with their tensors. ``missing`` is the
    condition's distance.
    """
    compared = operands_of(provenance) if provenance is not None else []
    for choice in reversed(choices[-CHOICES:]):
        for places in _places(choice, compared):
            yield singled_out(_behind(choice, places))
    for value, tensor in reads[:READS]:
        found = number(tensor)
        if found is not None and found.requires_grad:
            for step in _steps(value, missing):
                yield [(found - (found.detach() + step)).abs().reshape(())]


def _places(choice: Choice, compared: Sequence[Any]) -> Iterator[tuple[int, ...]]:
    """Yield places to be chosen: those that are compared, then the best of all."""
    scores = choice.scores.detach().movedim(choice.dim, -1)
    count = scores.shape[-1]
    for item in compared:
        small = isinstance(item, Tensor) and 0 < item.numel() <= MOST_PLACES
        numbers = item.reshape(-1).tolist() if small else [item]
        if all(isinstance(n, int) and 0 <= n < count for n in numbers):
            yield tuple(dict.fromkeys(numbers))
    order = scores.reshape(-1, count).mean(0).argsort(descending=choice.largest)
    yield from ((place,) for place in order[:MOST_PLACES].tolist())


def _behind(choice: Choice, places: Sequence[int]) -> Tensor:
    """Return how far places are behind others; they are to be ahead, in their order, in all rows."""
    scores = choice.scores.movedim(choice.dim, -1) * (1 if choice.largest else -1)
    others = [place for place in range(scores.shape[-1]) if place not in places]
    behind = [scores[..., others] - scores[..., [places[-1]]]]
    for better, worse in itertools.pairwise(places):
        behind.append(scores[..., [worse]] - scores[..., [better]])
    return torch.cat([item.reshape(-1) for item in behind])


def _steps(value: float, missing: float | None) -> Iterator[float]:
    if missing:
        yield from (missing, -missing)
    unit = 1.0 if isinstance(value, int) else max(abs(value), 1.0) / 2
    yield from (step * unit for step in STEPS)
