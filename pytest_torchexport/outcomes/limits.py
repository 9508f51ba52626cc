"""Time limits: turn a call that does not return into an exception, so that the run goes on.

Python code is interrupted. Native code (a TorchScript or ONNX loop) cannot be: a call that may loop
there runs in a thread of its own, which is abandoned. Separate because only this file may touch the
interpreter's signals.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

# Python delivers an interrupt between two bytecodes of the main thread: at once, unless swallowed.
DELIVERY_SECONDS = 0.2
RING_AGAIN_SECONDS = 1.0
# The memory limit of a container: https://docs.kernel.org/admin-guide/cgroup-v2.html
_CONTAINER = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


class TimeLimitExceeded(Exception):
    """The time of the item is used up. Its cause is the interrupt of Python code, if one was."""


class Deadline:
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._start = time.monotonic()

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._start

    def is_past(self, share: float) -> bool:
        return self.elapsed > share * self.seconds

    @property
    def left(self) -> float:
        return max(self.seconds - self.elapsed, 0.0)

    def for_a_call(self, most: float = math.inf) -> float:
        """Return the seconds for one call, at most ``most``; one second is left to report it."""
        return min(most, max(self.left - 1.0, 0.5))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time of the block, which has limits of its own."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._start += time.monotonic() - start


@contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Raise TimeLimitExceeded in the block's Python code after so many seconds.

    Works in the main thread only, which an interrupt can reach; in another thread it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    alarm, interrupt = _Alarm(seconds), None
    # A handler of the user's would take our alarm for a Ctrl-C, and raise nothing.
    users = signal.signal(signal.SIGINT, signal.default_int_handler)
    _alarms.append(alarm)
    try:
        alarm.thread.start()  # the interrupt may come before this returns
        yield
    except KeyboardInterrupt as error:
        if not alarm.rang or alarm.delivered:
            raise
        alarm.delivered, interrupt = True, error
    finally:
        alarm.cancel()
        _alarms.remove(alarm)
        signal.signal(signal.SIGINT, users)
    if alarm.rang:
        raise TimeLimitExceeded(f"no return within {seconds:.3g} s") from interrupt


def raise_if_interrupted() -> None:
    """Raise the interrupt of a limit again, of which the block made another exception.

    TorchScript does, if it comes while an operator in Python runs.
    """
    own_thread = threading.current_thread() is threading.main_thread()
    if own_thread and any(alarm.rang and not alarm.delivered for alarm in _alarms):
        raise KeyboardInterrupt


@contextmanager
def before_termination(action: Callable[[], object]) -> Iterator[None]:
    """Call ``action()`` before SIGTERM ends this process, or the user's handler takes it.

    Works in the main thread only, where signals arrive; in another thread it does nothing.
    """
    users = signal.getsignal(signal.SIGTERM)
    own_thread = threading.current_thread() is threading.main_thread()
    if not own_thread or users in (None, signal.SIG_IGN):
        yield
        return
    process = os.getpid()

    def handle(number: int, frame: object) -> None:
        if os.getpid() == process:  # and not a fork of it
            action()
        signal.signal(number, users)
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is handle:  # the block may have set its own
            signal.signal(signal.SIGTERM, users)


class _Alarm:
    """Interrupts the main thread until it is cancelled."""

    def __init__(self, seconds: float) -> None:
        self.rang = False
        self.delivered = False
        self._seconds = seconds
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self.thread = threading.Thread(target=self._watch, daemon=True, name="torchexport-alarm")

    def cancel(self) -> None:
        """Make sure that no interrupt comes any more.

        One already sent is waited for, but not for ever: the block may have swallowed it.
        """
        with self._lock:
            self._cancelled.set()
        if self.rang and not self.delivered:
            self.delivered = True
            with contextlib.suppress(KeyboardInterrupt):
                time.sleep(DELIVERY_SECONDS)

    def _watch(self) -> None:
        wait = self._seconds
        # Again and again: a forward's own "except BaseException" may swallow one, and Python drops
        # one in ``__del__``.
        while not self._cancelled.wait(wait):
            with self._lock:
                if not self._cancelled.is_set():
                    self.rang = True
                    # By a real signal if possible: only that ends a sleep.
                    if hasattr(signal, "pthread_kill"):
                        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                    else:
                        _thread.interrupt_main()
            wait = RING_AGAIN_SECONDS


# The limits in force, the innermost last.
_alarms: list[_Alarm] = []


@lru_cache(maxsize=1)
def share_of_memory() -> int:
    """Return three quarters of this machine's memory, or of its container's, in MiB."""
    known = [16 * 2**30]  # of a system that does not report it
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        known = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in _CONTAINER:
        with contextlib.suppress(OSError, ValueError):  # not there, or "max"
            known.append(int(Path(path).read_text()))
    return min(known) * 3 // 4 // 2**20


@dataclass
class LeftBehind:
    """Threads of calls that did not return: some may be in native code when the process ends.

    ``exit_status``: the status that the process then ends with.
    """

    exit_status: int = 1
    threads: list[threading.Thread] = field(default_factory=list)

    def end_process(self) -> None:
        """End the process without CPython's teardown, which would abort it.

        With a thread in native code it prints "terminate called without an active exception".
        """
        if any(thread.is_alive() for thread in self.threads):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(self.exit_status)


left_behind = LeftBehind()
atexit.register(left_behind.end_process)


def in_thread(function: Callable[[], Any], seconds: float) -> Any:
    """Run ``function()`` in a daemon thread, and return or raise as it does.

    Raises TimeLimitExceeded after so many seconds. The thread cannot be killed: native code that
    loops goes on until the process ends.
    """
    result: Future[Any] = Future()

    def work() -> None:
        try:
            result.set_result(function())
        except BaseException as error:
            result.set_exception(error)

    thread = threading.Thread(target=work, daemon=True, name="torchexport-call")
    thread.start()
    thread.join(seconds)
    if not result.done():
        left_behind.threads.append(thread)
        raise TimeLimitExceeded(f"no return within {seconds:.3g} s")
    return result.result()
