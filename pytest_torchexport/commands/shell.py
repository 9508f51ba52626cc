"""Tell the shell and the person at it how a command ended: an exit status, and lines.

Separate from the reports, because ``verify`` has to start at once and reads none.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TextIO

from pytest_torchexport.results.escaped import visible

# The exit statuses of a command.
GREEN, RED, USAGE = 0, 1, 2


class CommandError(Exception):
    """A command cannot do what was asked: a usage error, with exit status 2."""


def say(lines: Iterable[str], stream: TextIO | None = None) -> None:
    """Print lines for a person. What reports hold cannot move the cursor of the terminal."""
    out = stream or sys.stdout
    for line in lines:
        print(encodable(visible(line), out), file=out)


def encodable(text: str, stream: TextIO) -> str:
    """Return the text with an escape for each character that the stream cannot write."""
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
