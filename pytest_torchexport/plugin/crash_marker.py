"""Mark the item that runs. If pytest dies in it, all later sessions isolate the item's artifact.

A crash in a call that was not tried in the clean process ends pytest; it must not do so twice. A
pass in another process proves nothing about this one, so the mark stays until ``--cache-clear``.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import zlib
from pathlib import Path
from typing import IO

import pytest

RUN_ENDED = "a run ended while the item ran"


class CrashMarker:
    """A file in pytest's cache while an item runs, locked so that other sessions see that it runs.

    It says what the next session is to know if this one does not get to its end. Without a cache
    there is no file. ``why_isolated``: why the item is isolated, or empty.
    """

    def __init__(self, cache: pytest.Cache | None, nodeid: str) -> None:
        self._file: Path | None = None
        self._lock: IO[str] | None = None
        if cache is not None:
            name = f"{zlib.crc32(nodeid.encode()):08x}"
            with contextlib.suppress(OSError):  # the cache may be read-only
                self._file = cache.mkdir("torchexport-running") / name
        self.why_isolated = _left_behind(self._file) if self._file is not None else ""

    def begin(self) -> None:
        """Write and lock the mark."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._lock = self._file.open("w")
                when = dt.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
                self._lock.write(f"{RUN_ENDED} ({when}, process {os.getpid()})")
                self._lock.flush()
                _locked(self._lock)

    def end(self) -> None:
        """Leave the mark that was there before the item ran, and unlock it."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                if self.why_isolated:
                    self._file.write_text(self.why_isolated)
                else:
                    self._file.unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.close()


def _left_behind(file: Path) -> str:
    """Return the mark of an earlier session; empty if there is none, or if that still runs."""
    try:
        with file.open("r+") as mark:
            return (mark.read() or RUN_ENDED) if _locked(mark) else ""
    except (OSError, ValueError):
        return ""


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
