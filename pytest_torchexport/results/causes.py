"""Group the failures of a run by their cause, for reports in which each cause is shown once.

One mistake in a layer fails each test, target and device that uses it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pytest_torchexport.results.entries import Entry
from pytest_torchexport.results.known_failures import fixed_headline, fixed_text
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.results.text import failure_text, headline
from pytest_torchexport.results.verdict import KnownMatch, Verdict


@dataclass(frozen=True)
class Cause:
    """Failures with the same cause, as far as it is known; one that is not known is its own."""

    entries: tuple[Entry, ...]

    @property
    def title(self) -> str:
        """``BranchFrozen: if x.sum() > 0 (net.py:38)``."""
        first = self.entries[0]
        if first.verdict is not None and first.verdict.failure is not None:
            return headline(first.verdict)
        if first.fixed:
            return fixed_headline(self._fixed)
        if first.outcome == "running":
            return "the process ended while the item ran"
        return f"no verdict: {first.item.reason or 'the test failed beside its checks'}"

    @property
    def text(self) -> str:
        """The report of the first failure, or of all that is fixed; empty without a verdict."""
        first = self.entries[0]
        if first.fixed:
            return fixed_text(self._fixed, list(map(_nodeid, self.entries)))
        if first.verdict is None or first.verdict.failure is None:
            return ""
        return failure_text(first.verdict, first.item.nodeid, whole=False)

    @property
    def _fixed(self) -> list[KnownMatch]:
        return [match for entry in self.entries for match in entry.fixed]

    @property
    def where(self) -> SourceLine | None:
        """The user's line, below the directory of the run; None if it is not known."""
        found = (line for entry in self.entries for line in _lines(entry.verdict))
        return next((line for line in found if _is_below(line.file)), None)

    @property
    def test_file(self) -> str:
        """The file of the first test; empty if it is outside the directory of the run."""
        file = self.entries[0].item.nodeid.partition("::")[0]
        return file if _is_below(file) else ""


def causes(found: Iterable[Entry]) -> list[Cause]:
    """Return the causes of the entries that fail; the cause of the most failures first."""
    groups: dict[Any, list[Entry]] = {}
    for entry in found:
        if entry.fails:
            groups.setdefault(_cause_of(entry), []).append(entry)
    made = [Cause(tuple(group)) for group in groups.values()]
    return sorted(made, key=lambda cause: -len(cause.entries))


def _cause_of(entry: Entry) -> Any:
    """Return the same value for failures that are one to the reader."""
    verdict = entry.verdict
    if entry.fixed:
        known = (match.now for match in entry.fixed)
        return ("fixed", *((each.failure, each.subject, each.at) for each in known))
    if verdict is None or verdict.failure is None:
        return (entry.outcome, entry.item.reason or entry.item.nodeid)
    found = verdict.diagnosis
    if found.known:
        return (verdict.failure, found.known[0])
    if found.causes:
        cause = found.causes[0]
        return (verdict.failure, cause.kind, cause.where or verdict.where, found.place)
    if verdict.where is not None:
        return (verdict.failure, verdict.where)
    return (verdict.failure, found.place, headline(verdict), verdict.subject)


def _nodeid(entry: Entry) -> str:
    return entry.item.nodeid


def _lines(verdict: Verdict | None) -> Iterator[SourceLine]:
    """Yield the lines that a failure names, the best first."""
    if verdict is None:
        return
    place = verdict.diagnosis.place
    recorded = verdict.recorded
    lines = (
        verdict.where,
        verdict.diagnosis.where,
        place.where if place is not None else None,
        recorded.where if recorded is not None else None,
    )
    yield from (line for line in lines if line is not None)


def _is_below(file: str) -> bool:
    """Return True for a relative path of a file: other paths are of no repository."""
    return bool(file) and not file.startswith(("/", "<", "..")) and ":" not in file
