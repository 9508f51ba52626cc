"""A directory of files that appears whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

# While its files are written, a directory has a name that begins so.
HALF = ".half-"
# A directory gets at most this number behind its name.
MOST = 1000


Result = TypeVar("Result")


def made(path: Path, fill: Callable[[Path], Result]) -> tuple[Path, Result]:
    """Fill a new directory. Return its path when all its files are there, and what ``fill`` did.

    The path is ``path``, or the first of ``path/2``, ``path/3`` and so on that is free. Raises
    OSError, and what ``fill`` raises; there is nothing then.
    """
    half = path.parent / f"{HALF}{os.getpid()}-{secrets.token_hex(4)}"
    half.mkdir(parents=True)
    try:
        result = fill(half)
        return _named(half, path), result
    except BaseException:
        shutil.rmtree(half, ignore_errors=True)
        raise


def _named(half: Path, path: Path) -> Path:
    """Rename it to the first name that is free. Raises OSError if none is."""
    for place in (path, *(path / str(number) for number in range(2, MOST))):
        try:
            # Not asked beforehand: another process may take the name in between.
            return half.rename(place)
        except OSError:
            if not place.is_dir():
                raise
    raise FileExistsError(f"there are {MOST} directories in {path}")


def size_of(directory: Path) -> int:
    """Return the bytes of all files below a directory."""
    return sum(file.lstat().st_size for file in directory.rglob("*") if not file.is_dir())
