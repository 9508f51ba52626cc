"""The report for pages of GitHub and GitLab: Markdown for summaries and comments, and annotations.

What changed comes first, then tests x targets, then the failures by cause. A text that is too long
is not shown at all there, so each section is cut at its end, never within, and says what is left
out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pytest_torchexport.results.changes import NEW, Cause, Change, causes, changes_of, counted
from pytest_torchexport.results.escaped import SHOWN, code, code_block, html_code, on_a_line
from pytest_torchexport.results.summary import MARKS, remarks, severity, table
from pytest_torchexport.results.verdict import RUN_FACTS, RunResults, entries

# Of a cause, as many items are named.
SHOWN_ITEMS = 5
# GitHub shows so many annotations per step, and drops the others.
MOST_ANNOTATIONS = 10

# A head, things of which the last ones may be left out, what makes the text of one, and its noun.
_Section = tuple[str, Sequence[Any], Callable[[Any], str], str]


def render(results: RunResults, room: int = 1024 * 1024 - 1024, most: int = 2000) -> str:
    """Return the report for a step summary, of which GitHub takes 1 MiB, or else nothing."""
    changes = changes_of(results)
    counts = Counter(item.outcome for item in results.items)
    text = ", ".join(f"{counts[name]} {name}" for name in MARKS if counts[name])
    head = [text or "no item was checked"]
    if results.before is not None:
        head = [counted(changes), f"{head[0]}."]
    head[0] = f"**torchexport: {head[0]}**"
    if not results.complete:
        head.append("The run did not come to its end: more items may be missing.")
    parts = ["\n\n".join(head)]
    room -= _size(parts[0])
    for above, things, shown, noun in _sections(results, changes):
        # The last sections are short. Those before leave them their room.
        left = room // 2 - _size(above) - 100  # for the line that says what was left out
        kept: list[str] = []
        for thing in things[:most]:
            lines = shown(thing)
            left -= _size(lines) + 1
            if left < 0:
                break
            kept.append(lines)
        more = len(things) - len(kept)
        cut = [f"\n+ {more} more {noun}{'' if more == 1 else 's'}"] if more else []
        parts.append("\n".join([above, *kept, *cut]).strip("\n") if things else "")
        room -= _size(parts[-1])
    packages = [each for each in results.environment.items() if each[0] not in RUN_FACTS]
    if packages:
        parts.append(f"Run with {code(', '.join(map(' '.join, packages)))}")
    return "\n\n".join(filter(None, parts)) + "\n"


def render_comment(results: RunResults) -> str:
    """Return the report for a comment: at most 65,536 characters, to be read without scrolling."""
    return render(results, room=65_000, most=10)


def _sections(results: RunResults, changes: Sequence[Change]) -> Iterator[_Section]:
    yield "### What changed\n", changes, _change, "change"
    rows, columns = table(results.items, unjudged=True)

    def row(test: str) -> str:
        cells = []
        for column in columns:
            outcome = rows[test][column].shown if column in rows[test] else ""
            mark, markup = MARKS.get(outcome, (code(outcome), {}))
            cells.append(f" **{mark}** |" if "red" in markup else f" {mark} |")
        return f"| {code(test)} |{''.join(cells)}"

    # The worst first; sorted is stable.
    tests = sorted(rows, key=lambda test: min(severity(each.shown) for each in rows[test].values()))
    heads = "".join(f" {code(column)} |" for column in columns)
    yield f"| test |{heads}\n| --- |{' --- |' * len(columns)}", tests, row, "test"
    grouped = causes(entries(results.items))
    failed = sum(len(cause.entries) for cause in grouped)
    of = "" if failed == len(grouped) else f", {len(grouped)} cause{'s' * (len(grouped) > 1)}"
    yield f"### {failed} failure{'' if failed == 1 else 's'}{of}\n", grouped, _cause, "cause"
    lines = list(remarks(results.items))
    yield "### What the table does not say\n", lines, lambda line: f"- {code(line)}", "line"


def _size(text: str) -> int:
    return len(text.encode("utf-8", "backslashreplace"))


def _change(change: Change) -> str:
    details = f": {code('; '.join(change.details))}" if any(change.details) else ""
    return f"- {change.kind}: {code(str(change.entry))}{details}"


def _cause(cause: Cause) -> str:
    more = len(cause.names) - SHOWN_ITEMS
    items = [f"- {code(name)}" for name in cause.names[:SHOWN_ITEMS]]
    items += [f"- + {more} more item{'' if more == 1 else 's'}"] if more > 0 else []
    text = ["", code_block(cause.text)] if cause.text else []
    head = f"<details><summary>{html_code(cause.title)}</summary>"
    return "\n".join([head, "", *items, *text, "", "</details>", ""])


# -- annotations on the user's lines, one per cause ------------------------------------------------


def render_annotations(results: RunResults) -> str:
    """Return the causes as workflow commands of GitHub, one per line; empty if all is green.

    To work, the text has to be printed by a step: ``--torchexport-report github:-``.
    """
    lines = []
    if not results.complete:
        lines.append(_command("warning", "torchexport", "The run did not come to its end."))
    new = {change.entry.key for change in changes_of(results) if change.kind == NEW}
    # New ones first, then those with a line, then those of most failures.
    ranked = sorted(
        causes(entries(results.items)),
        key=lambda each: (new.isdisjoint(e.key for e in each.entries), each.where is None),
    )
    shown = ranked if len(ranked) <= MOST_ANNOTATIONS else ranked[: MOST_ANNOTATIONS - 1]
    for cause in shown:
        more = len(cause.names) - SHOWN
        names = [*cause.names[:SHOWN], *([f"+ {more} more"] if more > 0 else [])]
        message = "\n".join([", ".join(names), *cause.text.splitlines()[1:]])
        place = {"file": cause.test_file} if cause.test_file else {}
        if cause.where is not None:
            place = {"file": cause.where.file, "line": str(cause.where.line)}
        lines.append(_command("error", cause.title, message, **place))
    if left := len(ranked) - len(shown):
        rest = f"+ {left} more causes, in the other reports"
        lines.append(_command("error", "torchexport", rest))
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
