"""One side of a search, eager or the artifact: its thresholds, and how near calls came to them."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pytest_torchexport.explore.merges import Merge
from pytest_torchexport.explore.operator_run import Key, Near, OperatorRuns, Recorded
from pytest_torchexport.explore.thresholds import COMPARING, CONSTANT
from pytest_torchexport.inputs.recipes import Recipe


@dataclass
class Side:
    """One side: how near the calls so far came to each of its thresholds, and the nearest call.

    ``first`` is how near the first call with a threshold came to it. ``own`` are the thresholds
    that the other side does not have. ``tables`` are the many numbers with which an operator
    compares at once, None if they are not always the same. ``ran`` is True if a call ran operators
    of torch's. ``failed`` is how often no numbers were found that meet thresholds.
    """

    runs: OperatorRuns
    nearest: dict[Key, tuple[Near, Recipe]] = field(default_factory=dict)
    first: dict[Key, Near] = field(default_factory=dict)
    own: frozenset[Key] = frozenset()
    merges: set[Merge] = field(default_factory=set)
    tables: dict[tuple[str, int], Tensor | None] = field(default_factory=dict)
    ran: bool = False
    calls: int = 0
    failed: Counter[Any] = field(default_factory=Counter)

    def learn(self, recipe: Recipe, found: Recorded) -> bool:
        """Keep what a call showed. Return True if it is the first that met a threshold."""
        self.merges |= found.merges
        self.ran |= found.ran
        for place, table in found.tables.items():
            before = self.tables.setdefault(place, table)
            if before is not table and (before is None or not torch.equal(before, table)):
                self.tables[place] = None
        first = False
        for key, near in found.near.items():
            known, _ = self.nearest.get(key, (None, recipe))
            self.first.setdefault(key, near)
            first |= near.met and not (known is not None and known.met)
            if known is None or near.rank() < known.rank():
                self.nearest[key] = near, recipe
        return first

    def open(self) -> list[Key]:
        """Return the thresholds that no call has met, the nearest first.

        Without its own, which are pursued before, and without sums and rows that are constant.
        """
        left = {
            key: near
            for key, (near, _) in self.nearest.items()
            if not near.met and CONSTANT not in {key.side, key.name} and key not in self.own
        }
        return sorted(left, key=lambda key: left[key].relative)

    def equalities(self) -> frozenset[Key]:
        """Return the thresholds at which numbers are equal."""
        return frozenset(
            key
            for key in self.nearest
            if key.side == "tied" or (key.source in COMPARING and key.is_equality)
        )

    def numbers(self) -> list[float]:
        """Return the finite numbers of its tables that are always the same, in order."""
        found = [table.tolist() for table in self.tables.values() if table is not None]
        return sorted(filter(math.isfinite, itertools.chain(*found)))

    def kinds(self) -> Counter[_Kind]:
        """Return how often there is a threshold of a kind."""
        return Counter(_kind_of(key, near) for key, (near, _) in self.nearest.items())

    def without(self, other: Side) -> frozenset[Key]:
        """Return the thresholds that the other side has less often, or with another bound."""
        rare = self.kinds() - other.kinds()
        return frozenset(
            key for key, (near, _) in self.nearest.items() if _kind_of(key, near) in rare
        )


# A threshold without the number of its operator, and its bound.
_Kind = tuple[str, str, str, str, float | None]


def _kind_of(key: Key, near: Near) -> _Kind:
    return key.source, key.of, key.side, key.name, near.bound
