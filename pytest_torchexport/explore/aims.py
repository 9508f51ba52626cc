"""What a call may be moved towards if its condition's own distance leads nowhere.

A condition may depend on a place that ``argmax`` or ``topk`` chose, or on a number that was read
from a tensor and computed with in Python. Then any other place or number may give it the other
outcome.
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

# The last choices and numbers of a call that are looked at.
MOST_CHOICES, MOST_NUMBERS = 3, 16
# Places of one choice that are aimed at.
MOST_PLACES = 8

Reads = Sequence[tuple[float, Tensor]]


def rankings(
    provenance: Provenance | None, choices: Sequence[Choice], reads: Reads
) -> Iterator[list[Tensor]]:
    """Yield, for each place that a condition may depend on, distances that all have to go.

    Then the place is chosen. Python may choose among the last numbers that were read, too.
    """
    compared = operands_of(provenance) if provenance is not None else []
    listed = [tensor.reshape(()) for _, tensor in reversed(numbers_in(reads))]
    if len(listed) > 1:
        scores = torch.stack([item.double() for item in listed])
        choices = [Choice(scores, 0, False), Choice(scores, 0, True), *choices]
    for choice in reversed(choices[-MOST_CHOICES:]):
        if choice.scores.dim() > 1:
            yield singled_out(_evenly(choice))
        for places in _places(choice, compared):
            yield singled_out(_behind(choice, places))


def numbers_in(reads: Reads) -> list[tuple[float, Tensor]]:
    """Return the last numbers that were read, each with a tensor that can be differentiated."""
    found = ((value, number(tensor)) for value, tensor in reads[:MOST_NUMBERS])
    return [(value, item) for value, item in found if item is not None and item.requires_grad]


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


def _evenly(choice: Choice) -> Tensor:
    """Return how far places are behind others; each row is to choose the next place in turn."""
    scores = choice.scores.movedim(choice.dim, -1) * (1 if choice.largest else -1)
    rows = scores.reshape(-1, scores.shape[-1])
    turn = (torch.arange(len(rows)) % rows.shape[1])[:, None].to(rows.device)
    behind = rows - rows.gather(1, turn)
    return behind[torch.arange(rows.shape[1]).to(rows.device) != turn]
