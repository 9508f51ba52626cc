"""Which item a test session was in when it died: in the next one its artifact is called in a process of its own.

A crash in a call that nobody had tried in the clean process takes pytest with it; it must not do so twice.
"""

from __future__ import annotations

import contextlib
import os
import sys
import zlib
from pathlib import Path

import pytest


class Running:
    """A mark in pytest's cache for as long as an item runs. Without a cache there is none."""

    def __init__(self, cache: pytest.Cache | None, nodeid: str) -> None:
        self._mark: Path | None = None
        if cache is not None:
            with contextlib.suppress(OSError):  # a cache that cannot be written to is none
                self._mark = (
                    cache.mkdir("torchexport-running") / f"{zlib.crc32(nodeid.encode()):08x}"
                )
        self.why_isolated = _why(self._mark) if self._mark is not None else ""

    def begin(self) -> None:
        """The item is begun."""
        if self._mark is not None:
            with contextlib.suppress(OSError):
                self._mark.write_text(str(os.getpid()))

    def end(self, *, crashed: bool) -> None:
        """The item is done. Where its artifact crashed in a process of its own, the next session is to be as
        careful.
        """
        if self._mark is not None:
            with contextlib.suppress(OSError):
                if crashed:
                    self._mark.write_text("")
                else:
                    self._mark.unlink(missing_ok=True)


def _why(mark: Path) -> str:
    """What a mark says of the last session; nothing where there is none, or where its session goes on."""
    try:
        pid = mark.read_text()
    except OSError:
        return ""
    if not pid.isdigit():
        return "its artifact crashed in the last run"
    return "" if _lives(int(pid)) else "the last run did not survive this item"


def _lives(pid: int) -> bool:
    """Whether another session is in the item at the moment: two may run at once."""
    # On Windows there is no signal that only asks; two sessions at once are then merely careful.
    if sys.platform == "win32" or pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
