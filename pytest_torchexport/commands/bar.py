"""Show the progress of a command on a terminal: a bar, the target, and what runs.

The plugin has words of its own, which stand behind pytest's line.
"""

from __future__ import annotations

import shutil
import sys
import time

from pytest_torchexport.results.escaped import visible

WIDTH = 20
REFRESH_SECONDS = 0.1
ERASE = "\r\x1b[K"


class Bar:
    """A bar on standard error, if that is a terminal. ``total``: the number of targets."""

    def __init__(self, total: int) -> None:
        # Kept here: while a module is checked, what it prints goes elsewhere.
        self._stream = sys.stderr
        self._wanted = self._stream.isatty()
        self._total = total
        self._done = 0
        self._target = ""
        self._start = time.monotonic()
        self._last = 0.0

    def begin(self, target: str) -> None:
        """Show the next target."""
        self._target = target
        self._last = 0.0
        self("start")

    def __call__(self, stage: str, done: int = 0, total: int = 0) -> None:
        """Report a stage of the target; cheap enough to call for every drawn call."""
        now = time.monotonic()
        if not self._wanted or now - self._last < REFRESH_SECONDS:
            return
        self._last = now
        filled = WIDTH * self._done // self._total
        count = f" {done}/{total}" if total else ""
        bar = "#" * filled + "." * (WIDTH - filled)
        text = f"[{bar}] {self._target}: {stage}{count}, {now - self._start:.0f} s"
        width = shutil.get_terminal_size().columns - 1
        self._stream.write(f"{ERASE}{visible(text)[:width]}")
        self._stream.flush()

    def end(self) -> None:
        """Count a target as done, and remove the bar."""
        self._done += 1
        if self._wanted:
            self._stream.write(ERASE)
            self._stream.flush()
