"""Serve a file by a program of its own: one that shares nothing with this process but files.

It reads calls from a socket, a line each, and writes what they return beside their arguments:
``serve.cpp`` describes both.
"""

from __future__ import annotations

import functools
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from pytest_torchexport.inputs.pytrees import Call
from pytest_torchexport.outcomes import observe
from pytest_torchexport.outcomes.errors import printable
from pytest_torchexport.sandbox.process import Child, end_spawned, environment, pair
from pytest_torchexport.sandbox.session import OUTPUT_TAIL, Source, crashed


class ProgramSession:
    """A process of a program that serves a file, called like a SandboxSession.

    ``write(call, path)`` writes a call as the program reads it; ``read(path, call)`` returns what
    it wrote, and the call's tensors as it left them.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        source: Source,
        write: Callable[[Call, Path], object],
        read: Callable[[Path, Call], tuple[Any, Call]],
    ) -> None:
        self._source, self._write, self._read, self._sent = source, write, read, 0
        self._ended: observe.Outcome | None = None
        self._directory = tempfile.TemporaryDirectory(prefix="torchexport-")
        self._home = Path(self._directory.name)
        ours, theirs = pair()
        with theirs, (self._home / "output").open("wb") as output:
            process = subprocess.Popen(  # noqa: S603  # our own program
                [*command],
                stdin=theirs.fileno(),
                stdout=output,
                stderr=output,
                cwd=self._home,
                env=environment(self._home),
                start_new_session=True,
            )
        self._child = Child(ours, process.pid, functools.partial(end_spawned, process))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.end()
        self._directory.cleanup()

    def run(
        self, call: Call, *, seed: int, limit: float, anew: bool = True, state: bool = False
    ) -> tuple[observe.Outcome, observe.Tensors]:
        """Call the file like ``SandboxSession.run``; the state after the call is not seen."""
        if self._ended is not None:
            return self._ended, {}
        name = self._home / str(self._sent)
        try:
            self._write(call.clone(), name.with_suffix(".in"))  # cloned, as eager gets it
        except Exception as error:
            why = f"its arguments cannot be sent: {error}"
            return observe.NotTransferable(why, own_class=False), {}
        # Where calls leave no state, the file as it was loaded is as good as new.
        load = not self._sent or (anew and self._source.thorough)
        self._sent += 1
        names = " ".join([name.name, str(len(call.kwargs)), *call.kwargs])
        line = f"{load:d} {self._source.gradients:d} {seed} {names}\n"
        channel, answered = self._child.channel, b""
        channel.settimeout(limit)
        try:
            channel.sendall(line.encode())
            answered = channel.recv(1)
        except TimeoutError:
            self._ended = observe.TimedOut(limit)
        except OSError:
            pass  # it is gone
        if not answered:
            status = self._child.end()
            said = (self._home / "output").read_text(errors="replace")[-OUTPUT_TAIL:]
            self._ended = self._ended or crashed(status, printable(said))
            return self._ended, {}
        text = name.with_suffix(".raised")
        if text.exists():
            kind, _, message = text.read_text(errors="replace").partition("\n")
            return replace(observe.raised(RuntimeError(message)), type=printable(kind)), {}
        try:
            value, left = self._read(name.with_suffix(".out"), call)
        except Exception as error:
            why = f"what it returned cannot be read: {error}"
            return observe.NotTransferable(why, own_class=False), {}
        return observe.Returned(value, left), {}
