"""Measure by how much a process grows with each new size at which a callable is called.

In a fork, so that what this process has in its caches is there for each callable alike, and
nothing of what grows stays here. Linux alone tells a process how much memory it has.
"""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pytest_torchexport.outcomes.fork import Death, in_fork

# So many groups of calls at new sizes are compared; a group has as many calls.
GROUPS, EACH = 10, 3
# Calls at the largest size, before the first group: they take what every later call needs.
WARM_UP = 3

Run = Callable[[int], Any]


def growth(run: Run, sizes: Sequence[int], seconds: float) -> list[float] | Death:
    """Return the bytes per new size, group by group; ``sizes`` begin with the largest.

    ``run`` makes a call at a size.
    """
    return in_fork(lambda: _measured(run, sizes), seconds)


def _measured(run: Run, sizes: Sequence[int]) -> list[float]:
    largest, *others = sizes
    for _ in range(WARM_UP):
        run(largest)
    found = []
    for group in range(GROUPS):
        before = _resident()
        for size in others[group * EACH : (group + 1) * EACH]:
            run(size)
        found.append((_resident() - before) / EACH)
    return found


def _resident() -> int:
    """Return the bytes of this process that are in memory, without what it no longer needs."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
