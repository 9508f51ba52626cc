"""Runs beside each other: failures grouped by cause, two runs compared, several reports merged.

One mistake in a layer fails each test, target and device that uses it, so reports show each cause
once. If a failure is the same as before is decided as for known failures, by names alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pytest_torchexport.results.entries import GREEN, Entry, entries
from pytest_torchexport.results.known_failures import entry_of, fixed_headline, fixed_text, is_same
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.results.text import failure_text, headline
from pytest_torchexport.results.verdict import (
    ItemResult,
    KnownMatch,
    RunResults,
    Verdict,
    bytes_text,
)

# -- failures grouped by cause ---------------------------------------------------------------------


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
            return fixed_text(self._fixed, [entry.item.nodeid for entry in self.entries])
        if first.verdict is None or first.verdict.failure is None:
            return ""
        return failure_text(first.verdict, first.item.nodeid, whole=False)

    @property
    def _fixed(self) -> list[KnownMatch]:
        return [match for entry in self.entries for match in entry.fixed]

    @property
    def names(self) -> list[str]:
        """The names of the entries, each once."""
        return list(dict.fromkeys(map(str, self.entries)))

    @property
    def where(self) -> SourceLine | None:
        """The user's line, below the directory of the run; None if it is not known."""
        lines = (line for entry in self.entries for line in _lines(entry.verdict))
        return next((line for line in lines if _is_below(line.file)), None)

    @property
    def test_file(self) -> str:
        """The file of the first test; empty if it is outside the directory of the run."""
        file = self.entries[0].item.nodeid.partition("::")[0]
        return file if _is_below(file) else ""


def causes(run: Iterable[Entry]) -> list[Cause]:
    """Return the causes of the entries that fail; the cause of the most failures first."""
    groups: dict[Any, list[Entry]] = {}
    for entry in run:
        if entry.fails:
            groups.setdefault(_cause_of(entry), []).append(entry)
    return sorted((Cause(tuple(group)) for group in groups.values()), key=lambda c: -len(c.entries))


def _cause_of(entry: Entry) -> Any:
    """Return the same value for failures that are one to the reader."""
    verdict = entry.verdict
    if entry.fixed:
        known = (match.now for match in entry.fixed)
        return ("fixed", *((each.failure, each.subject, each.at) for each in known))
    if verdict is None or verdict.failure is None:
        return (entry.outcome, entry.item.reason or entry.item.nodeid)
    diagnosis = verdict.diagnosis
    if diagnosis.known:
        return (verdict.failure, diagnosis.known[0])
    if diagnosis.causes:
        cause = diagnosis.causes[0]
        return (verdict.failure, cause.kind, cause.where or verdict.where, diagnosis.place)
    if verdict.where is not None:
        return (verdict.failure, verdict.where)
    return (verdict.failure, diagnosis.place, headline(verdict), verdict.subject)


def _lines(verdict: Verdict | None) -> Iterator[SourceLine]:
    """Yield the lines that a failure names, the best first."""
    if verdict is None:
        return
    place, recorded = verdict.diagnosis.place, verdict.recorded
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


# -- two runs compared -----------------------------------------------------------------------------

ChangeKind = Literal[
    "new failure",
    "other failure",  # it failed before too, but not so
    "not checked",  # it had a result before, and is skipped or not called now
    "now expected",  # it is expected to fail, and was not
    "fixed",
    "slower export",
    "slower artifact",  # beyond the noise of both runs
    "larger file",
    "gone",  # the test did not run
]
NEW: ChangeKind = "new failure"
# The kinds in the order in which they are shown, with their plural.
KINDS: dict[ChangeKind, str] = {
    "new failure": "new failures",
    "other failure": "other failures",
    "not checked": "not checked",
    "now expected": "now expected",
    "fixed": "fixed",
    "slower export": "slower exports",
    "slower artifact": "slower artifacts",
    "larger file": "larger files",
    "gone": "gone",
}
WORSE: tuple[ChangeKind, ...] = ("new failure", "other failure")
# An export is slower if it takes so many times as long, and so many seconds more: two runs of one
# commit on shared machines of CI differ by less.
TIMES, SECONDS = 2.0, 1.0
# The ratio of an artifact's latency to eager's grew by so much at least: the machine of both runs
# is in both of its sides, and yet not all of it.
SLOWER = 1.1
# Files are larger if they grew by this factor, and by so many bytes: smaller steps are names.
LARGER, BYTES = 1.05, 2**16

Key = tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """A change of one entry; ``entry`` is that of the new run, or the old one's if it is gone."""

    kind: ChangeKind
    entry: Entry
    details: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return ``fixed: test_net.py::test_net[onnx-cpu]``, with the details."""
        return ": ".join([self.kind, str(self.entry), *filter(None, ["; ".join(self.details)])])


@dataclass(frozen=True)
class Delta:
    """The changes from one run to another, the worst first."""

    changes: Sequence[Change]

    def of(self, *kinds: ChangeKind) -> list[Change]:
        """Return the changes of these kinds."""
        return [change for change in self.changes if change.kind in kinds]

    def __str__(self) -> str:
        """Return ``2 new failures, 1 fixed``."""
        counts = Counter(change.kind for change in self.changes)
        parts = [
            f"{counts[kind]} {kind if counts[kind] == 1 else many}"
            for kind, many in KINDS.items()
            if counts[kind]
        ]
        return ", ".join(parts) or "no change"


def delta(old: RunResults, new: RunResults) -> Delta:
    """Return what is different in the new run."""
    before, after = _by_key(old.items), _by_key(new.items)
    changes = [
        change
        for key, entry in after.items()
        for change in _changes(before.get(key) or before.get(_of_item(key)), entry)
    ]
    changes += _absent(before, after)
    order = list(KINDS)
    return Delta(sorted(changes, key=lambda change: order.index(change.kind)))


def _by_key(items: Sequence[ItemResult]) -> dict[Key, Entry]:
    """Return the entries by key; of an item that ran twice, those of its last run.

    The fixture may check several modules of one class: the second of them has a number in its key.
    """
    by_key: dict[Key, Entry] = {}
    for item in items:
        numbers = Counter[Key]()
        for entry in entries([item]):
            numbers[entry.key] += 1
            number = numbers[entry.key]
            by_key[entry.key if number == 1 else (*entry.key, str(number))] = entry
    return by_key


def _of_item(key: Key) -> Key:
    """Return the key of an item without a verdict, which stands for all of its modules."""
    return (*key[:2], "")


def _changes(old: Entry | None, new: Entry) -> Iterator[Change]:
    """Yield the changes of an entry; ``old`` is None if there was none."""
    if new.fixed:
        if old is None or not old.fixed:
            yield Change("fixed", new, ("remove the known failure",))
    elif new.fails:
        yield from _failures(old, new)
    elif old is not None:
        yield from _green(old, new)


def _failures(old: Entry | None, new: Entry) -> Iterator[Change]:
    if old is None or not old.fails:
        was = ["it was expected to fail"] if old is not None and old.outcome == "xfailed" else []
        yield Change(NEW, new, (_title(new), *was))
        return
    same = _title(old) == _title(new)
    if old.verdict and new.verdict and old.verdict.failure and new.verdict.failure:
        before, now = entry_of(old.verdict, old.item.nodeid), entry_of(new.verdict, new.item.nodeid)
        same = is_same(before, now)
    if not same:
        yield Change("other failure", new, (_title(new), f"before: {_title(old)}"))


def _title(entry: Entry) -> str:
    if entry.verdict is not None and entry.verdict.failure is not None:
        return headline(entry.verdict)
    return entry.item.reason or entry.outcome


def _green(old: Entry, new: Entry) -> Iterator[Change]:
    """Yield the changes of an entry that does not fail now."""
    if new.outcome == "skipped":
        if old.outcome != "skipped":
            reason = new.verdict.reason if new.verdict is not None else new.item.reason
            yield Change("not checked", new, (f"{old.outcome} before", reason))
    elif new.outcome == "xfailed":
        if old.outcome != "xfailed":
            yield Change("now expected", new, (f"{old.outcome} before",))
    elif (old.fails and not old.fixed) or old.outcome == "xfailed":
        yield Change("fixed", new)
    elif old.verdict is not None and new.verdict is not None:
        for kind, details in _costs(old.verdict, new.verdict):
            yield Change(kind, new, (details,))


def _costs(old: Verdict, new: Verdict) -> Iterator[tuple[ChangeKind, str]]:
    """Yield what costs more than before, of two verdicts that pass."""
    seconds = [verdict.seconds.get("export", 0.0) for verdict in (old, new)]
    if seconds[0] and seconds[1] >= max(TIMES * seconds[0], SECONDS + seconds[0]):
        yield "slower export", f"{seconds[1]:.1f} s, {seconds[0]:.1f} s before"
    before = {latency.at: latency for latency in old.latency}
    for latency in new.latency:
        was = before.get(latency.at)
        # Ratios to eager are compared, because the runs may be of two machines.
        if was is not None and latency.low > was.high and latency.ratio >= SLOWER * was.ratio:
            at = f" at {latency.at}" if latency.sizes else ""
            yield "slower artifact", f"{latency.times}{at}, {was.times} before"
    if old.size is not None and new.size is not None:
        was_bytes, now_bytes = old.size.files, new.size.files
        if now_bytes >= max(LARGER * was_bytes, BYTES + was_bytes):
            yield "larger file", f"{bytes_text(now_bytes)}, {bytes_text(was_bytes)} before"


def _absent(before: dict[Key, Entry], after: dict[Key, Entry]) -> Iterator[Change]:
    """Yield what had a result and has none: a module that is not called, or a test that is gone.

    The items of a test function that are gone are one change.
    """
    still = {key[:2] for key in after}
    gone: dict[str, list[Entry]] = {}
    for key, entry in before.items():
        if key in after or entry.outcome == "skipped":
            continue
        if key[:2] not in still:
            gone.setdefault(entry.item.nodeid.partition("[")[0], []).append(entry)
        elif key[2] and _of_item(key) not in after:
            yield Change("not checked", entry, (f"{entry.outcome} before", "not called any more"))
    for those in gone.values():
        outcomes = dict.fromkeys(entry.outcome for entry in those)
        more = len({entry.item.nodeid for entry in those}) - 1
        also = [f"and {more} more item{'s' * (more > 1)} of this test"] if more else []
        yield Change("gone", those[0], (f"{', '.join(outcomes)} before", *also))


# -- several reports merged ------------------------------------------------------------------------

# Of the items that are in several reports, so many are named.
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
    newest: dict[str, tuple[Report, ItemResult]] = {}
    twice: dict[str, None] = {}
    for report in reports:
        for item in report.results.items:
            if item.nodeid in newest:
                first, result = newest[item.nodeid]
                twice[item.nodeid] = None
                differ = _different(first.results.environment, report.results.environment)
                if differ and first is not report:
                    raise CannotMerge(
                        f"{item.nodeid} is in {first.name} and in {report.name}, which were run "
                        f"with different versions ({', '.join(differ)}): render them apart"
                    )
                if not _replaces(item, result):
                    continue
            newest[item.nodeid] = (report, item)
    versions: dict[str, dict[str, None]] = {}
    for report in reports:
        for name, version in report.results.environment.items():
            versions.setdefault(name, {})[version] = None
    results = RunResults(
        items=tuple(item for _, item in newest.values()),
        # Versions that differ stand beside each other.
        environment={name: ", ".join(different) for name, different in versions.items()},
        complete=all(report.results.complete for report in reports),
    )
    return results, [*_notes(reports, list(twice))]


def _replaces(item: ItemResult, earlier: ItemResult) -> bool:
    """Return True if an item replaces another one that came before it.

    A skip without a verdict says nothing of the item; a failure without one does.
    """
    if "running" in (item.outcome, earlier.outcome):
        return earlier.outcome == "running"
    return bool(item.verdicts) or not earlier.verdicts or item.outcome not in GREEN


def _different(first: Mapping[str, str], second: Mapping[str, str]) -> list[str]:
    names = dict.fromkeys([*first, *second])
    return [
        f"{name} {first.get(name, 'absent')} and {second.get(name, 'absent')}"
        for name in names
        if first.get(name) != second.get(name)
    ]


def _notes(reports: Sequence[Report], twice: Sequence[str]) -> Iterator[str]:
    if twice:
        names = ", ".join([*twice[:SHOWN], *(["..."] if len(twice) > SHOWN else [])])
        what = "1 item is" if len(twice) == 1 else f"{len(twice)} items are"
        yield f"{what} in several reports, the last result counts: {names}"
    first = reports[0]
    for report in reports:
        if not report.results.complete:
            yield f"{report.name}: the run did not come to its end"
        if differ := _different(first.results.environment, report.results.environment):
            yield f"{first.name} and {report.name} have different versions: {', '.join(differ)}"
