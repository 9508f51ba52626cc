"""A line of the user's source, as failures, verdicts and branches refer to it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SourceLine:
    """A line of source: the file as a report shows it, the line's number (from 1), and its text.

    ``text`` has no blanks at its ends and is empty if the source is not known.
    """

    file: str
    line: int
    text: str = ""

    def __str__(self) -> str:
        """Return ``net.py:38  if x.sum() > 0:``."""
        return f"{self.place}  {self.text}".rstrip()

    @property
    def place(self) -> str:
        """``net.py:38``."""
        return f"{self.file}:{self.line}"
