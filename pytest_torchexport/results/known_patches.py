"""Changes of known failures as a patch: for somebody else to commit, and of several runs as one.

A patch has the files whole, so that the patches of shards can be put together without the directory
that they change, and so that git cannot apply one to an entry that merely looks alike.
"""

from __future__ import annotations

import difflib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from pytest_torchexport.results import reports
from pytest_torchexport.results.known_failure import KnownFailure
from pytest_torchexport.results.known_files import (
    Changes,
    KnownFilesError,
    corrected,
    parse,
    render,
    texts,
)

# The name of the file, beside the report of a run.
PATCH = "torchexport-known.patch"
HEAD = "diff --git "
AGAIN = "use one version of pytest-torchexport in all shards"
NO_NEWLINE = "\\ No newline at end of file\n"


def propose(directory: Path, changes: Changes, *, root: Path, into: Path, patch: Path) -> bool:
    """Write the corrected directory and a patch elsewhere; False if nothing changes.

    ``root``: the directory in which ``git apply`` is run. What an earlier run proposed is removed.
    """
    import shutil

    shutil.rmtree(into, ignore_errors=True)
    patch.unlink(missing_ok=True)
    new = corrected(directory, changes) if changes else {}
    if not new:
        return False
    before = texts(directory) if directory.is_dir() else {}
    for name, text in {**before, **new}.items():
        if text is not None:
            reports.write(into / name, text)
    below = _below(directory, root)
    sides = {str(below / name): (before.get(name), text) for name, text in new.items()}
    reports.write(patch, "".join(_diffs(sides)))
    return True


def _below(directory: Path, root: Path) -> PurePosixPath:
    try:
        return PurePosixPath(directory.resolve().relative_to(root.resolve()).as_posix())
    except ValueError:  # somewhere else: the patch is for reading
        return PurePosixPath(directory.name)


def merged(patches: Sequence[str]) -> str:
    """Return one patch that adds and removes what any of these does, each of one shard of a run.

    Parametrizations and targets of one test may lie in several shards, and each moves its own
    entries to another file. Raises KnownFilesError for a patch that is not like those of
    ``propose``.
    """
    before: dict[str, str | None] = {}
    entries: dict[str, list[KnownFailure]] = {}
    added: dict[str, list[KnownFailure]] = {}
    for patch in patches:
        for path, (old, new) in _sides(patch).items():
            if before.setdefault(path, old) != old:
                raise KnownFilesError(
                    f"{path}: the patches are of different commits; run all shards on one"
                )
            there, later = _entries(path, old), _entries(path, new)
            kept = entries.setdefault(path, there)
            entries[path] = [entry for entry in kept if entry in later]
            added.setdefault(path, []).extend(entry for entry in later if entry not in there)
    for path, found in entries.items():
        for entry in added[path]:
            if entry.identity not in {each.identity for each in found}:
                found.append(entry)
    sides = {
        path: (before[path], render(found) if found else None)
        for path, found in sorted(entries.items())
    }
    return "".join(_diffs(sides))


def _entries(path: str, text: str | None) -> list[KnownFailure]:
    return [each.entry for each in parse(text, path, Path())] if text is not None else []


def _diffs(sides: Mapping[str, tuple[str | None, str | None]]) -> Iterator[str]:
    """Yield the lines of a patch as git writes it. ``sides``: path to old and new text."""
    for path, (old, text) in sides.items():
        yield f"{HEAD}a/{path} b/{path}\n"
        if old is None:
            yield "new file mode 100644\n"
        if text is None:
            yield "deleted file mode 100644\n"
        before, after = _lines(old or ""), _lines(text or "")
        lines = difflib.unified_diff(
            before,
            after,
            f"a/{path}" if old is not None else "/dev/null",
            f"b/{path}" if text is not None else "/dev/null",
            n=len(before) + len(after),
        )
        for line in lines:
            yield line if line.endswith("\n") else f"{line}\n{NO_NEWLINE}"


def _sides(patch: str) -> dict[str, tuple[str | None, str | None]]:
    """Return the old and the new text of each file in a patch of ``propose``."""
    found: dict[str, tuple[str | None, str | None]] = {}
    for part in f"\n{patch}".split(f"\n{HEAD}")[1:]:
        head, _, body = part.partition("\n@@ ")
        names, *kinds = head.splitlines()
        path = names[2 : len(names) // 2]  # a/PATH b/PATH
        old: list[str] = []
        new: list[str] = []
        touched: list[list[str]] = []
        for line in _lines(f"{body}\n" if not body.endswith("\n") else body)[1:]:
            if line == NO_NEWLINE:
                for side in touched:
                    side[-1] = side[-1].removesuffix("\n")
                continue
            touched = [side for side, marks in ((old, " -"), (new, " +")) if line[0] in marks]
            if not touched:
                raise KnownFilesError(f"{path}: the patch does not have the file whole; {AGAIN}")
            for side in touched:
                side.append(line[1:])
        found[path] = (
            "".join(old) if "new file mode 100644" not in kinds else None,
            "".join(new) if "deleted file mode 100644" not in kinds else None,
        )
    return found


def _lines(text: str) -> list[str]:
    """Return the lines as git has them: not those that only Unicode ends."""
    return io.StringIO(text).readlines()
