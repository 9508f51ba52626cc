"""Live progress of long items: a few words behind the cursor of a terminal, gone when the item ends."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TextIO

import pytest

# An item that is quicker than this says nothing: most are.
QUIET_SECONDS = 2.0
REFRESH_SECONDS = 0.2
# pytest's own line goes on from where it was: few words, so that they fit behind most lines.
MAX_WORDS = 40
SAVE, RESTORE, ERASE = "\x1b7", "\x1b8", "\x1b[K"
# While a test runs, pytest captures stdout: the terminal itself is the way round it that needs no
# private API. Elsewhere (Windows, no terminal) there is no progress.
TERMINAL = Path("/dev/tty")


class Progress:
    """Shows what an item is doing, on a terminal and in the process that owns it."""

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
    """Whether somebody is looking: a terminal with markup, no worker of xdist, not ``-q``."""
    if hasattr(config, "workerinput") or config.get_verbosity() < 0:
        return False
    reporter = config.pluginmanager.hasplugin("terminalreporter")
    return reporter and bool(config.get_terminal_writer().hasmarkup)
