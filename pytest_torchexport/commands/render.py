"""The commands on JSON reports: ``render`` merges them and writes others, ``diff`` compares two."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pytest_torchexport.commands import GREEN, RED, CommandError, add_repeated, encodable, say
from pytest_torchexport.config.advice import setting_lines
from pytest_torchexport.config.validate import report_specs
from pytest_torchexport.results import json, reports
from pytest_torchexport.results.changes import WORSE, changes_of, counted
from pytest_torchexport.results.escaped import few
from pytest_torchexport.results.plain import NotOurs, Unreadable
from pytest_torchexport.results.summary import summary_lines
from pytest_torchexport.results.verdict import GREEN as GREEN_OUTCOMES
from pytest_torchexport.results.verdict import RUN_FACTS, ItemResult, RunResults


def main(program: str, arguments: Sequence[str]) -> int:
    """Run ``render`` and return its exit status: 0 if all is green, 1 if not."""
    parser = argparse.ArgumentParser(
        program,
        description="Merge JSON reports (of shards, or of items that were run again), print the "
        "summary, and write other reports.",
        epilog="Exit status: 0 if all items are green; 1 if one is not, if a run did not come to "
        "its end, or if there are no items; 2 for a wrong argument or a file that cannot be read.",
    )
    parser.add_argument("reports", nargs="+", metavar="REPORT", help="a JSON report, or a folder")
    add_repeated(parser, "--report", "FORMAT:PATH", "write this report; '-' is standard output")
    parser.add_argument(
        "--old", metavar="REPORT", help="a JSON report of an earlier run, to compare with"
    )
    parser.add_argument(
        "--expect", type=int, metavar="N", help="it is an error if there are not N reports"
    )
    given = parser.parse_args(arguments)
    asked = _asked(given.report)
    results, notes = _read(given.reports, expected=given.expect)
    if given.old is not None:
        results = dataclasses.replace(results, before=_read([given.old])[0])
    if not _write(results, asked):
        say([*summary_lines(results.items, whole=True), *setting_lines(results.items)])
    running = sum(item.outcome == "running" for item in results.items)
    failed = sum(item.outcome not in GREEN_OUTCOMES for item in results.items) - running
    not_green = {
        f"{failed} failed": failed,
        f"{running} did not end": running,
        "not complete: a run did not come to its end": not results.complete,
        "no item was checked": not results.items,
    }
    reasons = [reason for reason, holds in not_green.items() if holds]
    say([*notes, *reasons], sys.stderr)
    return RED if reasons else GREEN


def diff(program: str, arguments: Sequence[str]) -> int:
    """Run ``diff`` and return its exit status: 1 if something is worse."""
    parser = argparse.ArgumentParser(
        program,
        description="Say what changed between two runs: new failures, others than before, fixed "
        "ones, what is not checked any more, slower exports and artifacts, larger files.",
        epilog="Exit status: 0 if no failure is new or another one; 1 if one is; 2 for a wrong "
        "argument or a file that cannot be read.",
    )
    parser.add_argument("old", metavar="OLD", help="a JSON report, or a folder of shards")
    parser.add_argument("new", metavar="NEW", help="a JSON report, or a folder of shards")
    compares = "write a report of NEW that compares it with OLD, for example markdown:diff.md"
    add_repeated(parser, "--report", "FORMAT:PATH", compares)
    given = parser.parse_args(arguments)
    asked = _asked(given.report)
    old, _ = _read([given.old])
    new, notes = _read([given.new])
    new = dataclasses.replace(new, before=old)
    changes = changes_of(new)
    if not _write(new, asked):
        say([counted(changes), *map(str, changes)])
    say(notes, sys.stderr)
    return RED if any(change.kind in WORSE for change in changes) else GREEN


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
            reports.write(Path(path), text)
        except OSError as error:
            raise CommandError(f"cannot write {path}: {error.strerror or error}") from None
    return any(path == reports.STDOUT for _, path in asked)


# -- reading and merging ---------------------------------------------------------------------------


def _read(paths: Sequence[str], *, expected: int | None = None) -> tuple[RunResults, list[str]]:
    """Return the merged results of the reports at the paths, and sentences on what is odd.

    A folder stands for all reports below it. ``expected``: the number of reports.
    """
    read: dict[str, RunResults] = {}
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
                read[str(path)] = json.read(path.read_bytes())
            except OSError as error:
                raise CommandError(f"{path}: {error.strerror or error}") from None
            except Unreadable as error:
                if not folder or not isinstance(error, NotOurs):
                    raise CommandError(f"{path}: {error}") from None
                notes.append(f"{path}: left out: {error}")
    if expected not in (None, len(read)):
        raise CommandError(
            f"{len(read)} of {expected} reports are there: {', '.join(read) or 'none'}"
        )
    if not read:
        raise CommandError(f"{', '.join(paths)}: no file here is a report: {json.WRITE_ONE}")
    results, more = merged(read)
    return results, [*notes, *more]


def merged(read: Mapping[str, RunResults]) -> tuple[RunResults, list[str]]:
    """Return the results of all reports, and sentences on what is not as it should be.

    Of an item in several reports, the last result counts, but not one that says less: a skip of the
    whole test, or an item that did not end. Raises CommandError if such reports come from different
    environments: then neither is a newer result of the other.
    """
    newest: dict[str, tuple[str, ItemResult]] = {}
    twice: dict[str, None] = {}
    for name, results in read.items():
        for item in results.items:
            if item.nodeid in newest:
                first, earlier = newest[item.nodeid]
                twice[item.nodeid] = None
                was, now = read[first].environment, results.environment
                if differ := ", ".join(
                    f"{package} {was.get(package, 'absent')} and {now.get(package, 'absent')}"
                    for package in {**was, **now}
                    if was.get(package) != now.get(package) and package not in RUN_FACTS
                ):
                    raise CommandError(
                        f"{item.nodeid} is in {first} and in {name}, which were run with different "
                        f"versions ({differ}): render them apart"
                    )
                if not _replaces(item, earlier):
                    continue
            newest[item.nodeid] = (name, item)
    versions: dict[str, dict[str, None]] = {}
    for results in read.values():
        for package, version in results.environment.items():
            versions.setdefault(package, {})[version] = None
    whole = RunResults(
        items=tuple(item for _, item in newest.values()),
        # Versions that differ stand beside each other.
        environment={package: ", ".join(different) for package, different in versions.items()},
        complete=all(results.complete for results in read.values()),
    )
    notes = []
    if twice:
        what = "1 item is" if len(twice) == 1 else f"{len(twice)} items are"
        notes = [f"{what} in several reports, the last result counts: {few(list(twice))}"]
    ends = (f"{name}: the run did not come to its end" for name in read if not read[name].complete)
    return whole, [*notes, *ends]


def _replaces(item: ItemResult, earlier: ItemResult) -> bool:
    """Return True if an item replaces another one that came before it.

    A skip without a verdict says nothing of the item; a failure without one does.
    """
    if "running" in (item.outcome, earlier.outcome):
        return earlier.outcome == "running"
    return bool(item.verdicts) or not earlier.verdicts or item.outcome not in GREEN_OUTCOMES
