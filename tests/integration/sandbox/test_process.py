"""sandbox/process.py: servers, from the side of the test session."""

from __future__ import annotations

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from in_sandbox import TORCH, children_of, close, lives, run, where_it_forks
from slow import slow

from pytest_torchexport.outcomes.observe import Returned
from pytest_torchexport.sandbox import process
from pytest_torchexport.sandbox.process import Server, ServerUnavailable


def test_where_sockets_are_forbidden_the_next_step_is_told(monkeypatch):
    def forbidden(*kind):
        raise RuntimeError("A test tried to use socket.socket.")  # as pytest-socket does

    monkeypatch.setattr(socket, "socketpair", forbidden)
    with pytest.raises(
        ServerUnavailable, match=r"tried to use socket\.socket.*--allow-unix-socket"
    ):
        Server(TORCH)


def test_a_copy_of_the_test_process_leaves_its_server_alone(forks):
    child = forks.start(forks.home)
    pid = os.fork()
    if not pid:
        forks.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert forks.alive
    child.end()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(forks, "_owner", -1)
        with pytest.raises(process.ServerUnavailable, match="belongs to the parent"):
            forks.start(forks.home)


@pytest.mark.parametrize("where", ["_send", "_receive"])
def test_an_interrupt_between_question_and_answer_shifts_none(forks, monkeypatch, where):
    """The alarm of a time limit comes between any two lines."""
    plain, first = getattr(Server, where), []

    def interrupted(self, *arguments):
        if where == "_send":
            plain(self, *arguments)
        if not first:
            first.append(self)
            raise KeyboardInterrupt
        return plain(self, *arguments) if where == "_receive" else None

    monkeypatch.setattr(Server, where, interrupted)
    with pytest.raises(KeyboardInterrupt):
        forks.start(forks.home)
    children = [forks.start(forks.home) for _ in range(3)]
    assert len({child.pid for child in children}) == 3
    assert all(lives(child.pid) for child in children)
    assert sorted(children_of(forks._process.pid)) == sorted(child.pid for child in children)
    for child in children:
        child.end()
    assert not list(children_of(forks._process.pid))


def test_threads_share_a_server(forks):
    with ThreadPoolExecutor(8) as pool:
        children = list(pool.map(lambda _: forks.start(forks.home), range(40)))
        assert len({child.pid for child in children}) == 40
        list(pool.map(lambda child: child.end(), children))
    assert not list(children_of(forks._process.pid))


def test_a_server_leaves_no_files_and_no_process_behind(ways, load):
    session = load("HANG_IN_CALL")
    server = Server.of(TORCH)
    home, own = server.home, server.artifact_directory()
    assert own.is_dir()
    run(session, limit=0.2)
    close()
    assert not home.exists()
    assert server._process is None or server._process.poll() is not None
    server.close()


PARENT = """
import signal, sys, torch
# A process that a shell starts in the background ignores SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path[:0] = [{here!r}, {tests!r}]
from pathlib import Path
from conftest import popen_that_finds_the_targets
from in_sandbox import TORCH, source
from pytest_torchexport.inputs.pytrees import Call
from pytest_torchexport.sandbox import process
from pytest_torchexport.sandbox.session import SandboxSession
process.subprocess.Popen = popen_that_finds_the_targets(process.subprocess.Popen)
server = process.Server.of(TORCH)
session = SandboxSession(source(server.artifact_directory(), "HANG_IN_CALL"), 60.0)
print(server.home, server._process.pid, session._child.pid, flush=True)
session.run(Call((torch.zeros(1),)), seed=0, limit=600.0)
"""


@where_it_forks
@pytest.mark.parametrize(
    ("number", "stop_server"),
    [
        pytest.param(signal.SIGKILL, False, marks=slow),
        (signal.SIGKILL, True),
        pytest.param(signal.SIGTERM, False, marks=slow),
        pytest.param(signal.SIGINT, False, marks=slow),
    ],
    ids=str,
)
def test_a_killed_parent_leaves_nothing_behind(number, stop_server):
    """Neither a server that runs nor one that is stopped outlives it, nor a child or a file."""
    here = pathlib.Path(__file__).parent
    code = PARENT.format(here=str(here), tests=str(here.parents[1]))
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        home, *pids = parent.stdout.readline().split()
        if stop_server:
            os.kill(int(pids[0]), signal.SIGSTOP)
        parent.send_signal(number)
        parent.wait(timeout=60)
    for _ in range(1000):
        if not pathlib.Path(home).exists() and not any(lives(int(pid)) for pid in pids):
            return
        time.sleep(0.01)
    pytest.fail(f"left: {home} {pids}")


@where_it_forks
@pytest.mark.parametrize("count", [20, pytest.param(1000, marks=slow)])
def test_many_artifacts_through_one_server_leave_it_as_it_was(load, count):
    run(load("ADD"))
    server = Server.of(TORCH)
    before = _open_files_and_megabytes(server)
    for _ in range(count):
        session = load("ADD")
        assert isinstance(run(session), Returned)
        session.close()
    assert Server.of(TORCH) is server
    files, megabytes = _open_files_and_megabytes(server)
    assert files == before[0]
    assert megabytes < before[1] + 10 + 0.1 * count


def _open_files_and_megabytes(server):
    own = pathlib.Path(f"/proc/{server._process.pid}")
    pages = int((own / "statm").read_text().split()[1])
    return len(list((own / "fd").iterdir())), pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@where_it_forks
def test_a_server_that_was_killed_between_artifacts_is_started_again(load):
    run(load("ADD"))
    server = Server.of(TORCH)
    server._process.kill()
    server._process.wait()
    assert isinstance(run(load("ADD")), Returned)
    assert Server.of(TORCH) is not server
