"""The summary of a run: tests x targets, why some are skipped or weak, and what "ok" leaves out.

Few lines for however many items: a line that several items share names the first of them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pytest_torchexport.results import text
from pytest_torchexport.results.entries import entries, without_variant
from pytest_torchexport.results.verdict import ItemResult, Verdict

# The worst first: a cell of the table shows it if several items share it.
OUTCOMES = ("failed", "running", "xpassed", "xfailed", "skipped", "unchecked", "passed")

MARKS = {
    "passed": ("ok", {"green": True}),
    "failed": ("FAILED", {"red": True}),
    "running": ("not ended", {"red": True}),
    "skipped": ("skip", {"yellow": True}),
    "xfailed": ("xfail", {"yellow": True}),
    "unchecked": ("unchecked", {"yellow": True}),
    "xpassed": ("XPASS", {"red": True}),
}

NAME_TARGETS = (
    "name the targets you ship (marker or torchexport_targets): then a refusal is a failure"
)
SEED = "the next run takes those of tests that seed torch: random weights are others each time"
# Of the items of a line that names them all, so many are named.
SHOWN = 3

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
        yield from table_lines(rows, columns, style)
    yield from reason_lines(results)
    yield from _self_test_lines(results)
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
            yield from text.detail_lines(verdict)


# -- tests x targets -------------------------------------------------------------------------------


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


def table_lines(
    rows: Mapping[str, Mapping[str, str]], columns: Sequence[str], style: Style = plain
) -> Iterator[str]:
    width = max([len(test) for test in rows] + [4])
    widths = [
        max(6, len(column), *(len(_mark(row.get(column, ""))[0]) for row in rows.values()))
        for column in columns
    ]
    heads = "  ".join(f"{column:<{size}}" for column, size in zip(columns, widths, strict=True))
    yield f"{'':<{width}}  {heads}".rstrip()
    for test, outcomes in rows.items():
        cells = [
            _cell(outcomes.get(column, ""), size, style)
            for column, size in zip(columns, widths, strict=True)
        ]
        yield f"{test:<{width}}  {'  '.join(cells)}".rstrip()


def _cell(outcome: str, size: int, style: Style) -> str:
    mark, markup = _mark(outcome)
    # Padded before it is colored: escape codes have no width on the screen.
    return style(f"{mark:<{size}}", **markup) if mark else " " * size


def _mark(outcome: str) -> tuple[str, dict[str, bool]]:
    return MARKS.get(outcome, (outcome, {}))


def _self_test_lines(results: Sequence[ItemResult]) -> Iterator[str]:
    """Yield how many seeded bugs the calls catch, and a line per bug that they miss."""
    bugs = [
        (f"{result.nodeid}{_which([verdict])}", bug)
        for result in results
        for verdict in result.verdicts
        for bug in verdict.self_test
        if bug.result != "does not apply"
    ]
    if bugs:
        caught = sum(bug.result == "caught" for _, bug in bugs)
        yield f"self-test: {caught} of {len(bugs)} seeded bugs would be caught"
    for place, bug in bugs:
        if bug.result == "missed":
            yield f"missed: {place}: {bug.name}: {bug.explanation}"


# -- lines -----------------------------------------------------------------------------------------


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
    shared: dict[tuple[str, str], dict[str, list[Verdict]]] = {}
    for result in results:
        for verdict in result.verdicts:
            for line in _reasons(verdict):
                shared.setdefault(line, {}).setdefault(result.nodeid, []).append(verdict)
    for (label, reason), verdicts in shared.items():
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


# -- what "ok" does not cover ----------------------------------------------------------------------


def not_covered_lines(results: Sequence[ItemResult]) -> Iterator[str]:
    """Yield a line each for sizes, ranges, inputs, values, and tests that called nothing.

    Only passed verdicts count, and only what the user did not declare: ``judge/coverage.py`` finds
    it per verdict.
    """
    passed = [
        (result.nodeid, verdict)
        for result in results
        for verdict in result.verdicts
        if verdict.status == "passed"
    ]
    total = len({nodeid for nodeid, _ in passed})
    for line in (_sizes(passed), _ranges(passed), _tied(passed)):
        if line:
            yield f"not covered: {line}"
    scaled = {nodeid for nodeid, verdict in passed if verdict.uncovered.same_scale}
    if scaled:
        yield (
            f"not covered: no float left the example's scale in {_of(scaled, total)}: say which "
            "are legal with values="
        )
    idle = [item.nodeid for item in results if not item.verdicts and item.outcome == "passed"]
    if idle:
        yield f"not covered: {_items(len(idle))} checked nothing ({_named(idle)})"


_Passed = Sequence[tuple[str, Verdict]]


def _sizes(passed: _Passed) -> str:
    """Return which dims alone varied, for the two commonest sets of them, and where none did."""
    fixed = {
        nodeid: tuple(name for name, sizes in verdict.reached.items() if len(sizes) > 1)
        for nodeid, verdict in passed
        if verdict.uncovered.fixed_sizes
    }
    total = len({nodeid for nodeid, _ in passed})
    groups = Counter(names for names in fixed.values() if names).most_common(2)
    parts = [
        f"only {' and '.join(names)} varied in {count} of {_items(total)}"
        for names, count in groups
    ]
    if parts:
        parts[-1] += ": say which others do with shapes="
    none = [nodeid for nodeid, names in fixed.items() if not names]
    if none:
        where = f"{_of(none, total)} ({_named(none)})"
        parts.append(f"no size varied in {where}: say which do with shapes=")
    return "; ".join(parts)


def _ranges(passed: _Passed) -> str:
    """Return the assumed range that most items were run in, of a dim that takes any size."""
    run: dict[tuple[str, int, int], set[str]] = {}
    for nodeid, verdict in passed:
        for name in verdict.uncovered.open_dims:
            if sizes := verdict.reached.get(name):
                run.setdefault((name, min(sizes), max(sizes)), set()).add(nodeid)
    if not run:
        return ""
    (name, low, high), most = max(run.items(), key=lambda pair: len(pair[1]))
    others = set().union(*run.values()) - most
    more = f", {len(others)} more with other sizes" if others else ""
    where = f"in {_items(len(most))}{more}"
    return f"{name} was run at {low}..{high}, the file takes any size {where}: say which with dims="


def _tied(passed: _Passed) -> str:
    tied = {path: nodeid for nodeid, verdict in passed for path in verdict.uncovered.tied}
    if not tied:
        return ""
    count = _of(set(tied.values()), len({nodeid for nodeid, _ in passed}))
    return (
        f"{', '.join(tied)} had the batch of the other inputs in {count}, eager takes another one: "
        "say if it has its own with shapes="
    )


def _of(those: Sequence[str] | set[str], total: int) -> str:
    return f"{len(those)} of {_items(total)}"


def _items(count: int) -> str:
    return f"{count} item{'' if count == 1 else 's'}"


def _named(nodeids: Iterable[str]) -> str:
    """Return the names of the first tests, without their parameters."""
    names = list(dict.fromkeys(item.partition("[")[0].rpartition("::")[2] for item in nodeids))
    more = ", ..." if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"


# -- a survey: which module classes of a suite pass on which targets -------------------------------

# Of the reason of one cell, so many characters.
MAX_REASON = 200
LATE = "not judged in its time (100 s for a class, 1800 s for all)"


@dataclass(frozen=True, kw_only=True)
class Surveyed:
    """A module class that a suite calls, the items that call it, and the verdicts on one instance.

    ``checked_in``: the item that made this instance. ``late``: the targets for which the time was
    not enough. ``problem``: why the class was not checked at all; empty if it was.
    """

    name: str
    items: tuple[str, ...]
    checked_in: str = ""
    verdicts: tuple[Verdict, ...] = ()
    late: tuple[str, ...] = ()
    problem: str = ""

    def cell(self, target: str) -> str:
        """Return ``ok``, ``skip``, ``time``, the name of a failure, or nothing."""
        outcome = self.on(target)[0]
        return {"passed": "ok", "skipped": "skip"}.get(outcome, outcome)

    def on(self, target: str) -> tuple[str, str]:
        """Return the outcome on a target, and why it is no pass."""
        if target in self.late:
            return "time", LATE
        for verdict in self.verdicts:
            if verdict.target == target:
                if verdict.status == "failed":
                    return verdict.failure or "failed", text.headline(verdict)
                return verdict.status, f"skip: {verdict.reason}" if verdict.reason else ""
        return "", ""


def survey_lines(
    classes: Sequence[Surveyed], targets: Sequence[str], *, ended: str = ""
) -> Iterator[str]:
    """Yield the table, the reasons, and the markers. ``ended``: why it ended early, or nothing."""
    if ended:
        yield f"ended early: {ended}"
    if not classes:
        yield "no test called a module"
        return
    checked = sum(bool(each.verdicts or each.late) for each in classes)
    yield f"{len(classes)} module class{'es' * (len(classes) > 1)}, {checked} checked"
    rows = {each.name: {target: each.cell(target) for target in targets} for each in classes}
    yield from table_lines(rows, targets)
    yield from _survey_reasons(classes, targets)
    yield from _markers(classes, targets)


def _survey_reasons(classes: Sequence[Surveyed], targets: Sequence[str]) -> Iterator[str]:
    """Yield what keeps the others, once for all classes and targets of which it is the same."""
    names: dict[tuple[str, ...], list[str]] = {}
    for each in classes:
        on_targets: dict[str, list[str]] = {each.problem: []} if each.problem else {}
        for target in targets:
            if reason := " ".join(each.on(target)[1].split())[:MAX_REASON]:
                on_targets.setdefault(reason, []).append(target)
        for reason, those in on_targets.items():
            names.setdefault((reason, *those), []).append(each.name)
    for (reason, *those), alike in names.items():
        more = f" and {len(alike) - SHOWN} more" if len(alike) > SHOWN else ""
        on = f" on {', '.join(those)}" if those else ""
        yield f"{', '.join(alike[:SHOWN])}{more}{on}: {reason}"


def _markers(classes: Sequence[Surveyed], targets: Sequence[str]) -> Iterator[str]:
    """Yield markers to try: for each class the first test whose modules have a target in common.

    A marker is for all parametrizations of a test, so it says how many of them have an instance
    that was checked.
    """
    of_test: dict[str, dict[str, Surveyed]] = {}
    for each in classes:
        for item in each.items:
            of_test.setdefault(_test_of(item), {})[each.name] = each
    covered: set[str] = set()
    lines = []
    for each in classes:
        for test in dict.fromkeys(map(_test_of, each.items)):
            together = of_test[test]
            common = [
                target
                for target in targets
                if all(one.on(target)[0] == "passed" for one in together.values())
            ]
            if each.name in covered or not common:
                continue
            covered.update(together)
            items = {i for one in together.values() for i in one.items if _test_of(i) == test}
            checked = items & {one.checked_in for one in together.values()}
            of = f" (items checked: {len(checked)} of {len(items)})" if checked != items else ""
            names = ", ".join(f'"{name}"' for name in common)
            lines.append(f"  {test}: @pytest.mark.torchexport({names}){of}")
    if lines:
        yield "markers to try, a test for each class, of which one instance was checked:"
    yield from lines


def _test_of(item: str) -> str:
    return item.partition("[")[0]
