"""The report of a failure in colors, where pytest writes colors.

Separate because a worker of xdist sends the text alone: it becomes colored where it is printed.
"""

from __future__ import annotations

import re
from typing import Protocol

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


class ColoredReport(str):
    """The text of our failures, which pytest prints by ``toterminal``."""

    __slots__ = ()

    def toterminal(self, writer: Writer) -> None:
        """Write the lines; without colors if the writer has none."""
        for line in self.splitlines():
            match = LABELLED.fullmatch(line)
            if match is not None:
                label, text = match.groups()
                writer.write(label, cyan=True)
                writer.line(text, **MARKUP.get(label.strip(), {}))
            elif line[:1].isspace() or not line:
                writer.line(line)
            else:  # the first line of a report
                writer.line(line, bold=True, red=True)
