"""The runs of the whole suite on versions of Python, torch and ONNX, and what they leave untested.

``tested.json`` has an entry per run. ``scripts/compatibility.py`` writes it from the results of the
run; nobody writes one by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_suffix(".json")
# What a verdict depends on beside torch and Python.
BESIDE = ("onnx", "onnxscript", "onnxruntime", "numpy")
CPU = "cpu"
# Test files that need a GPU.
NEED_GPU = "tests/gpu/"
# Tests that need transformers, timm and torchvision, which are released for one version of torch.
NEED_OTHERS = ("tests/real/", "examples/test_bert.py")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of the suite.

    ``date``: the day, as ``2026-11-22``. ``versions``: as ``results.reports.environment`` returns
    them. ``tests``: the number of tests that passed, failed, were skipped, and failed as expected.
    ``again``: how many of them failed at first, and were run again after a change to them or to the
    plugin.
    ``verdicts``: how many verdicts of the zoo were the truth. ``zoo``: the truth by target of the
    rows whose truth depends on the version, as far as it was checked. ``left_out``: the test files
    without a result.
    """

    date: str
    versions: Mapping[str, str]
    tests: Mapping[str, int]
    again: int
    verdicts: int
    zoo: Mapping[str, Mapping[str, str | None]]
    left_out: Sequence[str]

    @property
    def key(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The versions of torch and Python, which no two entries share, to sort by."""
        return _numbers(self.versions["torch"]), _numbers(self.versions["python"])[:2]

    @property
    def name(self) -> str:
        """``torch 2.13.0 with Python 3.11``."""
        return torch_and_python(self.versions)

    @property
    def passed(self) -> bool:
        """True if no test failed, and all ran but for those on a GPU and those of real models."""
        known = (NEED_GPU, *NEED_OTHERS)
        return not self.tests.get("failed") and all(f.startswith(known) for f in self.left_out)

    @property
    def on_gpu(self) -> bool:
        """True if the tests that need a GPU ran."""
        return not any(path.startswith(NEED_GPU) for path in self.left_out)

    @property
    def extent(self) -> str:
        """``torch 2.13.0 with Python 3.11 (on the CPU, without real models)``."""
        parts = [] if self.on_gpu else ["on the CPU"]
        if any(path.startswith(NEED_OTHERS) for path in self.left_out):
            parts.append("without real models")
        return f"{self.name} ({', '.join(parts)})" if parts else self.name


def runs(path: Path = FILE) -> tuple[Run, ...]:
    """Return the recorded runs, ordered by the versions of torch and Python."""
    entries: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return tuple(sorted((Run(**entry) for entry in entries), key=lambda run: run.key))


def torch_and_python(versions: Mapping[str, str]) -> str:
    """Return ``torch 2.13.0 with Python 3.11``."""
    python = ".".join(map(str, _numbers(versions["python"])[:2]))
    return f"torch {_release(versions['torch'])} with Python {python}"


def untested(
    versions: Mapping[str, str], recorded: Iterable[Run], devices: Iterable[str] = (CPU,)
) -> str:
    """Return a line on the versions on which the suite has not passed; empty if it has.

    ``devices``: those on which items ran. On a GPU, a run that left out the tests that need one has
    tested nothing. torch and Python are tested together. Another package is tested from the lowest
    to the highest version on which the suite has passed.
    """
    passed = [run for run in recorded if run.passed]
    found = list(_untested(versions, passed, on_gpu=any(device != CPU for device in devices)))
    if not found:
        return ""
    tested = ", ".join(text for _, text in found if text) or "nothing"
    return f"untested: {', '.join(text for text, _ in found)}; tested: {tested}"


def _untested(
    versions: Mapping[str, str], passed: Sequence[Run], *, on_gpu: bool
) -> Iterator[tuple[str, str]]:
    """Yield each untested version, and the tested ones of the same packages."""
    name = torch_and_python(versions)
    same = [run for run in passed if run.name == name]
    if not same:
        yield name, ", ".join(run.extent for run in passed)
    elif on_gpu and not any(run.on_gpu for run in same):
        yield f"{name} on a GPU", ", ".join(run.extent for run in same)
    for package in BESIDE:
        if package not in versions:
            continue
        known = sorted(
            {_release(run.versions[package]) for run in passed if package in run.versions},
            key=_numbers,
        )
        if not known:
            yield f"{package} {versions[package]}", ""
        elif not _numbers(known[0]) <= _numbers(versions[package]) <= _numbers(known[-1]):
            yield f"{package} {versions[package]}", f"{package} {known[0]} to {known[-1]}"


def _release(version: str) -> str:
    """Return ``2.13.0`` of ``2.13.0+cpu``: another build of the same release."""
    return version.partition("+")[0]


def _numbers(version: str) -> tuple[int, ...]:
    """Return ``(2, 13, 0)`` of ``2.13.0+cpu`` and of ``2.13.0rc1``."""
    return tuple(int(part) for part in re.findall(r"\d+", _release(version))[:3])
