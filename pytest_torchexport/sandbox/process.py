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
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from pytest_torchexport.sandbox.installed import elsewhere

# A server that has begun to import torch on a busy machine gets so long to answer.
PATIENCE_SECONDS = 120.0
# Not on macOS: its system libraries do not survive a fork, https://github.com/python/cpython/issues/77906.
FORKS = sys.platform == "linux"
# Nobody's credentials, no paths of modules: what an interpreter needs to start, which GPUs it may see, and what changes
# the numbers that come out.
_ENVIRONMENT = (
    "ATEN_CPU_CAPABILITY",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_DEVICE_ORDER",
    "CUDA_VISIBLE_DEVICES",
    "KMP_DUPLICATE_LIB_OK",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "NVIDIA_TF32_OVERRIDE",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "PATH",
    "SYSTEMROOT",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)
# Where a system's libraries look for a directory to write to.
_HOMES = ("HOME", "TEMP", "TMP", "TMPDIR", "USERPROFILE")
# The number of a server's first request, to import what nothing goes without.
_LIBRARY = 1


# What a server says when it fails, in its directory.
LOG = "server.log"


class ServerUnavailable(RuntimeError):
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
    """A server process and its directory, in which everything lies that its children need. Threads may share it.

    Its answers bear the number of the request: one that nobody waits for any more, because an interrupt came between,
    is never taken for the next.
    """

    _shared: ClassVar[dict[Library, Server]] = {}
    _sharing: ClassVar[threading.RLock] = threading.RLock()

    def __init__(self, library: Library, home: Path | None = None) -> None:
        self.home = home or Path(tempfile.mkdtemp(prefix="torchexport-"))
        self._library = library
        self._owner = os.getpid()
        self._said: frozenset[str] = frozenset()
        self._process: subprocess.Popen[bytes] | None = None
        self._asking = threading.RLock()
        self._number = 0
        self._broken = ""
        atexit.register(self.close)
        if FORKS:
            # Of whole messages: half of one that was interrupted would garble the next.
            self._control, theirs = _pair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._process = _python(self.home, "server", theirs, str(self.home))
            self._tell(self._next(), {"preload": library.preload})

    @classmethod
    def of(cls, library: Library) -> Server:
        """The one server of this process for a library, started again where it is gone: in its directory, because
        of the artifacts there. Does not wait for it.
        """
        with cls._sharing:
            server, home = cls._shared.get(library), None
            if server is not None and server._owner != os.getpid():
                server.close()
            elif server is not None and server.alive:
                return server
            elif server is not None:
                home = server.hand_over()
            cls._shared[library] = cls(library, home)
            return cls._shared[library]

    @property
    def alive(self) -> bool:
        """Whether it can still be asked: one that lacks its library never will."""
        running = self._process is None or self._process.poll() is None
        return running and not self._broken and self.home.is_dir()

    def room(self) -> Path:
        """A new directory for one artifact."""
        return Path(tempfile.mkdtemp(prefix="artifact-", dir=self.home))

    def preload(self, modules: Sequence[str]) -> None:
        """Import modules that children will need, once, in the background of what we do."""
        if not FORKS or self._said.issuperset(modules):
            return
        with self._asking:
            self._tell(self._next(), {"preload": list(modules)})
            self._said |= frozenset(modules)

    def start(self) -> Child:
        """A child. Raises Gone where the server does not answer, or cannot start one."""
        ours, theirs = _pair()
        try:
            if FORKS:
                return self._forked(ours, theirs)
            return _Spawned(ours, _python(self.home, "child", theirs))
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()

    def end(self, child: int) -> int:
        """The wait status of a child that has ended, or is ended now; by the number of the request that started it.
        Raises Gone.
        """
        with self._asking:
            number = self._next()
            self._tell(number, {"end": child})
            return int(self._hear(number)["status"])

    def close(self) -> None:
        """End the process with its children and remove the directory; in a forked copy of who started it, let go."""
        atexit.unregister(self.close)
        self._end()
        if self._owner == os.getpid():
            shutil.rmtree(self.home, ignore_errors=True)

    def hand_over(self) -> Path | None:
        """End the process; its directory, where it still is, is the caller's from now on."""
        atexit.unregister(self.close)
        self._end()
        return self.home if self.home.is_dir() else None

    def _end(self) -> None:
        process = self._process
        if process is None:
            return
        # Of one that was waited for, the number may be another's by now.
        if self._owner == os.getpid() and process.poll() is None:
            with contextlib.suppress(OSError):
                # Children that sit in native code do not hear that we are gone; all are of one group.
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._control.close()  # only now: who hears that we are gone removes the directory

    def _forked(self, ours: socket.socket, theirs: socket.socket) -> Child:
        with self._asking:
            number = self._next()
            try:
                self._tell(number, {"start": True}, theirs)
                return _Forked(self, ours, number, self._hear(number)["pid"])
            except ServerUnavailable:
                raise
            except BaseException:
                self._tell(self._next(), {"end": number})  # nobody else knows of it
                raise

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _tell(
        self, number: int, message: dict[str, Any], passed: socket.socket | None = None
    ) -> None:
        if self._owner != os.getpid():
            raise ServerUnavailable("the clean process belongs to who forked this one")
        data = json.dumps({**message, "number": number}).encode()
        try:
            socket.send_fds(self._control, [data], [passed.fileno()] if passed is not None else [])
        except OSError as error:
            self._give_up(error)

    def _hear(self, number: int) -> dict[str, Any]:
        """The answer to a request. Raises Gone also where the server could not do what it was asked."""
        answer: dict[str, Any] = {"number": 0}
        while answer["number"] != number:
            answer = self._answer()
            if answer["number"] == _LIBRARY:
                self._broken = answer.get("error", "")
        failed = self._broken or answer.get("error", "")
        if failed:
            raise ServerUnavailable(failed)
        return answer

    def _answer(self) -> dict[str, Any]:
        data = b""
        try:
            self._control.settimeout(PATIENCE_SECONDS)
            data = self._control.recv(2**16)
            if not data:
                raise EOFError
        except (OSError, EOFError) as error:
            self._give_up(error)
        answer: dict[str, Any] = json.loads(data)
        return answer

    def _give_up(self, error: Exception) -> None:
        assert self._process is not None
        code = self._process.poll()
        said = f"it ended with status {code}" if code is not None else type(error).__name__
        said = ": ".join([said, *self._last_words()])
        self._end()
        raise ServerUnavailable(f"the clean process does not answer: {said}") from None

    def _last_words(self) -> list[str]:
        """The last line that the server wrote before it ended."""
        with contextlib.suppress(OSError):
            return (self.home / LOG).read_text(errors="replace").splitlines()[-1:]
        return []


def _pair(*kind: int) -> tuple[socket.socket, socket.socket]:
    """Two ends that are connected. Raises OSError, and Gone where something in this process forbids sockets."""
    try:
        return socket.socketpair(*kind)
    except RuntimeError as error:  # pytest-socket's, https://github.com/miketheman/pytest-socket
        raise ServerUnavailable(
            f"this process may not have sockets ({error}); with --allow-unix-socket, pytest-socket forbids only those "
            "that leave the machine"
        ) from None


class _Forked:
    """A child of the server's."""

    def __init__(self, server: Server, channel: socket.socket, number: int, pid: int) -> None:
        self.channel = channel
        self._server = server
        self._number = number
        self._pid = pid

    def end(self) -> int:
        """Ended by its parent, which alone hears its status."""
        self.channel.close()
        return self._server.end(self._number)


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
    """An isolated interpreter that runs ``main`` of a room of ours: of the user's paths and site, those alone
    where torch is.
    """
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
        f"sys.path.remove({root!r}); sys.path.extend({elsewhere()!r}); {room}.main({given})"
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
            env=kept | dict.fromkeys(_HOMES, str(home)) | {"OMP_NUM_THREADS": "1"},
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
