"""Serve a file by a program in C++: ``serve.cpp``, compiled once for the installed torch.

The program is kept, so that only the first run waits for the compiler. It shares torch's libraries
with this process, and nothing of Python: what a file needs of Python is missing there.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import itertools
import os
import resource
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import torch

from pytest_torchexport.inputs.pytrees import Call
from pytest_torchexport.outcomes.errors import printable
from pytest_torchexport.outcomes.observe import (
    NotTransferable,
    Outcome,
    Returned,
    Tensors,
    TimedOut,
    raised,
)
from pytest_torchexport.sandbox.process import Child, end_spawned, environment, pair
from pytest_torchexport.sandbox.session import Source, crashed, tail

SOURCE = Path(__file__).with_name("serve.cpp")
# Writes the arguments of a call to a file, and returns them in the order in which they are there.
Write = Callable[[Call, Path], Sequence[Any]]


# -- the compiler ----------------------------------------------------------------------------------


def program() -> Path | str:
    """Return the compiled program, or why there is none, with the next step.

    It is kept where torch keeps what it compiles (``TORCH_EXTENSIONS_DIR``), else in the user's
    cache. ``CXX`` names the compiler.
    """
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or f"{caches}/torchexport")
    return _compiled(os.environ.get("CXX") or "g++", folder.expanduser())


@functools.cache
def _compiled(compiler: str, folder: Path) -> Path | str:
    """Return the program in the folder, compiled if it is not there, or why there is none.

    Its name tells what it depends on: the source, torch, its place, and the compiler.
    """
    root = Path(torch.__file__).parent
    include, libraries = root / "include", root / "lib"
    if not (include / "torch/script.h").is_file():
        return f"no headers of torch in {include}; next step: install torch from its wheel"
    before = ["-std=c++20", "-O1", f"-D_GLIBCXX_USE_CXX11_ABI={torch.compiled_with_cxx11_abi():d}"]
    before += [f"-isystem{include}", f"-isystem{include}/torch/csrc/api/include"]
    after = [f"-L{libraries}", f"-Wl,-rpath,{libraries}", "-Wl,--no-as-needed"]
    after += ["-ltorch", "-ltorch_cpu", "-lc10"]
    command = shlex.split(compiler)
    try:
        said = _run([*command, "--version"])
        parts = [SOURCE.read_text(), torch.__version__, said, *before, *after]
        key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"torchexport-serve-{key}"
        # The workers of a run wait for the first of them.
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                half = path.with_suffix(".half")
                _run([*command, *before, str(SOURCE), "-o", str(half), *after])
                half.rename(path)
    except FileNotFoundError:
        return f"no C++ compiler {compiler!r}; next step: install g++, or name yours in CXX"
    except subprocess.CalledProcessError as error:
        lines = [line for line in printable(error.stderr).splitlines() if "error" in line]
        reason = next(iter(lines), f"exit status {error.returncode}")
        return (
            f"{compiler} does not compile {SOURCE.name}: {reason}; next step: name another in CXX"
        )
    except OSError as error:
        return f"{error}; next step: name a directory to write to in TORCH_EXTENSIONS_DIR"
    return path


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(  # noqa: S603  # the compiler that the user names
        command, capture_output=True, check=True, text=True, errors="replace"
    )
    return done.stdout


# -- a process of it -------------------------------------------------------------------------------


class CppSession:
    """A process that serves a file in C++, called like a SandboxSession.

    It loads the file at the first call; ``problem`` is always None. After a crash or a time limit
    it is over. As a context manager it ends its process.
    """

    problem: Outcome | None = None

    def __init__(self, path: Path, source: Source, write: Write) -> None:
        """Start the program at ``path``. ``write`` is the target's, for the file's arguments."""
        self._source = source
        self._write = write
        self._loaded = False
        self._ended: Outcome | None = None
        self._numbers = itertools.count()
        self._directory = tempfile.TemporaryDirectory(prefix="torchexport-")
        self._home = Path(self._directory.name)
        self._output = self._home / "output"
        ours, theirs = pair()
        with theirs, self._output.open("wb") as output:
            process = subprocess.Popen(  # noqa: S603  # our own program
                [path, source.path],
                stdin=theirs.fileno(),
                stdout=output,
                stderr=output,
                cwd=self._home,
                env=environment(self._home),
                start_new_session=True,
            )
        self._child = Child(ours, process.pid, functools.partial(end_spawned, process))
        if source.memory_bytes is not None and hasattr(resource, "prlimit"):
            limits = (source.memory_bytes, source.memory_bytes)
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(process.pid, resource.RLIMIT_DATA, limits)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.end()
        self._directory.cleanup()

    def run(
        self, call: Call, *, seed: int, limit: float, anew: bool = True, state: bool = False
    ) -> tuple[Outcome, Tensors]:
        """Call the file like ``SandboxSession.run``; the state after the call is not seen."""
        if self._ended is not None:
            return self._ended, {}
        name = self._home / str(next(self._numbers))
        call = call.clone()  # as eager gets it
        try:
            given = Call(tuple(self._write(call, name.with_suffix(".in"))))
        except Exception as error:
            return NotTransferable(f"its arguments cannot be sent: {error}", own_class=False), {}
        # Without state, the file as it was loaded is as good as new.
        load = not self._loaded or (anew and self._source.thorough)
        self._loaded = True
        line = f"{load:d} {self._source.gradients:d} {seed} {name.name}\n"
        channel = self._child.channel
        channel.settimeout(limit)
        try:
            channel.sendall(line.encode())
            answered = channel.recv(1)
        except TimeoutError:
            self._ended = TimedOut(limit)
            self._child.end()
            return self._ended, {}
        except OSError:
            answered = b""
        if not answered:
            self._ended = crashed(self._child.end(), tail(self._output))
            return self._ended, {}
        return self._answer(name, call, given), {}

    def _answer(self, name: Path, call: Call, given: Call) -> Outcome:
        said = name.with_suffix(".raised")
        if said.exists():
            # As torch.jit.load and a call from Python would raise it.
            return raised(RuntimeError(said.read_text(errors="replace")))
        unsent = name.with_suffix(".unsent")
        if unsent.exists():
            return NotTransferable(unsent.read_text(errors="replace"), own_class=False)
        try:
            # It holds the types of lists, which weights alone do not. This run made the file.
            value, left = torch.load(name.with_suffix(".out"), weights_only=False)
        except Exception as error:
            return NotTransferable(f"its result cannot be read: {error}", own_class=False)
        after = zip(given.tensors(), Call(tuple(left)).tensors(), strict=True)
        by_tensor = {id(before): tensor for before, tensor in after}
        # In the order of the call, of which the file's arguments may have another.
        return Returned(value, Call(tuple(by_tensor[id(each)] for each in call.tensors())))
