"""Known failures in a run of pytest: xfail what is known, fail what is fixed, write what is asked.

They stand in TOML files that people edit and git merges; whoever renames a test moves its entries
too. Each process compares its own items. Under xdist only the controller writes.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from pytest_torchexport.config.settings import KNOWN_DIRECTORY
from pytest_torchexport.config.validate import one_of
from pytest_torchexport.plugin.items import Configuration
from pytest_torchexport.results.changes import (
    BESIDE,
    entry_of,
    fixed_text,
    is_same,
    known_blocks,
    known_lines,
)
from pytest_torchexport.results.failures import Failure
from pytest_torchexport.results.plain import made
from pytest_torchexport.results.reports import write
from pytest_torchexport.results.source_line import short_path
from pytest_torchexport.results.text import labelled
from pytest_torchexport.results.verdict import (
    ItemResult,
    KnownFailure,
    KnownMatch,
    KnownStatus,
    Verdict,
)

VERSION = 1
HEAD = (
    "# Known failures. `pytest --torchexport-known=create` adds some, `=tighten` removes what is\n"
    "# fixed. Reasons go into the entries: comments are lost when this file is written again.\n"
)
REQUIRED = ("test", "target", "device", "subject", "failure", "reason")
# The keys of an entry, in the order in which they are written.
KEYS = (*REQUIRED[:-1], "at", "reason", "owner", "since", "until", "when")
DATES = ("since", "until")


class KnownFailures:
    """The known failures of a run. Raises UsageError for a file that is wrong."""

    def __init__(self, config: pytest.Config, configuration: Configuration) -> None:
        settings = configuration.settings
        self._config = config
        self._mode = settings.known
        self._reason = settings.known_reason
        self._directory = Path(config.rootpath, KNOWN_DIRECTORY)
        # A job of CI commits nothing: what it writes is for a person to commit, and its items stay
        # red until then.
        self._accepts = not os.environ.get("CI")
        self._today = dt.datetime.now().astimezone().date().isoformat()
        self._written: list[str] = []
        # Why ``end`` could not write; an error once the summary is printed.
        self.problem = ""
        self._known = read(self._directory)

    def judge(
        self, report: pytest.TestReport, verdicts: Sequence[Verdict], *, ours: bool
    ) -> list[KnownMatch]:
        """Change an item's report by what is known of its failures; return the matches.

        ``ours``: the item failed by the failures of these verdicts, and by nothing else.
        """
        if self._config.getoption("runxfail", default=False):
            return []
        if not report.passed and not (report.failed and ours):
            return []
        matches = compared(self._known, self._today, report.nodeid, verdicts)
        if report.passed:  # a test may expect a failure itself
            matches = [match for match in matches if match.status == "fixed"]
        if self._mode == "create" and self._accepts:
            matches = [self._created(match) for match in matches]
        fixed = [match for match in matches if match.status == "fixed"]
        if self._mode == "tighten" and self._accepts:
            fixed = []
        failing = [match for match in matches if match.status != "fixed"]
        if report.passed and fixed:
            report.outcome = "failed"
            report.longrepr = fixed_text(fixed, [report.nodeid])
        elif failing and not fixed and all(match.is_expected for match in failing):
            reasons = (
                f"{(match.known or match.now).reason}{f' ({match.file})' if match.file else ''}"
                for match in failing
            )
            report.outcome = "skipped"
            report.wasxfail = "; ".join(dict.fromkeys(reasons))
        elif report.failed:
            lines = labelled(known_blocks([*failing, *fixed]))
            expired = "Expired: " * any(match.status == "expired" for match in failing)
            report.longrepr = "\n".join([f"{expired}{report.longrepr or ''}", *lines])
        return matches

    def _created(self, match: KnownMatch) -> KnownMatch:
        """Accept a new failure; an error of the plugin itself cannot be accepted."""
        if match.status not in ("new", "expired") or match.now.failure == Failure.__name__:
            return match
        entry = dataclasses.replace(match.now, reason=self._reason, since=self._today)
        return KnownMatch("created", now=entry)

    def end(self, results: Sequence[ItemResult]) -> None:
        """Add what is new, or remove what is fixed, as asked. Nothing else is touched."""
        if self._mode == "check" or hasattr(self._config, "workerinput"):
            return
        matches = [match for result in results for match in result.known]
        added: list[KnownFailure] = []
        removed: list[KnownFailure] = []
        if self._mode == "create":
            created = map(self._created, matches)
            added = [match.now for match in created if match.status == "created"]
        else:  # an item that runs twice may fail once
            occur = {match.known for match in matches if match.status == "known"}
            fixed = [match.now for match in matches if match.status == "fixed"]
            removed = [entry for entry in fixed if entry not in occur]
        try:
            self._written = change(self._directory, added=added, removed=removed)
        except (pytest.UsageError, OSError) as error:
            self.problem = f"known failures: nothing is written: {error}"

    def lines(self, results: Sequence[ItemResult]) -> Iterator[str]:
        # A failed item has said so in its report.
        yield from known_lines(result for result in results if result.outcome != "failed")
        for entry, file in self._known.items():
            path, *names = entry.test.partition("[")[0].split("::")
            there = self._config.rootpath / path
            source = there.read_text("utf-8", errors="replace") if there.is_file() else None
            if source is None or not all(name in source for name in names):
                yield f"unused: {file}: there is no {entry.test}: rename or remove the entry"
        yield from self.quiet_lines()

    def quiet_lines(self) -> Iterator[str]:
        """Yield the lines that the summary has with ``-q`` too."""
        if self._written:
            yield f"written, to be committed: {', '.join(self._written)}"


# -- comparing -------------------------------------------------------------------------------------


def compared(
    known: Mapping[KnownFailure, str], today: str, nodeid: str, verdicts: Sequence[Verdict]
) -> list[KnownMatch]:
    """Return a match for each failed verdict of an item, and for each failure that is fixed.

    ``known``: the entries with their files. ``today``: an ISO date.
    """
    matches = []
    statuses: dict[tuple[str, ...], set[str]] = {}
    for verdict in verdicts:
        now = entry_of(verdict, nodeid)
        statuses.setdefault(_subject(now), set()).add(verdict.status)
        if verdict.status == "failed":
            matches.append(_match(now, known, today))
    return matches + [
        KnownMatch("fixed", now=entry, known=entry, file=file)
        for entry, file in known.items()
        if statuses.get(_subject(entry)) == {"passed"} and not _unmet(entry)
    ]


def _subject(entry: KnownFailure) -> tuple[str, ...]:
    return (entry.test, entry.target, entry.device, entry.subject)


def _match(now: KnownFailure, known: Mapping[KnownFailure, str], today: str) -> KnownMatch:
    """Return the best match of a failure with the entries of its subject."""
    best = KnownMatch("new", now=now)
    of_subject = [entry for entry in known if _subject(entry) == _subject(now)]
    # An entry that has lapsed says more than one of another failure.
    for entry in sorted(of_subject, key=lambda entry: not is_same(entry, now)):
        status: KnownStatus = "new"
        if not is_same(entry, now):
            was, at = (each.at.split(BESIDE) for each in (entry, now))
            more = [line for line in at if line not in was] if {*was} & {*at} else []
            why = f"another failure is known: {entry}"
            if more:
                why = f"{' and '.join(more)} is frozen too, beside what is known: {entry}"
        elif entry.until and entry.until < today:
            status, why = "expired", f"it was accepted until {entry.until}"
        else:
            why = _unmet(entry)
        if not why:
            return KnownMatch("known", now=now, known=entry, file=known[entry])
        if best.known is None:
            best = KnownMatch(status, now=now, known=entry, file=known[entry], why=why)
    return best


def _unmet(entry: KnownFailure) -> str:
    unmet = [requirement for requirement in entry.when if not _holds(requirement)]
    return f"it is accepted only when {unmet[0]}" if unmet else ""


def _holds(requirement: str) -> bool:
    """Return True if ``torch < 2.15`` is true of what is installed. Raises ValueError."""
    from packaging.requirements import InvalidRequirement, Requirement

    try:
        asked = Requirement(requirement)
        version = metadata.version(asked.name)
    except InvalidRequirement:
        raise ValueError(f"when: {requirement!r} is no requirement like 'torch < 2.15'") from None
    except metadata.PackageNotFoundError:
        return False
    return (not asked.marker or asked.marker.evaluate()) and asked.specifier.contains(
        version, prereleases=True
    )


# -- the files -------------------------------------------------------------------------------------


def read(directory: Path) -> dict[KnownFailure, str]:
    """Return the entries of all files, with the file's path as one types it.

    Raises UsageError for the first file that is not right in every point.
    """
    return {
        entry: short_path(str(path))
        for path in sorted(directory.rglob("*.toml"))
        for entry in _entries(path)
    }


def change(
    directory: Path, *, added: Iterable[KnownFailure] = (), removed: Iterable[KnownFailure] = ()
) -> list[str]:
    """Add and remove entries; return the files that were written or removed.

    An entry that is added replaces one of the same failure. The files are read again first: a
    person may have edited them meanwhile. Raises UsageError, and changes nothing, if a file is
    wrong by now; OSError.
    """
    added, out = list(added), {entry.identity for entry in [*removed, *added]}
    if not out:
        return []
    before = {path: _entries(path) for path in sorted(directory.rglob("*.toml"))}
    after = {
        path: [entry for entry in entries if entry.identity not in out]
        for path, entries in before.items()
    }
    for entry in {entry.identity: entry for entry in added}.values():
        after.setdefault(directory / file_of(entry.test), []).append(entry)
    changed = [path for path in after if after[path] != before.get(path)]
    for path in changed:
        if after[path]:
            write(path, render(after[path]))
        else:
            path.unlink(missing_ok=True)
    return [short_path(str(path)) for path in changed]


def file_of(test: str) -> str:
    """Return the file for a test, below the directory: ``tests/test_net/TestNet.test_it.toml``."""
    path, *names = test.partition("[")[0].split("::")
    plain = [part for part in PurePosixPath(path).with_suffix("").parts if part not in ("/", "..")]
    return str(PurePosixPath(*plain, f"{'.'.join(names) or 'all'}.toml"))


def render(entries: Iterable[KnownFailure]) -> str:
    """Return the text of a file: sorted, and the same for the same entries."""
    import tomli_w

    tables = []
    for entry in sorted(entries, key=lambda entry: entry.identity):
        table: dict[str, Any] = {key: getattr(entry, key) for key in KEYS if getattr(entry, key)}
        table |= {key: dt.date.fromisoformat(table[key]) for key in DATES if key in table}
        tables.append(table)
    return HEAD + tomli_w.dumps({"version": VERSION, "failure": tables})


def _entries(path: Path) -> list[KnownFailure]:
    shown = f"known failures: {short_path(str(path))}"
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise pytest.UsageError(f"{shown}: {error}; mend it, or restore it with git") from None
    if document.get("version") != VERSION:
        raise pytest.UsageError(
            f"{shown}: its version is {document.get('version')!r}, this pytest-torchexport reads "
            f"{VERSION}; install the one that has written it, or restore the file with git"
        )
    tables = document.get("failure", [])
    if set(document) - {"version", "failure"} or not isinstance(tables, list):
        raise pytest.UsageError(f"{shown}: it is to have a version and tables [[failure]] alone")
    entries = []
    for number, table in enumerate(tables, 1):
        try:
            entries.append(_entry(table))
        except ValueError as error:
            raise pytest.UsageError(f"{shown}: entry {number}: {error}; mend it") from None
    return entries


def _entry(table: Any) -> KnownFailure:
    """Return the entry of a table. Raises ValueError that says what is wrong."""
    if not isinstance(table, dict):
        raise ValueError(f"{table!r} is no table [[failure]]")
    for key in table:
        one_of(key, "key", KEYS)
    for key in {*DATES} & {*table}:
        if type(table[key]) is not dt.date:  # nor a time of a day, which is a date too
            raise ValueError(f"{key!r} is no date; write it like 2030-12-31, without quotes")
        table[key] = table[key].isoformat()
    entry: KnownFailure = made(KnownFailure, table)
    for key in REQUIRED:
        if not getattr(entry, key).strip():
            raise ValueError(f"{key}: it is empty")
    # Failure itself is an error of the plugin, which cannot be known.
    one_of(entry.failure, "failure class", [cls.__name__ for cls in Failure.__subclasses__()])
    for requirement in entry.when:
        _holds(requirement)
    return entry
