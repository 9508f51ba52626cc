"""Render the verdicts of a run as one HTML file that loads nothing from elsewhere.

A matrix of tests and targets, and an article per item, made of the blocks of ``text.py``, so that
all reports say the same. The file can be read without its script, which only filters. A policy
inside it forbids every load and all other code.
"""

from __future__ import annotations

import base64
import hashlib
import linecache
import re
from collections import Counter
from collections.abc import Sequence
from html import escape
from importlib import resources
from typing import Any

from pytest_torchexport.results import summary
from pytest_torchexport.results.changes import Cause, causes, changes_of, counted, known_blocks
from pytest_torchexport.results.escaped import visible
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.results.text import Block, details, headline, reports
from pytest_torchexport.results.verdict import ItemResult, RunResults, entries

# Details that the report of a failure has already.
IN_THE_REPORT = {"subject", "baked", "assumed", "note", "warned"}
MAX_LINKS = 12  # items that a cause is linked with; the others are in the matrix
AROUND = 3  # lines of source before and after the one to blame
# Most of a page is ASCII: only the other characters are looked at one by one.
UNUSUAL = re.compile(r"[^\n\t -~]")


def render(results: RunResults) -> str:
    import jinja2

    script, style = _text_of("report.js"), _text_of("report.css")
    articles = {item.nodeid: _article(number, item) for number, item in enumerate(results.items, 1)}
    rows, columns = summary.table(results.items, unjudged=True)
    files: dict[str, dict[str, str]] = {}
    for test in rows:
        file, _, name = test.partition("::")
        files.setdefault(file, {})[name or file] = test
    # Titles with the first of the articles that they are about, and how many are left.
    linked_causes = []
    for cause in causes(entries(results.items)):
        nodeids = list(dict.fromkeys(entry.item.nodeid for entry in cause.entries))
        shown = [articles[nodeid] for nodeid in nodeids[:MAX_LINKS]]
        linked_causes.append((cause.title, shown, len(nodeids) - len(shown)))
    changes = changes_of(results)
    linked_changes = [
        (": ".join(filter(None, (change.kind, "; ".join(change.details)))), [article], 0)
        if (article := articles.get(change.entry.item.nodeid)) is not None
        else (str(change), [], 0)
        for change in changes
    ]
    counts = Counter(article["outcome"] for article in articles.values())
    # Autoescaping: all that the results hold is text, and never code.
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    page = environment.from_string(_text_of("report.html")).render(
        columns=columns,
        files=files,
        rows=rows,
        seconds={
            test: sum({(i := e.item.nodeid): articles[i]["seconds"] for e in row.values()}.values())
            for test, row in rows.items()
        },
        articles=articles,
        causes=linked_causes,
        changed=counted(changes) if results.before is not None else "",
        changes=linked_changes,
        outcomes={name: counts[name] for name in summary.MARKS if counts[name]},
        marks={outcome: mark for outcome, (mark, _) in summary.MARKS.items()},
        complete=results.complete,
        environment=results.environment,
        remarks=list(summary.remarks(results.items)),
        script=script,
        style=style,
        hash=_hash,
    )
    # Controls, and what reorders text, are shown by their names.
    return UNUSUAL.sub(lambda found: escape(visible(found[0])), page)


def _text_of(name: str) -> str:
    return (resources.files(__package__) / "templates" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return the hash of an inline script or style, as a content security policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _article(number: int, item: ItemResult) -> dict[str, Any]:
    """Return an item as the page shows it: headlines with the blocks of its verdicts below."""
    own = [*entries([item])]
    reasons = [
        Cause((entry,)).title if entry.fails else item.reason or "nothing was checked"
        for entry in own
        if entry.verdict is None or (entry.fails and entry.failure is None)
    ]
    # What is known of the failures, then the failures, those that fail alike as one.
    raised = [Block("traceback", item.traceback.splitlines())] if item.traceback else []
    known = [*known_blocks(item.known), *raised]
    sections: list[tuple[str, Sequence[Block]]] = [("", known)] if known else []
    failed = [verdict for verdict in item.verdicts if verdict.status == "failed"]
    for first, blocks in reports(failed, item.nodeid):
        more = (each for each in details(first) if each.label not in IN_THE_REPORT)
        source = [Block("source", frame)] if first.where and (frame := _frame(first.where)) else []
        shown = [each for b in blocks for each in (b, *(source if b.label == "where" else ()))]
        sections.append((headline(first), [*shown, *more]))
    for verdict in item.verdicts:
        if verdict.status != "failed":
            why = [Block("reason", verdict.reason.splitlines())] if verdict.reason else []
            title = f"{verdict.name} on {verdict.target}-{verdict.device}: {verdict.status}"
            sections.append((title, [*why, *details(verdict)]))
    return {
        "number": number,
        "nodeid": item.nodeid,
        "outcome": min((entry.shown for entry in own), key=summary.severity),
        "reason": next(iter(reasons), ""),
        "sections": sections,
        "seconds": sum(sum(verdict.seconds.values()) for verdict in item.verdicts),
    }


def _frame(where: SourceLine) -> list[str]:
    """Return the lines around a line; none if its file is not here, or has changed."""
    lines = enumerate(linecache.getlines(where.file), 1)
    shown = {n: line.rstrip() for n, line in lines if abs(n - where.line) <= AROUND}
    own = shown.get(where.line, "").strip()
    if not own or not where.text.startswith(own):
        return []
    return [f"{'>' if n == where.line else ' '} {n:4}  {line}" for n, line in shown.items()]
