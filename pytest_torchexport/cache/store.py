"""Verdicts of earlier passes, by their keys: one file each, whole or not there.

An unchanged test is not checked again. What has no key is checked each time, and so is what the
user's code reads while it is checked: that is no part of a key.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import functools
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from pytest_torchexport.cache.key import NoKey, key_of
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.inputs.pytrees import Call
from pytest_torchexport.results.reports import write
from pytest_torchexport.results.source_line import is_users
from pytest_torchexport.results.verdict import Verdict

FOREIGN = "what check_artifact is given is checked each time"
LOOPS = "loops are checked each time"
# An artifact that ships has to be made, and a time is that of the machine as it is now.
_MADE_ANEW = ("ship", "max_slowdown")


def unless_unchanged(
    check: Callable[[], Verdict], thing: Any, given: Sequence[Call], plan: Plan
) -> Verdict:
    """Return the kept verdict on a subject and calls; else that of ``check``, kept if it passed."""
    start = time.perf_counter()
    for name in _MADE_ANEW:
        if getattr(plan.settings, name):
            return not_kept(check(), f"with torchexport_{name}, artifacts are made each time")
    try:
        key = key_of(thing, given, plan)
    except NoKey as reason:
        return not_kept(check(), f"of {reason}, no other process can tell if it is the same")
    directory = (plan.root or Path()) / plan.settings.cache
    kept = get(directory, key)
    if kept is not None:
        return dataclasses.replace(kept, seconds={"cache": time.perf_counter() - start})
    with noticed() as read:
        verdict = check()
    if verdict.status != "passed":
        return verdict
    if read:
        return not_kept(verdict, f"the model's code reads {', '.join(sorted(set(read))[:3])}")
    try:
        put(directory, key, verdict)
    except OSError as error:
        return not_kept(verdict, f"{plan.settings.cache}: {error.strerror or error}")
    return verdict


def not_kept(verdict: Verdict, reason: str) -> Verdict:
    """Return the verdict with the reason why no later run takes it."""
    return dataclasses.replace(verdict, not_kept=reason)


def get(directory: Path, key: str) -> Verdict | None:
    """Return the verdict under a key; None if there is none, or if its file is not whole."""
    try:
        return Verdict.from_dict(json.loads(_place(directory, key).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None  # it is made anew, and replaced


def put(directory: Path, key: str, verdict: Verdict) -> None:
    """Write a verdict, with the day. Several processes may do so at once. Raises OSError."""
    day = dt.datetime.now(dt.UTC).date().isoformat()
    kept = dataclasses.replace(verdict, unchanged_since=day)
    write(_place(directory, key), json.dumps(kept.as_dict()))
    with contextlib.suppress(OSError):
        # As pytest does for its cache: the files are no part of the repository.
        (directory / ".gitignore").write_text("*\n")


def _place(directory: Path, key: str) -> Path:
    return directory / key[:2] / f"{key}.json"


_EVENTS = frozenset(
    {
        *("open", "os.listdir", "os.scandir", "sqlite3.connect", "socket.connect"),
        *("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"),
    }
)
# Events of which the path says if it matters: files that are no data (the last are those of
# artifacts), code, and what an installer wrote, which is in the key.
_LOOKS = ("open", "os.listdir", "os.scandir")
_NO_DATA = ("/proc/", "/sys/", "/dev/", f"{tempfile.gettempdir()}/torchexport-")
_CODE = (".py", ".pyc", ".so")
# Python's own machinery reads code, and the names of installed packages.
_MACHINERY = (
    *("<frozen importlib", "importlib/metadata/__init__.py"),
    *("linecache.py", "inspect.py", "tokenize.py", "/pkgutil.py"),
)


# The threads and lists of the blocks that run now.
_noticed: list[tuple[int, list[str]]] = []


@contextmanager
def noticed() -> Iterator[list[str]]:
    """Yield a list that fills with what the user's code reads during the block, in any thread."""
    _listen()
    read: list[str] = []
    _noticed.append((threading.get_ident(), read))
    try:
        yield read
    finally:
        _noticed.pop()


@functools.cache
def _listen() -> None:
    sys.addaudithook(_heard)


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    if not _noticed or event not in _EVENTS:  # the names are gone when Python ends
        return
    is_path = isinstance(arguments[0], (str, bytes, os.PathLike))
    name = os.fsdecode(arguments[0]) if is_path else event
    looks = event in _LOOKS
    if looks and isinstance(arguments[0], int):
        return  # a descriptor, which was opened by another event
    if looks and (name.startswith(_NO_DATA) or name.endswith(_CODE)):
        return
    is_users_own = _is_for_user(sys._getframe(1))
    if is_users_own is False or (looks and not is_users(os.path.realpath(name))):
        return
    for thread, read in _noticed:
        # Another thread is one that the user's code has started: ``pool.map(numpy.load, files)``.
        if is_users_own or threading.get_ident() != thread:
            read.append(name if looks else event)


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
