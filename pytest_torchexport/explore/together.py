"""Choose thresholds that one call is to meet at once, and elements that belong together.

A program may ask for several conditions at once, and each of them alone changes nothing. How they
are combined is not known: each combination of the sides of a few thresholds is a goal.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pytest_torchexport.explore.thresholds import AT, COMPARING, CONSTANT
from pytest_torchexport.outcomes.operator_table import row_of

if TYPE_CHECKING:
    from pytest_torchexport.explore.operator_run import Key, Near

# Thresholds that are met at once, at most.
MOST = 4
EQUALITIES = frozenset(name for name in COMPARING if row_of(name).symbol[0] in "=!")
# The sides of a threshold that are aimed at, by whether it is one of an equality.
AIMED = {False: ("above", "below"), True: ("at", "above")}
TINY = 1e-30


def combinations(first: Mapping[Key, Near], own: Collection[Key]) -> Iterator[tuple[Key, ...]]:
    """Yield keys of thresholds that are to be met at once, one side of each; the rarest first.

    They are those that only one of eager and the artifact has, with comparisons that both have.
    ``first`` is how near an ordinary call came to each threshold.
    """
    sides: dict[tuple[str, str, int, str], list[Key]] = {}
    for key, near in first.items():
        equality = key.source in EQUALITIES or key.name == CONSTANT
        # Two tensors that are compared have no bound.
        fixed = near.bound is not None or key.source in COMPARING
        if fixed and key.side in (AT if key.name == CONSTANT else AIMED[equality]):
            sides.setdefault((key.source, key.of, key.number, key.name), []).append(key)
    numbers = [keys for keys in sides.values() if keys[0].name == CONSTANT and keys[0] in own]
    # A threshold with one side is an overflow.
    decided = [keys for keys in sides.values() if keys[0].name != CONSTANT and len(keys) > 1]
    mine = [keys for keys in decided if keys[0] in own]
    others = [keys for keys in decided if keys[0] not in own and keys[0].source in COMPARING]

    def common(keys: tuple[Key, ...]) -> float:
        return -sum(first[key].missing / max(first[key].scale, TINY) for key in keys)

    for goals in ([*mine, *others][:MOST] if mine else [], numbers[:MOST]):
        if len(goals) > 1:
            yield from sorted(itertools.product(*goals), key=common)
        if len(goals) > 2:
            pairs = itertools.combinations(goals, 2)
            found = (keys for pair in pairs for keys in itertools.product(*pair))
            yield from sorted(found, key=common)


def places_of(far: Sequence[Tensor]) -> list[int]:
    """Return a position in each tensor, such that they belong together and the sum is least.

    That is one position in tensors of one shape, and else one row if there are as many in each.
    """
    least = [item.double().clamp(min=0.0) for item in far]
    if len({item.shape for item in least}) == 1:
        return [int(sum(least[1:], least[0]).argmin())] * len(least)
    if len({item.shape[:1] for item in least}) == 1 and least[0].dim():
        rows = [item.reshape(len(item), -1) for item in least]
        sums = torch.stack([item.min(1).values for item in rows]).sum(0)
        row = int(sums.argmin())
        return [row * item.shape[1] + int(item[row].argmin()) for item in rows]
    return [int(item.argmin()) for item in least]


def columns_of(far: Tensor) -> list[int]:
    """Return the position of the least element in each column, the least of all first."""
    columns = far.reshape(-1, far.shape[-1]) if far.dim() > 1 else far.reshape(-1, 1)
    least = columns.min(0)
    places = least.indices * columns.shape[1] + torch.arange(columns.shape[1])
    return [int(place) for place in places[least.values.argsort()]]
