"""The loop of a server: import the library once, then fork a child per artifact.

It never runs an operation itself, so that each child starts clean, within milliseconds.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import signal
import socket
from typing import Any

from pytest_torchexport.sandbox import child, guard

# How much of an error's text is sent, in characters: one message has to hold it.
_ERROR_LENGTH = 2000


def main(control: socket.socket, home: str) -> None:
    """Serve requests (one JSON message each) until the session is gone; then remove ``home``."""
    guard.ignore_interrupts()
    children: dict[int, int] = {}
    with contextlib.suppress(ConnectionError):  # the session was killed
        while (request := _receive(control)) is not None:
            message, descriptors = request
            answer = _answer(message, descriptors, control, children)
            control.sendall(json.dumps({**answer, "number": message["number"]}).encode())
    for pid in children.values():
        _end(pid)
    os.chdir("/")
    shutil.rmtree(home, ignore_errors=True)


def _receive(control: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    data, descriptors, _, _ = socket.recv_fds(control, 2**16, 1)
    return (json.loads(data), descriptors) if data else None


def _answer(
    message: dict[str, Any],
    descriptors: list[int],
    control: socket.socket,
    children: dict[int, int],
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
    children: dict[int, int],
) -> dict[str, Any]:
    if "preload" in message:
        for name in message["preload"]:
            importlib.import_module(name)
        return {}
    if "start" in message:
        pid = os.fork()
        if not pid:
            _become_child(control, descriptors[0])
        children[message["number"]] = pid
        return {"pid": pid}
    return {"status": _end(children.pop(message["end"]))}


def _become_child(control: socket.socket, channel: int) -> None:
    """Never return: this process has the server's stack below it."""
    try:
        control.close()
        child.main(socket.socket(fileno=channel))
    finally:
        os._exit(1)


def _end(pid: int) -> int:
    """Return a child's wait status; kill it first if it has not ended."""
    done, status = os.waitpid(pid, os.WNOHANG)
    if not done:
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    return status
