"""Merge the reports of several runs into one: of shards, or of items that were run again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pytest_torchexport.results.entries import GREEN
from pytest_torchexport.results.verdict import ItemResult, RunResults

SHOWN = 3


class CannotMerge(ValueError):
    """Reports contradict each other. Its text says which, and what to do."""


@dataclass(frozen=True)
class Report:
    """The results of one file."""

    name: str
    results: RunResults


def merged(reports: Sequence[Report]) -> tuple[RunResults, list[str]]:
    """Return the results of all reports, and sentences on what is not as it should be.

    Of an item in several reports, the last result counts, but not one that says less: a skip of the
    whole test, or an item that did not end. Raises CannotMerge if such reports come from different
    environments: then neither is a newer result of the other.
    """
    found: dict[str, tuple[Report, ItemResult]] = {}
    twice: dict[str, None] = {}
    for report in reports:
        for item in report.results.items:
            if item.nodeid in found:
                twice[item.nodeid] = None
                _check_same_environment(found[item.nodeid][0], report, item.nodeid)
            if item.nodeid not in found or _counts(item, found[item.nodeid][1]):
                found[item.nodeid] = (report, item)
    results = RunResults(
        items=tuple(item for _, item in found.values()),
        environment=_environment(reports),
        complete=all(report.results.complete for report in reports),
    )
    return results, [*_notes(reports, list(twice))]


def _counts(item: ItemResult, other: ItemResult) -> bool:
    """Return True if an item replaces another one that came before it.

    A skip without a verdict says nothing of the item; a failure without one does.
    """
    if "running" in (item.outcome, other.outcome):
        return other.outcome == "running"
    return bool(item.verdicts) or not other.verdicts or item.outcome not in GREEN


def _check_same_environment(first: Report, second: Report, nodeid: str) -> None:
    differ = _different(first.results.environment, second.results.environment)
    if differ and first is not second:
        raise CannotMerge(
            f"{nodeid} is in {first.name} and in {second.name}, which were run with different "
            f"versions ({', '.join(differ)}): render them apart"
        )


def _different(first: Mapping[str, str], second: Mapping[str, str]) -> list[str]:
    names = dict.fromkeys([*first, *second])
    return [
        f"{name} {first.get(name, 'absent')} and {second.get(name, 'absent')}"
        for name in names
        if first.get(name) != second.get(name)
    ]


def _environment(reports: Sequence[Report]) -> dict[str, str]:
    """Return the versions of all reports; those that differ beside each other."""
    versions: dict[str, dict[str, None]] = {}
    for report in reports:
        for name, version in report.results.environment.items():
            versions.setdefault(name, {})[version] = None
    return {name: ", ".join(found) for name, found in versions.items()}


def _notes(reports: Sequence[Report], twice: Sequence[str]) -> Iterator[str]:
    if twice:
        names = ", ".join([*twice[:SHOWN], *(["..."] if len(twice) > SHOWN else [])])
        what = "1 item is" if len(twice) == 1 else f"{len(twice)} items are"
        yield f"{what} in several reports, the last result counts: {names}"
    for report in reports:
        if not report.results.complete:
            yield f"{report.name}: the run did not come to its end"
    first = reports[0]
    for report in reports[1:]:
        differ = _different(first.results.environment, report.results.environment)
        if differ:
            yield f"{first.name} and {report.name} have different versions: {', '.join(differ)}"
