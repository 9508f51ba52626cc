"""The directory of known failures: one TOML file per test, which people edit and git merges.

An entry names its test itself: wherever a merge moves its lines, it is still an entry of that test.
Nothing is written that a person did not change and that is not a change of a known failure.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pytest_torchexport.results import reports
from pytest_torchexport.results.failures import Failure, by_name
from pytest_torchexport.results.known_failure import (
    FailurePlace,
    KnownFailure,
    Severity,
    Stored,
    holds,
)
from pytest_torchexport.results.size_pattern import SizePattern
from pytest_torchexport.results.source_line import short_path

VERSION = 1
ENTRY = "[[failure]]"
HEAD = (
    "# Known failures. `pytest --torchexport-known=create` adds some, `=tighten` removes what is\n"
    "# fixed. Reasons go into the entries: comments are lost when this file is written again.\n"
    f"version = {VERSION}\n"
)
# The keys of an entry, in the order in which they are written, with the type of each.
REQUIRED = ("test", "target", "device", "subject", "failure", "reason")
PLACE: dict[str, type] = {
    "outputs": tuple,
    "kinds": tuple,
    "module": str,
    "operator": str,
    "causes": tuple,
    "dims": tuple,
    "exception": str,
    "code": str,
    "message": str,
}
SEVERITY: dict[str, type] = {"sizes": dict, "error": float, "stage": str}
KEYS: dict[str, type] = {
    **dict.fromkeys(REQUIRED[:-1], str),
    **PLACE,
    "partial": bool,
    "reason": str,
    "owner": str,
    "since": str,
    "until": str,
    "when": tuple,
    **SEVERITY,
}
DATES = ("since", "until")
WORDS = {
    str: "a string",
    tuple: "a list of strings",
    dict: "a table",
    float: "a number",
    bool: "true or false",
}
MARKERS = re.compile(r"^(<{7}|={7}|>{7}|\|{7})( |$)", re.MULTILINE)


class KnownFilesError(Exception):
    """A file of known failures cannot be read. Its text names file, line and next step."""


@dataclass(frozen=True, kw_only=True)
class Changes:
    """The changes of a run: entries to add and entries to remove. All others stay as they are."""

    added: Sequence[KnownFailure] = ()
    removed: Sequence[KnownFailure] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed)


def file_of(test: str) -> str:
    """Return the file for a test, below the directory: ``tests/test_net/TestNet.test_it.toml``."""
    path, *names = test.partition("[")[0].split("::")
    plain = [part for part in PurePosixPath(path).with_suffix("").parts if part not in ("/", "..")]
    return str(PurePosixPath(*plain, f"{'.'.join(names) or 'all'}.toml"))


# -- reading ---------------------------------------------------------------------------------------


def read(directory: Path) -> list[Stored]:
    """Return the entries of all files. Raises KnownFilesError for the first that is wrong."""
    return [
        stored for name, text in texts(directory).items() for stored in parse(text, name, directory)
    ]


def texts(directory: Path) -> dict[str, str]:
    """Return the text of every file, by its path below the directory, sorted."""
    found = {}
    for path in sorted(directory.rglob("*.toml")):
        try:
            found[path.relative_to(directory).as_posix()] = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            if not os.path.lexists(path):
                continue  # another run has just removed its last entry
            shown = short_path(str(path))
            raise KnownFilesError(
                f"{shown}:1: it cannot be read ({error}); restore it: git checkout -- {shown}"
            ) from None
    return found


def parse(text: str, name: str, directory: Path) -> list[Stored]:
    """Return the entries of one file. Raises KnownFilesError if it is not right in every point."""
    path = short_path(str(directory / name))
    marker = MARKERS.search(text)
    if marker is not None:
        raise _wrong(path, text, marker.start(), "it has conflict markers", MERGE)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        where = re.search(r"at line (\d+)", str(error))
        line = int(where[1]) if where is not None else text.count("\n") + 1
        raise KnownFilesError(f"{path}:{line}: no TOML: {error}; {RESTORE}") from None
    version = document.pop("version", None)
    if version != VERSION or isinstance(version, bool):
        what = f"version {version!r}" if version is not None else "it has no version"
        newer = isinstance(version, int) and version > VERSION
        raise _wrong(path, text, max(text.find("version"), 0), what, NEWER if newer else RESTORE)
    entries = document.pop("failure", [])
    for key in document:
        raise _wrong(path, text, max(text.find(key), 0), f"unknown key {key!r}", RESTORE)
    starts = [match.start() for match in re.finditer(r"^\[\[failure\]\]", text, re.MULTILINE)]
    if not isinstance(entries, list) or len(starts) != len(entries):
        raise _wrong(path, text, 0, f"entries have to begin with a line {ENTRY}", RESTORE)
    found = []
    for data, start in zip(entries, starts, strict=True):
        try:
            entry = _entry(data)
        except ValueError as error:
            raise _wrong(path, text, start, str(error), "mend this entry") from None
        found.append(Stored(entry, path, text.count("\n", 0, start) + 1))
    return found


MERGE = "keep the entries of both sides, and delete the lines of the markers"
NEWER = "a newer pytest-torchexport has written it: install that, or a later one"
RESTORE = "mend the line, or restore the file with git"


def _wrong(path: str, text: str, start: int, what: str, step: str) -> KnownFilesError:
    return KnownFilesError(f"{path}:{text.count(chr(10), 0, start) + 1}: {what}; {step}")


def _entry(data: Mapping[str, Any]) -> KnownFailure:
    """Return the entry of a table. Raises ValueError that says what is wrong with it."""
    values = {key: _value(key, value) for key, value in data.items()}
    for key in REQUIRED:
        if not str(values.get(key, "")).strip():
            raise ValueError(f"{key!r} is missing or empty")
    if values["failure"] == Failure.__name__:
        raise ValueError("'failure': an error of the plugin itself cannot be known")
    try:
        by_name(values["failure"])
    except KeyError:
        raise ValueError(f"'failure': {values['failure']!r} is no failure class") from None
    for text in values.get("sizes", {}).values():
        SizePattern.from_text(text)
    for text in values.get("when", ()):
        holds(text, {})
    place = FailurePlace(**{key: values.pop(key) for key in PLACE if key in values})
    severity = Severity(**{key: values.pop(key) for key in SEVERITY if key in values})
    return KnownFailure(**values, place=place, severity=severity)


def _value(key: str, value: Any) -> Any:
    """Return a value as the entry holds it. Raises ValueError for a wrong key or type."""
    if key not in KEYS:
        near = difflib.get_close_matches(key, KEYS, n=1)
        raise ValueError(f"unknown key {key!r}" + (f", did you mean {near[0]!r}?" if near else ""))
    if key in DATES:
        if not isinstance(value, dt.date) or isinstance(value, dt.datetime):
            raise ValueError(f"{key!r} is no date; write it like 2030-12-31, without quotes")
        return value.isoformat()
    kind = KEYS[key]
    if kind is tuple and isinstance(value, str):
        return (value,)
    strings: Iterable[Any] = ()
    if kind is tuple and isinstance(value, list):
        strings = value = tuple(value)
    elif kind is dict and isinstance(value, dict):
        strings = value.values()
    elif kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or not all(isinstance(each, str) for each in strings):
        raise ValueError(f"{key!r} is not {WORDS[kind]}")
    return value


# -- writing ---------------------------------------------------------------------------------------


def render(entries: Iterable[KnownFailure]) -> str:
    """Return the text of a file: sorted, one block per entry, the same for the same entries."""
    blocks = sorted("\n".join((ENTRY, *_lines(entry), "")) for entry in entries)
    return "\n".join((HEAD, *blocks))


def _lines(entry: KnownFailure) -> Iterator[str]:
    values = vars(entry) | vars(entry.place) | vars(entry.severity)
    for key in KEYS:
        if values[key]:
            yield f"{key} = {_toml(values[key], is_date=key in DATES)}"


def _toml(value: Any, *, is_date: bool = False) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str() if is_date:
            return value
        case str():
            # JSON's strings are TOML's. What does not show is escaped: people review these files.
            return "".join(map(_shown, json.dumps(value, ensure_ascii=False)))
        case tuple():
            return f"[{', '.join(map(_toml, value))}]"
        case Mapping():
            pairs = (" = ".join(map(_toml, (key, value[key]))) for key in sorted(value))
            return f"{{ {', '.join(pairs)} }}"
    return repr(float(value))


def _shown(character: str) -> str:
    """Return a character of a string as TOML may have it: none has surrogates."""
    number = ord(character)
    if character.isprintable():
        return character
    if 0xD800 <= number <= 0xDFFF:
        return "\N{REPLACEMENT CHARACTER}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def corrected(directory: Path, changes: Changes) -> dict[str, str | None]:
    """Return the new text of each file that the changes alter; None for one that becomes empty.

    Files whose entries stay are not among them, however they are written.
    """
    before = texts(directory) if directory.is_dir() else {}
    stored = {
        name: [each.entry for each in parse(text, name, directory)] for name, text in before.items()
    }
    return {
        name: render(entries) if entries else None
        for name, entries in changed(stored, changes).items()
    }


def changed(
    stored: Mapping[str, Sequence[KnownFailure]], changes: Changes
) -> dict[str, list[KnownFailure]]:
    """Return the new entries of each file that the changes alter, by name."""
    removed = {entry.identity for entry in changes.removed}
    files = {
        name: [entry for entry in entries if entry.identity not in removed]
        for name, entries in stored.items()
    }
    altered = {name for name, entries in files.items() if len(entries) < len(stored[name])}
    there = {entry.identity for entries in files.values() for entry in entries}
    for entry in changes.added:
        if entry.identity not in there:
            there.add(entry.identity)
            files.setdefault(file_of(entry.test), []).append(entry)
            altered.add(file_of(entry.test))
    return {name: files[name] for name in sorted(altered)}


def apply(directory: Path, changes: Changes, lock: Path) -> list[str]:
    """Change the directory; return the files that were written or removed.

    The files are read again first, under a lock: what another process wrote meanwhile stays. New
    entries are written before old ones are removed, so that a run that is killed loses none.
    Raises KnownFilesError, and changes nothing, if a file is wrong by now; OSError.
    """
    with _locked(lock):
        new = corrected(directory, changes)
        targets = {file_of(entry.test) for entry in changes.added}
        for name in sorted(new, key=lambda name: (name not in targets, name)):
            text, path = new[name], directory / name
            if text is not None:
                reports.write(path, text)
                continue
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # other files are there
                for parent in list(path.relative_to(directory).parents)[:-1]:
                    (directory / parent).rmdir()
    return [short_path(str(directory / name)) for name in new]


@contextlib.contextmanager
def _locked(lock: Path) -> Iterator[None]:
    """Wait until no other process changes the directory."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        with contextlib.suppress(ImportError):  # Windows has no such locks
            import fcntl

            fcntl.lockf(file, fcntl.LOCK_EX)
        yield
