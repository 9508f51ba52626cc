"""What a person reads: the text of a failure, the details of a pass, the table at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pytest_torchexport.results.failures import by_name
from pytest_torchexport.results.verdict import Branch, Difference, Sizes, Verdict

WIDTH = 100
LABEL = 9
MAX_DIFFERENCES = 5
MAX_LINES = 10

Style = Callable[..., str]


def plain(text: str, **markup: bool) -> str:
    """No colors: for files, JUnit and pipes."""
    return text


def failure_text(verdict: Verdict, test: str = "", nodeid: str = "") -> str:
    """The report of one failed verdict. ``test`` is its name as pytest shows it."""
    return "\n".join(_failure_lines(verdict, test, nodeid))


def _failure_lines(verdict: Verdict, test: str, nodeid: str) -> Iterator[str]:
    name = verdict.failure or "Failure"
    head = test or f"{verdict.subject}[{verdict.target}-{verdict.device}]"
    if test and f"[{verdict.target}-" not in test:
        head = f"{test}[{verdict.target}-{verdict.device}]"  # a unittest method: one item for all targets
    if test and verdict.subject not in test:
        head = f"{head} {verdict.subject}"
    title = f"{head}: {by_name(name).title}"
    yield f"{title}{f'[{name}]':>{max(WIDTH - len(title), len(name) + 4)}}"
    yield ""
    if verdict.reason:
        yield from _block("reason", verdict.reason.splitlines())
    for difference in verdict.differences[:MAX_DIFFERENCES]:
        yield from _difference_lines(difference, verdict.target)
    if len(verdict.differences) > MAX_DIFFERENCES:
        yield f"  ... and {len(verdict.differences) - MAX_DIFFERENCES} more differences"
    yield from _block("", verdict.details)
    yield from _block("printed", verdict.output.splitlines()[-MAX_LINES:])
    if verdict.call:
        yield _labelled("call", f"{verdict.call}{_tally(verdict)}")
    for sizes in verdict.sizes:
        yield from _size_lines(sizes)
    if verdict.where:
        yield _labelled("where", str(verdict.where))
    wrong = [branch for branch in verdict.branches if "diverges" in branch.status.values()]
    yield from _block("branch", map(_branch_line, wrong))
    yield from _block("baked", [", ".join(verdict.baked)] if verdict.baked else [])
    yield from _block("assumed", map(str, verdict.assumed))
    yield from _block("note", verdict.notes)
    yield from _block("warned", verdict.warnings[:3])
    if verdict.kept:
        yield _labelled("kept", verdict.kept)
    if nodeid and verdict.seed is not None:
        yield _labelled("rerun", f'pytest "{nodeid}" --hypothesis-seed={verdict.seed}')


HAS_BRANCH = {
    True: "the artifact has a branch there",
    False: "the artifact has no branch there",
    None: "the artifact does not tell whether it has a branch there",
}


def _branch_line(branch: Branch) -> str:
    counts = ", ".join(f"{outcome} {count}x" for outcome, count in branch.counts.items())
    return f"{_condition(branch)}    eager took {counts} in the search; {HAS_BRANCH[branch.in_artifact]}"


def _outcomes_line(branch: Branch) -> str:
    """``net.py:38  if x.sum() > 0:    True 61x verified, False unreached``."""
    said = (
        f"{outcome} {branch.counts[outcome]}x {status}"
        if outcome in branch.counts
        else f"{outcome} {status}"
        for outcome, status in branch.status.items()
    )
    return f"{_condition(branch)}    {', '.join(said)}"


def _condition(branch: Branch) -> str:
    """The line, with the part of it that is meant and the module where those are not the whole story."""
    whole = branch.statement.rstrip(":").partition(" ")[2] == branch.text
    part = "" if whole or branch.kind in ("for", "case", "except") else f"  [{branch.text}]"
    module = f"  in {branch.module}" if branch.module else ""
    return f"{branch.where}  {branch.statement}{part}{module}"


def _labelled(label: str, text: str) -> str:
    return f"  {label:<{LABEL}}{text}".rstrip()


def _block(label: str, lines: Iterable[str]) -> Iterator[str]:
    rows = [line for line in lines if line.strip()]
    for number, line in enumerate(rows[:MAX_LINES]):
        yield _labelled("" if number else label, line.strip())
    if len(rows) > MAX_LINES:
        yield _labelled("", f"... and {len(rows) - MAX_LINES} more lines")


def _tally(verdict: Verdict) -> str:
    run = sum(
        verdict.calls.get(key, 0) for key in ("example", "stored", "boundary", "explored", "drawn")
    )
    shrunk = "shrunk; " if verdict.shrunk else ""
    if not run:
        return ""  # found before the calls began
    return f"   {shrunk}{verdict.calls.get('failed', 0)} of {run} calls fail"


def _difference_lines(difference: Difference, target: str) -> Iterator[str]:
    if difference.kind == "raised":
        return
    if difference.total is None:
        what = f" ({difference.what})" if difference.what else ""
        yield f"  {difference.path}  eager {difference.expected}, {target} {difference.actual}{what}"
        return
    share = 100 * (difference.mismatched or 0) / max(difference.total, 1)
    yield (
        f"  {difference.path}  {difference.what}   "
        f"{difference.mismatched} of {difference.total} elements differ ({share:.1f}%)"
    )
    worst = "" if difference.max_abs is None else f"|{difference.max_abs:.4g}| "
    yield (
        f"    worst  {worst}at {list(difference.index or ())}: eager {difference.expected}, "
        f"{target} {difference.actual}   {_allowed(difference)}"
    )
    if difference.own_error is not None and difference.cause == "bug":
        times = difference.in_own_errors
        many = f", {times:.2g} times smaller" if times is not None else ""
        yield f"    eager's own rounding error here is {difference.own_error:.2g}{many}: this is not rounding"


def _allowed(difference: Difference) -> str:
    if not difference.rtol and not difference.atol:
        return "allowed: exactly equal"
    return f"allowed {difference.atol:g} + {difference.rtol:g}*|eager|"


def _size_lines(sizes: Sizes) -> Iterator[str]:
    if not sizes.failing or not sizes.ok:
        return
    ok = [f"{n} (the example's)" if n == sizes.example else str(n) for n in sizes.ok]
    failing = [f"{n} (the example's)" if n == sizes.example else str(n) for n in sizes.failing]
    yield _labelled("sizes", f"{sizes.dim}: ok at {', '.join(ok)}, fails at {', '.join(failing)}")


def detail_lines(verdict: Verdict) -> Iterator[str]:
    """What a verdict rests on, for ``-v``: calls, shapes reached, worst error, what was assumed."""
    counts = {key: value for key, value in verdict.calls.items() if value}
    calls = ", ".join(f"{value} {key}" for key, value in counts.items()) or "none"
    error = "" if verdict.max_error is None else f"; worst |difference| {verdict.max_error:.2g}"
    yield _labelled("calls", f"{calls}{error}")
    for name, sizes in verdict.reached.items():
        yield _labelled("sizes", f"{name}: {', '.join(map(str, sizes))}")
    if verdict.branch_coverage is not None:
        yield _labelled(
            "branches",
            f"{verdict.branch_coverage:.0f} % of the outcomes that inputs steer to were taken",
        )
        yield from (_labelled("", _outcomes_line(b)) for b in verdict.branches if b.steered)
    yield from _block("rounding", map(_explained_line, verdict.explained))
    yield from _block("baked", [", ".join(verdict.baked)] if verdict.baked else [])
    yield from _block("assumed", map(str, verdict.assumed))
    yield from _block("weak", verdict.ineffective)
    yield from _block("note", verdict.notes)
    yield from _block("warned", verdict.warnings)
    spent = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in verdict.seconds.items())
    yield _labelled("time", spent)


CAUSES = {
    "rounding": "within a small multiple of eager's own rounding error",
    "tie": "eager's own rounding decides these either way",
    "ambiguous": "eager's own rounding error is as large as the output: the call cannot tell",
}


def _explained_line(difference: Difference) -> str:
    """A difference beyond the dtype's tolerance that is no bug, with the numbers."""
    error = "" if difference.max_abs is None else f"|{difference.max_abs:.2g}|"
    times = difference.in_own_errors
    units = f" = {times:.2g} x eager's own" if times is not None else ""
    at = f" at {list(difference.index)}" if difference.index is not None else ""
    why = CAUSES.get(difference.cause, difference.cause)
    return f"{difference.path}: worst {error}{units}{at}: {difference.cause}, {why}"


MARKS = {
    "passed": ("ok", {"green": True}),
    "failed": ("FAILED", {"red": True}),
    "skipped": ("skip", {"yellow": True}),
    "xfailed": ("xfail", {"yellow": True}),
    "xpassed": ("XPASS", {"red": True}),
    "caught": ("caught", {"green": True}),
    "missed": ("MISSED", {"red": True}),
}


def summary_lines(
    rows: Mapping[str, Mapping[str, str]], columns: Sequence[str], style: Style = plain
) -> Iterator[str]:
    """The table at the end: tests x targets. ``rows`` maps a test to its outcome per column."""
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
    text, markup = MARKS.get(outcome, (outcome, {}))
    # Padded before it is colored: escape codes have no width on the screen.
    return style(f"{text:<{size}}", **markup) if text else " " * size


def self_test_lines(records: Sequence[Mapping[str, Any]], style: Style = plain) -> Iterator[str]:
    """What became of the bugs seeded into artifacts: a table of items x bugs, and each one that was missed."""
    rows: dict[str, dict[str, str]] = {}
    missed, caught = [], 0
    for record in records:
        for data in record["verdicts"]:
            row = rows.setdefault(record["nodeid"], {}) if data["self_test"] else {}
            for name, came in data["self_test"].items():
                bug, outcome = name.partition(" of ")[0], came.partition(":")[0]
                caught += outcome == "caught"
                if outcome == "missed":
                    missed.append(f"missed: {record['nodeid']}: {name}: {came.partition(': ')[2]}")
                if outcome != "does not apply" and row.get(bug) != "missed":
                    row[bug] = outcome
    if not rows:
        return
    columns = list(dict.fromkeys(bug for row in rows.values() for bug in row))
    yield f"self-test: {caught} of {caught + len(missed)} seeded bugs would be caught"
    yield from summary_lines(rows, columns, style)
    yield from missed


def reason_lines(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Why items were skipped or failed, one line per reason, with how many items share it."""
    counts: dict[tuple[str, str], list[str]] = {}
    for record in records:
        for data in record["verdicts"]:
            for kind, reason in _reasons(data):
                counts.setdefault((kind, reason), []).append(record["nodeid"])
    for (kind, reason), nodeids in counts.items():
        more = f" (and {len(nodeids) - 1} more)" if len(nodeids) > 1 else ""
        yield f"{kind}: {nodeids[0]}{more}: {reason}"


def _reasons(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What a reader must know who looks at the table alone: a skip, and an ok that means little."""
    if data["status"] == "skipped":
        yield "skip", data["reason"]
    if data["status"] == "passed":
        yield from (("warn", item["text"]) for item in data["assumed"] if item["kind"] == "no dim")
        yield from (("warn", line) for line in data.get("ineffective", ()))
