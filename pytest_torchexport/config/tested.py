"""The versions of Python, torch and ONNX on which the plugin's own tests have passed.

``scripts/compatibility.py`` writes ``tested.json``, with an entry per run of the whole suite.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_suffix(".json")
# What a verdict depends on beside torch and Python.
BESIDE = ("onnx", "onnxscript", "onnxruntime", "numpy")


@dataclass(frozen=True, kw_only=True)
class Passed:
    """A run in which no test failed; ``on_gpu``: with those that need a GPU."""

    versions: Mapping[str, str]
    on_gpu: bool


def runs() -> tuple[Passed, ...]:
    """Return the runs that passed, ordered by the versions of torch and Python."""
    return tuple(Passed(**entry) for entry in json.loads(FILE.read_text(encoding="utf-8")))


def torch_and_python(versions: Mapping[str, str]) -> str:
    """Return ``torch 2.13.0 with Python 3.12``."""
    python = ".".join(map(str, numbers(versions["python"])[:2]))
    return f"torch {_torch(versions)} with Python {python}"


def _torch(versions: Mapping[str, str]) -> str:
    return versions["torch"].partition("+")[0]


def untested(
    versions: Mapping[str, str], passed: Sequence[Passed], devices: Iterable[str] = ("cpu",)
) -> str:
    """Return a line on the versions on which the suite has not passed; empty if it has.

    ``devices``: those on which items ran. On a GPU, a run that left out the tests that need one has
    tested nothing. torch counts with any Python. Another package is tested from the lowest to the
    highest version on which the suite has passed.
    """
    torch, on_gpu = _torch(versions), any(device != "cpu" for device in devices)
    tested = dict.fromkeys(_torch(run.versions) for run in passed if run.on_gpu or not on_gpu)
    where = " on a GPU" if on_gpu else ""
    lacking = []
    if torch not in tested:
        lacking.append(f"torch {torch}{where} (tested: {', '.join(tested) or 'none'})")
    for package in filter(versions.__contains__, BESIDE):
        known = sorted(numbers(run.versions[package]) for run in passed if package in run.versions)
        if not known or not known[0] <= numbers(versions[package]) <= known[-1]:
            ends = (".".join(map(str, end)) for end in (*known[:1], *known[-1:]))
            tests = " to ".join(ends) or "none"
            lacking.append(f"{package} {versions[package]} (tested: {tests})")
    return f"untested: {', '.join(lacking)}" if lacking else ""


def table(passed: Sequence[Passed]) -> list[str]:
    """Return a line for each of these runs."""
    return [
        f"  tested {torch_and_python(run.versions)} {'and a GPU' if run.on_gpu else 'on the CPU'}"
        + "".join(f", {name} {run.versions[name]}" for name in BESIDE if name in run.versions)
        for run in passed
    ]


def numbers(version: str) -> tuple[int, ...]:
    """Return ``(2, 13, 0)`` of ``2.13.0+cpu``, another build of it, and of ``2.13.0rc1``."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])
