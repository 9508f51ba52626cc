"""Show the progress of long items: a few words behind the terminal's cursor."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TextIO

import pytest

# No progress is shown for an item that is quicker: most are.
QUIET_SECONDS = 2.0
REFRESH_SECONDS = 0.2
# The words stand behind pytest's own line and must fit there.
MAX_WORDS = 40
SAVE, RESTORE, ERASE = "\x1b7", "\x1b8", "\x1b[K"
# pytest captures stdout while a test runs. To write to the terminal itself needs no private API.
# Without one (Windows, CI) no progress is shown.
TERMINAL = Path("/dev/tty")


class Progress:
    """Show the step of an item on a terminal."""

    def __init__(self, config: pytest.Config) -> None:
        self._wanted = _wanted(config)
        self._terminal: TextIO | None = None
        self._start = self._last = time.monotonic()

    def __call__(self, stage: str, done: int = 0, total: int = 0) -> None:
        """Report a stage; cheap enough to call for every drawn example."""
        if not self._wanted:
            return
        now = time.monotonic()
        if now - self._start < QUIET_SECONDS or now - self._last < REFRESH_SECONDS:
            return
        self._last = now
        count = f" {done}/{total}" if total else ""
        self._write(f" {stage}{count}, {now - self._start:.0f} s"[:MAX_WORDS])

    def close(self) -> None:
        """Remove the words."""
        if self._terminal is not None:
            self._write("")
            self._terminal.close()
            self._terminal = None

    def _write(self, text: str) -> None:
        try:
            if self._terminal is None:
                self._terminal = TERMINAL.open("w", encoding="utf-8")
            self._terminal.write(f"{SAVE}{ERASE}{text}{RESTORE}")
            self._terminal.flush()
        except OSError:
            self._wanted = False


def _wanted(config: pytest.Config) -> bool:
    """Return True on a terminal with markup; False in a worker of xdist and with ``-q``."""
    if hasattr(config, "workerinput") or config.get_verbosity() < 0:
        return False
    reporter = config.pluginmanager.hasplugin("terminalreporter")
    return reporter and bool(config.get_terminal_writer().hasmarkup)
