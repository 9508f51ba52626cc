"""Mark the item that runs. If pytest dies in it, the next session isolates the item's artifact.

A crash in a call that was not tried in the clean process ends pytest; it must not do so twice.
"""

from __future__ import annotations

import contextlib
import zlib
from pathlib import Path
from typing import IO

import pytest

# The content of a mark: while the item runs, and after its artifact crashed in another process.
RUNNING, CRASHED = "running", "crashed"


class CrashMarker:
    """A file in pytest's cache while an item runs, locked so that other sessions see that it runs.

    Without a cache there is no file. ``why_isolated``: why the item is isolated, or empty.
    """

    def __init__(self, cache: pytest.Cache | None, nodeid: str) -> None:
        self._mark: Path | None = None
        self._lock: IO[str] | None = None
        if cache is not None:
            with contextlib.suppress(OSError):  # the cache may be read-only
                self._mark = (
                    cache.mkdir("torchexport-running") / f"{zlib.crc32(nodeid.encode()):08x}"
                )
        left = _left_behind(self._mark) if self._mark is not None else None
        self._died = left is not None and left != CRASHED
        self.why_isolated = ""
        if left is not None:
            self.why_isolated = (
                "an earlier run did not survive this item"
                if self._died
                else "its artifact crashed in the last run"
            )

    def begin(self) -> None:
        """Write and lock the mark."""
        if self._mark is not None:
            with contextlib.suppress(OSError):
                self._lock = self._mark.open("w")
                self._lock.write(RUNNING)
                self._lock.flush()
                _locked(self._lock)

    def end(self, *, crashed: bool) -> None:
        """Unlock the mark, and delete it unless the next session must isolate the item too.

        It must if the artifact crashed in a process of its own. An item that ended pytest stays
        isolated in all later sessions: a pass in another process proves nothing about this one.
        """
        if self._mark is not None:
            with contextlib.suppress(OSError):
                if crashed:
                    self._mark.write_text(CRASHED)
                elif not self._died:
                    self._mark.unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.close()


def _left_behind(mark: Path) -> str | None:
    """Return the mark of the last session; None if there is none, or if its session still runs."""
    try:
        with mark.open("r+") as file:
            return file.read() if _locked(file) else None
    except (OSError, ValueError):
        return None


def _locked(file: IO[str]) -> bool:
    """Lock the file until it is closed or this process ends; False if another process has it.

    A process id would not do: in a container the next session may have the same one.
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
