"""The commands of ``pytest-torchexport``, and what several of them take and say.

Each is a function that takes the program's name and the arguments, and returns the exit status. Its
file is imported if the command is asked for, so that those on reports start without torch. Nothing
here reads a report, because ``verify`` has to start at once.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable
from typing import TextIO

from pytest_torchexport.results.escaped import visible

# Name: file and function, and a line of help.
COMMANDS = {
    "try": (
        "try_:main",
        "check a module on export targets without a test, and print the test to paste",
    ),
    "doctor": (
        "doctor:main",
        "say what is installed, what can be checked here, and what to do about the rest",
    ),
    "verify": (
        "verify:main",
        "say if an artifact is the one that passed, and at the sizes that it serves",
    ),
    "render": (
        "render:main",
        "merge JSON reports, write others from them, and tell by the exit status if all is green",
    ),
    "diff": ("render:diff", "say what changed between the JSON reports of two runs"),
}

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


def add_repeated(parser: argparse.ArgumentParser, name: str, metavar: str, what: str) -> None:
    """Add an option that may be given several times, and is a list."""
    parser.add_argument(
        name, action="append", default=[], metavar=metavar, help=f"{what} (repeatable)"
    )


def parse_dim(text: str) -> tuple[str, range]:
    """Return the name and the sizes of ``batch=1..16``. Raises CommandError."""
    match = re.fullmatch(r"([A-Za-z_]\w*)=(\d+)(?:\.\.(\d+))?", text.strip())
    if match is None:
        raise CommandError(f"{text!r} is not a dim with its sizes; legal: batch=1..16, batch=8")
    name, low, high = match.groups()
    sizes = range(int(low), int(high or low) + 1)
    if not sizes:
        raise CommandError(f"{text!r}: low {low} is above high {high}")
    return name, sizes
