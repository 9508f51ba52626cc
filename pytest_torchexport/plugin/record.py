"""A run with ``--torchexport-record``: store the calls that tests make of modules, for ``inputs=``.

Nothing is checked: the tests run once, as they are. A file is named by its content, so that each
call is stored once, none is overwritten, and several processes may write at the same time.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_torchexport.inputs.pytrees import hash_of, is_plain
from pytest_torchexport.inputs.sources import short
from pytest_torchexport.inputs.spec import Call, flatten_call, parameters_of
from pytest_torchexport.outcomes.subject import signature_of, unwrapped
from pytest_torchexport.plugin.active_item import directory_name
from pytest_torchexport.plugin.capture import CallRecorder, Recording

# Of one module class in one test, so many calls and bytes are stored.
MOST_CALLS, MOST_BYTES = 1000, 2**26
WRITTEN, KNOWN, LEFT = "written", "there already", "left out"
# The attribute of a pytest report with the number of calls, by folder and what became of them.
ATTRIBUTE = "torchexport_recorded"


class Record:
    """Stores the calls of each test, and says at the end where they are."""

    def __init__(self, config: pytest.Config, directory: str) -> None:
        self._root = config.rootpath
        self._place = Path(os.path.abspath(config.invocation_params.dir / directory))  # noqa: PTH100
        try:
            self._place.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self._place).close()
        except OSError as error:
            raise pytest.UsageError(f"--torchexport-record: cannot write there: {error}") from None
        self._now: dict[str, Counter[str]] = {}
        # Of each folder, the number of files and their bytes.
        self._sizes: dict[Path, tuple[int, int]] = {}
        self._all: dict[str, Counter[str]] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Store the calls of modules in a test, all its parameters in one directory."""
        self._now = {}
        if not isinstance(item, pytest.Function):
            return (yield)
        directory = self._place / directory_name(item.nodeid.partition("[")[0])

        def keep(recording: Recording, call: Call) -> None:
            folder = directory / type(unwrapped(recording.module)[0]).__name__
            try:
                became = self._store(folder, recording.module, call)
            except Exception as error:  # of a class of tensors, or of the disk: the test goes on
                became = f"not stored ({type(error).__name__}: {error!s:.100})"
            self._now.setdefault(str(folder), Counter())[became] += 1

        with CallRecorder(item.obj, keep=keep):
            return (yield)

    def _store(self, folder: Path, module: Any, call: Call) -> str:
        """Store a call unless it is there. Return what became of it."""
        parameters, variadic = parameters_of(signature_of(module), call)
        leaves = dict(flatten_call(call, parameters, variadic)[0])
        kept: dict[str, Any] = {}
        for name, leaf in leaves.items():
            if is_plain(leaf):
                kept[name] = leaf.detach().as_subclass(torch.Tensor).contiguous()
            elif isinstance(leaf, (bool, int, float, str)):
                kept[name] = leaf
            elif isinstance(leaf, torch.Tensor):
                return f"not stored ({name} is sparse, quantized, or without numbers)"
        facts = [f"{name}={hash_of(x) if is_plain(x) else x!r}" for name, x in kept.items()]
        path = folder / f"{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}.pt"
        size = sum(each.nbytes for each in kept.values() if is_plain(each))
        if folder not in self._sizes:
            folder.mkdir(parents=True, exist_ok=True)
            sizes = [file.stat().st_size for file in folder.glob("*.pt")]
            self._sizes[folder] = len(sizes), sum(sizes)
        number, used = self._sizes[folder]
        if path.exists():
            return KNOWN
        if number >= MOST_CALLS or used + size > MOST_BYTES:
            return LEFT
        # Whole or not there: another process may write the same call.
        half = path.with_suffix(f".{os.getpid()}")
        torch.save(kept, half)
        half.replace(path)
        self._sizes[folder] = number + 1, used + size
        return WRITTEN

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Put the numbers on the report, on which they reach the controller of pytest-xdist."""
        report = yield
        if call.when == "call":
            setattr(report, ATTRIBUTE, {folder: dict(n) for folder, n in self._now.items()})
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for folder, counts in getattr(report, ATTRIBUTE, {}).items():
            self._all.setdefault(folder, Counter()).update(counts)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print how many calls were stored where, and the marker that takes them."""
        terminalreporter.ensure_newline()
        terminalreporter.section("torchexport recorded")
        directories: dict[str, None] = {}
        for folder, counts in self._all.items():
            words = ", ".join(f"{counts[what]} {what}" for what in sorted(counts, reverse=True))
            if counts[LEFT]:
                most = f"{MOST_CALLS} calls and {MOST_BYTES >> 20} MiB"
                words += f" (of a test and class, {most} are kept)"
            terminalreporter.write_line(f"{short(Path(folder), self._root)}: {words}")
            directories[short(Path(folder).parent, self._root)] = None
        if not self._all:
            terminalreporter.write_line("no test called a module")
        for directory in directories:
            terminalreporter.write_line(f'  @pytest.mark.torchexport(inputs="{directory}")')
