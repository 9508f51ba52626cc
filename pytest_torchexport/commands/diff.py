"""The command ``diff``: say what changed between two runs."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence

from pytest_torchexport.commands.report_files import read_merged, wanted, write
from pytest_torchexport.commands.shell import GREEN, RED, USAGE, CommandError, say
from pytest_torchexport.results import reports
from pytest_torchexport.results.delta import WORSE, delta


def main(program: str, arguments: Sequence[str]) -> int:
    """Run the command and return its exit status: 1 if something is worse, 2 for an error."""
    parser = argparse.ArgumentParser(
        program,
        description="Say what changed between two runs: new failures, others than before, "
        "fixed ones, what is not checked any more, slower exports and artifacts, "
        "larger files.",
        epilog="Exit status: 0 if no failure is new or another one; 1 if one is; 2 for a "
        "wrong argument or a file that cannot be read.",
    )
    parser.add_argument("old", metavar="OLD", help="a JSON report, or a folder of shards")
    parser.add_argument("new", metavar="NEW", help="a JSON report, or a folder of shards")
    parser.add_argument(
        "--report",
        action="append",
        default=[],
        metavar="FORMAT:PATH",
        help="write a report of NEW that compares it with OLD, for example markdown:diff.md",
    )
    given = parser.parse_args(arguments)
    try:
        asked = wanted(given.report)
        old, _ = read_merged([given.old])
        new, notes = read_merged([given.new])
        write(dataclasses.replace(new, before=old), asked)
    except CommandError as error:
        say([f"{program}: {error}"], sys.stderr)
        return USAGE
    found = delta(old, new)
    if not any(path == reports.STDOUT for _, path in asked):
        say([str(found), *map(str, found.changes)])
    say(notes, sys.stderr)
    return RED if found.of(*WORSE) else GREEN
