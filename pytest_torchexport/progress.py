"""Live progress of long items: one line on a terminal, rewritten in place, gone when the item ends."""

from __future__ import annotations

import time
from typing import Any

import pytest

# An item that is quicker than this says nothing: most are.
QUIET_SECONDS = 2.0
REFRESH_SECONDS = 0.2


class Progress:
    """Shows what an item is doing, on a terminal and in the process that owns it."""

    def __init__(self, config: pytest.Config, test: str) -> None:
        self._test = test
        self._writer = _writer(config)
        self._start = self._last = time.monotonic()
        self._shown = 0

    def __call__(self, stage: str, done: int = 0, total: int = 0) -> None:
        """Report a stage; cheap enough to call for every drawn example."""
        if self._writer is None:
            return
        now = time.monotonic()
        if now - self._start < QUIET_SECONDS or now - self._last < REFRESH_SECONDS:
            return
        self._last = now
        count = f" {done}/{total}" if total else ""
        self._write(f"{self._test}: {stage}{count} ({now - self._start:.0f} s)")

    def close(self) -> None:
        """Remove the line."""
        if self._writer is not None and self._shown:
            self._writer.write("\r" + " " * self._shown + "\r", flush=True)
            self._shown = 0

    def _write(self, text: str) -> None:
        width = max(self._writer.fullwidth - 2, 20)
        text = text[-width:]
        self._writer.write("\r" + text.ljust(self._shown), flush=True)
        self._shown = len(text)


def _writer(config: pytest.Config) -> Any:
    """The terminal to write to, or None: no terminal, a worker of xdist, or ``-q``."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(config, "workerinput") or config.get_verbosity() < 0:
        return None
    writer = config.get_terminal_writer()
    return writer if writer.hasmarkup else None
