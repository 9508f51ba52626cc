"""The files of the cache: one per verdict, named by its key; whole or not there, few enough."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_torchexport.results.files import write
from pytest_torchexport.results.verdict import Verdict

MEGABYTE = 2**20


@dataclass(frozen=True)
class Store:
    """A directory of verdicts, bounded in megabytes. Several processes may use it at once."""

    directory: Path
    limit: int

    def get(self, key: str) -> Verdict | None:
        """Return the verdict under a key; None if there is none, or if its file is not whole."""
        place = self._place(key)
        try:
            kept = json.loads(place.read_text(encoding="utf-8"))
            text = kept["verdict"]
            if kept["key"] != key or kept["sha256"] != _sum(text):
                return None
            verdict = Verdict.from_dict(json.loads(text))
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None  # it is made anew, and replaced
        with contextlib.suppress(OSError):
            os.utime(place)  # what was used last is removed last
        return verdict

    def put(self, key: str, verdict: Verdict) -> None:
        """Write a verdict, with the day; remove what was not used for longest beyond the limit.

        Raises OSError if it cannot be written.
        """
        day = dt.datetime.now(dt.UTC).date().isoformat()
        dated = dataclasses.replace(verdict, unchanged_since=day)
        text = json.dumps(dated.as_dict())
        whole = {"key": key, "sha256": _sum(text), "verdict": text}
        write(self._place(key), json.dumps(whole))
        with contextlib.suppress(OSError):
            # As pytest does for its cache: the files are no part of the repository.
            (self.directory / ".gitignore").write_text("*\n")
        for old in self._beyond_limit():
            old.unlink(missing_ok=True)

    def _place(self, key: str) -> Path:
        return self.directory / key[:2] / f"{key}.json"

    def _beyond_limit(self) -> Iterator[Path]:
        used = []
        # Also what a process left that was killed while it wrote.
        for path in self.directory.glob("??/*"):
            with contextlib.suppress(OSError):  # another process has removed it
                status = path.stat()
                used.append((status.st_mtime_ns, status.st_size, path))
        size = 0
        for _, length, path in sorted(used, reverse=True):
            size += length
            if size > self.limit * MEGABYTE:
                yield path


def _sum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
