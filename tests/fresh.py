"""Run scripts in fresh processes: copies of one that has imported torch, and nothing of this package or of the tests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

SERVER = """
import os, runpy, sys, traceback
import numpy, onnxruntime, torch

for path in sys.stdin:
    child = os.fork()
    if not child:
        code = 1
        sys.argv = path.split()
        out = os.open(sys.argv.pop(0), os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        os.dup2(out, 1), os.dup2(out, 2)
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
            code = 0
        except SystemExit as error:
            code = error.code or 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass(frozen=True)
class Ran:
    """How a script ended (negative: the signal), and what it printed."""

    code: int
    text: str


@dataclass(frozen=True)
class Fresh:
    """The process whose copies run scripts."""

    given: IO[str]
    codes: IO[str]
    output: Path

    def run(self, script: Path, *arguments: str) -> Ran:
        """Return how a script ends."""
        self.given.write(" ".join([str(self.output), str(script), *arguments]) + "\n")
        self.given.flush()
        code = int(self.codes.readline())
        return Ran(code, self.output.read_text())


@contextmanager
def fresh(directory: Path) -> Iterator[Fresh]:
    """Start the process. Its working directory is one without sources."""
    with subprocess.Popen(
        [sys.executable, "-P", "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=directory,
        env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield Fresh(process.stdin, process.stdout, directory / "output.txt")
        process.stdin.close()
