"""The commands on JSON reports: ``render`` merges them and writes others, ``diff`` compares two."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from pytest_torchexport.commands.shell import GREEN, RED, USAGE, CommandError, encodable, say
from pytest_torchexport.config.validate import report_specs
from pytest_torchexport.results import files, json, reports
from pytest_torchexport.results.changes import WORSE, CannotMerge, Report, delta, merged
from pytest_torchexport.results.entries import GREEN as GREEN_OUTCOMES
from pytest_torchexport.results.summary import summary_lines
from pytest_torchexport.results.verdict import RunResults


def main(program: str, arguments: Sequence[str]) -> int:
    """Run ``render`` and return its exit status: 0 if all is green, 1 if not, 2 for an error."""
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
        asked = _asked(given.report)
        results, notes = _read(given.reports, expected=given.expect)
        if given.old is not None:
            results = dataclasses.replace(results, before=_read([given.old])[0])
        printed = _write(results, asked)
    except CommandError as error:
        say([f"{program}: {error}"], sys.stderr)
        return USAGE
    if not printed:
        say(summary_lines(results.items))
    reasons = list(_reasons(results))
    say([*notes, *reasons], sys.stderr)
    return RED if reasons else GREEN


def diff(program: str, arguments: Sequence[str]) -> int:
    """Run ``diff`` and return its exit status: 1 if something is worse, 2 for an error."""
    parser = argparse.ArgumentParser(
        program,
        description="Say what changed between two runs: new failures, others than before, fixed "
        "ones, what is not checked any more, slower exports and artifacts, larger files.",
        epilog="Exit status: 0 if no failure is new or another one; 1 if one is; 2 for a wrong "
        "argument or a file that cannot be read.",
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
        asked = _asked(given.report)
        old, _ = _read([given.old])
        new, notes = _read([given.new])
        printed = _write(dataclasses.replace(new, before=old), asked)
    except CommandError as error:
        say([f"{program}: {error}"], sys.stderr)
        return USAGE
    changed = delta(old, new)
    if not printed:
        say([str(changed), *map(str, changed.changes)])
    say(notes, sys.stderr)
    return RED if changed.of(*WORSE) else GREEN


def _reasons(results: RunResults) -> list[str]:
    """Return why a run is not green."""
    running = sum(item.outcome == "running" for item in results.items)
    failed = sum(item.outcome not in GREEN_OUTCOMES for item in results.items) - running
    reasons = {
        f"{failed} failed": failed,
        f"{running} did not end": running,
        "not complete: a run did not come to its end": not results.complete,
        "no item was checked": not results.items,
    }
    return [reason for reason, holds in reasons.items() if holds]


def _read(paths: Sequence[str], *, expected: int | None = None) -> tuple[RunResults, list[str]]:
    """Return the merged results of the reports at the paths, and sentences on what is odd.

    A folder stands for all reports below it. ``expected``: the number of reports.
    """
    read: list[Report] = []
    notes: list[str] = []
    for given in paths:
        folder = Path(given).is_dir()
        # A folder of artifacts may have the reports of single failures too.
        inside = sorted(
            path
            for path in Path(given).rglob("*.json")
            if path.name != json.OF_A_FAILURE and path.is_file()
        )
        if folder and not inside:
            raise CommandError(f"{given}: no *.json file is in this folder")
        for path in inside if folder else [Path(given)]:
            try:
                read.append(Report(str(path), json.read(_text(path))))
            except json.Unreadable as error:
                if not folder or not isinstance(error, json.NotOurs):
                    raise CommandError(f"{path}: {error}") from None
                notes.append(f"{path}: left out: {error}")
    if expected not in (None, len(read)):
        names = ", ".join(report.name for report in read)
        raise CommandError(f"{len(read)} of {expected} reports are there: {names or 'none'}")
    if not read:
        raise CommandError(f"{', '.join(paths)}: no file here is a report: {json.WRITE_ONE}")
    try:
        results, more = merged(read)
    except CannotMerge as error:
        raise CommandError(str(error)) from None
    return results, [*notes, *more]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise CommandError(f"{path}: it is not UTF-8, so it is no report") from None


def _asked(specs: Sequence[str]) -> tuple[tuple[str, str], ...]:
    try:
        return report_specs(specs)
    except ValueError as error:
        raise CommandError(str(error)) from None


def _write(results: RunResults, asked: Sequence[tuple[str, str]]) -> bool:
    """Write all reports, or none if one cannot be made; return True if one was printed."""
    try:
        texts = [(path, reports.rendered(name, results)) for name, path in asked]
    except reports.CannotRender as error:
        raise CommandError(str(error)) from None
    for path, text in texts:
        if path == reports.STDOUT:
            sys.stdout.write(encodable(text, sys.stdout))
            continue
        try:
            files.write(Path(path), text)
        except OSError as error:
            raise CommandError(f"cannot write {path}: {error.strerror or error}") from None
    return any(path == reports.STDOUT for _, path in asked)
