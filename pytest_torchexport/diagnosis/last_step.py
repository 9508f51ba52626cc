"""The step that a fork began last, in memory that it shares with this process.

Separate from the examination: what a fork writes here is still there when it has crashed.
"""

from __future__ import annotations

import mmap
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

# The number of the step, whether it still runs, and when it began.
_LAYOUT = struct.Struct("<Q?d")


class LastStep:
    """The last step of a run. ``number`` counts from 1; it is 0 before the first."""

    def __init__(self) -> None:
        """Make room that forks of this process share."""
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)
        self._names = mmap.mmap(-1, mmap.PAGESIZE)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Write down a step that runs in the block."""
        number, began = self.number + 1, time.monotonic()
        text = name.encode()[: mmap.PAGESIZE - 1]
        self._names[: len(text) + 1] = text + b"\0"
        _LAYOUT.pack_into(self._memory, 0, number, True, began)
        yield
        _LAYOUT.pack_into(self._memory, 0, number, False, began)

    @property
    def number(self) -> int:
        """The number of the step."""
        return int(_LAYOUT.unpack_from(self._memory)[0])

    @property
    def runs(self) -> bool:
        """True if the step has not returned."""
        return bool(_LAYOUT.unpack_from(self._memory)[1])

    @property
    def seconds(self) -> float:
        """The seconds since the step began."""
        return time.monotonic() - float(_LAYOUT.unpack_from(self._memory)[2])

    @property
    def name(self) -> str:
        """Its name."""
        return bytes(self._names).partition(b"\0")[0].decode(errors="replace")
