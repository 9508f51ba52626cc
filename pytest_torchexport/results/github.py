"""The report as workflow commands of GitHub: annotations on the user's lines, one per cause.

GitHub shows ten per step and drops the others, so the causes that matter most come first. To work,
the text has to be printed by a step: ``--torchexport-report github:-``.
"""

from __future__ import annotations

from collections.abc import Iterator

from pytest_torchexport.results.changes import NEW, Cause, causes, delta
from pytest_torchexport.results.entries import entries
from pytest_torchexport.results.escaped import on_a_line
from pytest_torchexport.results.verdict import RunResults

MOST = 10
SHOWN_ITEMS = 3


def render(results: RunResults) -> str:
    """Return one command per line; an empty text if all is green."""
    return "".join(f"{line}\n" for line in _commands(results))


def _commands(results: RunResults) -> Iterator[str]:
    if not results.complete:
        yield _command("warning", "torchexport", "The run did not come to its end.")
    ranked = _ranked(results)
    shown = ranked if len(ranked) <= MOST else ranked[: MOST - 1]
    for cause in shown:
        yield _command("error", cause.title, "\n".join(_lines(cause)), **_place(cause))
    if left := len(ranked) - len(shown):
        yield _command("error", "torchexport", f"+ {left} more causes, in the other reports")


def _ranked(results: RunResults) -> list[Cause]:
    """Return the causes: new ones first, then those with a line, then those of most failures."""
    new: set[tuple[str, ...]] = set()
    if results.before is not None:
        new = {change.entry.key for change in delta(results.before, results).of(NEW)}
    return sorted(
        causes(entries(results.items)),
        key=lambda cause: (
            new.isdisjoint(entry.key for entry in cause.entries),
            cause.where is None,
        ),
    )


def _lines(cause: Cause) -> Iterator[str]:
    more = len(cause.names) - SHOWN_ITEMS
    yield ", ".join([*cause.names[:SHOWN_ITEMS], *([f"+ {more} more"] if more > 0 else [])])
    yield from cause.text.splitlines()[1:]


def _place(cause: Cause) -> dict[str, str]:
    """Return the user's line; without one, the file of the test."""
    if cause.where is not None:
        return {"file": cause.where.file, "line": str(cause.where.line)}
    file = cause.test_file
    return {"file": file} if file else {}


def _command(kind: str, title: str, message: str, **place: str) -> str:
    properties = ",".join(
        f"{name}={_escaped(on_a_line(value), '%:,')}"
        for name, value in (place | {"title": title}).items()
    )
    lines = [_escaped(on_a_line(line), "%") if line.strip() else "" for line in message.split("\n")]
    return f"::{kind} {properties}::{'%0A'.join(lines)}"


def _escaped(line: str, special: str) -> str:
    return "".join(f"%{ord(c):02X}" if c in special else c for c in line)
