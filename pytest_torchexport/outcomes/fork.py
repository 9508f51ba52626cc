"""Run a function in a fork of this process, which it may crash, end or block.

Separate from ``limits``, which limits calls in this process, where native code cannot be ended. A
fork has everything that this process has: whether a file can be served shows only in the sandbox.
"""

from __future__ import annotations

import faulthandler
import gc
import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection
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
        ours, theirs = multiprocessing.Pipe(duplex=False)
        with ours, theirs:
            sys.stdout.flush()  # the fork has a copy of what waits there
            sys.stderr.flush()
            with warnings.catch_warnings():
                # Python warns of the threads that a fork lacks, and of locks that they may hold:
                # this is why a fork has a time limit.
                warnings.simplefilter("ignore", DeprecationWarning)
                child = os.fork()
            if not child:
                _work(items, seconds, theirs, directory)
            theirs.close()
            fork = _Fork(child, ours)
            try:
                kind, value = fork.message(seconds)
                while kind == "item":
                    yield value
                    kind, value = fork.message(seconds)
                if kind == "death":
                    yield value
            finally:
                fork.end()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class _Fork:
    """The fork as this process sees it. ``pipe``: this process's end of it."""

    def __init__(self, child: int, pipe: Connection) -> None:
        self._child = child
        self._pipe = pipe
        self._ended = False
        self._death = Death()

    def message(self, seconds: float) -> tuple[str, Any]:
        """Return the next message: an item, the end, or a death, of which there is no message."""
        end = time.monotonic() + seconds
        while True:
            left = max(end - time.monotonic(), 0.0)
            ended = self._has_ended()  # asked first: whatever it wrote can be read then
            try:
                if self._pipe.poll(0.0 if ended else min(LOOK_SECONDS, left)):
                    found: tuple[str, Any] = pickle.loads(self._pipe.recv_bytes())  # noqa: S301
                    return found  # of our own
            except EOFError:
                if not ended:
                    time.sleep(LOOK_SECONDS)  # it closed the pipe, and goes on
            if ended:
                return "death", self._death
            if not left:
                return "death", Death(seconds=seconds)

    def end(self) -> None:
        """End it, wherever it is."""
        if not self._has_ended():
            os.kill(self._child, signal.SIGKILL)
            self._has_ended(0)

    def _has_ended(self, how: int = os.WNOHANG) -> bool:
        if self._ended:
            return True
        try:
            done, status = os.waitpid(self._child, how)
        except ChildProcessError:  # the user's own handler of SIGCHLD was first
            self._ended = True
            return True
        self._ended = bool(done)
        if done:
            killed = os.WIFSIGNALED(status)
            self._death = (
                Death(signal=os.WTERMSIG(status))
                if killed
                else Death(status=os.WEXITSTATUS(status))
            )
        return self._ended


# -- in the fork -----------------------------------------------------------------------------------


def _work(
    items: Callable[[], Iterable[Any]], seconds: float, pipe: Connection, directory: str
) -> NoReturn:
    """Send each item, and end this process, which is the fork."""

    def send(kind: str, value: Any) -> None:
        pipe.send_bytes(pickle.dumps((kind, value)))

    try:
        _become_a_fork(directory)
        # The kernel ends this process if nobody else does, even inside native code.
        signal.setitimer(signal.ITIMER_REAL, seconds + ORPHAN_SECONDS)
        for item in items():
            send("item", item)
            signal.setitimer(signal.ITIMER_REAL, seconds + ORPHAN_SECONDS)
        send("end", None)
    except BaseException as error:
        send("death", Death(raised=f"{type(error).__name__}: {text_of(error)}"))
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
