"""Notice that the user's code reads a file or opens a connection while it is checked.

What it reads is no part of a verdict's key, so such a verdict is not kept. Python's audit events
are the one way to see this, and a hook for them can never be removed: it is added once, and does
nothing outside ``noticed``.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from pytest_torchexport.results.source_line import is_users

_EVENTS = frozenset(
    {
        *("open", "os.listdir", "os.scandir", "sqlite3.connect", "socket.connect"),
        *("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"),
    }
)
# Code that Python's own machinery reads, and files that are no data.
_NO_DATA = ("/proc/", "/sys/", "/dev/")
_CODE = (".py", ".pyc", ".so")
_MACHINERY = ("<frozen importlib", "linecache.py", "inspect.py", "tokenize.py")


# The threads and lists of the blocks that run now.
_noticed: list[tuple[int, list[str]]] = []


@contextmanager
def noticed() -> Iterator[list[str]]:
    """Yield a list that fills with what the user's code reads during the block, in any thread."""
    _listen()
    found: list[str] = []
    _noticed.append((threading.get_ident(), found))
    try:
        yield found
    finally:
        _noticed.pop()


@functools.cache
def _listen() -> None:
    sys.addaudithook(_heard)


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in _EVENTS or not _noticed:
        return
    name = os.fsdecode(arguments[0]) if isinstance(arguments[0], (str, bytes)) else event
    if name.startswith(_NO_DATA) or name.endswith(_CODE):
        return
    is_users_own = _is_for_user(sys._getframe(1))
    for thread, found in _noticed:
        # Another thread is one that the user's code has started: ``pool.map(numpy.load, files)``.
        if is_users_own or (is_users_own is None and threading.get_ident() != thread):
            found.append(name if event == "open" else event)


def _is_for_user(frame: FrameType | None) -> bool | None:
    """Return True if the user's code waits for the event, and none of Python's imports.

    None if the thread runs neither of these nor this package.
    """
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_MACHINERY) or file.endswith(_MACHINERY):
            return False
        if "/pytest_torchexport/" in file:
            return False
        if is_users(file):
            return True
        frame = frame.f_back
    return None
