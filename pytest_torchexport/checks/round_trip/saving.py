"""An artifact's files: saved as a training machine would, moved as a deployment would, kept for a person who looks.

Separate from the trip, which loads and calls what lies there.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pytest_torchexport.checks.round_trip import raising
from pytest_torchexport.judge import loading
from pytest_torchexport.judge.case import Case
from pytest_torchexport.outcomes.limits import interrupted_after
from pytest_torchexport.outcomes.observe import raised
from pytest_torchexport.results.failures import LoadFailed
from pytest_torchexport.targets.formats.missing_dependencies import remedies

# Files of more megabytes are not saved twice.
SAVED_TWICE = 64
# What a program in a file says of itself, by name.
Described = Callable[[Path], Mapping[str, str]]


def moved(case: Case, described: Described) -> Path:
    """Where the file is after it was saved elsewhere, twice, and moved with all that belongs to it. Raises LoadFailed
    and RoundTripDiffers.
    """
    with ExitStack() as stack:
        there = _room(case, stack)
        path = _saved(case, there)
        files = _below(there)
        if sum(file.stat().st_size for file in files.values()) < SAVED_TWICE * 2**20:
            again = _room(case, stack)
            second = _saved(case, again)
            raising.same_files(files, _below(again))
            # Two files that are not the same bytes may be the same program: a format may write a time of day.
            if _digests(files) != _digests(_below(again)):
                raising.same_names(described(path), described(second), "saving it again")
        home = loading.room(case.plan.target)
        for file in there.iterdir():
            file.rename(home / file.name)
        return home / path.name


def kept(path: Path, directory: Path) -> Path:
    """The file, moved with all that belongs to it to where a person may look at it: ``directory``, or one with a
    number behind its name where that is taken. Raises OSError.
    """
    # The end of what it printed is in the verdict; the rest may be as long as the limit allows.
    for output in path.parent.glob("*.output"):
        output.unlink()
    directory.parent.mkdir(parents=True, exist_ok=True)
    number, free = 1, directory
    while free.exists():
        number, free = number + 1, directory.with_name(f"{directory.name}-{number + 1}")
    shutil.move(path.parent, free)
    return free / path.name


def _room(case: Case, stack: ExitStack) -> Path:
    room = loading.room(case.plan.target)
    stack.callback(shutil.rmtree, room, ignore_errors=True)
    return room


def _saved(case: Case, directory: Path) -> Path:
    case.log.waiting_for, case.log.trying = "saving the artifact", None
    with interrupted_after(case.plan.settings.time_limit):
        try:
            path: Any = case.artifact.save(directory)
        except Exception as error:
            raise _not_saved(error, directory) from None
    if isinstance(path, Path) and path.parent == directory and path.exists():
        return path
    wrote = ", ".join(_below(directory)) or "nothing"
    raise LoadFailed(
        f"cannot be saved: save is to return the path of a file in the directory that it is given, and returned "
        f"{path!r}; it wrote {wrote} there"
    )


def _not_saved(error: Exception, directory: Path) -> LoadFailed:
    reason = raised(error)
    left = ", ".join(_below(directory))
    details = (f"and leaves {left} behind, half-written",) if left else ()
    lines = (*remedies(reason.type, reason.message), *details)
    return LoadFailed(f"cannot be saved: {reason}", details=lines, where=reason.where)


def _digests(files: Mapping[str, Path]) -> list[str]:
    """The contents of files, told shortly."""
    found = []
    for path in files.values():
        with path.open("rb") as opened:
            found.append(hashlib.file_digest(opened, "blake2b").hexdigest())
    return found


def _below(directory: Path) -> dict[str, Path]:
    """All files below a directory, by name."""
    found = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {path.relative_to(directory).as_posix(): path for path in found}
