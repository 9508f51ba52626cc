"""Find the line of the user's code, or of a library's model, that reached an operator."""

from __future__ import annotations

import traceback
from types import CodeType, FrameType

from pytest_torchexport.results.source_line import (
    SourceLine,
    has_owner,
    innermost,
    is_users,
    source_line,
)

MAX_FRAMES = 200


class UsersLines:
    """Remembers lines and files that it has met: a forward reaches a line many times."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str, int], SourceLine] = {}
        self._users: dict[str, bool] = {}
        self._owned: dict[str, bool] = {}
        self._named: dict[tuple[str, ...], int | None] = {}

    def innermost(
        self, frame: FrameType | None, boundary: CodeType | None
    ) -> tuple[SourceLine | None, str]:
        """Return the line to name from a frame on, and the library's function that was called.

        ``results.source_line.innermost`` says which. Frames from ``boundary`` on are not looked at.
        """
        frames: list[FrameType] = []
        while frame is not None and frame.f_code is not boundary and len(frames) < MAX_FRAMES:
            frames.append(frame)
            if self._is_users(frame.f_code.co_filename):
                break
            frame = frame.f_back
        files = tuple(each.f_code.co_filename for each in frames)
        if files not in self._named:
            self._named[files] = innermost(files)
        number = self._named[files]
        via = frames[0].f_code.co_name if frames and number != 0 else ""
        if number is None:
            return None, via
        named = frames[number]
        return self._line(named.f_code.co_filename, named.f_lineno), via

    def of_a_read(self, frame: FrameType | None, boundary: CodeType | None) -> SourceLine | None:
        """Return the line at which Python reads a number: of what the user calls, if it is there.

        That is the first from a frame on that is the user's or of a library that may have models.
        """
        while frame is not None and frame.f_code is not boundary:
            if self._has_owner(frame.f_code.co_filename):
                return self._line(frame.f_code.co_filename, frame.f_lineno)
            frame = frame.f_back
        return None

    def _has_owner(self, filename: str) -> bool:
        if filename not in self._owned:
            self._owned[filename] = has_owner(filename)
        return self._owned[filename]

    def _is_users(self, filename: str) -> bool:
        if filename not in self._users:
            self._users[filename] = is_users(filename)
        return self._users[filename]

    def _line(self, filename: str, number: int) -> SourceLine:
        key = (filename, number)
        if key not in self._lines:
            self._lines[key] = source_line(*key)
        return self._lines[key]


def is_behind(line: SourceLine, frame: FrameType) -> bool:
    """Return True if a frame, or one that it was called from, is on a line."""
    return any(
        number == line.line and source_line(caller.f_code.co_filename, number) == line
        for caller, number in traceback.walk_stack(frame)
    )
