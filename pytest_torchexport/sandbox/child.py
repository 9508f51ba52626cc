"""What runs in a process of its own for one artifact: load it, answer calls, end with the connection.

Free of torch at module level: which library answers is in the first message.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Any, Protocol

from pytest_torchexport.sandbox import arrays, guard, wire


class Answers(Protocol):
    """A library that runs artifacts: ``sandbox.with_torch`` or ``sandbox.with_onnxruntime``."""

    codec: wire.Codec

    def load(self, message: dict[str, Any]) -> dict[str, Any]:
        """Load what the message names; what is known of it, as plain data."""

    def run(self, message: dict[str, Any]) -> dict[str, Any]:
        """One call: ``returned``, ``inputs`` where they were written to, ``state`` where asked for."""

    def look(self, message: dict[str, Any]) -> dict[str, Any]:
        """Its ``state`` as it was loaded."""


def main(channel: socket.socket) -> None:
    """Serve one connection to its end, and end this process with it."""
    code = 1
    try:
        guard.deaf_to_the_terminal()
        _serve(channel)
        code = 0
    except (EOFError, ConnectionError):
        code = 0  # who asked has gone
    except BaseException:
        traceback.print_exc()  # who asked shows the end of what was printed
    finally:
        # Not sys.exit: the interpreter's teardown costs 0.25 s and is nobody's business.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _serve(channel: socket.socket) -> None:
    # The first message has no tensors.
    message = wire.receive(channel, arrays.CODEC)
    home = Path(message["home"])
    _redirect(Path(message["output"]))
    os.chdir(home)
    os.environ["TMPDIR"] = tempfile.tempdir = str(home)
    warnings.simplefilter("ignore")
    guard.die_with_parent()
    guard.limit(message["memory"])
    library: Answers = importlib.import_module(message["library"]).ANSWERS
    # From here on it is the artifact's time that passes.
    wire.send(channel, wire.packed({"ready": True}, arrays.CODEC))
    answer = _answer(library, message)
    while True:
        wire.send(channel, answer)
        try:
            answer = _answer(library, wire.receive(channel, library.codec))
        except wire.CannotCross as error:
            answer = _failed(error)
        except (wire.Malformed, MemoryError) as error:
            # Who asks writes no nonsense: there is no memory for it, and what is left of it would be taken for more.
            wire.send(channel, _failed(error))
            return


def _answer(library: Answers, message: dict[str, Any]) -> wire.Frame:
    asked = {"load": library.load, "run": library.run, "look": library.look}
    try:
        answer = asked[message["do"]](message)
        raised = answer.get("raised")
        if raised is not None and guard.is_exhausted(": ".join(raised[:2])):
            answer = {"exhausted": raised[1]}
        return wire.packed(answer, library.codec)
    except (Exception, SystemExit) as error:
        return _failed(error)


def _failed(error: BaseException) -> wire.Frame:
    kind, text = type(error).__name__, str(error)
    answer: dict[str, Any] = {"raised": [kind, text, None]}
    if isinstance(error, wire.CannotCross):
        answer = {"uncarried": [text, error.own_class]}
    elif guard.is_exhausted(f"{kind}: {text}"):
        answer = {"exhausted": text}
    return wire.packed(answer, arrays.CODEC)


def _redirect(output: Path) -> None:
    """What is printed from here on goes to a file, also by native code; nothing is to be read."""
    written = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, stream in ((nothing, 0), (written, 1), (written, 2)):
        os.dup2(descriptor, stream)
    # Line by line: of a process that is killed, what it said last is to be seen.
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)


def _imported(name: str) -> None:
    """Import what serving imports. Raises ImportError that names the setting: it is no fault of the file."""
    try:
        importlib.import_module(name)
    except Exception as error:
        raise ImportError(
            f"torchexport_runtime_imports names {name}, which cannot be imported there ({error!r})"
        ) from None


def opened(message: dict[str, Any]) -> tuple[Any, bool]:
    """What the message's ``loader`` (``package.module:attribute``) names, with the process shut behind it: the
    loader's own imports and those that serving has anyway come before, the user's packages are gone. And whether the
    kernel helped to shut it.
    """
    module, _, attribute = message["loader"].partition(":")
    loader = getattr(importlib.import_module(module), attribute)
    sys.meta_path.insert(0, guard.Blocker(message["blocked"], message["imports"]))
    for name in message["imports"]:
        _imported(name)
    return loader, guard.forbid(Path(message["home"]), trusted=message["trusted"])
