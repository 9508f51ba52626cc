"""Read what somebody else wrote or raised: texts of exceptions and processes, a chain of causes.

Separate from ``messages``, which knows torch: the clean process has no torch and needs these.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_torchexport.results.escaped import visible

# A sentence names so many things of a list.
SHOWN = 3


def text_of(error: BaseException) -> str:
    """Return ``str(error)``; an exception class of the user may raise there."""
    try:
        return str(error).strip()
    except Exception as other:
        return f"(its text cannot be shown: {type(other).__name__})"


def chain(error: BaseException, *, explicit: bool = False) -> Iterator[BaseException]:
    """Yield an exception and those that it was raised from or after, each once.

    ``explicit``: only those that it was raised ``from``. ``raise error from error`` makes an
    exception its own cause.
    """
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or (None if explicit else cause.__context__)


def printable(text: str) -> str:
    """Return the text with escapes for what a terminal would obey, and line feeds as line ends."""
    return visible(text.replace("\r\n", "\n").replace("\r", "\n"))


def few(things: Sequence[object], between: str = ", ") -> str:
    """Return ``a, b, c and 2 more``."""
    more = f" and {len(things) - SHOWN} more" if len(things) > SHOWN else ""
    return between.join(map(str, things[:SHOWN])) + more
