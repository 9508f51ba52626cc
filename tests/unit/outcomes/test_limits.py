"""outcomes/limits.py: time runs out, and the interpreter is as it was."""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

from pytest_torchexport.outcomes.limits import (
    TimeLimitExceeded,
    before_termination,
    in_thread,
    interrupted_after,
)
from pytest_torchexport.outcomes.messages import user_frame

SHORT = 0.05


def ran(script):
    """Return how a process ends, the lines that it prints, and its errors."""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout.split("\n"), done.stderr


def spin():
    while True:
        pass


def test_python_code_that_does_not_end_is_interrupted_where_it_is():
    with (
        pytest.raises(TimeLimitExceeded, match=r"no return within 0\.05 s") as caught,
        interrupted_after(SHORT),
    ):
        spin()
    assert user_frame(caught.value.__cause__).text in ("while True:", "pass")


def test_no_interrupt_is_left_over_for_the_code_that_follows():
    for _ in range(20):
        with contextlib.suppress(TimeLimitExceeded), interrupted_after(0.002):
            time.sleep(0.002)
    end = time.monotonic() + 0.1
    while time.monotonic() < end:
        pass


def test_ctrl_c_of_the_user_stays_ctrl_c():
    def press():
        _thread.interrupt_main()
        spin()

    with pytest.raises(KeyboardInterrupt), interrupted_after(60):
        press()


SWALLOWS = """
import time
from pytest_torchexport.outcomes.limits import TimeLimitExceeded, interrupted_after
try:
    with interrupted_after(0.1):
        try:
            time.sleep(60)
        except BaseException:
            pass
except TimeLimitExceeded:
    print("over")
"""


def test_a_block_that_swallows_the_interrupt_is_over_time_and_nothing_waits_for_ever():
    # A process of its own: what this guards against is a run that never ends.
    assert ran(SWALLOWS) == (0, ["over", ""], "")


def test_a_function_in_a_thread_returns_or_raises_as_it_does():
    assert in_thread(lambda: 7, 60) == 7
    with pytest.raises(ZeroDivisionError):
        in_thread(lambda: 1 / 0, 60)


LEAVES = """
import time
from pytest_torchexport.outcomes.limits import left_behind, TimeLimitExceeded, in_thread
try:
    in_thread(lambda: time.sleep(60), 0.1)
except TimeLimitExceeded:
    left_behind.exit_status = 7
"""


def test_a_process_with_an_abandoned_thread_ends_with_the_status_that_was_set():
    assert ran(LEAVES)[0] == 7


TERMINATED = """
import os, signal, sys
from pytest_torchexport.outcomes.limits import before_termination

signal.signal(signal.SIGTERM, USERS)
with before_termination(lambda: print("action", flush=True)):
    if not os.fork():
        os.kill(os.getpid(), signal.SIGTERM)  # of a child of the user's
        os._exit(0)
    os.wait()
    print("the child is gone", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print("survived", flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="signals as POSIX has them")
@pytest.mark.parametrize(
    ("users", "status", "then"),
    [
        ("signal.SIG_DFL", -signal.SIGTERM, "action"),
        ("lambda *_: os._exit(7)", 7, "action"),
        ("signal.SIG_IGN", 0, "survived"),
    ],
    ids=["no handler", "a handler", "ignored"],
)
def test_the_action_runs_before_sigterm_ends_this_process(users, status, then):
    found = ran(TERMINATED.replace("USERS", users))
    assert found[:2] == (status, ["the child is gone", then, ""])


def test_a_handler_that_the_block_sets_stays():
    users = signal.getsignal(signal.SIGTERM)
    try:
        with before_termination(lambda: None):
            assert signal.getsignal(signal.SIGTERM) is not users
        assert signal.getsignal(signal.SIGTERM) is users
        with before_termination(lambda: None):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, users)
