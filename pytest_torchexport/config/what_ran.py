"""The facts of a run that stand beside versions in reports and manifests."""

from __future__ import annotations

import functools
import platform
import shlex
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

# More of a command is left out: it may name thousands of tests.
MOST = 500


def what_ran(*, start: datetime | None = None, seed: object = None) -> dict[str, str]:
    """Return system, date, command, seed and commit of this run, as far as there are any.

    ``start``: when it began, for its duration up to now. The names are ``verdict.RUN_FACTS``.
    """
    now = datetime.now(UTC)
    program = Path(sys.argv[0])
    name = f"python -m {program.parent.name}" if program.name == "__main__.py" else program.name
    facts = {
        "os": platform.platform(),
        "date": (start or now).strftime("%Y-%m-%d %H:%M:%SZ"),
        "duration": f"{(now - start).total_seconds():.0f} s" if start else "",
        "command": f"{name} {shlex.join(sys.argv[1:])}".strip()[:MOST],
        "seed": "" if seed is None else str(seed),
        "commit": _commit(Path.cwd()),
    }
    return {key: value for key, value in facts.items() if value}


@functools.cache
def _commit(directory: Path) -> str:
    """Return the git commit that is checked out; empty without a repository, or without git."""
    with suppress(OSError, subprocess.SubprocessError):
        command = ["git", "-C", str(directory), "rev-parse", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603 - no shell, and no text of others
        return done.stdout.strip()
    return ""
