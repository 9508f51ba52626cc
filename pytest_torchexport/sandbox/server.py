"""The loop inside a clean process: one forked child per artifact. It imports what children need and never runs
an operation itself, so they start clean, in milliseconds.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import socket
from typing import Any

from pytest_torchexport.sandbox import child, guard


def main(control: socket.socket, home: str) -> None:
    """Serve requests, a line of JSON each, until whoever asks is gone; then leave nothing behind."""
    guard.deaf_to_the_terminal()
    children: set[int] = set()
    try:
        while (request := _receive(control)) is not None:
            message, descriptors = request
            control.sendall(
                json.dumps(_serve(message, descriptors, control, children)).encode() + b"\n"
            )
    except ConnectionError:
        pass  # whoever asked was killed
    finally:
        for pid in children:
            _end(pid)
        os.chdir("/")
        shutil.rmtree(home, ignore_errors=True)


def _receive(control: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    data = b""
    descriptors: list[int] = []
    while not data.endswith(b"\n"):
        part, found, _, _ = socket.recv_fds(control, 2**16, 1)
        if not part:
            return None
        data, descriptors = data + part, descriptors + found
    return json.loads(data), descriptors


def _serve(
    message: dict[str, Any], descriptors: list[int], control: socket.socket, children: set[int]
) -> dict[str, Any]:
    if "preload" in message:
        for name in message["preload"]:
            importlib.import_module(name)
        return {}
    if "start" in message:
        pid = os.fork()
        if not pid:
            control.close()
            child.main(socket.socket(fileno=descriptors[0]))
        os.close(descriptors[0])
        children.add(pid)
        return {"pid": pid}
    children.discard(message["end"])
    return {"status": _end(message["end"])}


def _end(pid: int) -> int:
    """The child's wait status, killed where it has not ended."""
    done, status = os.waitpid(pid, os.WNOHANG)
    if not done:
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    return status
