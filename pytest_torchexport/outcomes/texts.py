"""Texts that somebody else wrote: of exceptions, and of what a process prints.

Separate from ``messages``, which knows torch: the clean process has no torch and needs these.
"""

from __future__ import annotations


def text_of(error: BaseException) -> str:
    """Return ``str(error)``; an exception class of the user may raise there."""
    try:
        return str(error).strip()
    except Exception as other:
        return f"(its text cannot be shown: {type(other).__name__})"


def printable(text: str) -> str:
    """Replace what a terminal would obey: escape codes, and marks of the writing direction."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in lines
    )
