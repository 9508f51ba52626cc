"""Serve a file by a program in C++: ``serve.cpp``, compiled once for the installed torch.

It shares torch's libraries with this process, and nothing of Python.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Self

import torch

from pytest_torchexport.inputs.pytrees import Call
from pytest_torchexport.outcomes import observe
from pytest_torchexport.outcomes.errors import printable
from pytest_torchexport.sandbox.process import Child, end_spawned, environment, pair
from pytest_torchexport.sandbox.session import OUTPUT_TAIL, Source, crashed
from pytest_torchexport.torch_private.structures import (
    script_containers,
    structure_of_text,
    unflatten,
)

SOURCE = Path(__file__).with_name("serve.cpp")


def program() -> Path | str:
    """Return the compiled program, or why there is none, with the next step."""
    cache = f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/torchexport"
    # Where torch keeps what it compiles, if that is said.
    folder = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or cache).expanduser().absolute()
    return _compiled(os.environ.get("CXX") or "g++", folder)


# Compiling takes 12 s; its messages are read in English.
_run = functools.partial(
    subprocess.run,
    check=True,
    capture_output=True,
    text=True,
    errors="replace",
    timeout=300.0,
    env={**os.environ, "LC_ALL": "C"},
)


@functools.cache
def _compiled(compiler: str, folder: Path) -> Path | str:
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows
        return f"there is no program in C++ on {sys.platform}; next step: leave cpp out"
    root = Path(torch.__file__).parent
    if not (root / "include/torch/script.h").is_file():
        return f"no headers of torch in {root}/include; next step: install torch from its wheel"
    flags = ["-std=c++20", "-O1", f"-D_GLIBCXX_USE_CXX11_ABI={torch.compiled_with_cxx11_abi():d}"]
    flags += [f"-isystem{root}/include", f"-isystem{root}/include/torch/csrc/api/include"]
    libraries = [f"-L{root}/lib", f"-Wl,-rpath,{root}/lib", "-Wl,--no-as-needed"]
    libraries += ["-ltorch", "-ltorch_cpu", "-lc10"]
    try:
        command = shlex.split(compiler)
        if not command or shutil.which(command[0]) is None:
            step = "install g++, or name yours in CXX"
            return f"no C++ compiler {compiler!r}; next step: {step}"
        version = _run([*command, "--version"]).stdout
        parts = [SOURCE.read_text(), torch.__version__, version, *command, *flags, *libraries]
        key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"torchexport-serve-{key}"
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # workers wait for the first: it takes a GB of memory
            if not path.exists():
                half = path.with_suffix(".half")
                _run([*command, *flags, str(SOURCE), "-o", str(half), *libraries])
                half.rename(path)
        # Without a file to serve it ends at once: a folder may forbid to run what is in it.
        _run([str(path), os.devnull], stdin=subprocess.DEVNULL)
    except ValueError as error:
        return f"CXX={compiler}: {error}; next step: write a command of a shell"
    except subprocess.TimeoutExpired:
        return f"{compiler} takes minutes on {SOURCE.name}; next step: name another one in CXX"
    except subprocess.CalledProcessError as error:
        lines = printable(error.stderr).splitlines() or [f"exit status {error.returncode}"]
        said = next((line for line in lines if "error" in line), lines[-1])
        return f"{compiler} fails on {SOURCE.name}: {said}; next step: name another compiler in CXX"
    except OSError as error:
        return f"{error}; next step: name a directory to write to in TORCH_EXTENSIONS_DIR"
    return path


class CppSession:
    """A process that serves a file in C++, called like a SandboxSession."""

    def __init__(self, program: Path, source: Source, write: Callable[..., object]) -> None:
        self._source, self._write, self._sent = source, write, 0
        self._ended: observe.Outcome | None = None
        self._directory = tempfile.TemporaryDirectory(prefix="torchexport-")
        self._home = Path(self._directory.name)
        ours, theirs = pair()
        with theirs, (self._home / "output").open("wb") as output:
            process = subprocess.Popen(  # noqa: S603  # our own program
                [program, source.path],
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
        if text.exists():  # as torch raises it in Python
            return observe.raised(RuntimeError(text.read_text(errors="replace"))), {}
        try:
            with torch.serialization.safe_globals(script_containers()):
                value, left, structure = torch.load(name.with_suffix(".out"), weights_only=True)
            if structure is not None:
                value = unflatten(value, structure_of_text(structure))
        except Exception as error:
            why = f"what it returned cannot be read: {error}"
            return observe.NotTransferable(why, own_class=False), {}
        return observe.Returned(value, Call(tuple(left))), {}
