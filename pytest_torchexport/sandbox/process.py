"""Starts the servers of the sandbox on demand, and ends them with the session, also after SIGKILL.

One server per library imports that library once and forks a child per artifact. Systems that do not
fork safely start an interpreter per artifact instead.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from pytest_torchexport.outcomes.fork import FORKS
from pytest_torchexport.sandbox.libraries import Library, library_directories

# How long a server may take to answer: it may be importing torch on a busy machine.
PATIENCE_SECONDS = 120.0
# Variables that a server inherits: what an interpreter needs to start, which GPUs it may see, and
# what changes results. No credentials, and no paths of modules.
_INHERITED = (
    *("LANG", "LC_ALL", "LD_LIBRARY_PATH", "LD_PRELOAD", "PATH", "SYSTEMROOT"),
    *("CUDA_DEVICE_ORDER", "CUDA_LAUNCH_BLOCKING", "CUDA_VISIBLE_DEVICES"),
    *("ATEN_CPU_CAPABILITY", "CUBLAS_WORKSPACE_CONFIG", "KMP_DUPLICATE_LIB_OK", "MKL_CBWR"),
    *("MKL_ENABLE_INSTRUCTIONS", "NVIDIA_TF32_OVERRIDE", "ONEDNN_DEFAULT_FPMATH_MODE"),
    *("ONEDNN_MAX_CPU_ISA", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"),
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)
# One thread, as in the session; and no telemetry: ONNX Runtime would write an identifier and
# connect to the network, and warns on stderr if it cannot
# (https://github.com/microsoft/onnxruntime/pull/27379).
# A library that asks for CUDA while a server imports it must not initialize the driver there: the
# children could not use it.
_SET = {
    "OMP_NUM_THREADS": "1",
    "ORT_DISABLE_TELEMETRY": "1",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}
# Variables in which libraries look for a directory to write to.
_HOMES = ("HOME", "TEMP", "TMP", "TMPDIR", "USERPROFILE")
# The file in a server's directory with its stderr.
LOG = "server.log"


class ServerUnavailable(RuntimeError):
    """There is no server, or it does not answer."""


class Server:
    """A server process, and its directory with the files of its children. Threads may share it.

    Its answers bear the number of their request: the answer to a request that an interrupt cut
    short is never taken for the answer to the next.
    """

    # State of the process on purpose: a start costs seconds, and items share nothing else through
    # it.
    _shared: ClassVar[dict[Library, Server]] = {}
    _sharing: ClassVar[threading.RLock] = threading.RLock()

    def __init__(self, library: Library, home: Path | None = None) -> None:
        self.home = home or Path(tempfile.mkdtemp(prefix="torchexport-"))
        self._owner = os.getpid()
        self._preloaded: frozenset[str] = frozenset()
        self._process: subprocess.Popen[bytes] | None = None
        self._exchanging = threading.RLock()
        self._numbers = itertools.count()
        self._broken = ""
        atexit.register(self.close)
        if FORKS:
            # Whole messages: half of an interrupted one would garble the next.
            self._control, theirs = pair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._process = _python(self.home, "serve", theirs, str(self.home))
            self._send(
                next(self._numbers),
                {"preload": [*library.preload, library.answers.partition(":")[0]]},
            )

    @classmethod
    def of(cls, library: Library) -> Server:
        """Return this process's server for a library. Does not wait until it is ready.

        One that is gone is started again in its directory, because artifacts lie there.
        """
        with cls._sharing:
            server, home = cls._shared.get(library), None
            if server is not None and server._owner == os.getpid():
                if server.alive:
                    return server
                home = server.home if server.home.is_dir() else None
            if server is not None:
                server.close(remove=home is None)
            cls._shared[library] = cls(library, home)
            return cls._shared[library]

    @classmethod
    def close_all(cls) -> None:
        with cls._sharing:
            while cls._shared:
                cls._shared.popitem()[1].close()

    @property
    def alive(self) -> bool:
        """False if it has ended, or could not import its library."""
        running = self._process is None or self._process.poll() is None
        return running and not self._broken and self.home.is_dir()

    def artifact_directory(self) -> Path:
        """Return a new directory for one artifact. Raises OSError."""
        return Path(tempfile.mkdtemp(prefix="artifact-", dir=self.home))

    def preload(self, modules: Sequence[str]) -> None:
        """Have the server import modules that its children will need. Does not wait."""
        if not FORKS or self._preloaded.issuperset(modules):
            return
        with self._exchanging:
            self._send(next(self._numbers), {"preload": list(modules)})
            self._preloaded |= frozenset(modules)

    def start(self, home: Path) -> Child:
        """Return a new child, which may write below ``home``. Raises ServerUnavailable."""
        ours, theirs = pair()
        try:
            if not FORKS:
                process = _python(self.home, "main", theirs)
                return Child(ours, process.pid, partial(end_spawned, process))
            with self._exchanging:
                number = next(self._numbers)
                try:
                    self._send(number, {"start": str(home)}, theirs)
                    pid = self._receive(number)["pid"]
                    return Child(ours, pid, partial(self._end_forked, number))
                except ServerUnavailable:
                    raise
                except BaseException:
                    # No other code knows of that child.
                    self._send(next(self._numbers), {"end": number})
                    raise
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()

    def _end_forked(self, child: int) -> int:
        """Have the server end a child: only a parent can wait for a process.

        The child is named by the number of the request that started it.
        """
        with self._exchanging:
            number = next(self._numbers)
            self._send(number, {"end": child})
            return int(self._receive(number)["status"])

    def close(self, *, remove: bool = True) -> None:
        """End the process with its children, and remove the directory.

        In a forked copy of the session it only closes its own end.
        """
        atexit.unregister(self.close)
        own = self._owner == os.getpid()
        process = self._process
        # After a wait, another process may have its number.
        if own and process is not None and process.poll() is None:
            with contextlib.suppress(OSError):
                # With its children, which are of its group: native code does not notice a closed
                # socket.
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process is not None:
            self._control.close()  # last: a server that sees it closed removes the directory
        if own and remove:
            shutil.rmtree(self.home, ignore_errors=True)

    def _send(
        self, number: int, message: dict[str, Any], passed: socket.socket | None = None
    ) -> None:
        if self._owner != os.getpid():
            raise ServerUnavailable("the clean process belongs to the parent of this process")
        data = json.dumps({**message, "number": number}).encode()
        try:
            socket.send_fds(self._control, [data], [passed.fileno()] if passed is not None else [])
        except OSError as error:
            self._give_up(error)

    def _receive(self, number: int) -> dict[str, Any]:
        """Return the answer to a request. Raises ServerUnavailable, also if the request failed."""
        answer: dict[str, Any] = {"number": None}
        while answer["number"] != number:
            data = b""
            try:
                self._control.settimeout(PATIENCE_SECONDS)
                data = self._control.recv(2**16)
                if not data:
                    raise EOFError
            except (OSError, EOFError) as error:
                self._give_up(error)
            answer = json.loads(data)
            if not answer["number"]:  # of the first request, to import the library
                self._broken = answer.get("error", "")
        failed = self._broken or answer.get("error", "")
        if failed:
            raise ServerUnavailable(failed)
        return answer

    def _give_up(self, error: Exception) -> NoReturn:
        assert self._process is not None
        code = self._process.poll()
        reason = f"it ended with status {code}" if code is not None else type(error).__name__
        with contextlib.suppress(OSError):
            last = (self.home / LOG).read_text(errors="replace").splitlines()[-1:]
            reason = ": ".join([reason, *last])
        self.close(remove=False)
        raise ServerUnavailable(f"the clean process does not answer: {reason}") from None


def pair(*kind: int) -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets. Raises OSError, ServerUnavailable if those are forbidden."""
    try:
        return socket.socketpair(*kind)
    except RuntimeError as error:  # pytest-socket's, https://github.com/miketheman/pytest-socket
        raise ServerUnavailable(
            f"sockets are forbidden in the test process ({error}); with --allow-unix-socket, "
            "pytest-socket forbids only those to other machines"
        ) from None


@dataclass(frozen=True)
class Child:
    """A process that serves one connection, at ``channel``."""

    channel: socket.socket
    pid: int
    _end: Callable[[], int]

    def end(self) -> int:
        """End it. Returns its wait status. Raises ServerUnavailable."""
        self.channel.close()
        return self._end()


def end_spawned(process: subprocess.Popen[bytes]) -> int:
    """End a child that this process started itself. Returns its wait status."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0.05)  # it may be about to end by itself, and say why
    process.kill()
    code = process.wait()
    return -code if code < 0 else code << 8


def environment(home: Path) -> dict[str, str]:
    """Return the variables of a clean process that may write to ``home``."""
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return inherited | dict.fromkeys(_HOMES, str(home)) | _SET


def _python(home: Path, function: str, theirs: socket.socket, *arguments: str) -> Any:
    """Start an isolated interpreter that runs a function of ``child``.

    Of the user's paths it gets only those in which the libraries of artifacts are installed.
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
        # Our own directory comes first, because another version may be installed; and is removed
        # again, because artifacts must not find what lies beside this package.
        f"import socket, sys; sys.path.insert(0, {root!r}); "
        f"from pytest_torchexport.sandbox import child; sys.path.remove({root!r}); "
        f"sys.path.extend({library_directories()!r}); child.{function}({given})"
    )
    log = (home / LOG).open("ab")
    try:
        process = subprocess.Popen(  # noqa: S603  # our own interpreter and code
            [sys.executable, "-I", "-c", code],
            stdin=subprocess.PIPE if windows else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            cwd=home,
            env=environment(home),
            pass_fds=() if windows else [theirs.fileno()],
            # Ctrl-C in the terminal is for the session, which ends its children itself.
            start_new_session=True,
        )
        if process.stdin is not None:
            with process.stdin as given_by:
                given_by.write(theirs.share(process.pid))  # type: ignore[attr-defined]  # Windows only
        return process
    finally:
        log.close()
        theirs.close()
