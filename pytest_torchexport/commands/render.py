"""The command ``render``: merge JSON reports, and write other reports from the result."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence

from pytest_torchexport.commands.report_files import read_merged, wanted, write
from pytest_torchexport.commands.shell import GREEN, RED, USAGE, CommandError, say
from pytest_torchexport.results import reports
from pytest_torchexport.results.entries import GREEN as GREEN_OUTCOMES
from pytest_torchexport.results.summary import summary_lines
from pytest_torchexport.results.verdict import RunResults


def main(program: str, arguments: Sequence[str]) -> int:
    """Run the command and return its exit status: 0 if all is green, 1 if not, 2 for an error."""
    parser = argparse.ArgumentParser(
        program,
        description="Merge JSON reports (of shards, or of items that were run again), print the "
        "summary, and write other reports.",
        epilog="Exit status: 0 if all items are green; 1 if one is not, if a run did not come to "
        "its end, or if there are no items; 2 for a wrong argument or a file that cannot be read.",
    )
    parser.add_argument("reports", nargs="+", metavar="REPORT", help="a JSON report, or a folder")
    parser.add_argument(
        "--report",
        action="append",
        default=[],
        metavar="FORMAT:PATH",
        help="write this report; '-' as the path is standard output (repeatable)",
    )
    parser.add_argument(
        "--old", metavar="REPORT", help="a JSON report of an earlier run, to compare with"
    )
    parser.add_argument(
        "--expect", type=int, metavar="N", help="it is an error if there are not N reports"
    )
    given = parser.parse_args(arguments)
    try:
        asked = wanted(given.report)
        results, notes = read_merged(given.reports, expected=given.expect)
        if given.old is not None:
            before, _ = read_merged([given.old])
            results = dataclasses.replace(results, before=before)
        write(results, asked)
    except CommandError as error:
        say([f"{program}: {error}"], sys.stderr)
        return USAGE
    if not any(path == reports.STDOUT for _, path in asked):
        say(summary_lines(results.items))
    status, reasons = _status(results)
    say([*notes, *reasons], sys.stderr)
    return status


def _status(results: RunResults) -> tuple[int, list[str]]:
    """Return the exit status, and why it is not 0."""
    running = sum(item.outcome == "running" for item in results.items)
    failed = sum(item.outcome not in GREEN_OUTCOMES for item in results.items) - running
    reasons = [f"{failed} failed"] if failed else []
    reasons += [f"{running} did not end"] if running else []
    reasons += [] if results.complete else ["not complete: a run did not come to its end"]
    reasons += [] if results.items else ["no item was checked"]
    return (RED if reasons else GREEN), reasons
