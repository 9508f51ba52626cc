"""Read and write reports for the commands, with messages that name the file."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from pytest_torchexport.commands.shell import CommandError, encodable
from pytest_torchexport.config.validate import report_specs
from pytest_torchexport.results import files, json, reports
from pytest_torchexport.results.merge import CannotMerge, Report, merged
from pytest_torchexport.results.verdict import RunResults


def read(paths: Sequence[str]) -> tuple[list[Report], list[str]]:
    """Return the reports at the paths, and sentences on files of folders that are none.

    A folder stands for all reports below it. Raises CommandError for a file that cannot be read.
    """
    found, notes = [], []
    for path in paths:
        inside = sorted(_inside(Path(path))) if Path(path).is_dir() else None
        if inside == []:
            raise CommandError(f"{path}: no *.json file is in this folder")
        for each in [Path(path)] if inside is None else inside:
            try:
                found.append(Report(str(each), json.read(_text(each))))
            except json.NotOurs as error:
                if inside is None:
                    raise CommandError(f"{each}: {error}") from None
                notes.append(f"{each}: left out: {error}")
            except json.Unreadable as error:
                raise CommandError(f"{each}: {error}") from None
    return found, notes


def _inside(folder: Path) -> Iterator[Path]:
    """Yield the reports of runs; a folder of artifacts may have those of single failures too."""
    for path in folder.rglob("*.json"):
        if path.name != json.OF_A_FAILURE and path.is_file():
            yield path


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise CommandError(f"{path}: it is not UTF-8, so it is no report") from None


def read_merged(
    paths: Sequence[str], *, expected: int | None = None
) -> tuple[RunResults, list[str]]:
    """Return the merged results of the reports at the paths, and sentences on what is odd.

    ``expected``: the number of reports. Raises CommandError.
    """
    found, notes = read(paths)
    if expected not in (None, len(found)):
        names = ", ".join(report.name for report in found)
        raise CommandError(f"{len(found)} of {expected} reports are there: {names or 'none'}")
    if not found:
        raise CommandError(f"{', '.join(paths)}: no file here is a report: {json.WRITE_ONE}")
    try:
        results, more = merged(found)
    except CannotMerge as error:
        raise CommandError(str(error)) from None
    return results, [*notes, *more]


def wanted(specs: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return the reports that are asked for as pairs of format and path. Raises CommandError."""
    try:
        return report_specs(specs)
    except ValueError as error:
        raise CommandError(str(error)) from None


def write(results: RunResults, asked: Sequence[tuple[str, str]]) -> None:
    """Write the results as pairs of format and path: all reports, or none if one cannot be made.

    Raises CommandError.
    """
    try:
        texts = [(path, reports.rendered(name, results)) for name, path in asked]
    except reports.CannotRender as error:
        raise CommandError(str(error)) from None
    for path, text in texts:
        if path == reports.STDOUT:
            sys.stdout.write(encodable(text, sys.stdout))
        else:
            _write(path, text)


def _write(path: str, text: str) -> None:
    try:
        files.write(Path(path), text)
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror or error}") from None
