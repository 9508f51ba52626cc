"""Run a command: ``pytest-torchexport COMMAND ...``, or ``python -m pytest_torchexport``."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from pytest_torchexport.commands import COMMANDS, USAGE, CommandError, say
from pytest_torchexport.results import __version__

PROGRAM = "pytest-torchexport"
# The exit status if nobody reads the output to its end: what a shell reports of SIGPIPE.
CLOSED = 141


def main(arguments: Sequence[str]) -> int:
    """Run the command that the first argument names, and return its exit status."""
    if arguments and arguments[0] in COMMANDS:
        file, _, function = COMMANDS[arguments[0]][0].partition(":")
        command = importlib.import_module(f"pytest_torchexport.commands.{file}")
        program = f"{PROGRAM} {arguments[0]}"
        try:
            return int(getattr(command, function)(program, arguments[1:]))
        except CommandError as error:
            say([f"{program}: {error}"], sys.stderr)
            return USAGE
    parser = argparse.ArgumentParser(PROGRAM, description="Commands of pytest-torchexport.")
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    known = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (_, summary) in COMMANDS.items():
        known.add_parser(name, help=summary)
    parser.parse_args(arguments)  # ends with the help, or with the usage error
    return 2


def quiet(arguments: Sequence[str]) -> int:
    """Run a command; end without a word if the pipe that it prints to is closed."""
    try:
        try:
            return main(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes at its end: https://docs.python.org/3/library/signal.html#note-on-sigpipe
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())
        return CLOSED


def script() -> None:
    """Run the console script, which finds modules in the current directory as ``-m`` does."""
    sys.path.insert(0, "")
    sys.exit(quiet(sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(quiet(sys.argv[1:]))
