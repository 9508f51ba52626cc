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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pytest_torchexport.inputs.pytrees import Call
from pytest_torchexport.outcomes.errors import printable
from pytest_torchexport.sandbox.program import ProgramSession
from pytest_torchexport.sandbox.session import Source
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


def in_cpp(program: Path, source: Source, write: Callable[..., object]) -> ProgramSession:
    """Return a session of the program; ``write`` is the target's ``for_cpp`` for an artifact."""
    return ProgramSession([program, source.path], source, write, read_pickled)


def read_pickled(path: Path, _: Call) -> tuple[Any, Call]:
    with torch.serialization.safe_globals(script_containers()):
        value, left, structure = torch.load(path, weights_only=True)
    if structure is not None:
        value = unflatten(value, structure_of_text(structure))
    return value, Call(tuple(left))
