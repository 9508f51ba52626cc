"""The report of a failure as pytest prints it: in colors, and in its summary by the first line.

Separate because a worker of xdist sends the text alone: it becomes colored where it is printed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

import pytest

# A line below a label: the label with its blanks, and the text.
LABELLED = re.compile(r"(  [a-z]+ +)(.*)")
# How the text behind a label is written.
MARKUP = {"cause": {"bold": True}, "remedy": {"green": True}}


class Writer(Protocol):
    """The part of pytest's TerminalWriter that is used here. It knows if there are to be colors."""

    def write(self, text: str, **markup: bool) -> None:
        """Write a part of a line."""

    def line(self, text: str = "", **markup: bool) -> None:
        """Write the rest of a line."""


@dataclass(frozen=True)
class Crash:
    """A failure as pytest's short summary and ``--tb=line`` show it."""

    path: str
    lineno: int
    message: str

    def __str__(self) -> str:
        """Return the line of ``--tb=line``."""
        return f"{self.path}:{self.lineno}: {self.message}"


def color(report: pytest.TestReport, text: str) -> None:
    """Let pytest print this text for a failed item."""
    # pytest calls ``toterminal`` and reads ``reprcrash``; it exports no class that has them.
    report.longrepr = ColoredReport(text, report)  # type: ignore[assignment]


class ColoredReport:
    """The text of our failures, which pytest prints by ``toterminal``.

    It is no str: of one, pytest's short summary has the whole text in CI and with ``-vv``.
    """

    def __init__(self, text: str, report: pytest.TestReport) -> None:
        path, line, _ = report.location
        self._text = text
        self.reprcrash = Crash(path, (line or 0) + 1, text.strip().partition("\n")[0])

    def __str__(self) -> str:
        """Return the text: xdist, and reports of others."""
        return self._text

    def toterminal(self, writer: Writer) -> None:
        """Write the lines; without colors if the writer has none."""
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
