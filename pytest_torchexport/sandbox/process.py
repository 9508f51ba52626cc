"""The processes of the sandbox, seen from the test session: started when needed, ended with us, whatever ends us.

Where forking is safe, a server with its imports done forks a child per artifact, and one server per library serves
the whole session; elsewhere each artifact gets an interpreter of its own.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

# A server that has begun to import torch on a busy machine gets so long to answer.
PATIENCE_SECONDS = 120.0
# Not on macOS: its system libraries do not survive a fork, https://github.com/python/cpython/issues/77906.
FORKS = sys.platform == "linux"
# Nobody's credentials, no paths of modules: what an interpreter needs to start, and which GPUs it may see.
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT", "CUDA_VISIBLE_DEVICES", "LANG", "LC_ALL")


# What a server says when it fails, in its directory.
LOG = "server.log"


class Gone(RuntimeError):
    """The server does not answer any more."""


@dataclass(frozen=True)
class Library:
    """What artifacts of a kind are run with: the child's module, and what a server imports beforehand."""

    answers: str
    preload: tuple[str, ...]


TORCH = Library(
    "pytest_torchexport.sandbox.with_torch", ("torch", "pytest_torchexport.sandbox.with_torch")
)
ONNXRUNTIME = Library(
    "pytest_torchexport.sandbox.with_onnxruntime",
    ("onnxruntime", "onnx", "pytest_torchexport.sandbox.with_onnxruntime"),
)


class Child(Protocol):
    """One process that serves one connection."""

    channel: socket.socket

    def end(self) -> int:
        """End it, where it has not ended by itself; its wait status."""


class Server:
    """A server process and its directory, in which everything lies that its children need."""

    _shared: ClassVar[dict[Library, Server]] = {}

    def __init__(self, library: Library, home: Path | None = None) -> None:
        self.home = home or Path(tempfile.mkdtemp(prefix="torchexport-"))
        self._library = library
        self._owner = os.getpid()
        self._said: frozenset[str] = frozenset()
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self.close)
        if FORKS:
            ours, theirs = socket.socketpair()
            self._control = ours
            self._process = _python(self.home, "server", theirs, str(self.home))
            self._tell({"preload": library.preload})
        self._waiting = FORKS  # for the answer to that

    @classmethod
    def of(cls, library: Library) -> Server:
        """The one server of this process for a library, started again where it is gone: in its directory, because
        of the artifacts there. Does not wait for it.
        """
        server, home = cls._shared.get(library), None
        if server is not None and server._owner != os.getpid():
            atexit.unregister(server.close)  # it is our parent's
        elif server is not None and server.alive:
            return server
        elif server is not None:
            home = server.hand_over()
        cls._shared[library] = cls(library, home)
        return cls._shared[library]

    @property
    def alive(self) -> bool:
        """Whether it can still be asked."""
        running = self._process is None or self._process.poll() is None
        return running and self.home.is_dir()

    def room(self) -> Path:
        """A new directory for one artifact."""
        return Path(tempfile.mkdtemp(prefix="artifact-", dir=self.home))

    def preload(self, modules: Sequence[str]) -> None:
        """Import modules that children will need, once, in the background of what we do."""
        if not FORKS or self._said.issuperset(modules):
            return
        self._settle()
        self._said |= frozenset(modules)
        self._tell({"preload": list(modules)})
        self._waiting = True

    def start(self) -> Child:
        """A child. Raises Gone where the server does not answer."""
        ours, theirs = socket.socketpair()
        try:
            if FORKS:
                return _Forked(self, ours, self._ask({"start": True}, theirs)["pid"])
            return _Spawned(ours, _python(self.home, "child", theirs))
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()

    def end(self, pid: int) -> int:
        """The wait status of a child that has ended, or is ended now. Raises Gone."""
        return int(self._ask({"end": pid})["status"])

    def close(self) -> None:
        """End the process with its children and remove the directory."""
        atexit.unregister(self.close)
        self._end()
        shutil.rmtree(self.home, ignore_errors=True)

    def hand_over(self) -> Path | None:
        """End the process; its directory, where it still is, is the caller's from now on."""
        atexit.unregister(self.close)
        self._end()
        return self.home if self.home.is_dir() else None

    def _end(self) -> None:
        if self._process is None:
            return
        with contextlib.suppress(OSError):
            # Children that sit in native code do not hear that we are gone; all are of one group.
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._control.close()  # only now: who hears that we are gone removes the directory

    def _ask(self, message: dict[str, Any], passed: socket.socket | None = None) -> dict[str, Any]:
        self._settle()
        self._tell(message, passed)
        return self._hear()

    def _settle(self) -> None:
        if self._waiting:
            self._hear()
            self._waiting = False

    def _tell(self, message: dict[str, Any], passed: socket.socket | None = None) -> None:
        data = json.dumps(message).encode() + b"\n"
        try:
            socket.send_fds(self._control, [data], [passed.fileno()] if passed is not None else [])
        except OSError as error:
            self._give_up(error)

    def _hear(self) -> dict[str, Any]:
        """One answer. Whatever interrupts us, the next answer must not be taken for this one."""
        data = b""
        try:
            self._control.settimeout(PATIENCE_SECONDS)
            while not data.endswith(b"\n"):
                part = self._control.recv(2**16)
                if not part:
                    raise EOFError
                data += part
        except (OSError, EOFError) as error:
            self._give_up(error)
        except BaseException:
            self._end()
            raise
        answer: dict[str, Any] = json.loads(data)
        return answer

    def _give_up(self, error: Exception) -> None:
        assert self._process is not None
        code = self._process.poll()
        said = f"it ended with status {code}" if code is not None else type(error).__name__
        said = ": ".join([said, *self._last_words()])
        self._end()
        raise Gone(f"the clean process does not answer: {said}") from None

    def _last_words(self) -> list[str]:
        """The last line that the server wrote before it ended."""
        with contextlib.suppress(OSError):
            return (self.home / LOG).read_text(errors="replace").splitlines()[-1:]
        return []


class _Forked:
    """A child of the server's."""

    def __init__(self, server: Server, channel: socket.socket, pid: int) -> None:
        self.channel = channel
        self._server = server
        self._pid = pid

    def end(self) -> int:
        """Ended by its parent, which alone hears its status."""
        self.channel.close()
        return self._server.end(self._pid)


class _Spawned:
    """A child of our own."""

    def __init__(self, channel: socket.socket, process: subprocess.Popen[bytes]) -> None:
        self.channel = channel
        self._process = process

    def end(self) -> int:
        """Its status as ``os.waitpid`` would give it."""
        self.channel.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.05)  # it may be about to end by itself, and say why
        self._process.kill()
        code = self._process.wait()
        return -code if code < 0 else code << 8


def _python(home: Path, room: str, theirs: socket.socket, *arguments: str) -> Any:
    """An isolated interpreter that runs ``main`` of a room of ours: no user paths, no site of the user's."""
    root = str(Path(__file__).resolve().parents[2])
    windows = sys.platform == "win32"
    end = (
        "socket.fromshare(sys.stdin.buffer.read())"
        if windows
        else f"socket.socket(fileno={theirs.fileno()})"
    )
    given = ", ".join([end, *map(repr, arguments)])
    code = (
        # First, because another version may be installed; and gone again: what lies beside us is not for them.
        f"import socket, sys; sys.path.insert(0, {root!r}); from pytest_torchexport.sandbox import {room}; "
        f"sys.path.remove({root!r}); {room}.main({given})"
    )
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    log = (home / LOG).open("ab")
    try:
        process = subprocess.Popen(  # noqa: S603  # our own interpreter and code
            [sys.executable, "-I", "-c", code],
            stdin=subprocess.PIPE if windows else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            cwd=home,
            env=kept | {"HOME": str(home), "TMPDIR": str(home), "OMP_NUM_THREADS": "1"},
            pass_fds=() if windows else [theirs.fileno()],
            # Ctrl-C in the terminal is for the test session, which ends its children itself.
            start_new_session=True,
        )
        if process.stdin is not None:
            with process.stdin as given_by:
                given_by.write(theirs.share(process.pid))  # type: ignore[attr-defined]  # Windows only
        return process
    finally:
        log.close()
        theirs.close()
