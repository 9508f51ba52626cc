"""Render the verdicts of a run as one HTML file that loads nothing from elsewhere.

What a failure says comes from ``text.py`` and ``details.py``, so that all reports say the same.
Here it becomes what the templates show: a matrix of tests and targets, and an article per item.
The file can be read without its script. A policy inside it forbids every load and all other code.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from pytest_torchexport.results import summary
from pytest_torchexport.results.details import details
from pytest_torchexport.results.diagnosis import Stage
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

# The worst first: what a cell shows, and the order of the filters.
OUTCOMES = {
    "failed": "FAILED",
    "error": "ERROR",
    "xpassed": "XPASS",
    "running": "not ended",
    "xfailed": "xfail",
    "skipped": "skip",
    "warned": "ok, warned",
    "passed": "ok",
}
# Details that are shown as pictures and tables, or that the report of a failure has already.
DRAWN = {"branches", "time"}
IN_THE_REPORT = {*DRAWN, "subject", "baked", "assumed", "note", "warned"}
# Items that a cause is linked with; the others are in the matrix.
MAX_LINKS = 12
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


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
class Entry:
    """One item in one column of the matrix; a ``unittest`` method has one in each column."""

    number: int
    nodeid: str
    column: str
    outcome: str
    reason: str
    stories: Sequence[Story]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One test: its name, and for each column its items."""

    name: str
    cells: Sequence[Sequence[Entry]]


@dataclass(frozen=True, kw_only=True)
class Column:
    """A target on a device; both are empty for items that ended before they had any."""

    target: str
    device: str

    @property
    def name(self) -> str:
        """``trace-cpu``."""
        return f"{self.target}-{self.device}" if self.target else "no target"


@dataclass(frozen=True, kw_only=True)
class Cause:
    """One headline, and the items that fail with it."""

    headline: str
    entries: Sequence[Entry]
    left: int


def render(results: RunResults) -> str:
    """Return the HTML text of a run's results."""
    import jinja2

    script, style = _text_of("report.js"), _text_of("report.css")
    # Autoescaping: all that the results hold is text, and never code.
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    columns = _columns(results.items)
    rows = _rows(results.items, columns)
    entries = [entry for row in rows for cell in row.cells for entry in cell]
    page = environment.from_string(_text_of("report.html")).render(
        columns=columns,
        files=_by_file(rows),
        entries=entries,
        causes=_causes(entries),
        outcomes=_counted(entries),
        marks=OUTCOMES,
        times=_times,
        no_check_failed=NO_CHECK_FAILED,
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
    # A control character is shown by its picture, ESC of a printed color as ␛; half of a surrogate
    # pair, as in the name of a file, by its escape.
    legal = page.encode("utf-8", "backslashreplace").decode("utf-8")
    return CONTROL.sub(lambda found: chr(0x2400 + min(ord(found[0]), 0x21)), legal)


def _times(factor: float) -> str:
    """Return ``1.3``, ``1,400,000``: a factor in two digits, without an exponent if it is large."""
    return f"{float(f'{factor:.2g}'):,.0f}" if factor >= 10 else f"{factor:.2g}"


def _text_of(name: str) -> str:
    return (resources.files(__package__) / "templates" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return the hash of an inline script or style, as a content security policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


# -- the matrix ------------------------------------------------------------------------------------


def _columns(items: Iterable[ItemResult]) -> list[Column]:
    """Return the columns as they came; that of items without a target is the last."""
    found = dict.fromkeys(column for item in items for column in _columns_of(item))
    return sorted(found, key=lambda column: not column.target)


def _columns_of(item: ItemResult) -> Mapping[Column, list[Verdict]]:
    """Return the verdicts of an item by column; an item without any has its own column."""
    found: dict[Column, list[Verdict]] = {}
    for verdict in item.verdicts:
        column = Column(target=verdict.target, device=verdict.device)
        found.setdefault(column, []).append(verdict)
    return found or {Column(target=item.target, device=item.device): []}


def _rows(items: Iterable[ItemResult], columns: Sequence[Column]) -> list[Row]:
    found: dict[str, dict[Column, list[Entry]]] = {}
    number = 0
    for item in items:
        of_item = _columns_of(item)
        for column, verdicts in of_item.items():
            number += 1
            entry = Entry(
                number=number,
                nodeid=item.nodeid,
                column=column.name,
                outcome=_outcome(item, verdicts, alone=len(of_item) == 1),
                reason=item.reason,
                stories=[*_stories(verdicts, item.nodeid)],
            )
            test = summary.without_variant(item.nodeid, column.name)
            found.setdefault(test, {}).setdefault(column, []).append(entry)
    return [
        Row(name=test, cells=[cells.get(column, []) for column in columns])
        for test, cells in found.items()
    ]


def _outcome(item: ItemResult, verdicts: Sequence[Verdict], *, alone: bool) -> str:
    """Return the item's outcome; of one column of several, the worst of its verdicts."""
    order = list(OUTCOMES)
    said = item.outcome if alone else min((v.status for v in verdicts), key=order.index)
    if said == "passed" and any(v.cautions or v.ineffective for v in verdicts):
        return "warned"
    return said if said in OUTCOMES else "error"


def _by_file(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Return the rows by file, each with the part of its name that follows the file."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        file, _, test = row.name.partition("::")
        found.setdefault(file, []).append(Row(name=test or file, cells=row.cells))
    return found


def _counted(entries: Iterable[Entry]) -> dict[str, int]:
    """Return the number of entries per outcome, the worst first, of those that occur."""
    found = [entry.outcome for entry in entries]
    return {name: count for name in OUTCOMES if (count := found.count(name))}


def _causes(entries: Iterable[Entry]) -> list[Cause]:
    """Return the headlines of what failed, that of most items first."""
    found: dict[str, dict[int, Entry]] = {}
    for entry in entries:
        if entry.outcome in ("failed", "error"):
            headlines = [story.headline for story in entry.stories if story.failed]
            for headline in headlines or [entry.reason or NO_CHECK_FAILED]:
                found.setdefault(headline, {})[entry.number] = entry
    ranked = sorted(found.items(), key=lambda pair: -len(pair[1]))
    return [
        Cause(
            headline=headline,
            entries=list(alike.values())[:MAX_LINKS],
            left=max(0, len(alike) - MAX_LINKS),
        )
        for headline, alike in ranked
    ]


NO_CHECK_FAILED = "the test itself failed, outside of its checks: see what pytest printed"


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
