"""What happened to an item so far, in numbers: flat in memory, whatever the number of calls."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from pytest_torchexport.inputs.recipes import Recipe
from pytest_torchexport.results.failures import Failure
from pytest_torchexport.results.verdict import Branch, Difference, SeededBug, Sizes

ORIGINS = ("example", "boundary", "stored", "explored", "drawn", "failed", "rejected")


@dataclass(frozen=True)
class Shrunk:
    """A failing call for the report; ``searched`` where it is the smallest that was found."""

    recipe: Recipe
    text: str
    sizes: tuple[Sizes, ...]
    searched: bool = True


@dataclass
class ItemLog:
    """Counts by origin, sizes reached, notes, seconds per stage, errors, the first failures, whom the item is
    waiting for (with the call that is being made).
    """

    calls: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ORIGINS, 0))
    reached: dict[str, set[int]] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    max_error: float | None = None
    explained: dict[tuple[str, str], Difference] = field(default_factory=dict)
    ran: list[tuple[str, Recipe]] = field(default_factory=list)
    failed: list[tuple[Recipe, Failure]] = field(default_factory=list)
    shrunk: Shrunk | None = None
    ineffective: list[str] = field(default_factory=list)
    self_test: list[SeededBug] = field(default_factory=list)
    branches: tuple[Branch, ...] = ()
    waiting_for: str = "eager"
    trying: Recipe | None = None

    def note(self, text: str) -> None:
        """Keep a sentence for the reader, once."""
        self.notes[" ".join(text.split())] = None

    def met(self, error: float | None) -> None:
        """Keep the largest ``|artifact - eager|``."""
        if error is not None:
            self.max_error = max(error, self.max_error or 0.0)

    def explain(self, differences: Sequence[Difference]) -> None:
        """Keep the worst difference per output and cause that is no bug."""
        for item in differences:
            kept = self.explained.get((item.path, item.cause))
            if kept is None or (item.max_abs or 0.0) > (kept.max_abs or 0.0):
                self.explained[item.path, item.cause] = item

    def forget(self) -> None:
        """Strike out every call."""
        self.calls = dict.fromkeys(ORIGINS, 0)
        for kept in (self.reached, self.explained, self.ran, self.failed):
            kept.clear()
        self.max_error = None

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the block's time to the stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + spent, 4)
