"""One artifact in the sandbox: load it, call it, and get an Outcome.

Every way in which a process can fail (a crash, a time limit, no process at all) ends here as an
Outcome.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pytest_torchexport.inputs.pytrees import Call
from pytest_torchexport.outcomes import errors
from pytest_torchexport.outcomes.errors import printable
from pytest_torchexport.outcomes.observe import (
    Crashed,
    NotTransferable,
    Outcome,
    Returned,
    Tensors,
    TimedOut,
    killed_from_outside,
)
from pytest_torchexport.sandbox import answers, guard, tensors, wire
from pytest_torchexport.sandbox.answers import Answer
from pytest_torchexport.sandbox.libraries import library_named
from pytest_torchexport.sandbox.process import PATIENCE_SECONDS, Child, Server, ServerUnavailable

# How much of an artifact's output is kept: its end, in bytes.
OUTPUT_TAIL = 4000
# Signals that no fault of an artifact raises: the system or a person sends them.
_FROM_OUTSIDE = {
    getattr(signal, name) for name in ("SIGHUP", "SIGKILL", "SIGTERM") if hasattr(signal, name)
}


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file to load, and how.

    The child is sent all of these:

    - ``load`` and ``read``: the functions ``load(path, device)``, which returns a callable, and
      ``read(path, loaded)``, which returns its facts; each as ``package.module:name.name``.
    - ``library``: a name in ``sandbox.libraries``.
    - ``home``: the one directory that the artifact may write to.
    - ``memory``: its limit in megabytes.
    - ``blocked``: packages that must not be importable.
    - ``imports``: modules that serving imports anyway.
    - ``trusted``: this run made the file itself.
    - ``thorough``, ``fresh``: how calls are undone (``observe.State``; a copy per call).
    - ``threads``: how many it may use; with more than one it runs as it is served.
    - ``gradients``: calls are made with gradients.
    - ``options``: the ``export_options`` that ``load`` may take too; numbers, texts and None.
    """

    load: str
    read: str
    library: str
    path: Path
    home: Path
    device: str
    memory: int
    blocked: Sequence[str] = ()
    imports: Sequence[str] = ()
    trusted: bool = True
    thorough: bool = False
    fresh: bool = False
    threads: int = 1
    gradients: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def memory_bytes(self) -> int | None:
        """The limit that the kernel enforces, in bytes; None on CUDA.

        CUDA reserves addresses that are no memory, and kernels do not agree on how they count.
        """
        return self.memory * 2**20 if self.device == "cpu" else None


def warm_up(library: str, preload: Sequence[str] = ()) -> None:
    """Start the server, so that it is ready once something has been exported. Does not wait."""
    try:
        Server.of(library_named(library)).preload(preload)
    except (ServerUnavailable, OSError, ValueError):
        return  # the first session will try again, and report why it cannot


def artifact_directory(library: str) -> Path:
    """Return a new directory for one artifact; it goes with its server at the latest.

    Raises OSError and ServerUnavailable.
    """
    return Server.of(library_named(library)).artifact_directory()


class SandboxSession:
    """A child process with a loaded artifact, or that calls a function with a file's path.

    ``problem``: the Outcome of the first request if it failed; ``started``: there was a process at
    all. ``found``: the facts that were read in the file, as plain data. ``confined``: the kernel
    keeps it from writing outside of its directory. ``value``: what the function returned, as plain
    data. As a context manager it ends its process. After a crash or a time limit it is over.
    """

    def __init__(self, source: Source, limit: float, function: str = "") -> None:
        """Load the file, or call a function (``package.module:name``), within ``limit`` seconds."""
        self._source = source
        self._child: Child | None = None
        self._ended: Outcome | None = None
        self._output = source.home / f"{source.path.name}.output"
        self.started = False
        self.problem: Outcome | None = None
        try:
            answer = self._begin(function, limit)
        except BaseException:
            self.close()  # the caller has no session that it could close
            raise
        self.found, self.confined, self.value = answer.found, answer.confined, answer.value

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def over(self) -> bool:
        return self._child is None

    def printed(self) -> str:
        try:
            with self._output.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(max(size - OUTPUT_TAIL, 0))
                return printable(file.read().decode(errors="replace"))
        except OSError:
            return ""

    def close(self) -> int | None:
        """End the process. Returns its wait status; None if it is gone, and its server with it."""
        child, self._child = self._child, None
        try:
            return child.end() if child is not None else None
        except ServerUnavailable:
            return None

    def _begin(self, function: str, limit: float) -> Answer:
        source = self._source
        library = library_named(source.library)
        message = {
            **vars(source),
            "do": "call" if function else "load",
            "function": function,
            "library": library.answers,
            "path": str(source.path),
            "home": str(source.home),
            "output": str(self._output),
            "blocked": list(source.blocked),
            "imports": {name: _directory_of(name) for name in source.imports},
            "memory": source.memory_bytes,
        }
        ready: Answer | Outcome | Exception
        try:
            try:
                self._child = Server.of(library).start(source.home)
            except ServerUnavailable:  # it died
                self._child = Server.of(library).start(source.home)
            # Until it is ready, the plugin's own time passes, not the artifact's.
            ready = self._exchange(message, "start", PATIENCE_SECONDS)
        except (ServerUnavailable, OSError) as error:
            ready = error
        if not isinstance(ready, Answer):
            reason = f"the clean process could not be started: {ready}"
            self.problem = Crashed(reason, from_outside=killed_from_outside(ready))
            self._ended = self.problem
            return Answer()
        self.started = True
        answer = self._exchange(None, message["do"], limit)
        if not isinstance(answer, Answer):
            self.problem = answer
            return Answer()
        if answer.failure is not None:
            self.problem = self._ended = answer.failure
            self.close()
        return answer

    # -- one request, one answer -------------------------------------------------------------------

    def _exchange(
        self, message: dict[str, Any] | None, request: str, limit: float
    ) -> Answer | Crashed | TimedOut:
        assert self._child is not None
        channel = self._child.channel
        codec = tensors.CODEC if self._source.trusted else tensors.STRICT
        most = float(self._source.memory * 2**20)
        try:
            if message is not None:
                frame = wire.packed(message, tensors.CODEC)
                channel.settimeout(limit)
                # A process that is gone may have sent why before.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    wire.send(channel, frame)
            received = wire.receive(channel, codec, most=most, seconds=limit)
            answer = answers.read(received, request)
        except TimeoutError:
            return self._end(TimedOut(limit))
        except wire.TransferError as error:
            return Answer(not_transferable=NotTransferable(str(error), error.own_class))
        except wire.Malformed as error:
            return self._end(_malformed(str(error)))
        except (EOFError, OSError):
            return self._end(None)
        except BaseException:
            self.close()  # its answer may still come, and would be taken for the next one
            raise
        if answer.raised is not None:
            ran_out = errors.fault_there(answer.raised.type, answer.raised.message)
            if ran_out is not None:
                self.close()
                raise ran_out
        crashed = self._crashed(answer)
        return self._end(crashed) if crashed is not None else answer

    def _crashed(self, answer: Answer) -> Crashed | None:
        """Return the outcome of a process that is of no further use, as it says itself."""
        if answer.crashed is not None:
            return Crashed(answer.crashed)
        if answer.exhausted is None:
            return None
        limited = self._source.memory_bytes is not None
        most = f"its memory limit of {self._source.memory} MB (torchexport_memory_limit)"
        what = f"it exhausted {most}" if limited else "it ran out of memory"
        # A GPU's memory is also taken by others.
        return Crashed(": ".join(filter(None, (what, answer.exhausted))), from_outside=not limited)

    def _end(self, known: Crashed | TimedOut | None) -> Crashed | TimedOut:
        status = self.close()
        ended = known or crashed(status)
        if isinstance(ended, Crashed):
            ended = dataclasses.replace(ended, output=self.printed())
        self._ended = ended
        return ended

    # -- calls ----------------------------------------------------------------------------------

    def run(
        self,
        call: Call,
        *,
        seed: int,
        limit: float,
        anew: bool = True,
        state: bool = False,
    ) -> tuple[Outcome, Tensors]:
        """Call the artifact (tensors on the CPU) and return its outcome, within ``limit`` seconds.

        Its tensors are on the device on which the artifact left them. It starts from its loaded
        state if ``anew``, else from where the last call ended. If ``state``, its tensors after the
        call are returned by name, without large parameters that it has not written to. A call that
        cannot be sent is NotTransferable.
        """
        if self._ended is not None:
            return self._ended, {}
        given = call.tensors()
        message = {
            "do": "run",
            "args": list(call.args),
            "kwargs": dict(call.kwargs),
            "traits": tensors.traits_of(given),
            "seed": seed,
            "anew": anew,
            "state": state,
        }
        answer = self._exchange(message, "run", limit)
        if not isinstance(answer, Answer):
            return answer, {}
        if answer.failure is not None:
            return answer.failure, answer.state
        left = answer.inputs or call
        if len(left.tensors()) != len(given):
            return self._end(_malformed("inputs that were not given")), {}
        outputs = Call((answer.returned,))
        there = answer.there or [True] * len(outputs.tensors())
        if len(outputs.tensors()) != len(there):
            return self._end(_malformed("outputs that it did not place")), {}
        (value,) = outputs.to(self._source.device, there).args
        return Returned(value, left.to(self._source.device)), self._placed(answer.state)

    def tensors(self, limit: float) -> Tensors:
        """Return its parameters and buffers as loaded, by name; none if its process is gone."""
        answer = self._exchange({"do": "state"}, "state", limit) if self._ended is None else None
        return self._placed(answer.state) if isinstance(answer, Answer) else {}

    def _placed(self, state: Tensors) -> Tensors:
        return {name: tensor.to(self._source.device) for name, tensor in state.items()}


def _malformed(what: str) -> Crashed:
    return Crashed(
        f"it sent a malformed answer ({printable(what)}): a file that runs code of its own can do "
        "that"
    )


def crashed(status: int | None, output: str = "") -> Crashed:
    """Return the outcome of a process that ended with a wait status; None if that is not known."""
    # None, or a signal that the system or a person sent.
    from_outside = status is None or status & 0x7F in _FROM_OUTSIDE
    return Crashed(_reason(status), output, from_outside=from_outside)


def _reason(status: int | None) -> str:
    if status is None:
        return "its process is gone, and its server with it"
    number = status & 0x7F
    if not number:
        return f"it ended its process with exit status {status >> 8}"
    name = next((each.name for each in signal.Signals if each == number), f"signal {number}")
    meanings = {
        "SIGXFSZ": (
            f" (it wrote a file of more than {guard.OUTPUT_LIMIT >> 20} MB, "
            f"or more than {guard.DISK_LIMIT >> 20} MB in all)"
        ),
        "SIGKILL": " (by the system, out of memory, or by somebody)",
    }
    return f"it was killed by {name}{meanings.get(name, '')}"


def _directory_of(name: str) -> str | None:
    """Return the directory in which this process finds a package; None if it does not."""
    top = name.partition(".")[0]
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin)
    directory = file.parents[1] if spec.submodule_search_locations is not None else file.parent
    return str(directory.resolve())
