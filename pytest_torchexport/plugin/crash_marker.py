"""Mark the item that runs. If pytest dies in it, the next sessions isolate the item's artifact.

A crash in a call that was not tried in the clean process ends pytest; it must not do so twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import json
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

# So many clean passes in a row lift a mark.
PASSES = 3
RUN_ENDED = "a run ended while the item ran"


@dataclass(frozen=True)
class Mark:
    """The event that isolates an item: what ``happened``, ``when``, and in which process.

    ``passes``: how often the item passed since. While the item runs, its mark says that the run
    ended: nobody is left to write it then.
    """

    happened: str
    when: str
    pid: int
    passes: int = 0

    @classmethod
    def now(cls, happened: str) -> Mark:
        """Return the mark of something that happens here and now."""
        when = dt.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        return cls(happened, when, os.getpid())

    @classmethod
    def read(cls, text: str) -> Mark:
        """Return the mark that a file has; that of an earlier version, or of no version, too."""
        try:
            data = json.loads(text)
            return cls(str(data["happened"]), str(data["when"]), data["pid"], int(data["passes"]))
        except (ValueError, TypeError, KeyError):
            return cls(RUN_ENDED, "", 0)

    def text(self) -> str:
        """Return the content of the file."""
        return json.dumps(dataclasses.asdict(self))

    def __str__(self) -> str:
        """Return why the item is isolated."""
        return f"{self.happened} ({self.when}, process {self.pid})" if self.when else self.happened


class CrashMarker:
    """A file in pytest's cache while an item runs, locked so that other sessions see that it runs.

    Without a cache there is no file. ``why_isolated``: why the item is isolated, or empty.
    """

    def __init__(self, cache: pytest.Cache | None, nodeid: str) -> None:
        self._file: Path | None = None
        self._lock: IO[str] | None = None
        if cache is not None:
            with contextlib.suppress(OSError):  # the cache may be read-only
                self._file = (
                    cache.mkdir("torchexport-running") / f"{zlib.crc32(nodeid.encode()):08x}"
                )
        self._left = _left_behind(self._file) if self._file is not None else None
        self.why_isolated = str(self._left) if self._left is not None else ""

    def begin(self) -> None:
        """Write and lock the mark."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._lock = self._file.open("w")
                self._lock.write(Mark.now(RUN_ENDED).text())
                self._lock.flush()
                _locked(self._lock)

    def end(self, *, crash: str, passed: bool) -> None:
        """Replace the mark by what is known after the item, and unlock it.

        ``crash`` says how the artifact crashed in a process of its own; empty if it did not. The
        next sessions isolate the item then, and after a run that ended, until it has ``passed``
        ``PASSES`` times: one pass in another process proves nothing about this one.
        """
        if crash:
            self._left = Mark.now(f"its artifact crashed: {crash}")
        elif passed and self._left is not None:
            passes = self._left.passes + 1
            more = passes < PASSES
            self._left = dataclasses.replace(self._left, passes=passes) if more else None
        self.cancel()  # with the mark as it is now

    def cancel(self) -> None:
        """Leave the mark that was there before the item ran: it did not run to its end."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                if self._left is not None:
                    self._file.write_text(self._left.text())
                else:
                    self._file.unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.close()


def _left_behind(file: Path) -> Mark | None:
    """Return the mark of the last session; None if there is none, or if its session still runs."""
    try:
        with file.open("r+") as mark:
            return Mark.read(mark.read()) if _locked(mark) else None
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
