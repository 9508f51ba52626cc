"""The report for pages of GitHub and GitLab: Markdown for summaries and comments, and annotations.

What changed comes first, then tests x targets, then the failures by cause. A text that is too long
is not shown at all there, so each section is cut at its end, never within, and says what is left
out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_torchexport.results.changes import (
    NEW,
    Cause,
    Change,
    Delta,
    causes,
    delta,
    known_lines,
)
from pytest_torchexport.results.escaped import code, code_block, html_code, on_a_line
from pytest_torchexport.results.summary import (
    MARKS,
    not_covered_lines,
    reason_lines,
    severity,
    table,
)
from pytest_torchexport.results.verdict import RunResults, entries

# The words of the first line, in their order; any other outcome is named at its end.
COUNTED = ("failed", "running", "xpassed", "xfailed", "skipped", "passed")
# Of a cause, as many items are named.
SHOWN_ITEMS = 5


@dataclass(frozen=True)
class _Section:
    """A part of the report: a head, and things of which the last ones may be left out.

    ``shown`` makes the text of a thing, and ``noun`` names it.
    """

    head: str
    things: Sequence[Any]
    shown: Callable[[Any], str]
    noun: str

    def fitted(self, room: int, most: int) -> str:
        """Return the section with at most so many things, in at most so many bytes of UTF-8."""
        left = room - _size(self.head) - 100  # for the line that says what was left out
        kept: list[str] = []
        for thing in self.things[:most]:
            text = self.shown(thing)
            left -= _size(text) + 1
            if left < 0:
                break
            kept.append(text)
        more = len(self.things) - len(kept)
        cut = [f"\n+ {more} more {self.noun}{'' if more == 1 else 's'}"] if more else []
        return "\n".join([self.head, *kept, *cut]).strip("\n")


def render(results: RunResults) -> str:
    """Return the report for a step summary, of which GitHub takes 1 MiB, or else nothing."""
    return _render(results, room=1024 * 1024 - 1024, most=2000)


def render_comment(results: RunResults) -> str:
    """Return the report for a comment: at most 65,536 characters, to be read without scrolling."""
    return _render(results, room=65_000, most=10)


def _render(results: RunResults, room: int, most: int) -> str:
    changed = delta(results.before, results) if results.before is not None else None
    parts = ["\n\n".join(_head(results, changed))]
    room -= _size(parts[0])
    for section in _sections(results, changed):
        if section.things:
            # The last sections are short. Those before leave them their room.
            parts.append(section.fitted(room // 2, most))
            room -= _size(parts[-1])
    versions = ", ".join(f"{name} {version}" for name, version in results.environment.items())
    ran_with = [f"Run with {code(versions)}"] if versions else []
    return "\n\n".join([*parts, *ran_with]) + "\n"


def _size(text: str) -> int:
    return len(text.encode("utf-8", "backslashreplace"))


def _head(results: RunResults, changed: Delta | None) -> Iterator[str]:
    counts = Counter(item.outcome for item in results.items)
    names = [*COUNTED, *(name for name in counts if name not in COUNTED)]
    text = ", ".join(f"{counts[name]} {name}" for name in names if counts[name])
    counted = text or "no item was checked"
    yield f"**torchexport: {counted if changed is None else changed}**"
    if changed is not None:
        yield f"{counted}."
    if not results.complete:
        yield "The run did not come to its end: more items may be missing."


def _sections(results: RunResults, changed: Delta | None) -> Iterator[_Section]:
    changes = changed.changes if changed is not None else ()
    yield _Section("### What changed\n", changes, _change, "change")
    rows, columns = table(results.items, unjudged=True)
    heads = "".join(f" {code(column)} |" for column in columns)

    def row(test: str) -> str:
        cells = "".join(f" {_cell(rows[test].get(column, ''))} |" for column in columns)
        return f"| {code(test)} |{cells}"

    # The worst first; sorted is stable.
    tests = sorted(rows, key=lambda test: min(map(severity, rows[test].values())))
    head = f"| test |{heads}\n| --- |{' --- |' * len(columns)}"
    yield _Section(head, tests, row, "test")
    grouped = causes(entries(results.items))
    failed = sum(len(cause.entries) for cause in grouped)
    of = "" if failed == len(grouped) else f", {len(grouped)} cause{'s' * (len(grouped) > 1)}"
    head = f"### {failed} failure{'' if failed == 1 else 's'}{of}\n"
    yield _Section(head, grouped, _cause, "cause")
    lines = [
        *known_lines(results.items),
        *reason_lines(results.items),
        *not_covered_lines(results.items),
    ]
    head = "### What the table does not say\n"
    yield _Section(head, lines, lambda line: f"- {code(line)}", "line")


def _change(change: Change) -> str:
    details = f": {code('; '.join(change.details))}" if any(change.details) else ""
    return f"- {change.kind}: {code(str(change.entry))}{details}"


def _cell(outcome: str) -> str:
    mark, markup = MARKS.get(outcome, (code(outcome), {}))
    return f"**{mark}**" if "red" in markup else mark


def _cause(cause: Cause) -> str:
    more = len(cause.names) - SHOWN_ITEMS
    items = [f"- {code(name)}" for name in cause.names[:SHOWN_ITEMS]]
    items += [f"- + {more} more item{'' if more == 1 else 's'}"] if more > 0 else []
    text = ["", code_block(cause.text)] if cause.text else []
    head = f"<details><summary>{html_code(cause.title)}</summary>"
    return "\n".join([head, "", *items, *text, "", "</details>", ""])


# -- annotations on the user's lines, one per cause ------------------------------------------------

# GitHub shows so many annotations per step, and drops the others.
MOST_ANNOTATIONS = 10
# Of a cause, an annotation names as many items.
ANNOTATED_ITEMS = 3


def render_annotations(results: RunResults) -> str:
    """Return the causes as workflow commands of GitHub, one per line; empty if all is green.

    To work, the text has to be printed by a step: ``--torchexport-report github:-``.
    """
    lines = []
    if not results.complete:
        lines.append(_command("warning", "torchexport", "The run did not come to its end."))
    new: set[tuple[str, ...]] = set()
    if results.before is not None:
        new = {change.entry.key for change in delta(results.before, results).of(NEW)}
    # New ones first, then those with a line, then those of most failures.
    ranked = sorted(
        causes(entries(results.items)),
        key=lambda cause: (
            new.isdisjoint(entry.key for entry in cause.entries),
            cause.where is None,
        ),
    )
    shown = ranked if len(ranked) <= MOST_ANNOTATIONS else ranked[: MOST_ANNOTATIONS - 1]
    for cause in shown:
        more = len(cause.names) - ANNOTATED_ITEMS
        names = [*cause.names[:ANNOTATED_ITEMS], *([f"+ {more} more"] if more > 0 else [])]
        message = "\n".join([", ".join(names), *cause.text.splitlines()[1:]])
        place = {"file": cause.test_file} if cause.test_file else {}
        if cause.where is not None:
            place = {"file": cause.where.file, "line": str(cause.where.line)}
        lines.append(_command("error", cause.title, message, **place))
    if left := len(ranked) - len(shown):
        lines.append(
            _command("error", "torchexport", f"+ {left} more causes, in the other reports")
        )
    return "".join(f"{line}\n" for line in lines)


def _command(kind: str, title: str, message: str, **place: str) -> str:
    properties = ",".join(
        f"{name}={_escaped(on_a_line(value), '%:,')}"
        for name, value in (place | {"title": title}).items()
    )
    lines = [_escaped(on_a_line(line), "%") if line.strip() else "" for line in message.split("\n")]
    return f"::{kind} {properties}::{'%0A'.join(lines)}"


def _escaped(line: str, special: str) -> str:
    return "".join(f"%{ord(c):02X}" if c in special else c for c in line)
