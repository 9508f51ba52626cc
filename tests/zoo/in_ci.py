"""The rows that CI checks, with their targets, and the rules that this selection keeps.

Checking every row on every target takes an hour (`tox -e zoo`). CI checks a row on the targets that
its ``ci`` names. A slow row may name none if CI checks rows of its mechanism with the same verdict on
each target. ``test_zoo_table.py`` asserts that this leaves no gaps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from zoo.row import UNLOADABLE, Row

Mechanisms = Mapping[str, tuple[Row, ...]]

# How many items of each failure and target CI keeps at least, unless the zoo has fewer.
ENOUGH = 2
ABOUT_LOADING = (UNLOADABLE, "RoundTripDiffers")


def gaps(mechanisms: Mechanisms) -> list[str]:
    """Return a line for each verdict that is true of a row and that CI does not check enough."""
    return [*_of_mechanisms(mechanisms), *_of_failures(mechanisms)]


def round_trips(row: Row, target: str, about_files: Iterable[Row]) -> bool:
    """Return True if CI runs the round_trip check on this row."""
    true = {row.expect[target], row.truth()[target]}
    return row.round_trip or not true.isdisjoint(ABOUT_LOADING) or row in about_files


def round_trip_gaps(mechanisms: Mechanisms, about_files: Iterable[Row]) -> list[str]:
    """Return a line for each mechanism and target whose passes never round-trip in CI."""
    passes = {(name, target) for name, row, target in _items(mechanisms) if _passes(row, target)}
    checked = {
        (name, target)
        for name, row, target in _items(mechanisms)
        if target in row.ci and _passes(row, target) and round_trips(row, target, about_files)
    }
    return [f"{name} on {target}: no round trip" for name, target in sorted(passes - checked)]


def _of_mechanisms(mechanisms: Mechanisms) -> Iterator[str]:
    """Yield each verdict of a mechanism on a target that CI checks on none of its rows."""
    true = {(name, target, row.expect[target]) for name, row, target in _items(mechanisms)}
    checked = {
        (name, target, row.expect[target])
        for name, row, target in _items(mechanisms)
        if target in row.ci
    }
    for name, target, truth in true - checked:
        yield f"{name} on {target}: {truth or 'pass'}"


def _of_failures(mechanisms: Mechanisms) -> Iterator[str]:
    """Yield each verdict on a target that CI checks less than twice, though more rows have it."""
    true: Counter[tuple[str | None, str]] = Counter()
    checked: Counter[tuple[str | None, str]] = Counter()
    for _, row, target in _items(mechanisms):
        true[row.expect[target], target] += 1
        checked[row.expect[target], target] += target in row.ci
    for (truth, target), count in true.items():
        if checked[truth, target] < min(count, ENOUGH):
            yield f"{truth or 'pass'} on {target}: {checked[truth, target]} of {count}"


def _items(mechanisms: Mechanisms) -> Iterator[tuple[str, Row, str]]:
    for name, rows in mechanisms.items():
        yield from ((name, row, target) for row in rows for target in row.expect)


def _passes(row: Row, target: str) -> bool:
    return row.expect[target] is None
