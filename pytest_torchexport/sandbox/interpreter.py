"""Serve a file in another Python environment: ``serve.py``, run by its interpreter."""

from __future__ import annotations

import functools
import io
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pytest_torchexport.inputs.pytrees import Call
from pytest_torchexport.outcomes.errors import printable
from pytest_torchexport.sandbox.cpp import read_pickled
from pytest_torchexport.sandbox.program import ProgramSession
from pytest_torchexport.sandbox.session import Source

PROGRAM = Path(__file__).with_name("serve.py")
# The libraries that load files there.
RUNTIMES = ("onnxruntime", "torch")


@functools.cache
def versions(python: Path) -> Mapping[str, str] | str:
    """Return the versions of Python and the runtimes there, or why it cannot serve."""
    if not python.is_file():
        return f"there is no file {python}; next step: make it (python -m venv), with the runtime"
    try:
        done = subprocess.run(  # noqa: S603  # what the user has named
            [python, "-I", PROGRAM],
            check=True,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60.0,
        )
        # The last line: some environments print a greeting at each start.
        found = json.loads(done.stdout.rstrip().rpartition("\n")[2])
        return {name: str(version) for name, version in found.items()}
    except subprocess.CalledProcessError as error:
        said = (printable(error.stderr).splitlines() or ["it prints nothing"])[-1]
        return f"it does not run {PROGRAM.name}: {said}; next step: take Python 3.8 or newer"
    except (AttributeError, ValueError):
        said = f"it prints {printable(done.stdout).strip():.80} in place of versions"
    except subprocess.TimeoutExpired as error:
        said = f"it does not answer within {error.timeout:g} seconds"
    except OSError as error:
        said = str(error)
    return f"{said}; next step: name an interpreter of Python 3.8 or newer"


def with_onnx_runtime(python: Path, source: Source) -> ProgramSession:
    def read(path: Path, call: Call) -> tuple[Any, Call]:
        import numpy as np

        with np.load(path) as held:
            return [torch.from_numpy(held[name]) for name in held], call

    return ProgramSession([python, "-I", PROGRAM, source.path], source, _arrays, read)


def _arrays(call: Call, path: Path) -> None:
    import numpy as np

    values = (
        value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        for value in call.kwargs.values()
    )
    with path.open("wb") as file:
        np.savez(file, np.asarray([*call.kwargs]), *values)


def with_torch(python: Path, source: Source, load: str) -> ProgramSession:
    """Return a session of a file of torch. ``load`` is the ``script`` of its target."""
    asked = f"asked = {dict(source.options)!r}\n"
    command: list[str | Path] = [python, "-I", PROGRAM, source.path, asked + load]
    return ProgramSession(command, source, _pickled, read_pickled)


def _pickled(call: Call, path: Path) -> None:
    held = io.BytesIO()
    torch.save((call.args, dict(call.kwargs)), held)
    held.seek(0)
    torch.load(held, weights_only=True)  # raises for a class that is not known there
    path.write_bytes(held.getvalue())
