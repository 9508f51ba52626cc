"""The lines under the table that say what "ok" does not cover, over all verdicts of a run.

Few lines for however many items. Only passed verdicts count, and only what the user did not
declare: ``judge/coverage.py`` finds it per verdict.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from pytest_torchexport.results.verdict import ItemResult, Verdict

SHOWN = 3


def not_covered_lines(results: Sequence[ItemResult]) -> Iterator[str]:
    """Yield a line each for sizes, ranges, values, and tests that called nothing."""
    passed = {
        result.nodeid: found
        for result in results
        if (found := [verdict for verdict in result.verdicts if verdict.status == "passed"])
    }
    for line in (_sizes(passed), _ranges(passed), _tied(passed), _values(passed), _tests(results)):
        if line:
            yield f"not covered: {line}"


_Passed = dict[str, list[Verdict]]


def _sizes(passed: _Passed) -> str:
    varied = {
        nodeid: _varied(verdict)
        for nodeid, verdicts in passed.items()
        for verdict in verdicts
        if verdict.uncovered.fixed_sizes
    }
    none = [nodeid for nodeid, names in varied.items() if not names]
    groups = Counter(names for names in varied.values() if names).most_common(2)
    parts = [
        f"only {' and '.join(names)} varied in {_of(count, len(passed))}" for names, count in groups
    ]
    if parts:
        parts[-1] += ": say which others do with shapes="
    if none:
        where = f"{_of(len(none), len(passed))} ({_named(none)})"
        parts.append(f"no size varied in {where}: say which do with shapes=")
    return "; ".join(parts)


def _ranges(passed: _Passed) -> str:
    run: dict[tuple[str, int, int], set[str]] = {}
    for nodeid, verdicts in passed.items():
        for verdict in verdicts:
            for name in verdict.uncovered.open_dims:
                if sizes := verdict.reached.get(name):
                    run.setdefault((name, min(sizes), max(sizes)), set()).add(nodeid)
    if not run:
        return ""
    most = max(run, key=lambda sizes: len(run[sizes]))
    name, low, high = most
    others = set().union(*run.values()) - run[most]
    more = f", {len(others)} more with other sizes" if others else ""
    count = _items(len(run[most]))
    where = f"in {count}{more}"
    return f"{name} was run at {low}..{high}, the file takes any size {where}: say which with dims="


def _tied(passed: _Passed) -> str:
    tied = {
        path: nodeid
        for nodeid, verdicts in passed.items()
        for verdict in verdicts
        for path in verdict.uncovered.tied
    }
    if not tied:
        return ""
    names = ", ".join(tied)
    count = _of(len({*tied.values()}), len(passed))
    return (
        f"{names} had the batch of the other inputs in {count}, eager takes another one: "
        "say if it has its own with shapes="
    )


def _values(passed: _Passed) -> str:
    count = sum(
        any(verdict.uncovered.same_scale for verdict in verdicts) for verdicts in passed.values()
    )
    if not count:
        return ""
    items = _of(count, len(passed))
    return f"no float left the example's scale in {items}: say which are legal with values="


def _tests(results: Sequence[ItemResult]) -> str:
    idle = [item.nodeid for item in results if not item.verdicts and item.outcome == "passed"]
    return f"{_items(len(idle))} checked nothing ({_named(idle)})" if idle else ""


def _varied(verdict: Verdict) -> tuple[str, ...]:
    return tuple(name for name, sizes in verdict.reached.items() if len(sizes) > 1)


def _of(count: int, total: int) -> str:
    return f"{count} of {_items(total)}"


def _items(count: int) -> str:
    return f"{count} item{'' if count == 1 else 's'}"


def _named(nodeids: Iterable[str]) -> str:
    """Return the names of the first tests, without their parameters."""
    names = list(dict.fromkeys(item.partition("[")[0].rpartition("::")[2] for item in nodeids))
    more = ", ..." if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"
