"""The summary of a run: tests x targets, why some are skipped or weak, and what "ok" leaves out.

Few lines for however many items: a line that several items share names the first of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from pytest_torchexport.results.changes import known_lines, shared_lines
from pytest_torchexport.results.escaped import few
from pytest_torchexport.results.text import details, labelled
from pytest_torchexport.results.verdict import Entry, ItemResult, Uncovered, Verdict, entries

# The outcomes and how a table shows them, the worst first: of several items in a cell, it counts.
MARKS = {
    "failed": ("FAILED", {"red": True}),
    "running": ("not ended", {"red": True}),
    "xpassed": ("XPASS", {"red": True}),
    "xfailed": ("xfail", {"yellow": True}),
    "skipped": ("skip", {"yellow": True}),
    "unchecked": ("unchecked", {"yellow": True}),
    "warned": ("ok (warn)", {"yellow": True}),
    "passed": ("ok", {"green": True}),
}

Style = Callable[..., str]


def plain(line: str, **markup: bool) -> str:
    return line


def summary_lines(
    results: Sequence[ItemResult], style: Style = plain, *, whole: bool = False
) -> Iterator[str]:
    """Yield the summary of a run, with ``whole`` all lines of what was not covered.

    ``style`` colors a text, like ``TerminalWriter.markup``.
    """
    rows, columns = table(results)
    if rows:
        shown = {t: {column: e.shown for column, e in row.items()} for t, row in rows.items()}
        yield from table_lines(shown, columns, style)
    yield from reason_lines(results)
    yield from self_test_lines(results)
    left = list(not_covered_lines(results))
    if len(left) > 1 and not whole:
        passed = _passed(results)
        some = {nodeid for nodeid, verdict in passed if verdict.uncovered != Uncovered()}
        of = _items({nodeid for nodeid, _ in passed})
        what = [f"sizes or values in {len(some)} of {of}", _constants(passed)]
        left = [f"not covered: {', and '.join(filter(None, what))}: which ones, with -v"]
    yield from left


def self_test_lines(results: Iterable[ItemResult]) -> Iterator[str]:
    """Yield how many seeded bugs would be caught, and those that would not; nothing without any."""
    bugs = [
        (entry, bug)
        for entry, verdict in judged(results)
        for bug in verdict.self_test
        if bug.result != "does not apply"
    ]
    if bugs:
        caught = sum(bug.result == "caught" for _, bug in bugs)
        yield f"self-test: {caught} of {len(bugs)} seeded bugs would be caught"
    for entry, bug in bugs:
        if bug.result == "missed":
            yield f"missed: {entry}: {bug.name}: {bug.explanation}"


def detail_lines(results: Iterable[ItemResult]) -> Iterator[str]:
    for entry, verdict in judged(results):
        yield f"{entry.item.nodeid} {verdict.name}: {verdict.status}"
        yield from labelled(details(verdict))


def judged(results: Iterable[ItemResult]) -> Iterator[tuple[Entry, Verdict]]:
    return ((each, each.verdict) for each in entries(results) if each.verdict is not None)


# -- tests x targets -------------------------------------------------------------------------------


def table(
    results: Iterable[ItemResult], *, unjudged: bool = False
) -> tuple[dict[str, dict[str, Entry]], list[str]]:
    """Return the worst entry per test and column (``trace-cpu``), and the columns, as they came.

    ``unjudged``: also of items without a verdict that do not fail.
    """
    rows: dict[str, dict[str, Entry]] = {}
    columns: dict[str, None] = {}
    for entry in entries(results):
        if entry.column and (unjudged or entry.verdict is not None or entry.fails):
            columns[entry.column] = None
            row = rows.setdefault(entry.test, {})
            worst = row.get(entry.column, entry)
            row[entry.column] = min(worst, entry, key=lambda each: severity(each.shown))
    return rows, list(columns)


def severity(outcome: str) -> int:
    """Return 0 for the worst outcome."""
    return [*MARKS, outcome].index(outcome)


def table_lines(
    rows: Mapping[str, Mapping[str, str]], columns: Sequence[str], style: Style = plain
) -> Iterator[str]:
    """Yield the lines of a table whose cells are outcomes, or other words."""
    lines: dict[str, list[tuple[str, dict[str, bool]]]] = {"": [(name, {}) for name in columns]}
    for test, row in rows.items():
        words = (row.get(column, "") for column in columns)
        lines[test] = [MARKS.get(word, (word, {})) for word in words]
    width = max(4, *map(len, lines))
    cells_of = zip(*lines.values(), strict=True)
    widths = [max(6, *(len(text) for text, _ in cells)) for cells in cells_of]
    for test, cells in lines.items():
        # Padded before it is colored: escape codes have no width on the screen.
        shown = [
            style(f"{text:<{size}}", **markup) if text else " " * size
            for (text, markup), size in zip(cells, widths, strict=True)
        ]
        yield f"{test:<{width}}  {'  '.join(shown)}".rstrip()


# -- lines -----------------------------------------------------------------------------------------


def remarks(results: Sequence[ItemResult]) -> Iterator[str]:
    """Yield the lines below a table: reasons of expected failures, skips, what was not covered."""
    yield from known_lines(results)
    yield from reason_lines(results)
    yield from not_covered_lines(results)


def reason_lines(results: Sequence[ItemResult], *, skips: bool = True) -> Iterator[str]:
    """Yield a line for each reason of a skip or weak pass, and one for tests that call nothing."""
    yield from shared_lines(
        (label, str(entry), reason)
        for entry, verdict in judged(results)
        for label, reasons in (
            ("skip", [verdict.reason] if skips and verdict.status == "skipped" else []),
            ("warn", [*verdict.cautions, *verdict.ineffective] * (verdict.status == "passed")),
        )
        for reason in reasons
    )
    idle = [item.nodeid for item in results if not item.verdicts and item.outcome == "passed"]
    if idle:
        yield f"warn: {_items(idle)} checked nothing ({_named(idle)})"


# -- what "ok" does not cover ----------------------------------------------------------------------


def not_covered_lines(results: Sequence[ItemResult]) -> Iterator[str]:  # noqa: C901 - a case per line
    """Yield a line each for sizes, ranges, inputs and values.

    Only passed verdicts count, and only what the user did not declare: ``judge/coverage.py`` finds
    it per verdict.
    """
    passed = _passed(results)
    of = f"of {_items({nodeid for nodeid, _ in passed})}"
    # Which dims alone varied, for the two commonest sets of them, and where none did.
    varied: dict[tuple[str, ...], dict[str, None]] = {}
    for nodeid, verdict in passed:
        if verdict.uncovered.fixed_sizes:
            names = tuple(name for name, sizes in verdict.reached.items() if len(sizes) > 1)
            varied.setdefault(names, {})[nodeid] = None
    none = varied.pop((), {})
    groups = sorted(varied.items(), key=lambda group: -len(group[1]))[:2]
    parts = [f"only {' and '.join(names)} varied in {len(ids)} {of}" for names, ids in groups]
    if parts:
        parts[-1] += ": say which others do with shapes="
    if none:
        where = f"{len(none)} {of} ({_named(none)})"
        parts.append(f"no size varied in {where}: say which do with shapes=")
    if parts:
        yield f"not covered: {'; '.join(parts)}"
    if text := _constants(passed):
        yield f"not covered: {text}"
    # The assumed range that most items were run in, of a dim that takes any size.
    run: dict[tuple[str, int, int], set[str]] = {}
    for nodeid, verdict in passed:
        for name in verdict.uncovered.open_dims:
            if sizes := verdict.reached.get(name):
                run.setdefault((name, min(sizes), max(sizes)), set()).add(nodeid)
    if run:
        (name, low, high), most = max(run.items(), key=lambda pair: len(pair[1]))
        others = set().union(*run.values()) - most
        more = f", {len(others)} more with other sizes" if others else ""
        yield (
            f"not covered: {name} was run at {low}..{high}, the file takes any size in "
            f"{_items(most)}{more}: say which with dims="
        )
    if tied := {path: nodeid for nodeid, verdict in passed for path in verdict.uncovered.tied}:
        yield (
            f"not covered: {', '.join(tied)} had the batch of the other inputs in "
            f"{len(set(tied.values()))} {of}, eager takes another one: say if it has its own with "
            "shapes="
        )
    if scaled := {nodeid for nodeid, verdict in passed if verdict.uncovered.same_scale}:
        yield (
            f"not covered: no float left the example's scale in {len(scaled)} {of}: say which are "
            "legal with values="
        )


def _constants(passed: Iterable[tuple[str, Verdict]]) -> str:
    lines = [line.place for _, verdict in passed for line in verdict.uncovered.constants]
    return f"a trace has constants at {few([*dict.fromkeys(lines)])}" if lines else ""


def _passed(results: Iterable[ItemResult]) -> list[tuple[str, Verdict]]:
    return [(entry.item.nodeid, v) for entry, v in judged(results) if v.status == "passed"]


def _items(nodeids: Collection[str]) -> str:
    return f"{len(nodeids)} item{'' if len(nodeids) == 1 else 's'}"


def _named(nodeids: Iterable[str]) -> str:
    return few(list(dict.fromkeys(i.partition("[")[0].rpartition("::")[2] for i in nodeids)))
