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
CPU = "cpu"


@dataclass(frozen=True, kw_only=True)
class Passed:
    """A run in which no test failed; ``on_gpu``: with those that need a GPU."""

    versions: Mapping[str, str]
    on_gpu: bool

    @property
    def name(self) -> str:
        return torch_and_python(self.versions)

    @property
    def extent(self) -> str:
        """``torch 2.13.0 with Python 3.11 (on the CPU)``."""
        return self.name if self.on_gpu else f"{self.name} (on the CPU)"


def runs() -> tuple[Passed, ...]:
    """Return the runs that passed, ordered by the versions of torch and Python."""
    return tuple(Passed(**entry) for entry in json.loads(FILE.read_text(encoding="utf-8")))


def torch_and_python(versions: Mapping[str, str]) -> str:
    python = ".".join(map(str, numbers(versions["python"])[:2]))
    return f"torch {_release(versions['torch'])} with Python {python}"


def untested(
    versions: Mapping[str, str], passed: Sequence[Passed], devices: Iterable[str] = (CPU,)
) -> str:
    """Return a line on the versions on which the suite has not passed; empty if it has.

    ``devices``: those on which items ran. On a GPU, a run that left out the tests that need one has
    tested nothing. torch and Python are tested together. Another package is tested from the lowest
    to the highest version on which the suite has passed.
    """
    # Each untested version, with the tested ones of the same packages.
    lacking: dict[str, str] = {}
    name = torch_and_python(versions)
    same = [run for run in passed if run.name == name]
    if not same:
        lacking[name] = ", ".join(run.extent for run in passed)
    elif any(device != CPU for device in devices) and not any(run.on_gpu for run in same):
        lacking[f"{name} on a GPU"] = ", ".join(run.extent for run in same)
    for package in BESIDE:
        if package not in versions:
            continue
        known = {_release(run.versions[package]) for run in passed if package in run.versions}
        ordered = sorted(known, key=numbers)
        ends = [*map(numbers, ordered[:1]), numbers(versions[package]), *map(numbers, ordered[-1:])]
        if len(ends) == 1 or ends != sorted(ends):
            between = f"{package} {ordered[0]} to {ordered[-1]}" if ordered else ""
            lacking[f"{package} {versions[package]}"] = between
    if not lacking:
        return ""
    tested = ", ".join(filter(None, lacking.values())) or "nothing"
    return f"untested: {', '.join(lacking)}; tested: {tested}"


def _release(version: str) -> str:
    """Return ``2.13.0`` of ``2.13.0+cpu``: another build of the same release."""
    return version.partition("+")[0]


def numbers(version: str) -> tuple[int, ...]:
    """Return ``(2, 13, 0)`` of ``2.13.0+cpu`` and of ``2.13.0rc1``."""
    return tuple(int(part) for part in re.findall(r"\d+", _release(version))[:3])
