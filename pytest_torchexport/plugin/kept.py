"""The directory for the files of failures: a name for each item, nothing for git, nothing old."""

from __future__ import annotations

import contextlib
import re
import shutil
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

from pytest_torchexport.diagnosis.reproducer.directory import HALF
from pytest_torchexport.results.json import OF_A_FAILURE as MARK

# Below pytest's rootdir.
KEPT = ".torchexport"
# File systems take names of up to 255 bytes.
MAX_NAME = 120
# The failures of so many items are kept.
MOST = 100
SECONDS_A_DAY = 86400


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


def tidy(root: Path, days: int) -> None:
    """Have git ignore the directory, and remove what is older or beyond the most that is kept.

    A directory has a mark when it is whole. Nothing else is removed: it may be a person's.
    Other processes may do the same, and what cannot be written or removed stays as it is.
    """
    directory = root / KEPT
    with contextlib.suppress(OSError):
        # As pytest does for its cache: the files are for a person, not for the repository.
        (directory / ".gitignore").write_text("*\n")
    with contextlib.suppress(OSError):
        for old in _old(directory, days):
            shutil.rmtree(old, ignore_errors=True)


def _marks(place: Path) -> list[Path]:
    """Return the marks of an item's directories: one for each target if it is a unittest method.

    Of a directory whose process was killed while it wrote, the directory itself.
    """
    if place.name.startswith(HALF):
        return [place]
    return [mark for mark in (place / MARK, *place.glob(f"*/{MARK}")) if mark.is_file()]


def _old(directory: Path, days: int) -> Iterator[Path]:
    written = {}
    for place in directory.iterdir():
        with contextlib.suppress(OSError):
            found = [] if place.is_symlink() else _marks(place)
            if found:
                written[place] = max(mark.stat().st_mtime for mark in found)
    newest = sorted(written, key=written.__getitem__, reverse=True)
    too_old = time.time() - days * SECONDS_A_DAY
    yield from (place for place in newest[:MOST] if written[place] < too_old)
    yield from newest[MOST:]
