"""One artifact in a clean process: loaded there, called there, and what became of it.

What the rooms above know of the sandbox. Every way in which a process can fail to answer ends here as an
outcome: it died, it hung, or it could not be had.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from pytest_torchexport.inputs.call import Call
from pytest_torchexport.outcomes.messages import printable
from pytest_torchexport.outcomes.observe import (
    Crashed,
    NotTransferable,
    Outcome,
    Returned,
    Tensors,
    TimedOut,
)
from pytest_torchexport.sandbox import answers, guard, tensors, wire
from pytest_torchexport.sandbox.answers import Answer
from pytest_torchexport.sandbox.process import (
    ONNXRUNTIME,
    PATIENCE_SECONDS,
    TORCH,
    Child,
    Library,
    Server,
    ServerUnavailable,
)

# How much of what an artifact printed is kept: its end, in bytes.
OUTPUT_TAIL = 4000
MEGABYTE = 2**20


@dataclass(frozen=True, kw_only=True)
class Source:
    """What to load, and how. ``loader`` is ``package.module:attribute`` with a ``load(path, device)``; ``home`` is the
    directory that the artifact may write to; ``blocked`` are packages that must not be importable there, ``imports``
    those that serving imports anyway; ``memory`` is in megabytes; ``trusted`` that this run made the file itself.
    ``thorough`` and ``fresh`` say how calls are undone (``observe.State``, a copy per call). Without ``torch`` ONNX
    Runtime alone answers.
    """

    loader: str
    path: Path
    home: Path
    device: str
    memory: int
    blocked: Sequence[str] = ()
    imports: Sequence[str] = ()
    trusted: bool = True
    thorough: bool = False
    fresh: bool = False
    torch: bool = True

    @property
    def library(self) -> Library:
        """What answers for it."""
        return TORCH if self.torch else ONNXRUNTIME

    @property
    def most(self) -> int | None:
        """How much memory it may have, in bytes; None where none is kept to: addresses that CUDA reserves are no
        memory, but kernels do not agree on how they count.
        """
        return self.memory * MEGABYTE if self.device == "cpu" else None


def warm_up(*, torch: bool, preload: Sequence[str] = ()) -> None:
    """Start the server, so that it is ready by the time something has been exported. Does not wait."""
    try:
        Server.of(TORCH if torch else ONNXRUNTIME).preload(preload)
    except (ServerUnavailable, OSError):
        return  # who needs it will start it again, and be told why not


def room(*, torch: bool) -> Path:
    """A directory for one artifact, beside its server; gone with it at the latest. Raises OSError."""
    return Server.of(TORCH if torch else ONNXRUNTIME).room()


class Session:
    """A loaded artifact. ``problem`` is why it was not loaded within ``limit`` seconds, ``started`` whether there was
    a process for it at all, ``found`` what its loader says of it, ``confined`` that the kernel keeps it from writing
    elsewhere.

    As a context it ends its process. After a call that died or hung it is over.
    """

    def __init__(self, source: Source, limit: float) -> None:
        self._source = source
        self._child: Child | None = None
        self._over: Outcome | None = None
        self._output = source.home / f"{source.path.name}.output"
        self.found: Mapping[str, Any] = {}
        self.confined = False
        self.started = False
        try:
            self.problem = self._load(limit)
        except BaseException:
            self.close()  # nobody has this session
            raise

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def over(self) -> bool:
        """Whether its process is gone."""
        return self._child is None

    def run(
        self, call: Call, *, seed: int, limit: float, anew: bool = True, state: bool = False
    ) -> tuple[Outcome, Tensors]:
        """What the artifact does with the call (tensors on the CPU) within ``limit`` seconds: from how it was
        loaded where ``anew``, else from where the call before ended. With its tensors by name where
        ``state``.

        A call that cannot cross is Uncarried before anything is sent.
        """
        if self._over is not None:
            return self._over, {}
        message = {
            "do": "run",
            "args": list(call.args),
            "kwargs": dict(call.kwargs),
            "layouts": [tensors.layout_of(tensor) for tensor in call.tensors()],
            "gradients": [tensor.requires_grad for tensor in call.tensors()],
            "seed": seed,
            "anew": anew,
            "state": state,
        }
        answer = self._exchange(message, "run", limit)
        if not isinstance(answer, Answer):
            return answer, {}
        failed = answer.raised or answer.uncarried
        if failed is not None:
            return failed, answer.state
        left = answer.inputs or call
        if len(list(left.tensors())) != len(list(call.tensors())):
            return self._misspoke("inputs that were not given"), {}
        return Returned(answer.returned, left), answer.state

    def tensors(self, limit: float) -> Tensors:
        """Its parameters and buffers as it was loaded, by name; none where its process is gone."""
        answer = self._exchange({"do": "look"}, "look", limit) if self._over is None else None
        return answer.state if isinstance(answer, Answer) else {}

    def printed(self) -> str:
        """The end of what the artifact has printed so far."""
        try:
            with self._output.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(max(size - OUTPUT_TAIL, 0))
                return printable(file.read().decode(errors="replace"))
        except OSError:
            return ""

    def close(self) -> int | None:
        """End the process; its wait status, None where that is not known."""
        child, self._child = self._child, None
        if child is None:
            return None
        try:
            return child.end()
        except ServerUnavailable:
            return None

    # -- one message, one answer -------------------------------------------------------------------

    def _load(self, limit: float) -> Outcome | None:
        source = self._source
        message = {
            "do": "load",
            "library": source.library.answers,
            "loader": source.loader,
            "path": str(source.path),
            "home": str(source.home),
            "output": str(self._output),
            "device": source.device,
            "blocked": list(source.blocked),
            "imports": {name: _directory_of(name) for name in source.imports},
            "trusted": source.trusted,
            "thorough": source.thorough,
            "fresh": source.fresh,
            "memory": source.most,
        }
        try:
            self._child = _started(source.library)
        except (ServerUnavailable, OSError) as error:
            self._over = Crashed(f"the clean process could not be started: {error}")
            return self._over
        # Until it is ready it is our time that passes, not the artifact's.
        ready = self._exchange(message, "start", PATIENCE_SECONDS)
        if not isinstance(ready, Answer):
            self._over = Crashed(f"the clean process could not be started: {ready}")
            return self._over
        self.started = True
        answer = self._exchange(None, "load", limit)
        if not isinstance(answer, Answer):
            return answer
        failed = answer.raised or answer.uncarried
        if failed is not None:
            self._over = failed
            self.close()
            return self._over
        self.found, self.confined = answer.found, answer.confined
        return None

    def _exchange(
        self, message: dict[str, Any] | None, about: str, limit: float
    ) -> Answer | Crashed | TimedOut:
        """What it says next, after it was told something, or without."""
        assert self._child is not None
        channel = self._child.channel
        codec = tensors.CODEC if self._source.trusted else tensors.STRICT
        most = float(self._source.memory * MEGABYTE)
        try:
            if message is not None:
                frame = wire.packed(message, tensors.CODEC)
                channel.settimeout(limit)
                # It may have said why before it went.
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    wire.send(channel, frame)
            said = wire.receive(channel, codec, most=most, seconds=limit)
            answer = answers.read(said, about)
        except TimeoutError:
            return self._end(TimedOut(limit))
        except wire.CannotCross as error:
            return Answer(uncarried=NotTransferable(str(error), error.own_class))
        except wire.Malformed as error:
            return self._misspoke(str(error))
        except (EOFError, OSError):
            return self._end(None)
        except BaseException:
            self.close()  # its answer may still come: nobody must take it for another's
            raise
        if answer.exhausted is not None:
            said = f": {answer.exhausted}" if answer.exhausted else ""
            return self._end(Crashed(f"it {self._ran_out()}{said}"))
        return answer

    def _misspoke(self, what: str) -> Crashed | TimedOut:
        return self._end(
            Crashed(
                f"it answered with what the plugin does not understand ({printable(what)}): a file that runs code of "
                "its own can do that"
            )
        )

    def _ran_out(self) -> str:
        if self._source.most is None:
            return "ran out of memory"
        return f"exhausted its memory limit of {self._source.memory} MB (torchexport_memory_limit)"

    def _end(self, known: Crashed | TimedOut | None) -> Crashed | TimedOut:
        status = self.close()
        died = known or Crashed(_fate(status), from_outside=_is_from_outside(status))
        if isinstance(died, Crashed):
            died = dataclasses.replace(died, output=self.printed())
        self._over = died
        return died


def _started(library: Library) -> Child:
    """A child; of a new server, where the one there was turns out to have died since. Raises Gone, OSError."""
    try:
        return Server.of(library).start()
    except ServerUnavailable:
        return Server.of(library).start()


def _fate(status: int | None) -> str:
    """How a process ended, in words."""
    if status is None:
        return "its process is gone, and its server with it"
    number = status & 0x7F
    if not number:
        return f"it ended its process with exit status {status >> 8}"
    known = {item.value: item.name for item in signal.Signals}
    name = known.get(number, f"signal {number}")
    meanings = {
        "SIGXFSZ": f" (it wrote more than {guard.OUTPUT_LIMIT // MEGABYTE} MB)",
        "SIGKILL": " (by the system, out of memory, or by somebody)",
    }
    return f"it was killed by {name}{meanings.get(name, '')}"


def _is_from_outside(status: int | None) -> bool:
    """Whether the system or somebody else may have ended a process."""
    return status is None or status & 0x7F == getattr(signal, "SIGKILL", 0)


def _directory_of(name: str) -> str | None:
    """Where the test session finds a package that serving imports: maybe only its own path leads there."""
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
