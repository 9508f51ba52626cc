"""What happened to an item so far, in numbers: flat in memory, whatever the number of calls."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pytest_torchexport.failures import Failure
from pytest_torchexport.recipes import Recipe

ORIGINS = ("example", "boundary", "stored", "drawn", "failed", "rejected")


@dataclass
class Ledger:
    """Counts by origin, sizes reached, notes, seconds per stage, the largest error, the first failures."""

    calls: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ORIGINS, 0))
    reached: dict[str, set[int]] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    max_error: float | None = None
    failed: list[tuple[Recipe, Failure]] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Keep a sentence for the reader, once."""
        self.notes[" ".join(text.split())] = None

    def met(self, error: float | None) -> None:
        """Keep the largest ``|artifact - eager|``."""
        if error is not None:
            self.max_error = max(error, self.max_error or 0.0)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the block's time to the stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + spent, 4)
