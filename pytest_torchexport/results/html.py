"""Render the verdicts of a run as one HTML file that loads nothing from elsewhere.

A matrix of tests and targets, and an article per item, made of the blocks of ``text.py``, so that
all reports say the same. The file can be read without its script, which only filters. A policy
inside it forbids every load and all other code.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from typing import TYPE_CHECKING

from pytest_torchexport.results import summary
from pytest_torchexport.results.changes import (
    Cause,
    causes,
    changes_of,
    counted,
    known_blocks,
)
from pytest_torchexport.results.escaped import visible
from pytest_torchexport.results.text import Block, details, headline, reports
from pytest_torchexport.results.verdict import ItemResult, RunResults, entries

if TYPE_CHECKING:
    import jinja2

# Details that the report of a failure has already.
IN_THE_REPORT = {"subject", "baked", "assumed", "note", "warned"}
# Items that a cause is linked with; the others are in the matrix.
MAX_LINKS = 12
# Most of a page is ASCII: only the other characters are looked at one by one.
UNUSUAL = re.compile(r"[^\n\t -~]")


@dataclass(frozen=True, kw_only=True)
class Article:
    """One item: its outcome, and headlines with the blocks that its verdicts have below them."""

    number: int
    nodeid: str
    outcome: str
    reason: str
    sections: Sequence[tuple[str, Sequence[Block]]]


def render(results: RunResults) -> str:
    """Return the HTML text of a run's results."""
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
    counts = Counter(article.outcome for article in articles.values())
    page = _template().render(
        columns=columns,
        files=files,
        rows=rows,
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
        script_hash=_hash(script),
        style_hash=_hash(style),
    )
    # Controls, and what reorders text, are shown by their names.
    return UNUSUAL.sub(lambda found: escape(visible(found[0])), page)


@functools.cache
def _template() -> jinja2.Template:
    import jinja2

    # Autoescaping: all that the results hold is text, and never code.
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(_text_of("report.html"))


def _text_of(name: str) -> str:
    return (resources.files(__package__) / "templates" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return the hash of an inline script or style, as a content security policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _article(number: int, item: ItemResult) -> Article:
    own = [*entries([item])]
    reasons = [
        Cause((entry,)).title if entry.fails else item.reason or "nothing was checked"
        for entry in own
        if entry.verdict is None or (entry.fails and entry.failure is None)
    ]
    return Article(
        number=number,
        nodeid=item.nodeid,
        outcome=min((entry.shown for entry in own), key=summary.severity),
        reason=next(iter(reasons), ""),
        sections=[*_sections(item)],
    )


def _sections(item: ItemResult) -> Iterator[tuple[str, Sequence[Block]]]:
    """Yield what is known of the failures, then the failures, those that fail alike as one."""
    if known := [*known_blocks(item.known)]:
        yield "", known
    failed = [verdict for verdict in item.verdicts if verdict.status == "failed"]
    for first, blocks in reports(failed, item.nodeid):
        more = (each for each in details(first) if each.label not in IN_THE_REPORT)
        yield headline(first), [*blocks, *more]
    for verdict in item.verdicts:
        if verdict.status != "failed":
            why = [Block("reason", verdict.reason.splitlines())] if verdict.reason else []
            title = f"{verdict.name} on {verdict.target}-{verdict.device}: {verdict.status}"
            yield title, [*why, *details(verdict)]
