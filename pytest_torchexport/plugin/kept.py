"""The directory for the files of failures: a name for each item, nothing for git, nothing old."""

from __future__ import annotations

import contextlib
import re
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_torchexport.results.json import HALF
from pytest_torchexport.results.json import OF_A_FAILURE as MARK

# Below pytest's rootdir.
KEPT = ".torchexport"
# File systems take names of up to 255 bytes.
MAX_NAME = 120
# The name of the run that has written a directory, in it.
RUN = "run"


def kept_in(root: Path, nodeid: str) -> Path:
    """Return the directory for the files of a test's failures."""
    return root / KEPT / directory_name(nodeid)


def directory_name(nodeid: str) -> str:
    """Return a name for a test's directory, which no other test has."""
    name = re.sub(r"[^\w.-]+", "-", nodeid).strip("-")
    short = name.encode()[:MAX_NAME].decode(errors="ignore")
    # A checksum tells apart names that differ only in other characters, or only at their ends.
    plain = re.fullmatch(r"[\w./]*(::\w+)*(\[[\w-]*\])?", nodeid)
    checksum = "" if plain and short == name else f"-{zlib.crc32(nodeid.encode()):08x}"
    return f"{short}{checksum}"


def retained(config: pytest.Config) -> int:
    """Return of how many runs the failures are kept: as many as pytest keeps ``tmp_path`` of."""
    try:
        never = config.getini("tmp_path_retention_policy") == "none"
        return 0 if never else int(config.getini("tmp_path_retention_count"))
    except ValueError:  # -p no:tmpdir
        return 3


def tidy(directory: Path, run: str, count: int) -> None:
    """Note that an item's directory is of this run, and remove those of runs before the last ones.

    A directory has a mark when it is whole. Nothing else is removed: it
    may be a person's. Other processes may do the same, and what cannot be written or removed stays.
    """
    with contextlib.suppress(OSError):
        # As pytest does for its cache: the files are for a person, not for the repository.
        (directory.parent / ".gitignore").write_text("*\n")
        (directory / RUN).write_text(run)
        for old in _of_older_runs(directory.parent, count):
            shutil.rmtree(old, ignore_errors=True)


def _of_older_runs(directory: Path, count: int) -> Iterator[Path]:
    places: dict[Path, tuple[str, float]] = {}
    for place in directory.iterdir():
        with contextlib.suppress(OSError):
            if not place.is_symlink() and _is_ours(place):
                note = place / RUN
                run = note.read_text() if note.is_file() else ""
                places[place] = run, place.stat().st_mtime
    ends: dict[str, float] = {}
    for run, written in places.values():
        ends[run] = max(written, ends.get(run, 0.0)) if run else 0.0
    kept = sorted(ends, key=ends.__getitem__, reverse=True)[:count]
    oldest = min((ends[run] for run in kept), default=0.0)
    for place, (run, written) in places.items():
        # Without a run, a process has not yet written all, or was killed meanwhile.
        if run not in kept if run else written < oldest:
            yield place


def _is_ours(place: Path) -> bool:
    """Return True for an item's directory; a unittest method's has one for each target."""
    marks = (place / MARK, *place.glob(f"*/{MARK}"))
    return place.name.startswith(HALF) or any(mark.is_file() for mark in marks)
