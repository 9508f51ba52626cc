"""Find the line of the user's code, or of a library's model, that reached an operator."""

from __future__ import annotations

import traceback
from types import CodeType, FrameType

from pytest_torchexport.results.source_line import SourceLine, is_models, is_users, source_line

MAX_FRAMES = 200


class UsersLines:
    """Remembers lines and files that it has met: a forward reaches a line many times."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str, int], SourceLine] = {}
        self._files: dict[str, bool] = {}
        self._models: dict[str, bool] = {}

    def innermost(
        self, frame: FrameType | None, boundary: CodeType | None
    ) -> tuple[SourceLine | None, str]:
        """Return the user's innermost line from a frame on, and the library's function it called.

        If no line is the user's: the innermost one of a model from a library. Frames from
        ``boundary`` on are not looked at.
        """
        via = ""
        models: SourceLine | None = None
        for step in range(MAX_FRAMES):
            if frame is None or frame.f_code is boundary:
                break
            filename = frame.f_code.co_filename
            users = self._files.get(filename)
            if users is None:
                users = self._files[filename] = is_users(filename)
                self._models[filename] = is_models(filename)
            if users:
                return self._line(filename, frame.f_lineno), via
            if models is None and self._models[filename]:
                models = self._line(filename, frame.f_lineno)
            if step == 0:
                via = frame.f_code.co_name
            frame = frame.f_back
        return models, via

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
