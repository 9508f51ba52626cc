"""Run a function in a fork of this process, which it may crash, end or block.

Separate from ``limits``, which limits calls in this process, where native code cannot be ended. A
fork has everything that this process has: whether a file can be served shows only in the sandbox.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import pickle
import select
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch

from pytest_torchexport.outcomes import cuda
from pytest_torchexport.outcomes.texts import text_of

# Not on macOS: its system libraries do not survive a fork,
# https://github.com/python/cpython/issues/77906.
FORKS = sys.platform == "linux"
# How often it is looked whether a fork has ended: another process may hold its pipe open.
LOOK_SECONDS = 0.02
# A fork ends itself so long after its time if this process is not there to do it.
ORPHAN_SECONDS = 5.0
# The bytes that hold a message's length and stand before it.
LENGTH = 8

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Death:
    """The end of a fork that did not give its result.

    ``signal`` ended it, or it ended itself with ``status``, or ``raised`` an exception, or it was
    ended because it gave nothing for so many ``seconds``. None of these if it is not known.
    """

    signal: int | None = None
    status: int | None = None
    raised: str = ""
    seconds: float | None = None

    def __str__(self) -> str:
        """Return it as what a function did: ``ended the process by signal 11``."""
        if self.raised:
            return f"raised {self.raised}"
        if self.seconds is not None:
            return f"did not return within {self.seconds:.3g} s"
        if self.signal is not None:
            return f"ended the process by signal {self.signal}"
        return "ended the process" + ("" if self.status is None else f", exit status {self.status}")


def can_fork() -> bool:
    """Return True if what this process may do, a fork of it may: CUDA works in one of them only."""
    return FORKS and not cuda.in_use()


def in_fork(function: Callable[[], T], seconds: float) -> T | Death:
    """Return what ``function()`` returns in a fork, as pickle copies it, or how the fork died.

    Only if ``FORKS``. Raises OSError if the system has no room for another process.
    """
    with closing(each_in_fork(lambda: [function()], seconds)) as found:
        return next(found)


def survived(action: Callable[[], object], seconds: float) -> bool:
    """Return True if a fork of this process survives an action: it returns or raises in time.

    False if it does not, and on systems without fork.
    """
    if not FORKS:
        return False
    found = in_fork(lambda: action() is None, seconds)
    return not isinstance(found, Death) or bool(found.raised)


def each_in_fork(
    items: Callable[[], Iterable[T]], seconds: float
) -> Generator[T | Death, None, None]:
    """Yield what ``items()`` yields in one fork, each within so many seconds; a death comes last.

    Nothing else comes back from the fork: no output and no temporary files, and what this process
    does at its end is not done there. Raises OSError like ``in_fork``.
    """
    directory = tempfile.mkdtemp(prefix="torchexport-")
    try:
        reading, writing = os.pipe()
        with os.fdopen(reading, "rb", 0), os.fdopen(writing, "wb", 0) as theirs:
            child = _forked()
            if not child:
                _work(items, seconds, writing, directory)
            theirs.close()
            yield from _received(_Fork(child, reading), seconds)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _received(fork: _Fork, seconds: float) -> Iterator[Any]:
    try:
        while True:
            kind, value = fork.message(seconds)
            if kind == "item":
                yield value
                continue
            if kind == "death":
                yield value
            return
    finally:
        fork.end()


class _Fork:
    """The fork as this process sees it. ``reading``: this process's end of the pipe."""

    def __init__(self, child: int, reading: int) -> None:
        self._child = child
        self._reading = reading
        self._received = bytearray()
        self._status: int | None = None
        self._ended = False
        self._poll = select.poll()  # select itself takes no file number above 1023
        self._poll.register(reading, select.POLLIN)

    def message(self, seconds: float) -> tuple[str, Any]:
        """Return the next message: an item, the end, or a death, of which there is no message."""
        end = time.monotonic() + seconds
        while True:
            left = max(end - time.monotonic(), 0.0)  # poll would wait for ever if it were negative
            ended = self._has_ended()  # asked first: whatever it wrote can be read then
            more = self._read(0.0 if ended else min(LOOK_SECONDS, left))
            message = self._whole()
            if message is not None:
                return message
            if ended and not more:
                return "death", _death(self._status)
            if not left and not more:
                return "death", Death(seconds=seconds)

    def end(self) -> None:
        """End it, wherever it is."""
        if not self._has_ended():
            os.kill(self._child, signal.SIGKILL)
            self._reap(0)

    def _read(self, seconds: float) -> bool:
        """Return True if something could be read."""
        if not self._poll.poll(seconds * 1000):
            return False
        found = os.read(self._reading, 2**20)
        self._received += found
        if not found:
            time.sleep(seconds)  # it closed the pipe, and goes on
        return bool(found)

    def _whole(self) -> tuple[str, Any] | None:
        """Return the first message if all of it is there."""
        end = LENGTH + int.from_bytes(self._received[:LENGTH], "big")
        if len(self._received) < max(end, LENGTH):
            return None
        kind, value = pickle.loads(self._received[LENGTH:end])  # noqa: S301  # of our own
        del self._received[:end]
        return kind, value

    def _has_ended(self) -> bool:
        if not self._ended:
            self._reap(os.WNOHANG)
        return self._ended

    def _reap(self, how: int) -> None:
        try:
            done, status = os.waitpid(self._child, how)
        except ChildProcessError:  # the user's own handler of SIGCHLD was first
            self._ended = True
        else:
            self._ended, self._status = bool(done), status


def _death(status: int | None) -> Death:
    if status is None:
        return Death()
    if os.WIFSIGNALED(status):
        return Death(signal=os.WTERMSIG(status))
    return Death(status=os.WEXITSTATUS(status))


def _forked() -> int:
    """Fork this process; return 0 in the fork."""
    sys.stdout.flush()  # the fork has a copy of what waits there
    sys.stderr.flush()
    with warnings.catch_warnings():
        # Python warns of the threads that a fork lacks, and of locks that they may hold: this is
        # why a fork has a time limit.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


# -- in the fork -----------------------------------------------------------------------------------


def _work(
    items: Callable[[], Iterable[Any]], seconds: float, pipe: int, directory: str
) -> NoReturn:
    """Send each item, and end this process, which is the fork."""
    try:
        _become_a_fork(directory)
        _limit_to(seconds)
        for item in items():
            _send(pipe, "item", item)
            _limit_to(seconds)
        _send(pipe, "end", None)
    except BaseException as error:
        _send(pipe, "death", Death(raised=f"{type(error).__name__}: {text_of(error)}"))
    finally:
        os._exit(1)


def _become_a_fork(directory: str) -> None:
    """Leave what belongs to the process that was forked: its terminal, files, handlers, threads."""
    import resource

    faulthandler.disable()  # nobody reads how a fork crashes
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in (signal.SIGALRM, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  # for good
    tempfile.tempdir = directory
    gc.freeze()  # the other process's objects are not finalized here
    torch.set_num_threads(1)  # OpenMP would wait for threads that the fork lacks


def _limit_to(seconds: float) -> None:
    """Have the kernel end this process if nobody else does, even inside native code."""
    signal.setitimer(signal.ITIMER_REAL, seconds + ORPHAN_SECONDS)


def _send(pipe: int, kind: str, value: Any) -> None:
    message = pickle.dumps((kind, value))
    message = len(message).to_bytes(LENGTH, "big") + message
    while message:
        message = message[os.write(pipe, message) :]
