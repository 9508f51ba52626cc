"""Render the verdicts of a run as one HTML file that loads nothing from elsewhere.

What a failure says comes from ``text.py`` and ``details.py``, so that all reports say the same.
Here it becomes what the templates show: a matrix of tests and targets, and an article per item.
The file can be read without its script. A policy inside it forbids every load and all other code.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from typing import TYPE_CHECKING

from pytest_torchexport.results import summary
from pytest_torchexport.results.causes import causes
from pytest_torchexport.results.delta import Delta, delta
from pytest_torchexport.results.details import details
from pytest_torchexport.results.diagnosis import Stage
from pytest_torchexport.results.entries import Entry, entries, without_variant
from pytest_torchexport.results.escaped import visible
from pytest_torchexport.results.known_failures import fixed_blocks, known_blocks
from pytest_torchexport.results.not_covered import not_covered_lines
from pytest_torchexport.results.pictures import (
    ErrorScale,
    SizeMap,
    TimeBar,
    error_scale,
    size_map,
    time_bars,
)
from pytest_torchexport.results.text import HAS_BRANCH, Block, condition, reports
from pytest_torchexport.results.verdict import (
    Branch,
    ItemResult,
    RunResults,
    SeededBug,
    Verdict,
)

if TYPE_CHECKING:
    import jinja2

# The marks of the summary, the worst outcome first, and those of outcomes that only a page has.
MARKS = {
    "failed": "FAILED",
    "running": "not ended",
    "xpassed": "XPASS",
    "xfailed": "xfail",
    "skipped": "skip",
    "unchecked": "unchecked",
    "warned": "ok, warned",
    "passed": "ok",
}
# Details that are shown as pictures and tables, or that the report of a failure has already.
DRAWN = {"branches", "time"}
IN_THE_REPORT = {*DRAWN, "subject", "baked", "assumed", "note", "warned"}
# Items that a cause is linked with; the others are in the matrix.
MAX_LINKS = 12
# Most of a page is ASCII: only the other characters are looked at one by one.
UNUSUAL = re.compile(r"[^\n\t -~]")


@dataclass(frozen=True, kw_only=True)
class Story:
    """The part of an article about one verdict, or about several that fail alike.

    ``blocks``: the report of a failure, or the details of another verdict; ``more``: what a failure
    has beside its report.
    """

    headline: str
    failed: bool
    blocks: Sequence[Block]
    more: Sequence[Block]
    errors: Sequence[ErrorScale]
    sizes: Sequence[SizeMap]
    stages: Sequence[Stage]
    branches: Sequence[BranchRow]
    coverage: float | None
    times: Sequence[TimeBar]
    seconds: float
    self_test: Sequence[SeededBug]


@dataclass(frozen=True, kw_only=True)
class BranchRow:
    """A condition as a row: its source, the outcomes, and if the artifact has it."""

    source: str
    outcomes: Sequence[tuple[str, int, str]]
    artifact: str


@dataclass(frozen=True, kw_only=True)
class Column:
    """A target on a device; both are empty for an item that ended before it had any."""

    target: str
    device: str

    @property
    def name(self) -> str:
        """``trace-cpu``."""
        return f"{self.target}-{self.device}" if self.target else "no target"


@dataclass(frozen=True, kw_only=True)
class Article:
    """One item in one column of the matrix; a ``unittest`` method has one in each column.

    ``reason``: pytest's, if the item has no verdict or failed beside its verdicts. ``known``: what
    is known of its failures.
    """

    number: int
    nodeid: str
    column: Column
    entries: Sequence[Entry]
    outcome: str
    reason: str
    known: Sequence[Block]
    stories: Sequence[Story]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One test: its name, and for each column its items."""

    name: str
    cells: Sequence[Sequence[Article]]


@dataclass(frozen=True, kw_only=True)
class Linked:
    """A cause of failures, or a change, with the first of the articles that it is about."""

    title: str
    articles: Sequence[Article]
    left: int


def render(results: RunResults) -> str:
    """Return the HTML text of a run's results."""
    script, style = _text_of("report.js"), _text_of("report.css")
    articles = [*_articles(results.items)]
    changed = delta(results.before, results) if results.before is not None else None
    # The column of items that ended before they had a target is the last.
    columns = sorted(dict.fromkeys(each.column for each in articles), key=lambda c: not c.target)
    page = _template().render(
        columns=columns,
        files=_by_file(articles, columns),
        articles=articles,
        causes=[*_causes(articles)],
        changed=changed,
        changes=[*_changes(articles, changed)],
        outcomes=_counted(articles),
        marks=MARKS,
        times=_times,
        targets=list(dict.fromkeys(column.target for column in columns if column.target)),
        devices=list(dict.fromkeys(column.device for column in columns if column.device)),
        complete=results.complete,
        environment=results.environment,
        remarks=[*summary.reason_lines(results.items), *not_covered_lines(results.items)],
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


def _times(factor: float) -> str:
    """Return ``1.3``, ``1,400,000``: a factor in two digits, without an exponent if it is large."""
    return f"{float(f'{factor:.2g}'):,.0f}" if factor >= 10 else f"{factor:.2g}"


def _text_of(name: str) -> str:
    return (resources.files(__package__) / "templates" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return the hash of an inline script or style, as a content security policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


# -- the matrix ------------------------------------------------------------------------------------


def _articles(items: Iterable[ItemResult]) -> Iterator[Article]:
    numbers = itertools.count(1)
    for item in items:
        columns: dict[Column, list[Entry]] = {}
        for entry in entries([item]):
            at = entry.verdict or item
            columns.setdefault(Column(target=at.target, device=at.device), []).append(entry)
        for column, found in columns.items():
            verdicts = [entry.verdict for entry in found if entry.verdict is not None]
            yield Article(
                number=next(numbers),
                nodeid=item.nodeid,
                column=column,
                entries=found,
                outcome=_outcome(found),
                reason=next(filter(None, map(_reason, found)), ""),
                known=[*_known(item, column)],
                stories=[*_stories(verdicts, item.nodeid)],
            )


def _outcome(found: Sequence[Entry]) -> str:
    """Return the worst outcome; ``warned`` for a pass of which the summary has a warning."""
    outcome = min((entry.shown for entry in found), key=summary.severity)
    verdicts = [entry.verdict for entry in found if entry.verdict is not None]
    if outcome == "passed" and any(each.cautions or each.ineffective for each in verdicts):
        return "warned"
    return outcome if outcome in MARKS else "failed"


def _reason(entry: Entry) -> str:
    """Return why an entry is no pass, if no verdict says so."""
    if entry.fails and (entry.verdict is None or entry.verdict.failure is None):
        return causes([entry])[0].title
    return "" if entry.verdict is not None else entry.item.reason or "nothing was checked"


def _known(item: ItemResult, column: Column) -> Iterator[Block]:
    """Yield the comparison of the failures in a column with those that are known."""
    matches = [
        match
        for match in item.known
        if (match.now.target, match.now.device) == (column.target, column.device)
    ]
    fixed = [match for match in matches if match.status == "fixed"]
    if fixed and len(fixed) == len(matches):
        yield from fixed_blocks(fixed, [item.nodeid])
        return
    yield from known_blocks(matches)


def _by_file(articles: Iterable[Article], columns: Sequence[Column]) -> dict[str, list[Row]]:
    """Return the rows of the matrix by file, each named by what follows the file in its node id."""
    tests: dict[str, dict[Column, list[Article]]] = {}
    for article in articles:
        test = without_variant(article.nodeid, article.column.name)
        tests.setdefault(test, {}).setdefault(article.column, []).append(article)
    files: dict[str, list[Row]] = {}
    for test, found in tests.items():
        file, _, name = test.partition("::")
        cells = [found.get(column, []) for column in columns]
        files.setdefault(file, []).append(Row(name=name or file, cells=cells))
    return files


def _counted(articles: Iterable[Article]) -> dict[str, int]:
    """Return the number of articles per outcome, the worst first, of those that occur."""
    counts = Counter(article.outcome for article in articles)
    return {name: counts[name] for name in MARKS if name in counts}


def _causes(articles: Sequence[Article]) -> Iterator[Linked]:
    """Yield the causes of the failures, each with its articles."""
    of = _by_entry(articles)
    for cause in causes(entry for article in articles for entry in article.entries):
        found = {of[entry.key[:2]].number: of[entry.key[:2]] for entry in cause.entries}
        shown = [*found.values()][:MAX_LINKS]
        yield Linked(title=cause.title, articles=shown, left=len(found) - len(shown))


def _changes(articles: Sequence[Article], changed: Delta | None) -> Iterator[Linked]:
    """Yield what changed since an earlier run, with the articles of what is in this run."""
    of = _by_entry(articles)
    for change in changed.changes if changed is not None else ():
        article = of.get(change.entry.key[:2])
        found = [article] if article is not None else []
        title = ": ".join(filter(None, (change.kind, "; ".join(change.details))))
        yield Linked(title=title if found else str(change), articles=found, left=0)


def _by_entry(articles: Iterable[Article]) -> dict[tuple[str, ...], Article]:
    return {entry.key[:2]: article for article in articles for entry in article.entries}


# -- the article of an item ------------------------------------------------------------------------


def _stories(verdicts: Sequence[Verdict], nodeid: str) -> Iterator[Story]:
    """Yield the failures first, those that fail alike as one."""
    failed = [verdict for verdict in verdicts if verdict.status == "failed"]
    for report in reports(failed, nodeid):
        verdict = report.verdicts[0]
        more = _blocks(verdict, without=IN_THE_REPORT)
        yield _story(verdict, report.headline, report.blocks, more)
    for verdict in verdicts:
        if verdict.status != "failed":
            reason = [Block("reason", verdict.reason.splitlines())] if verdict.reason else []
            headline = f"{verdict.name}: {verdict.status}"
            yield _story(verdict, headline, [*reason, *_blocks(verdict, without=DRAWN)], [])


def _blocks(verdict: Verdict, without: Iterable[str]) -> list[Block]:
    """Return the details of a verdict as blocks, without the labels that are shown elsewhere."""
    found = []
    for label, lines in details(verdict):
        filled = [line for line in lines if line.strip()]
        if filled and label not in without:
            found.append(Block(label, filled))
    return found


def _story(
    verdict: Verdict, headline: str, blocks: Sequence[Block], more: Sequence[Block]
) -> Story:
    failed = verdict.status == "failed"
    scales = map(error_scale, verdict.differences if failed else verdict.explained)
    return Story(
        headline=headline,
        failed=failed,
        blocks=blocks,
        more=more,
        errors=[scale for scale in scales if scale is not None],
        sizes=[size_map(sizes) for sizes in verdict.diagnosis.sizes],
        stages=verdict.diagnosis.stages,
        branches=[_branch_row(branch) for branch in verdict.branches if branch.steered],
        coverage=verdict.branch_coverage,
        times=time_bars(verdict.seconds),
        seconds=sum(verdict.seconds.values()),
        self_test=verdict.self_test,
    )


def _branch_row(branch: Branch) -> BranchRow:
    return BranchRow(
        source=condition(branch),
        outcomes=[
            (outcome, branch.counts.get(outcome, 0), status)
            for outcome, status in branch.status.items()
        ],
        artifact=HAS_BRANCH[branch.in_artifact],
    )
