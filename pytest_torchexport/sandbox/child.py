"""The servers and the children of the sandbox.

A server imports a library once, and forks a child per artifact. It never runs an operation itself,
so that each child starts clean, within milliseconds. A child loads one artifact, answers calls, and
ends when the connection ends. Free of torch at module level: the first message names the library
that answers.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import inspect
import json
import operator
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_torchexport.outcomes import errors
from pytest_torchexport.sandbox import guard, kernel, wire
from pytest_torchexport.sandbox.libraries import THREADS


class Answers:
    """The answers of a child, each of plain data: here of one without torch.

    As many processes that serve ONNX files have none. The file's loader knows the library; what it
    returns takes and gives Arrays (``sandbox.wire``).
    """

    codec = wire.ARRAYS

    def load(self, message: dict[str, Any]) -> dict[str, Any]:
        """Load the message's file. Returns ``found`` (facts about it) and ``confined``."""
        (load, read), confined, _ = guarded(message, message["load"], message["read"])
        path = Path(message["path"])
        self._loaded = load(path, message["device"], **taken(load, message["options"]))
        found = read(path, self._loaded).as_plain(foreign=not message["trusted"])
        return {"found": found, "confined": confined}

    def run(self, message: dict[str, Any]) -> dict[str, Any]:
        """Make one call. Returns ``returned`` and ``state``, and ``inputs`` if it changed them."""
        if message["anew"] and hasattr(self._loaded, "fresh"):
            self._loaded = self._loaded.fresh()
        returned = self._loaded(*message["args"], **message["kwargs"])
        return {"returned": returned, "state": {}}

    def state(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return ``state``: the parameters and buffers as they were loaded."""
        return {"state": {}}


class NumpyAnswers(Answers):
    """The answers of a child whose files take and return numpy arrays."""

    codec = wire.NUMPY


def taken(load: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``export_options`` that a function ``load(path, device, ...)`` takes too."""
    kinds = {name: each.kind for name, each in inspect.signature(load).parameters.items()}
    if inspect.Parameter.VAR_KEYWORD in kinds.values():
        return dict(options)
    return {name: value for name, value in options.items() if name in [*kinds][2:]}


def main(channel: socket.socket) -> None:
    """Serve one connection to its end, and end this process with it."""
    code = 1
    try:
        guard.ignore_interrupts()
        _serve_session(channel)
        code = 0
    except (EOFError, ConnectionError):
        code = 0  # the test session closed the connection, or is gone
    except BaseException:
        traceback.print_exc()  # the session shows the end of this process's output
    finally:
        # Not sys.exit: the teardown of an interpreter with torch costs 0.25 s.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _serve_session(channel: socket.socket) -> None:
    # The first message has no tensors, so that any codec reads it.
    message = wire.receive(channel, wire.ARRAYS)
    home = Path(message["home"])
    # All output from here on goes to a file, also that of native code; stdin is empty.
    written = os.open(message["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, stream in ((nothing, 0), (written, 1), (written, 2)):
        os.dup2(descriptor, stream)
    # Line by line: the last line of a process that is killed must be in the file.
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    os.chdir(home)
    os.environ["TMPDIR"] = tempfile.tempdir = str(home)
    warnings.simplefilter("ignore")
    guard.limit(message["memory"])
    THREADS.allowed = message["threads"]
    module, _, name = message["library"].partition(":")
    library: Answers = getattr(importlib.import_module(module), name)()
    # The session's time limits count from here on.
    wire.send(channel, wire.packed({"ready": True}, wire.ARRAYS))
    answer = _answer(library, message)
    while True:
        wire.send(channel, answer)
        try:
            answer = _answer(library, wire.receive(channel, library.codec))
        except wire.TransferError as error:
            answer = _failed(error)
        except (wire.Malformed, MemoryError) as error:
            # The session sends no malformed frames: memory ran out while one was read. The rest of
            # it is still in the channel and would be taken for the next, so this process ends.
            wire.send(channel, _failed(error))
            return


def _answer(library: Answers, message: dict[str, Any]) -> wire.Frame:
    requests = {"load": library.load, "run": library.run, "state": library.state, "call": _call}
    try:
        answer = requests[message["do"]](message)
        raised = answer.get("raised")
        if raised is not None and errors.is_out_of_memory(*raised[:2]):
            answer = {"exhausted": raised[1]}
        return wire.packed(answer, library.codec)
    except (Exception, SystemExit) as error:
        return _failed(error)


def _call(message: dict[str, Any]) -> dict[str, Any]:
    (function,), _, _ = guarded(message, message["function"])
    return {"value": function(Path(message["path"]))}


def _failed(error: BaseException) -> wire.Frame:
    kind, text = type(error).__name__, str(error)
    answer: dict[str, Any] = {"raised": [kind, text, None]}
    if isinstance(error, wire.TransferError):
        answer = {"not_transferable": [text, error.own_class]}
    elif errors.is_out_of_memory(kind, text):
        answer = {"exhausted": text}
    return wire.packed(answer, wire.ARRAYS)


def guarded(
    message: dict[str, Any], *paths: str, admitted: Container[str] = ()
) -> tuple[list[Callable[..., Any]], bool, list[str]]:
    """Import functions (``package.module:name.name``) and confine this process (``guard.forbid``).

    ``admitted`` are the names that any pickle may hold. In this order: import the functions with
    all that they import, block the user's packages, import the modules that serving imports anyway,
    and forbid. Returns the functions and what ``guard.forbid`` does.
    """
    functions = []
    for path in paths:
        module, _, attribute = path.partition(":")
        functions.append(operator.attrgetter(attribute)(importlib.import_module(module)))
    sys.meta_path.insert(0, guard.Blocker(message["blocked"], message["imports"]))
    for name in message["imports"]:
        try:
            importlib.import_module(name)
        except Exception as error:
            raise ImportError(
                f"torchexport_runtime_imports names {name}, which cannot be imported there "
                f"({error!r})"
            ) from None
    confined, pickled = guard.forbid(
        Path(message["home"]),
        trusted=message["trusted"],
        admitted=admitted,
        device=message["device"],
        libraries=[directory for directory in message["imports"].values() if directory],
    )
    return functions, confined, pickled


# How often the disk use of children is looked at, in seconds: one writes far less meanwhile than it
# may.
_LOOK_SECONDS = 0.2


@dataclass
class _Child:
    """A forked child. ``before``: the bytes in its directory. ``told``: how often it was to end."""

    pid: int
    directory: Path
    before: int
    told: int = 0

    def limit_disk(self) -> None:
        """End it if it has written too much: with the kernel's own signal, or else for sure.

        The directory's size counts where files lie in memory; what the process wrote also counts
        files that it has removed and still holds open.
        """
        grown = guard.size_of(self.directory) - self.before
        if max(grown, guard.written_by(self.pid)) > guard.DISK_LIMIT:
            self.told += 1
            if self.told == 1:
                os.kill(self.pid, signal.SIGXFSZ)
            elif self.told == 10:  # on a busy machine it takes a while to end
                os.kill(self.pid, signal.SIGKILL)


def serve(control: socket.socket, home: str) -> None:
    """Serve requests (one JSON message each) until the session is gone; then remove ``home``."""
    guard.ignore_interrupts()
    # It may have been stopped; then it does not notice that the session is gone.
    kernel.signal_at_parents_end(signal.SIGCONT)
    children: dict[int, _Child] = {}
    with contextlib.suppress(ConnectionError):  # the session was killed
        while True:
            while children and not select.select([control], [], [], _LOOK_SECONDS)[0]:
                for each in children.values():
                    each.limit_disk()
            data, descriptors, _, _ = socket.recv_fds(control, 2**16, 1)
            if not data:
                break
            message = json.loads(data)
            answer = _served(message, descriptors, control, children)
            control.sendall(json.dumps({**answer, "number": message["number"]}).encode())
    for each in children.values():
        _end(each.pid)
    os.chdir("/")
    shutil.rmtree(home, ignore_errors=True)


def _served(
    message: dict[str, Any],
    descriptors: list[int],
    control: socket.socket,
    children: dict[int, _Child],
) -> dict[str, Any]:
    """Return the answer to a request. A failed one gets its error: the server serves on."""
    try:
        if "preload" in message:
            for name in message["preload"]:
                importlib.import_module(name)
            # In a child, a collection would write to that memory, which is the server's until then,
            # and so copy it.
            gc.freeze()
            return {}
        if "end" in message:
            return {"status": _end(children.pop(message["end"]).pid)}
        directory = Path(message["start"])
        before = guard.size_of(directory)
        pid = os.fork()
        if not pid:
            _become_child(control, descriptors[0])
        children[message["number"]] = _Child(pid, directory, before)
        return {"pid": pid}
    except (Exception, SystemExit) as error:
        # One message has to hold it.
        return {"error": f"{type(error).__name__}: {error}"[:2000]}
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _become_child(control: socket.socket, channel: int) -> None:
    """Never return: this process has the server's stack below it."""
    try:
        os.setpgid(0, 0)  # its own processes, if it can start any, end with this group
        kernel.signal_at_parents_end(signal.SIGKILL)
        control.close()
        main(socket.socket(fileno=channel))
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
