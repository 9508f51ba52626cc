"""The report in Markdown, for GitHub's and GitLab's step summaries and comments.

What changed comes first, then tests x targets, then the failures by cause. A text that is too long
is not shown at all there, so each section is cut at its end, never within, and says what is left
out.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pytest_torchexport.results.causes import Cause, causes
from pytest_torchexport.results.delta import Change, Delta, delta
from pytest_torchexport.results.entries import Entry, entries
from pytest_torchexport.results.escaped import code, code_block, html_code
from pytest_torchexport.results.known_failures import known_lines
from pytest_torchexport.results.not_covered import not_covered_lines
from pytest_torchexport.results.summary import MARKS, reason_lines, severity, table
from pytest_torchexport.results.verdict import RunResults, Verdict, bytes_text

# The words of the first line, in their order; any other outcome is named at its end.
COUNTED = ("failed", "running", "xpassed", "xfailed", "skipped", "passed")
# Of a cause, as many items are named.
SHOWN_ITEMS = 5
# Room for the line that says what was left out.
MORE = 100


@dataclass(frozen=True)
class Size:
    """The most that a report may be: bytes of UTF-8, and blocks of each section."""

    bytes: int
    blocks: int


# GitHub takes 1 MiB of step summary, and nothing of one that is longer.
SUMMARY = Size(bytes=1024 * 1024 - 1024, blocks=2000)
# A comment has at most 65,536 characters, and is to be read without scrolling.
COMMENT = Size(bytes=65_000, blocks=10)


@dataclass(frozen=True)
class _Section:
    """A part of the report: a head, and blocks of which the last ones may be left out.

    ``count`` is the number of blocks, which are made when they are asked for. ``noun``: their name.
    ``tail``: the lines that end the section, also one that is cut.
    """

    head: str
    blocks: Iterable[str]
    count: int
    noun: str
    tail: str = ""


def render(results: RunResults) -> str:
    """Return the report for a step summary."""
    return _render(results, SUMMARY)


def render_comment(results: RunResults) -> str:
    """Return the report for a comment."""
    return _render(results, COMMENT)


def _render(results: RunResults, most: Size) -> str:
    found = list(entries(results.items))
    changed = delta(results.before, results) if results.before is not None else None
    head = "\n\n".join(_head(results, changed))
    sections = [
        _changes(changed),
        _matrix(results),
        _causes(found),
        _measured(found),
        _reasons(results),
        _environment(results),
    ]
    left = most.bytes - _size(head)
    parts = [head]
    for section in filter(lambda section: section.count, sections):
        # The last sections are short. Those before leave them their room.
        part = _fitted(section, left // 2, most.blocks)
        left -= _size(part)
        parts.append(part)
    return "\n\n".join(parts) + "\n"


def _fitted(section: _Section, room: int, blocks: int) -> str:
    """Return the section with as many blocks as there is room for."""
    left = room - _size(section.head) - _size(section.tail) - MORE
    kept: list[str] = []
    for block in section.blocks:
        left -= _size(block) + 1
        if left < 0 or len(kept) == blocks:
            break
        kept.append(block)
    more = section.count - len(kept)
    cut = [f"\n+ {more} more {section.noun}{'' if more == 1 else 's'}"] if more else []
    return "\n".join([section.head, *kept, *cut, section.tail]).strip("\n")


def _size(text: str) -> int:
    return len(text.encode("utf-8", "backslashreplace"))


# -- the sections ----------------------------------------------------------------------------------


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


def _changes(changed: Delta | None) -> _Section:
    changes = changed.changes if changed is not None else ()
    return _Section(
        head="### What changed\n",
        blocks=map(_change, changes),
        count=len(changes),
        noun="change",
    )


def _change(change: Change) -> str:
    details = [f": {code('; '.join(change.details))}"] if any(change.details) else []
    return "".join([f"- {change.kind}: {code(str(change.entry))}", *details])


def _matrix(results: RunResults) -> _Section:
    rows, columns = table(results.items, unjudged=True)
    # The worst first; sorted is stable.
    tests = sorted(rows, key=lambda test: min(map(severity, rows[test].values())))
    heads = "".join(f" {code(column)} |" for column in columns)
    return _Section(
        head=f"| test |{heads}\n| --- |{' --- |' * len(columns)}",
        blocks=(_row(test, [rows[test].get(column, "") for column in columns]) for test in tests),
        count=len(tests),
        noun="test",
    )


def _row(test: str, outcomes: Sequence[str]) -> str:
    cells = "".join(f" {_cell(outcome)} |" for outcome in outcomes)
    return f"| {code(test)} |{cells}"


@functools.cache
def _cell(outcome: str) -> str:
    mark, markup = MARKS.get(outcome, (code(outcome), {}))
    return f"**{mark}**" if "red" in markup else mark


def _causes(found: Sequence[Entry]) -> _Section:
    grouped = causes(found)
    failed = sum(len(cause.entries) for cause in grouped)
    of = "" if failed == len(grouped) else f", {len(grouped)} cause{'s' * (len(grouped) > 1)}"
    return _Section(
        head=f"### {failed} failure{'' if failed == 1 else 's'}{of}\n",
        blocks=map(_cause, grouped),
        count=len(grouped),
        noun="cause",
    )


def _cause(cause: Cause) -> str:
    names = list(dict.fromkeys(map(str, cause.entries)))
    more = len(names) - SHOWN_ITEMS
    items = [f"- {code(name)}" for name in names[:SHOWN_ITEMS]]
    items += [f"- + {more} more item{'' if more == 1 else 's'}"] if more > 0 else []
    text = ["", code_block(cause.text)] if cause.text else []
    return "\n".join(
        [
            f"<details><summary>{html_code(cause.title)}</summary>",
            "",
            *items,
            *text,
            "",
            "</details>",
            "",
        ]
    )


def _measured(found: Sequence[Entry]) -> _Section:
    """Return the sizes and latencies of the artifacts, the largest ratio to the weights first."""
    measured = [
        (entry, entry.verdict)
        for entry in found
        if entry.verdict is not None and (entry.verdict.size or entry.verdict.latency)
    ]
    measured.sort(key=lambda pair: -((pair[1].size and pair[1].size.ratio) or 0.0))
    return _Section(
        head=(
            "<details><summary>Sizes and latencies of the artifacts</summary>\n\n"
            "| item | files | weights | times the weights | latency, times eager |\n"
            "| --- | ---: | ---: | ---: | --- |"
        ),
        blocks=(_measured_row(entry, verdict) for entry, verdict in measured),
        count=len(measured),
        noun="item",
        tail="\n</details>",
    )


def _measured_row(entry: Entry, verdict: Verdict) -> str:
    size, cells = verdict.size, ["", "", ""]
    if size is not None:
        ratio = "" if size.ratio is None else f"{size.ratio:.3g}"
        cells = [bytes_text(size.files), bytes_text(size.weights), ratio]
    slowest = max(verdict.latency, key=lambda latency: latency.ratio, default=None)
    latency = "" if slowest is None else code(str(slowest))
    return f"| {' | '.join([code(str(entry)), *cells, latency])} |"


def _reasons(results: RunResults) -> _Section:
    lines = [
        *known_lines(results.items),
        *reason_lines(results.items),
        *not_covered_lines(results.items),
    ]
    return _Section(
        head="### What the table does not say\n",
        blocks=(f"- {code(line)}" for line in lines),
        count=len(lines),
        noun="line",
    )


def _environment(results: RunResults) -> _Section:
    versions = [f"{name} {version}" for name, version in results.environment.items()]
    return _Section(
        head="",
        blocks=[f"Run with {code(', '.join(versions))}"],
        count=min(1, len(versions)),
        noun="line",
    )
