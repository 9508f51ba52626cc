"""The summary at the end of a run: the table of tests x targets, reasons, the self-test's table."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence

from pytest_torchexport.results import details
from pytest_torchexport.results.entries import entries, without_variant
from pytest_torchexport.results.not_covered import not_covered_lines
from pytest_torchexport.results.verdict import ItemResult, Verdict

# The worst first: what a cell of the table shows if several items share it.
OUTCOMES = ("failed", "running", "xpassed", "xfailed", "skipped", "unchecked", "passed")

MARKS = {
    "passed": ("ok", {"green": True}),
    "failed": ("FAILED", {"red": True}),
    "skipped": ("skip", {"yellow": True}),
    "xfailed": ("xfail", {"yellow": True}),
    "unchecked": ("unchecked", {"yellow": True}),
    "xpassed": ("XPASS", {"red": True}),
    "caught": ("caught", {"green": True}),
    "missed": ("MISSED", {"red": True}),
}

NAME_TARGETS = (
    "name the targets you ship (marker or torchexport_targets): then a refusal is a failure"
)

Style = Callable[..., str]


def plain(line: str, **markup: bool) -> str:
    """Return the text without colors."""
    return line


def summary_lines(
    results: Sequence[ItemResult],
    style: Style = plain,
    *,
    runtime_imports: Sequence[str] = (),
    toml: bool = False,
    cached: bool = False,
) -> Iterator[str]:
    """Yield the summary of a run. ``style`` colors a text, like ``TerminalWriter.markup``.

    ``runtime_imports``: the setting of that name. ``toml``: settings stand in a TOML file.
    ``cached``: the run had a cache of verdicts.
    """
    rows, columns = table(results)
    if rows:
        yield from _table_lines(rows, columns, style)
    yield from reason_lines(results)
    yield from _self_test_lines(results, style)
    if any(verdict.skip == "refused" for result in results for verdict in result.verdicts):
        yield NAME_TARGETS
    yield from unchanged_lines(results, cached=cached)
    yield from _import_lines(results, runtime_imports, toml=toml)
    yield from not_covered_lines(results)


def detail_lines(results: Sequence[ItemResult]) -> Iterator[str]:
    """Yield the details of every verdict, for ``-v``."""
    for result in results:
        for verdict in result.verdicts:
            yield f"{result.nodeid} {verdict.name}: {verdict.status}"
            yield from details.detail_lines(verdict)


def table(
    results: Sequence[ItemResult], *, unjudged: bool = False
) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Return the outcome per test and column (``trace-cpu``), and the columns, as they came.

    ``unjudged``: also of items without a verdict.
    """
    rows: dict[str, dict[str, str]] = {}
    columns: dict[str, None] = {}
    for entry in entries(results):
        if entry.column and (unjudged or entry.verdict is not None):
            columns[entry.column] = None
            row = rows.setdefault(without_variant(entry.item.nodeid, entry.column), {})
            worst = row.get(entry.column, entry.shown)
            row[entry.column] = min(worst, entry.shown, key=severity)
    return rows, list(columns)


def severity(outcome: str) -> int:
    """Return 0 for the worst outcome."""
    return OUTCOMES.index(outcome) if outcome in OUTCOMES else len(OUTCOMES)


def _table_lines(
    rows: Mapping[str, Mapping[str, str]], columns: Sequence[str], style: Style
) -> Iterator[str]:
    width = max([len(test) for test in rows] + [4])
    widths = [max(len(column), 6) for column in columns]
    heads = "  ".join(f"{column:<{size}}" for column, size in zip(columns, widths, strict=True))
    yield f"{'':<{width}}  {heads}".rstrip()
    for test, outcomes in rows.items():
        cells = [
            _cell(outcomes.get(column, ""), size, style)
            for column, size in zip(columns, widths, strict=True)
        ]
        yield f"{test:<{width}}  {'  '.join(cells)}".rstrip()


def _cell(outcome: str, size: int, style: Style) -> str:
    mark, markup = MARKS.get(outcome, (outcome, {}))
    # Padded before it is colored: escape codes have no width on the screen.
    return style(f"{mark:<{size}}", **markup) if mark else " " * size


def _self_test_lines(results: Sequence[ItemResult], style: Style) -> Iterator[str]:
    """Yield a table of items x seeded bugs, and a line per bug that was missed."""
    rows: dict[str, dict[str, str]] = {}
    missed, caught = [], 0
    for result in results:
        bugs = [(verdict, bug) for verdict in result.verdicts for bug in verdict.self_test]
        for verdict, bug in bugs:
            row = rows.setdefault(result.nodeid, {})
            caught += bug.result == "caught"
            if bug.result == "missed":
                place = f"{result.nodeid}{_which([verdict])}"
                missed.append(f"missed: {place}: {bug.name}: {bug.explanation}")
            if bug.result != "does not apply" and row.get(bug.kind) != "missed":
                row[bug.kind] = bug.result
    if not rows:
        return
    columns = list(dict.fromkeys(kind for row in rows.values() for kind in row))
    yield f"self-test: {caught} of {caught + len(missed)} seeded bugs would be caught"
    yield from _table_lines(rows, columns, style)
    yield from missed


SEED = "the next run takes those of tests that seed torch: random weights are others each time"


def unchanged_lines(results: Sequence[ItemResult], *, cached: bool) -> Iterator[str]:
    """Yield how many verdicts a cache gave, and the day of the oldest; nothing without one.

    If it gave none, yield why.
    """
    passes = [
        verdict for result in results for verdict in result.verdicts if verdict.status == "passed"
    ]
    days = [verdict.unchanged_since for verdict in passes if verdict.unchanged_since]
    if days:
        oldest = f"the oldest of {min(days)}"
        yield f"unchanged: {len(days)} of {len(passes)} passes, {oldest} (torchexport_cache)"
    elif cached and passes:
        why = "; ".join(_changed(passes))
        yield f"unchanged: 0 of {len(passes)} passes (torchexport_cache); {why}"


def _changed(passes: Sequence[Verdict]) -> Iterator[str]:
    """Yield why no verdict was taken from the cache, with the numbers of them."""
    reasons = [verdict.not_kept for verdict in passes if verdict.not_kept]
    if len(reasons) < len(passes):
        yield f"{len(passes) - len(reasons)} new or changed since, {SEED}"
    if reasons:
        more = " (more reasons with -v)" if len(set(reasons)) > 1 else ""
        yield f"{len(reasons)} never kept: {reasons[0]}{more}"


def _import_lines(
    results: Sequence[ItemResult], given: Sequence[str], *, toml: bool
) -> Iterator[str]:
    """Yield the setting for all modules that files of several items need; else nothing.

    The report of a single item names its own.
    """
    needed = {
        result.nodeid: {name for verdict in result.verdicts for name in verdict.imports}
        for result in results
        if result.outcome == "failed"
    }
    lacking = [names for names in needed.values() if names.difference(given)]
    if len(lacking) > 1:
        names = [*given, *sorted(set().union(*lacking).difference(given))]
        setting = json.dumps(names) if toml else " ".join(names)
        yield (
            f"imports: the files of {len(lacking)} items need modules; if the process that serves "
            f"them imports these too, set torchexport_runtime_imports = {setting}"
        )


def reason_lines(results: Sequence[ItemResult]) -> Iterator[str]:
    """Yield a line per reason of a skip or a weak pass, with the number of items that share it."""
    found: dict[tuple[str, str], dict[str, list[Verdict]]] = {}
    for result in results:
        for verdict in result.verdicts:
            for line in _reasons(verdict):
                found.setdefault(line, {}).setdefault(result.nodeid, []).append(verdict)
    for (label, reason), verdicts in found.items():
        nodeid, first = next(iter(verdicts.items()))
        more = f" (and {len(verdicts) - 1} more)" if len(verdicts) > 1 else ""
        yield f"{label}: {nodeid}{_which(first)}{more}: {reason}"


def _which(verdicts: Sequence[Verdict]) -> str:
    """Return `` Net (2nd of 3)`` if the verdicts of an item are about this recorded module only."""
    names = {verdict.name for verdict in verdicts if verdict.name != verdict.subject}
    return f" {names.pop()}" if len(names) == 1 else ""


def _reasons(verdict: Verdict) -> Iterator[tuple[str, str]]:
    """Yield what the table alone does not show: why a skip, and why a pass means little."""
    if verdict.status == "skipped":
        yield "skip", verdict.reason
    if verdict.status == "passed":
        yield from (("warn", line) for line in (*verdict.cautions, *verdict.ineffective))
