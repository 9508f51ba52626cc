"""The branches and loops that a program still has, and the user's lines that they come from.

A program that has no branch for one of eager's conditions took that decision once, at export. Each
format names source lines in its own way; how such texts are read is shared here. Free of torch.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pytest_torchexport.results.source_line import SourceLine, source_line

# The real path of a file, and a line in it.
Place = tuple[str, int]

FRAME = re.compile(r'File "([^"\n]+)", line (\d+)')


@dataclass(frozen=True, kw_only=True)
class Branches:
    """The branches and loops that a program still has.

    ``lines`` are (file, line) in the user's source, files as real paths; ``unplaced`` counts the
    branches of which the program does not say the line.
    """

    lines: frozenset[Place] = frozenset()
    unplaced: int = 0

    @classmethod
    def at(cls, stacks: Iterable[Sequence[Place]]) -> Branches:
        """Return the branches whose frames are given, the innermost frame first.

        A branch whose frames are all torch's own is not the user's, and is left out.
        """
        lines, unplaced = set(), 0
        for frames in stacks:
            place = users_place(frames)
            if place is not None:
                lines.add(place)
            elif not frames:
                unplaced += 1
        return cls(lines=frozenset(lines), unplaced=unplaced)

    def as_plain(self) -> dict[str, Any]:
        """Return the same as JSON, for another process."""
        return {"lines": [list(place) for place in sorted(self.lines)], "unplaced": self.unplaced}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Branches:
        """Return what ``as_plain`` was made of."""
        lines = frozenset((str(file), int(line)) for file, line in plain["lines"])
        return cls(lines=lines, unplaced=int(plain["unplaced"]))

    def covers(self, file: str, first: int, last: int) -> bool:
        """Return True if a branch begins on one of these lines of the file."""
        path = real_path(file)
        return any(path == other and first <= line <= last for other, line in self.lines)


def frames_in(text: str) -> list[Place]:
    """Return the places in real files that a text names, in its order."""
    found = [(path, int(number)) for path, number in FRAME.findall(text)]
    return [(real_path(path), number) for path, number in found if is_file(path)]


def line_of_fx(node: Any) -> SourceLine | None:
    """Return the user's line of a node of a program: of a helper's node, the line that calls it."""
    place = users_place(frames_of_fx(node.meta.get("stack_trace")))
    return source_line(*place) if place is not None else None


def frames_of_fx(text: str | None) -> list[Place]:
    """Return the frames of an fx node's stack trace, innermost first.

    Each level of subgraphs adds a generated frame. Below the first level only the place of the
    outermost operator is known, which is not the node's own: then there are none.
    """
    generated = [path for path, _ in FRAME.findall(text or "") if not is_file(path)]
    return frames_in(text or "")[::-1] if len(generated) < 2 else []


def users_place(frames: Iterable[Place]) -> Place | None:
    """Return the first of the frames that is not torch's own, or None."""
    return next((place for place in frames if not _is_torchs(place[0])), None)


def is_outside_torch(path: str) -> bool:
    """Return True if a path is a real file that is neither torch's nor this package's."""
    return is_file(path) and not _is_torchs(real_path(path))


def is_file(path: str) -> bool:
    """Return True if a path may be a file: ``<string>`` is none, nor what lies in an archive."""
    return not path.startswith(("<", "code/"))


@lru_cache(maxsize=1024)
def real_path(path: str) -> str:
    """Return the path without links. Cached: a large program has a million frames."""
    return os.path.realpath(path)


@lru_cache(maxsize=1024)
def _is_torchs(path: str) -> bool:
    """Return True if a real path is in torch, or in this package, which wraps some subjects."""
    # Found, not imported: an ONNX file is read in a process without torch.
    spec = importlib.util.find_spec("torch")
    roots = [Path(spec.origin).parent] if spec is not None and spec.origin is not None else []
    inside = (*roots, Path(__file__).parents[2])
    return any(Path(path).is_relative_to(directory.resolve()) for directory in inside)
