"""Drafts of ``torch.export.draft_export``: how they are recorded, and what they went past.

Separate because torch tells this through its own structured log, which has to be listened to.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any

from pytest_torchexport.results.source_line import SourceLine, is_users, source_line


@contextlib.contextmanager
def drafts_recorded() -> Iterator[None]:
    """Let torch.export.draft_export record what it goes past, though torch's loggers are silent.

    It reads the records of the logger ``torch.__trace``, and leaves the file of its handler open:
    that is closed afterwards. Handlers of others get none of the records: pytest would print them.
    """
    logger = logging.getLogger("torch.__trace")
    level, before, during = logger.level, set(logger.handlers), set[logging.Handler]()
    others = [each for each in logger.handlers if not type(each).__module__.startswith("torch.")]

    def remember_handlers(_: logging.LogRecord) -> bool:
        during.update(logger.handlers)
        return True

    logger.addFilter(remember_handlers)
    logger.setLevel(logging.DEBUG)
    for handler in others:
        logger.removeHandler(handler)
    try:
        yield
    finally:
        for handler in others:
            logger.addHandler(handler)
        logger.setLevel(level)
        logger.removeFilter(remember_handlers)
        for handler in during - before:
            handler.close()


def draft_failures(program: Any) -> list[tuple[str, str, SourceLine | None]]:
    """Return what torch.export.draft_export went past: the kind, the operator or expression, where.

    The kind is the name of torch's ``FailureType``. Empty if the program has no ``_report``.
    """
    report = getattr(program, "_report", None)
    # The report only has the names that no earlier draft of this process had.
    interned = getattr(sys.modules.get("torch._logging.structured"), "INTERN_TABLE", {})
    files = {number: name for name, number in interned.items()}
    files |= getattr(report, "str_to_filename", None) or {}
    found: list[tuple[str, str, SourceLine | None]] = []
    for failure in getattr(report, "failures", None) or ():
        data = failure.data
        stack = [
            source_line(files[frame["filename"]], frame["line"], frame["loc"])
            for frame in data.get("user_stack") or ()
            if is_users(files.get(frame["filename"], "<unknown>"))
        ]
        what = str(data.get("op") or data.get("expr", ""))
        found.append((failure.failure_type.name, what, stack[-1] if stack else None))
    return found
