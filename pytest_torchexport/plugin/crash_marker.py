"""Which item a test session was in when it died: in the next one its artifact is called in a process of its own.

A crash in a call that nobody had tried in the clean process takes pytest with it; it must not do so twice.
"""

from __future__ import annotations

import contextlib
import zlib
from pathlib import Path
from typing import IO

import pytest

# What a mark says: while the item runs, and after its artifact crashed in a process of its own.
RUNNING, CRASHED = "running", "crashed"


class CrashMarker:
    """A mark in pytest's cache for as long as an item runs, locked so that others see that it does. Without a cache
    there is none.
    """

    def __init__(self, cache: pytest.Cache | None, nodeid: str) -> None:
        self._mark: Path | None = None
        self._lock: IO[str] | None = None
        if cache is not None:
            with contextlib.suppress(OSError):  # a cache that cannot be written to is none
                self._mark = (
                    cache.mkdir("torchexport-running") / f"{zlib.crc32(nodeid.encode()):08x}"
                )
        said = _said(self._mark) if self._mark is not None else None
        self._died = said is not None and said != CRASHED
        self.why_isolated = ""
        if said is not None:
            self.why_isolated = (
                "an earlier run did not survive this item"
                if self._died
                else "its artifact crashed in the last run"
            )

    def begin(self) -> None:
        """The item is begun."""
        if self._mark is not None:
            with contextlib.suppress(OSError):
                self._lock = self._mark.open("w")
                self._lock.write(RUNNING)
                self._lock.flush()
                _locked(self._lock)

    def end(self, *, crashed: bool) -> None:
        """The item is done. Where its artifact crashed in a process of its own, the next session is to be as
        careful; and every session, where one did not survive it: what happens only in pytest's own process, a pass
        in another says nothing about.
        """
        if self._mark is not None:
            with contextlib.suppress(OSError):
                if crashed:
                    self._mark.write_text(CRASHED)
                elif not self._died:
                    self._mark.unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.close()


def _said(mark: Path) -> str | None:
    """What the last session left behind; None where there is no mark, or where its session goes on."""
    try:
        with mark.open("r+") as file:
            return file.read() if _locked(file) else None
    except (OSError, ValueError):
        return None


def _locked(file: IO[str]) -> bool:
    """Whether nobody else has the file locked: it is locked from here on, until it is closed or its process ends. A
    process id would tell less: in a container the next session has the same.
    """
    try:
        import fcntl
    except ImportError:  # on Windows two sessions at once are merely careful
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
