"""The disk that a child takes: no limit of the kernel counts all the files of a process together.

Separate because the server looks at it from outside, where the child's code cannot reach. Free of
torch.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

# How much a child may write besides the files that were there, in bytes.
DISK_LIMIT = 256 * 2**20
_BLOCK = 512


@dataclass(frozen=True)
class DiskUse:
    """The disk use of a process below a directory, which had ``before`` bytes when it began."""

    pid: int
    directory: Path
    before: int

    @classmethod
    def from_now(cls, pid: int, directory: Path) -> DiskUse:
        """Return the use of a process that begins now."""
        return cls(pid, directory, _size(directory))

    def exceeded(self) -> bool:
        """Return True if it has written more than DISK_LIMIT.

        The directory's size counts where files lie in memory; what the process wrote also counts
        files that it has removed and still holds open.
        """
        return max(_size(self.directory) - self.before, _written(self.pid)) > DISK_LIMIT


def _size(directory: Path) -> int:
    """Return the size on disk of all files below a directory, in bytes."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):  # removed meanwhile
                total += Path(folder, name).lstat().st_blocks * _BLOCK
    return total


def _written(pid: int) -> int:
    """Return the bytes that a process has written to disks and not taken back; 0 if unknown."""
    try:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    except OSError:
        return 0
    counted = {name: int(number) for name, _, number in (line.partition(": ") for line in lines)}
    return counted.get("write_bytes", 0) - counted.get("cancelled_write_bytes", 0)
