"""The loop of a server: import the library once, then fork a child per artifact.

It never runs an operation itself, so that each child starts clean, within milliseconds.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_torchexport.sandbox import child, guard
from pytest_torchexport.sandbox.disk import DiskUse

# How much of an error's text is sent, in characters: one message has to hold it.
_ERROR_LENGTH = 2000
# How often the disk use of children is looked at.
_LOOK_SECONDS = 0.2


@dataclass
class _Child:
    """A child that was forked. ``told``: it was sent a signal because it writes too much."""

    disk: DiskUse
    told: bool = False

    @property
    def pid(self) -> int:
        return self.disk.pid

    def limit_disk(self) -> None:
        """End it if it has written too much: with the kernel's own signal, or else for sure."""
        if self.disk.exceeded():
            os.kill(self.pid, signal.SIGKILL if self.told else signal.SIGXFSZ)
            self.told = True


_Children = dict[int, _Child]


def main(control: socket.socket, home: str) -> None:
    """Serve requests (one JSON message each) until the session is gone; then remove ``home``."""
    guard.ignore_interrupts()
    # It may have been stopped; then it does not notice that the session is gone.
    guard.at_parents_end(signal.SIGCONT)
    children: _Children = {}
    with contextlib.suppress(ConnectionError):  # the session was killed
        while (request := _receive(control, children)) is not None:
            message, descriptors = request
            answer = _answer(message, descriptors, control, children)
            control.sendall(json.dumps({**answer, "number": message["number"]}).encode())
    for each in children.values():
        _end(each.pid)
    os.chdir("/")
    shutil.rmtree(home, ignore_errors=True)


def _receive(
    control: socket.socket, children: _Children
) -> tuple[dict[str, Any], list[int]] | None:
    """Return the next request; None if there will be none. Meanwhile, watch the children."""
    while children and not select.select([control], [], [], _LOOK_SECONDS)[0]:
        for each in children.values():
            each.limit_disk()
    data, descriptors, _, _ = socket.recv_fds(control, 2**16, 1)
    return (json.loads(data), descriptors) if data else None


def _answer(
    message: dict[str, Any],
    descriptors: list[int],
    control: socket.socket,
    children: _Children,
) -> dict[str, Any]:
    """Return the answer to a request. A failed one gets its error: the server serves on."""
    try:
        return _serve(message, descriptors, control, children)
    except (Exception, SystemExit) as error:
        return {"error": f"{type(error).__name__}: {error}"[:_ERROR_LENGTH]}
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _serve(
    message: dict[str, Any],
    descriptors: list[int],
    control: socket.socket,
    children: _Children,
) -> dict[str, Any]:
    if "preload" in message:
        _preload(message["preload"])
        return {}
    if "start" in message:
        pid = os.fork()
        if not pid:
            _become_child(control, descriptors[0])
        children[message["number"]] = _Child(DiskUse.from_now(pid, Path(message["start"])))
        return {"pid": pid}
    return {"status": _end(children.pop(message["end"]).pid)}


def _preload(modules: Sequence[str]) -> None:
    """Import modules without collecting garbage meanwhile, and keep them out of collections.

    Importing makes hardly any garbage, but each full collection goes through all that is imported.
    In a child it would write to that memory, which is the server's until then, and so copy it.
    """
    gc.disable()
    try:
        for name in modules:
            importlib.import_module(name)
    finally:
        gc.enable()
        gc.freeze()


def _become_child(control: socket.socket, channel: int) -> None:
    """Never return: this process has the server's stack below it."""
    try:
        os.setpgid(0, 0)  # its own processes, if it can start any, end with this group
        guard.at_parents_end(signal.SIGKILL)
        control.close()
        child.main(socket.socket(fileno=channel))
    finally:
        os._exit(1)


def _end(pid: int) -> int:
    """Return a child's wait status; kill it first if it has not ended, with its own processes."""
    # Not waited for yet, so that no other process can have the number of its group.
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if ended is None:
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]
