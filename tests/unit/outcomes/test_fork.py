"""outcomes/fork.py: whatever a function does to its process, this one goes on."""

from __future__ import annotations

import atexit
import os
import signal
import tempfile
import threading
import time
from pathlib import Path

import pytest
import torch

from pytest_torchexport.outcomes.fork import FORKS, Death, each_in_fork, in_fork, survived

pytestmark = pytest.mark.skipif(not FORKS, reason="there is no fork to try")
# More than any machine needs; a test that takes so long has failed.
LONG = 60.0
SHORT = 0.2


def kill_me():
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_result_comes_back():
    assert in_fork(lambda: {"a": (1, None)}, LONG) == {"a": (1, None)}
    assert len(in_fork(lambda: bytes(10_000_000), LONG)) == 10_000_000  # more than a pipe holds


@pytest.mark.parametrize(
    ("function", "death", "said"),
    [
        (lambda: {}["missing"], Death(raised="KeyError: 'missing'"), "raised KeyError: 'missing'"),
        (lambda: os._exit(3), Death(status=3), "ended the process, exit status 3"),
        (kill_me, Death(signal=9), "ended the process by signal 9"),
    ],
)
def test_a_function_that_gives_no_result_dies_in_its_own_way(function, death, said):
    found = in_fork(function, LONG)
    assert found == death
    assert str(found) == said
    assert "pickle" in in_fork(threading.Lock, LONG).raised


def test_a_handler_of_the_user_may_learn_first_that_a_fork_has_ended():
    # Not one that waits: the servers of the clean process are children too, and do not end.
    before = signal.signal(signal.SIGCHLD, lambda *_: os.waitpid(-1, os.WNOHANG))
    try:
        assert in_fork(lambda: 3, LONG) == 3
        assert in_fork(kill_me, LONG) == Death()
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_what_does_not_return_is_ended(tmp_path):
    def wait():
        while True:
            (tmp_path / "runs").touch()
            time.sleep(0.01)

    found = in_fork(wait, SHORT)
    assert found == Death(seconds=SHORT)
    assert str(found) == "did not return within 0.2 s"
    (tmp_path / "runs").unlink()
    time.sleep(0.1)
    assert not (tmp_path / "runs").exists()


def test_items_come_one_by_one_until_a_death():
    def items():
        yield 1
        yield 2
        kill_me()
        yield 3

    assert list(each_in_fork(items, LONG)) == [1, 2, Death(signal=9)]
    assert list(each_in_fork(lambda: iter("ab"), LONG)) == ["a", "b"]


def test_a_process_that_the_fork_left_behind_keeps_nobody_waiting():
    def items():
        child = os.fork()
        if not child:
            time.sleep(LONG)
            os._exit(0)
        yield child
        kill_me()

    left_behind, *rest = each_in_fork(items, LONG)
    os.kill(left_behind, signal.SIGKILL)
    assert rest == [Death(signal=9)]


def test_operators_that_used_several_threads_here_run_in_a_fork():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        x = torch.ones(1000, 1000)
        here = float((x @ x).sum())
        assert in_fork(lambda: (torch.get_num_threads(), float((x @ x).sum())), LONG) == (1, here)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_fork_prints_nothing_and_runs_no_handlers_of_this_process(capfd, tmp_path):
    def leave(text):
        (tmp_path / text).touch()

    atexit.register(leave, "handler")
    try:
        print("before", end="")
        in_fork(lambda: (print("python"), os.write(1, b"native"))[0], LONG)
    finally:
        atexit.unregister(leave)
    assert capfd.readouterr().out == "before"
    assert list(tmp_path.iterdir()) == []


def test_temporary_files_of_a_fork_are_removed():
    path = in_fork(tempfile.mkdtemp, LONG)
    assert not Path(path).exists()
    assert not Path(path).parent.exists()


def test_it_survives_if_it_returns_or_raises():
    assert survived(lambda: None, LONG)
    assert survived(lambda: 1 / 0, LONG)
    assert not survived(kill_me, LONG)
    assert not survived(lambda: time.sleep(LONG), SHORT)
