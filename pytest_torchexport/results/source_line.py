"""A line of the user's source, as failures, verdicts and branches refer to it, and whose it is."""

from __future__ import annotations

import linecache
import os
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


def source_line(path: str, number: int, text: str | None = None) -> SourceLine:
    """Return line ``number`` of the file; without ``text``, its source is looked up."""
    source = linecache.getline(path, number) if text is None else text
    return SourceLine(short_path(path), number, source.strip())


def is_users(path: str) -> bool:
    """Return True if a file is the user's: not this package's, nor any library's."""
    plain = path.replace("\\", "/")
    library = ("/site-packages/", "/pytest_torchexport/", "/lib/python", "/__torch__")
    return not plain.startswith(("<", "code/")) and not any(part in plain for part in library)


def short_path(path: str) -> str:
    """Return the path as the user would type it.

    Relative if it lies below the working directory; from the package's name on if installed.
    """
    _, library, within = path.replace("\\", "/").rpartition("/site-packages/")
    if library:
        return within
    try:
        relative = os.path.relpath(path)
    except ValueError:
        return path
    return path if relative.startswith("..") else relative
