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
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch

from pytest_torchexport.outcomes import cuda
from pytest_torchexport.outcomes.errors import text_of

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
    ended because it gave nothing for so many ``seconds``.
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
        return f"ended the process, exit status {self.status}"


def can_fork() -> bool:
    """Return True if what this process may do, a fork of it may: CUDA works in one of them only."""
    return _may_fork() and not cuda.in_use()


def _may_fork() -> bool:
    return FORKS and not multiprocessing.current_process().daemon  # which may have no children


def in_fork(function: Callable[[], T], seconds: float) -> T | Death:
    """Return the result of ``function()`` in a fork, as pickle copies it, or how the fork died.

    Only if ``FORKS``. Raises OSError if the system has no room for another process.
    """
    with closing(each_in_fork(lambda: [function()], seconds)) as found:
        return next(found)


def survived(action: Callable[[], object], seconds: float) -> bool:
    """Return True if a fork of this process survives an action: it returns or raises in time.

    False if it does not, and where there can be no fork.
    """
    if not _may_fork():
        return False
    found = in_fork(lambda: action() is None, seconds)
    return not isinstance(found, Death) or bool(found.raised)


def each_in_fork(
    items: Callable[[], Iterable[T]], seconds: float
) -> Generator[T | Death, None, None]:
    """Yield the values of ``items()`` in one fork, each within so many seconds; a death comes last.

    Nothing else comes back from the fork: no output and no temporary files, and what this process
    does at its end is not done there. Raises OSError like ``in_fork``.
    """
    ours, theirs = multiprocessing.Pipe(duplex=False)
    directory = tempfile.mkdtemp(prefix="torchexport-")
    fork = multiprocessing.get_context("fork").Process(
        target=_work, args=(items, seconds, theirs, directory)
    )
    try:
        with ours:
            with theirs, warnings.catch_warnings():
                # Python warns of the threads that a fork lacks, and of locks that they may hold:
                # this is why a fork has a time limit.
                warnings.simplefilter("ignore", DeprecationWarning)
                fork.start()
            kind, value = _message(fork, ours, seconds)
            while kind == "item":
                yield value
                kind, value = _message(fork, ours, seconds)
            if kind == "death":
                yield value
    finally:
        if fork.pid is not None:
            if not _has_ended(fork):
                fork.kill()  # wherever it is
            fork.join()
        shutil.rmtree(directory, ignore_errors=True)


def _message(fork: BaseProcess, pipe: Connection, seconds: float) -> tuple[str, Any]:
    """Return the next message: an item, the end, or a death, of which there may be no message."""
    end = time.monotonic() + seconds
    while True:
        left = max(end - time.monotonic(), 0.0)
        ended = _has_ended(fork)  # asked first: whatever it wrote can be read then
        try:
            if pipe.poll(0.0 if ended else min(LOOK_SECONDS, left)):
                found: tuple[str, Any] = pickle.loads(pipe.recv_bytes())  # noqa: S301
                return found  # of our own
        except EOFError:
            if not ended:
                time.sleep(LOOK_SECONDS)  # it closed the pipe, and goes on
        if ended:
            fork.join()
            status = fork.exitcode
            if status is None:
                return "death", Death()
            return "death", Death(signal=-status) if status < 0 else Death(status=status)
        if not left:
            return "death", Death(seconds=seconds)


def _has_ended(fork: BaseProcess) -> bool:
    # A process that it left behind keeps the sentinel open. It has no exit code if the user's own
    # handler of SIGCHLD was first.
    return fork.exitcode is not None or bool(wait([fork.sentinel], 0))


# -- in the fork -----------------------------------------------------------------------------------


def _work(
    items: Callable[[], Iterable[Any]], seconds: float, pipe: Connection, directory: str
) -> NoReturn:
    import resource

    def send(kind: str, value: Any) -> None:
        pipe.send_bytes(pickle.dumps((kind, value)))
        # The kernel ends this process if nobody else does, even inside native code.
        signal.setitimer(signal.ITIMER_REAL, seconds + ORPHAN_SECONDS)

    try:
        # It leaves what belongs to the process that was forked: terminal, files, handlers, threads.
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
        signal.setitimer(signal.ITIMER_REAL, seconds + ORPHAN_SECONDS)
        for item in items():
            send("item", item)
        send("end", None)
    except BaseException as error:
        send("death", Death(raised=f"{type(error).__name__}: {text_of(error)}"))
    finally:
        os._exit(1)
