"""Known failures: what a team has accepted, in TOML files that people edit and git merges.

A failure is the known one if its names are the same: test, target, device, subject, class, and the
line of code or the operator where it shows. Numbers and versions change without anybody's doing, so
they are no part of it. Whoever renames a test moves its entries too, as git does for the test.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from pytest_torchexport.results.entries import without_variant
from pytest_torchexport.results.escaped import in_shell, visible
from pytest_torchexport.results.failures import Failure, by_name
from pytest_torchexport.results.files import write
from pytest_torchexport.results.source_line import short_path
from pytest_torchexport.results.text import Block, labelled
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
TIGHTEN = "--torchexport-known=tighten"
# The keys of an entry, in the order in which they are written.
REQUIRED = ("test", "target", "device", "subject", "failure", "reason")
KEYS = (*REQUIRED[:-1], "at", "reason", "owner", "since", "until", "when")
DATES = ("since", "until")
# Of the message of a failure of which nothing else is known, so many characters are its place.
MAX_MESSAGE = 120
# Of one kind, the summary has so many lines.
MAX_LINES = 10


class KnownFilesError(Exception):
    """A file of known failures cannot be read. Its text names the file and the next step."""


# -- the names of a failure ------------------------------------------------------------------------


def entry_of(verdict: Verdict, nodeid: str, *, reason: str = "", since: str = "") -> KnownFailure:
    """Return the entry for a verdict's failure."""
    test = without_variant(nodeid, f"{verdict.target}-{verdict.device}")
    # People review the files: what does not show, or moves the cursor, is written as its number.
    return KnownFailure(
        test=visible(test),
        target=verdict.target,
        device=verdict.device,
        subject=visible(verdict.subject),
        failure=verdict.failure or "",
        at=visible(_place_of(verdict)),
        reason=visible(reason),
        since=since,
    )


def is_same(known: KnownFailure, now: KnownFailure) -> bool:
    """Return True if two entries are of one failure. A place that is not known is any place."""
    places = {known.at, now.at} - {""}
    return known.identity[:-1] == now.identity[:-1] and len(places) <= 1


def _place_of(verdict: Verdict) -> str:
    """Return the user's line of a failure, or else the next best name of where it shows.

    Empty if the diagnosis, which would have named it, did not come to its end.
    """
    place = verdict.diagnosis.place
    line = verdict.where or (place.where if place is not None else None)
    if line is not None and line.text:
        return " ".join(line.text.split())
    if place is not None:
        return place.operator
    if verdict.diagnosis.not_examined:
        return ""
    if named := re.search(r"\b(aten|prim|torchvision|onnx)(?:\.|::)(\w+)", verdict.reason):
        return f"{named[1]}.{named[2]}"
    if outputs := sorted({item.path for item in verdict.differences if item.path}):
        return ", ".join(outputs)
    # The first line of the message, without numbers and paths: these change from run to run.
    first = next(filter(str.strip, verdict.reason.splitlines()), "")
    words = " ".join("..." if word.count("/") > 1 else word for word in first.split())
    return re.sub(r"0x[0-9a-f]+|\d+(\.\d+)*(e-?\d+)?", "#", words)[:MAX_MESSAGE]


# -- comparing -------------------------------------------------------------------------------------


class Known:
    """The known failures of a directory, compared with what occurs. ``today``: an ISO date."""

    def __init__(self, files: Mapping[str, Sequence[KnownFailure]], today: str) -> None:
        self.file_of = {entry: name for name, entries in files.items() for entry in entries}
        self._of_item: dict[tuple[str, ...], list[KnownFailure]] = {}
        for entry in self.file_of:
            key = (entry.test, entry.target, entry.device, entry.subject)
            self._of_item.setdefault(key, []).append(entry)
        self._today = today

    def matches(self, nodeid: str, verdicts: Sequence[Verdict]) -> list[KnownMatch]:
        """Return a match for each failed verdict of an item, and for each failure that is fixed."""
        matches = [self._match(nodeid, each) for each in verdicts if each.status == "failed"]
        subjects: dict[tuple[str, ...], list[Verdict]] = {}
        for verdict in verdicts:
            key = (verdict.target, verdict.device, verdict.subject)
            subjects.setdefault(key, []).append(verdict)
        for own in subjects.values():
            if all(each.status == "passed" for each in own):
                matches += [
                    KnownMatch("fixed", now=entry, known=entry, file=self.file_of[entry])
                    for entry in self._known_of(entry_of(own[0], nodeid))
                    if not _unmet(entry)
                ]
        return matches

    def _known_of(self, now: KnownFailure) -> list[KnownFailure]:
        return self._of_item.get((now.test, now.target, now.device, now.subject), [])

    def _match(self, nodeid: str, verdict: Verdict) -> KnownMatch:
        now = entry_of(verdict, nodeid)
        others = self._known_of(now)
        same = [entry for entry in others if is_same(entry, now)]
        # A valid entry comes before one that has lapsed.
        for known in sorted(same, key=lambda entry: bool(self._lapsed(entry))):
            why = self._lapsed(known)
            status: KnownStatus = "new" if why else "known"
            return KnownMatch(status, now=now, known=known, file=self.file_of[known], why=why)
        for known in others:
            why = f"another failure is known: {known}"
            return KnownMatch("new", now=now, known=known, file=self.file_of[known], why=why)
        return KnownMatch("new", now=now)

    def _lapsed(self, entry: KnownFailure) -> str:
        """Return why an entry is not valid here and now; empty if it is."""
        if entry.until and entry.until < self._today:
            return f"it was accepted until {entry.until}"
        return _unmet(entry)


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
        raise ValueError(f"'when': {requirement!r} is no requirement like 'torch < 2.15'") from None
    except metadata.PackageNotFoundError:
        return False
    return (not asked.marker or asked.marker.evaluate()) and asked.specifier.contains(
        version, prereleases=True
    )


# -- the files -------------------------------------------------------------------------------------


def read(directory: Path) -> dict[str, list[KnownFailure]]:
    """Return the entries of all files, by the path as one types it.

    Raises KnownFilesError for the first file that is not right in every point.
    """
    return {short_path(str(path)): _entries(path) for path in sorted(directory.rglob("*.toml"))}


def change(
    directory: Path, *, added: Iterable[KnownFailure] = (), removed: Iterable[KnownFailure] = ()
) -> list[str]:
    """Add and remove entries; return the files that were written or removed.

    An entry that is added replaces one of the same failure. The files are read again first, under a
    lock, so that what another process has written stays. Raises KnownFilesError, and changes
    nothing, if a file is wrong by now; OSError.
    """
    added, out = list(added), {entry.identity for entry in [*removed, *added]}
    if not out:
        return []
    directory.mkdir(parents=True, exist_ok=True)
    with _locked(directory):
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
    shown = short_path(str(path))
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:  # another run has just removed its last entry
        return []
    except (OSError, ValueError) as error:
        raise KnownFilesError(f"{shown}: {error}; mend it, or restore it with git") from None
    if document.get("version") != VERSION:
        raise KnownFilesError(
            f"{shown}: its version is {document.get('version')!r}, this pytest-torchexport reads "
            f"{VERSION}; install the one that has written it, or restore the file with git"
        )
    tables = document.get("failure", [])
    if set(document) - {"version", "failure"} or not isinstance(tables, list):
        raise KnownFilesError(f"{shown}: it is to have a version and tables [[failure]] alone")
    entries = []
    for number, table in enumerate(tables, 1):
        try:
            entries.append(_entry(table))
        except ValueError as error:
            raise KnownFilesError(f"{shown}: entry {number}: {error}; mend it") from None
    return entries


def _entry(table: Any) -> KnownFailure:
    """Return the entry of a table. Raises ValueError that says what is wrong with it."""
    if not isinstance(table, dict):
        raise ValueError(f"{table!r} is no table [[failure]]")
    values = {key: _value(key, value) for key, value in table.items()}
    for key in REQUIRED:
        if not values.get(key, "").strip():
            raise ValueError(f"{key!r} is missing or empty")
    if values["failure"] == Failure.__name__:
        raise ValueError("'failure': an error of the plugin itself cannot be known")
    try:
        by_name(values["failure"])
    except KeyError:
        raise ValueError(f"'failure': {values['failure']!r} is no failure class") from None
    for requirement in values.get("when", ()):
        _holds(requirement)
    return KnownFailure(**values)


def _value(key: str, value: Any) -> Any:
    """Return a value as the entry holds it. Raises ValueError for a wrong key or type."""
    if key not in KEYS:
        near = difflib.get_close_matches(key, KEYS, n=1)
        raise ValueError(f"unknown key {key!r}" + (f", did you mean {near[0]!r}?" if near else ""))
    if key in DATES:
        if not isinstance(value, dt.date) or isinstance(value, dt.datetime):
            raise ValueError(f"{key!r} is no date; write it like 2030-12-31, without quotes")
        return value.isoformat()
    if key == "when":
        texts = value if isinstance(value, list) else [value]
        if not all(isinstance(each, str) for each in texts):
            raise ValueError("'when' is no list of texts")
        return tuple(texts)
    if not isinstance(value, str):
        raise ValueError(f"{key!r} is no text")
    return value


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Wait until no other process changes the directory."""
    try:
        import fcntl
    except ImportError:  # Windows has no such locks
        yield
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


# -- the texts -------------------------------------------------------------------------------------


def why_expected(matches: Sequence[KnownMatch]) -> str:
    """Return the reason of an xfail: those of the known failures, and where they stand."""
    reasons = (
        f"{(match.known or match.now).reason}{f' ({match.file})' if match.file else ''}"
        for match in matches
    )
    return "; ".join(dict.fromkeys(reasons))


def fixed_headline(matches: Sequence[KnownMatch]) -> str:
    """Return ``Fixed: OutputsDiffer of Net on onnx-cpu (aten.view) does not occur any more``."""
    more = f" (and {len(matches) - 1} more)" if len(matches) > 1 else ""
    return f"Fixed: {matches[0].now} does not occur any more{more}"


def fixed_text(matches: Sequence[KnownMatch], nodeids: Iterable[str]) -> str:
    """Return the report of items whose known failures do not occur."""
    blocks = fixed_blocks(matches, nodeids)
    lines = [line for block in blocks for line in labelled(block.label, block.lines)]
    return "\n".join([fixed_headline(matches), "", *lines])


def fixed_blocks(matches: Sequence[KnownMatch], nodeids: Iterable[str]) -> Iterator[Block]:
    """Yield what was known, and what to do."""
    lines = [f"{match.file}: {_reasons(match.now)}" for match in matches]
    more = [f"+ {len(lines) - MAX_LINES} more"] if len(lines) > MAX_LINES else []
    yield Block("known", [*lines[:MAX_LINES], *more])
    tests = [in_shell(nodeid) for nodeid in dict.fromkeys(nodeids)]
    # A longer command is more than a line: all tests may run then.
    command = " ".join(["pytest", *(tests if len(tests) == 1 else ()), TIGHTEN])
    what = "the entry, or let it" if len(matches) == 1 else "the entries, or let them"
    yield Block("remedy", [f"remove {what} be removed: {command}"])


def known_blocks(matches: Iterable[KnownMatch]) -> Iterator[Block]:
    """Yield what is known of an item's failures, a block for each; what is new has none."""
    for match in matches:
        if match.status == "fixed":
            yield Block("fixed", [f"{match.now} ({match.file}): remove it: {TIGHTEN}"])
        elif match.status == "created":
            yield Block("known", [f"from now on: {match.now.reason}"])
        elif match.known is not None:
            said = match.why or f"{match.known}: {_reasons(match.known)}"
            yield Block("known", [f"{match.file}: {said}"])


def _reasons(entry: KnownFailure) -> str:
    by = f", {entry.owner}" if entry.owner else ""
    since = f", since {entry.since}" if entry.since else ""
    return f"{entry.reason}{by}{since}"


def known_lines(results: Sequence[ItemResult]) -> Iterator[str]:
    """Yield the lines of a summary: why failures are expected, what is fixed, and what is other."""
    items: dict[tuple[str, str], dict[str, None]] = {}
    for result in results:
        for match in result.known:
            if match.is_expected:
                line = ("xfail", _reasons(match.known or match.now))
            elif match.known is not None:
                line = (match.status, f"{match.now}: {match.why or match.file}")
            else:
                continue
            items.setdefault(line, {})[result.nodeid] = None
    for (label, text), (first, *others) in list(items.items())[:MAX_LINES]:
        more = f" (and {len(others)} more)" if others else ""
        yield f"{label}: {first}{more}: {text}"
    if len(items) > MAX_LINES:
        yield f"known: + {len(items) - MAX_LINES} more lines"
