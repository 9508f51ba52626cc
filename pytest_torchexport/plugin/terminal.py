"""The terminal: reports of failures in colors, each cause once, and the progress of long items.

A worker of xdist sends the text of a report alone: it becomes colored where it is printed. Reports
in files and pytest's counts keep an entry per item. pytest loads this file at every start.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_torchexport.results.text import Block
    from pytest_torchexport.results.verdict import Entry, ItemResult, Verdict

# A line below a label: the label with its blanks, and the text.
LABELLED = re.compile(r"(  [a-z]+ +)(.*)")
# How the text behind a label is written.
MARKUP = {"cause": {"bold": True}, "remedy": {"green": True}}


def color(report: pytest.TestReport, text: str) -> None:
    """Let pytest print this text for a failed item."""
    # pytest calls ``toterminal`` and reads ``reprcrash``; it exports no class that has them.
    report.longrepr = _ColoredReport(text, report)  # type: ignore[assignment]


@dataclass(frozen=True)
class _Crash:
    """A failure as pytest's short summary and ``--tb=line`` show it."""

    path: str
    lineno: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.lineno}: {self.message}"


class _ColoredReport:
    """The text of our failures.

    It is no str: of one, pytest's short summary has the whole text in CI and with ``-vv``.
    """

    def __init__(self, text: str, report: pytest.TestReport) -> None:
        path, line, _ = report.location
        self._text = text
        self.reprcrash = _Crash(path, (line or 0) + 1, text.strip().partition("\n")[0])

    def __str__(self) -> str:
        return self._text  # for xdist, and reports of others

    def toterminal(self, writer: Any) -> None:
        """Write the lines to pytest's TerminalWriter, which knows if there are to be colors."""
        for line in self._text.splitlines():
            match = LABELLED.fullmatch(line)
            if match is not None:
                label, text = match.groups()
                writer.write(label, cyan=True)
                writer.line(text, **MARKUP.get(label.strip(), {}))
            elif line[:1].isspace() or not line:
                writer.line(line)
            else:  # the first line of a report
                writer.line(line, bold=True, red=True)


# -- why items are skipped, and the same failure of several items ----------------------------------


def body_key(report: pytest.TestReport, verdicts: Sequence[Verdict], *, whole: bool) -> str:
    """Return a text that items of one test have in common if their body fails for the same reason.

    Empty if the item passed, or has failed verdicts. ``whole``: the body and its fixtures are the
    same for all targets, so that the line that raised is enough.
    """
    if not report.failed or any(verdict.status == "failed" for verdict in verdicts):
        return ""
    crash = getattr(report.longrepr, "reprcrash", None)
    if whole and crash is not None:
        return f"{crash.path}:{crash.lineno}"
    return "" if isinstance(report.longrepr, str) else str(report.longrepr)


def why_skipped(verdicts: Sequence[Verdict]) -> str:
    """Return why an item is a skip; empty if all its subjects were judged on some target.

    On a target, one subject that was not judged is enough: a subject that passed may be a part of
    it, which its constructor called. A ``unittest`` method is one item for all targets.
    """
    skipped = [verdict for verdict in verdicts if verdict.status == "skipped"]
    open_targets = {(verdict.target, verdict.device) for verdict in skipped}
    if not skipped or any((each.target, each.device) not in open_targets for each in verdicts):
        return ""
    first = skipped[0]
    if len(skipped) == len(verdicts):
        return first.reason
    return f"{len(skipped)} of {len(verdicts)} not judged: {first.subject}: {first.reason}"


class SameFailures:
    """The failed reports of a run by cause: one is printed in full, the others in a few lines."""

    def __init__(self) -> None:
        self._found: dict[Any, list[tuple[pytest.TestReport, list[Entry]]]] = {}

    def note(self, report: pytest.TestReport, result: ItemResult, body: str) -> None:
        """Keep a failed report. ``body``: the ``body_key`` of the item."""
        from pytest_torchexport.results.changes import cause_of
        from pytest_torchexport.results.verdict import Entry, entries

        failing = [entry for entry in entries([result]) if entry.fails]
        if body:
            key: Any = (Entry(result, None).test, report.when, body)
        elif isinstance(report.longrepr, _ColoredReport) and result.verdicts:
            key = tuple(map(cause_of, failing))
        else:
            return
        self._found.setdefault(key, []).append((report, failing))

    def shorten(self, line_of: Callable[[pytest.TestReport], str]) -> None:
        """Keep the text of the first report of a cause alone; the others refer to it.

        ``line_of`` returns in a line why an item failed. To be called after all plugins have seen
        the reports, and before pytest prints them.
        """
        if not self._found:
            return
        from pytest_torchexport.results.changes import Cause
        from pytest_torchexport.results.text import labelled

        for found in self._found.values():
            (first, of_first), *others = found
            if others and of_first[0].fixed:  # one command removes the entries of all
                color(first, Cause(tuple(entry for _, each in found for entry in each)).text)
            said = _own_blocks(of_first) if others else []
            for report, failing in others:
                # The operator behind the owner may differ, which is no other owner.
                alike = _owners(failing) == _owners(of_first)
                own = labelled(
                    block
                    for block in _own_blocks(failing)
                    if block not in said and not (alike and block.label == "owner")
                )
                lines = [line_of(report), f"  same     as on {first.nodeid}, above", *own]
                color(report, "\n".join(lines))
                report.sections = [each for each in report.sections if each not in first.sections]


def _owners(failing: Sequence[Entry]) -> set[str | None]:
    return {entry.failure.diagnosis.owner for entry in failing if entry.failure is not None}


def _own_blocks(failing: Sequence[Entry]) -> list[Block]:
    """Return the blocks that may differ between items whose failures have one cause."""
    from pytest_torchexport.results.text import reports

    failed = [entry.failure for entry in failing if entry.failure is not None]
    nodeid = failing[0].item.nodeid
    blocks = (block for _, found in reports(failed, nodeid) for block in found)
    return [
        block
        for block in blocks
        if block.label in ("remedy", "owner", "known", "call", "sizes", "rerun")
    ]


# -- progress --------------------------------------------------------------------------------------

# The words come and change after so long: most items are quicker, and show none.
REFRESH_SECONDS = 1.0
# The words stand behind pytest's own line, and end where the terminal does.
SAVE, RESTORE, ERASE, CUT, WRAP = "\x1b7", "\x1b8", "\x1b[K", "\x1b[?7l", "\x1b[?7h"
# pytest captures stdout while a test runs. To write to the terminal itself needs no private API.
# Without one (Windows, CI) no progress is shown.
TERMINAL = Path("/dev/tty")


class Progress:
    """A few words behind the terminal's cursor on the step of an item that takes long.

    A thread writes them: the step may be one call that takes a minute.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._words = ""
        self._start = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True, name="torchexport-progress")
        if (
            config.pluginmanager.hasplugin("terminalreporter")
            and not hasattr(config, "workerinput")
            and config.get_verbosity() >= 0
            and config.get_terminal_writer().hasmarkup
        ):
            self._thread.start()

    def __call__(self, stage: str, done: int = 0, total: int = 0) -> None:
        """Report a stage; cheap enough to call for every drawn example."""
        self._words = f"{stage} {done} of {total}" if total else stage

    def close(self) -> None:
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _show(self) -> None:
        shown = ""
        with contextlib.suppress(OSError):
            while not self._ended.wait(REFRESH_SECONDS):
                shown = f" {self._words}, {time.monotonic() - self._start:.0f} s"
                self._write(shown)
            if shown:
                self._write("")

    def _write(self, text: str) -> None:
        with TERMINAL.open("w", encoding="utf-8") as terminal:
            terminal.write(f"{SAVE}{CUT}{ERASE}{text}{WRAP}{RESTORE}")
