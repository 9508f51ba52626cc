"""Find what it takes that other places are chosen: a demand is that one score is above another.

A condition may depend on a place that a function chose among scores, by their order. Whatever was
computed from the place has no slope, but the scores have.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from pytest_torchexport.explore.integers import is_view, places_in
from pytest_torchexport.explore.provenance import (
    Compared,
    Provenance,
    Reduced,
    operands_of,
    singled_out,
)
from pytest_torchexport.explore.slopes import Choice

# The last choices of a call that are looked at, and places of one that are aimed at.
MOST_CHOICES, MOST_PLACES = 3, 8
# Rows of one choice that are looked at, and those in which the second place is aimed at.
MOST_ROWS, MOST_SWITCHED = 64, 6


def rankings(
    provenance: Provenance | None, wanted: bool, choices: Sequence[Choice]
) -> Iterator[list[Tensor]]:
    """Yield, for each place that a condition may depend on, distances that all have to go.

    Then the place is chosen.
    """
    compared = operands_of(provenance) if provenance is not None else []
    exactly = place_demands(provenance, wanted, choices)
    if exactly:
        yield exactly
    for choice in reversed(choices[-MOST_CHOICES:]):
        if choice.scores.dim() > 1:
            yield singled_out(_evenly(choice))
        for places in _places(choice, compared):
            yield singled_out(_behind(choice, places))
        yield from map(singled_out, _by_row(choice))


def place_demands(
    provenance: Provenance | None, wanted: bool, choices: Sequence[Choice]
) -> list[Tensor]:
    """Return distances that all have to go if chosen places are compared with numbers.

    Then each of the places is chosen in its row, or another one is if they are to differ.
    """
    every = isinstance(provenance, Reduced) and (provenance.operator == "all") == wanted
    if isinstance(provenance, Reduced) and every and not provenance.dims:
        provenance = provenance.inner
    if not isinstance(provenance, Compared) or provenance.operator not in ("==", "!="):
        return []
    same = (provenance.operator == "==") == wanted
    for choice in reversed(choices):
        for mine, other in (provenance.left, provenance.right), (provenance.right, provenance.left):
            rows, places = _rows(mine, choice), _numbers(other)
            if rows and len(places) in (1, len(rows)) and (same or len(rows) == 1):
                pairs = zip(rows, places * (len(rows) // len(places)), strict=True)
                return singled_out(_ahead(choice, pairs, same))
    return []


def _rows(operand: Any, choice: Choice) -> list[int]:
    """Return the rows of which an operand holds the first chosen place, if it holds no others."""
    if choice.chosen is None or not is_view(operand, choice.chosen) or not operand.numel():
        return []
    count = choice.scores.numel() // choice.scores.shape[choice.dim]
    ranks = choice.chosen.numel() // max(count, 1)
    flat = places_in(operand, choice.chosen).reshape(-1)
    last = choice.dim in (-1, choice.scores.dim() - 1)
    first = bool((flat % max(ranks, 1) == 0).all())
    if ranks != 1 and not (last and first):
        return []
    return [int(position) // ranks for position in flat[:MOST_ROWS]]


def _numbers(value: Any) -> list[int]:
    if isinstance(value, Tensor):
        return (
            [int(item) for item in value.reshape(-1).tolist()] if value.numel() <= MOST_ROWS else []
        )
    return [value] if _is_place(value) else []


def _is_place(value: Any) -> bool:
    """Return True for an integer; a bool is one to Python, and a mask to an index."""
    return isinstance(value, int) and not isinstance(value, bool)


def _scores(choice: Choice) -> Tensor:
    """Return the scores in rows; the largest is chosen."""
    scores = choice.scores.movedim(choice.dim, -1) * (1 if choice.largest else -1)
    return scores.reshape(-1, scores.shape[-1])


def _ahead(choice: Choice, pairs: Iterable[tuple[int, int]], same: bool) -> Tensor:
    """Return how far places are from being chosen in their rows, or from not being chosen."""
    scores, found = _scores(choice), []
    for row, place in pairs:
        if 0 <= place < scores.shape[1] > 1:
            others = torch.cat([scores[row, :place], scores[row, place + 1 :]])
            behind = others - scores[row, place]
            found.append(behind if same else -behind.max().reshape(1))
    return torch.cat(found) if found else scores.new_empty(0)


def _by_row(choice: Choice) -> Iterator[Tensor]:
    """Yield, for some rows, how far the second place is behind; the nearest first."""
    scores = _scores(choice)
    if 1 < len(scores) <= MOST_ROWS and scores.shape[1] > 1:
        best = scores.topk(2).values
        behind = best[:, 0] - best[:, 1]
        for row in behind.argsort()[:MOST_SWITCHED].tolist():
            yield behind[row]


def _places(choice: Choice, compared: Sequence[Any]) -> Iterator[tuple[int, ...]]:
    """Yield places to be chosen: those that are compared, then the best of all."""
    scores = choice.scores.detach().movedim(choice.dim, -1)
    count = scores.shape[-1]
    for item in compared:
        small = isinstance(item, Tensor) and 0 < item.numel() <= MOST_PLACES
        numbers = item.reshape(-1).tolist() if small else [item]
        if all(_is_place(n) and 0 <= n < count for n in numbers):
            yield tuple(dict.fromkeys(numbers))
    order = scores.reshape(-1, count).mean(0).argsort(descending=choice.largest)
    yield from ((place,) for place in order[:MOST_PLACES].tolist())


def _behind(choice: Choice, places: Sequence[int]) -> Tensor:
    """Return how far places are behind; they are to be ahead, in their order, in all rows."""
    scores = _scores(choice)
    others = [place for place in range(scores.shape[1]) if place not in places]
    behind = [scores[:, others] - scores[:, [places[-1]]]]
    for better, worse in itertools.pairwise(places):
        behind.append(scores[:, [worse]] - scores[:, [better]])
    return torch.cat([item.reshape(-1) for item in behind])


def _evenly(choice: Choice) -> Tensor:
    """Return how far places are behind others; each row is to choose the next place in turn."""
    rows = _scores(choice)
    turn = (torch.arange(len(rows)) % rows.shape[1])[:, None].to(rows.device)
    behind = rows - rows.gather(1, turn)
    return behind[torch.arange(rows.shape[1]).to(rows.device) != turn]
