"""Compare two runs: what a change of the code did to each verdict.

If a failure is the same as before is decided as for known failures, by names alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pytest_torchexport.results.entries import Entry, entries
from pytest_torchexport.results.known_failures import entry_of, is_same
from pytest_torchexport.results.text import headline
from pytest_torchexport.results.verdict import ItemResult, RunResults, Verdict, bytes_text

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
# An export is slower if it takes so many times as long, and so many seconds more. Machines differ.
TIMES, SECONDS = 2.0, 1.0
# The ratio of an artifact's latency to eager's grew by so much at least: the machine of both runs
# is in both of its sides, and yet not all of it.
SLOWER = 1.1
# Files are larger if they grew by this factor, and by so many bytes.
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
        for change in _changes(before.get(key) or _whole_item(key, before), entry)
    ]
    changes += _absent(before, after)
    order = list(KINDS)
    return Delta(sorted(changes, key=lambda change: order.index(change.kind)))


def _by_key(items: Sequence[ItemResult]) -> dict[Key, Entry]:
    """Return the entries by key; of an item that ran twice, those of its last run.

    The fixture may check several modules of one class: the second of them has a number in its key.
    """
    found: dict[Key, Entry] = {}
    for item in items:
        numbers = Counter[Key]()
        for entry in entries([item]):
            numbers[entry.key] += 1
            number = numbers[entry.key]
            found[entry.key if number == 1 else (*entry.key, str(number))] = entry
    return found


def _whole_item(key: Key, found: dict[Key, Entry]) -> Entry | None:
    """Return the item without a verdict that stands for all of its modules."""
    return found.get((*key[:2], ""))


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
    elif (
        old.verdict is None
        or new.verdict is None
        or not (old.verdict.failure and new.verdict.failure)
    ):
        if _title(old) != _title(new):
            yield Change("other failure", new, (_title(new), f"before: {_title(old)}"))
    else:
        before, now = entry_of(old.verdict, old.item.nodeid), entry_of(new.verdict, new.item.nodeid)
        if not is_same(before, now):
            yield Change("other failure", new, (_title(new), f"before: {_title(old)}"))


def _title(entry: Entry) -> str:
    if entry.verdict is not None and entry.verdict.failure is not None:
        return headline(entry.verdict)
    return entry.item.reason or entry.outcome


def _green(old: Entry, new: Entry) -> Iterator[Change]:
    """Yield the changes of an entry that does not fail now."""
    red = (old.fails and not old.fixed) or old.outcome == "xfailed"
    if new.outcome == "skipped":
        if old.outcome != "skipped":
            reason = new.verdict.reason if new.verdict is not None else new.item.reason
            yield Change("not checked", new, (f"{old.outcome} before", reason))
    elif new.outcome == "xfailed":
        if old.outcome != "xfailed":
            yield Change("now expected", new, (f"{old.outcome} before",))
    elif red:
        yield Change("fixed", new)
    elif old.verdict is not None and new.verdict is not None:
        for kind, details in _costs(old.verdict, new.verdict):
            yield Change(kind, new, (details,))


def _costs(old: Verdict, new: Verdict) -> Iterator[tuple[ChangeKind, str]]:
    """Yield what costs more than before, of two verdicts that pass."""
    seconds = [verdict.seconds.get("export", 0.0) for verdict in (old, new)]
    if seconds[0] and seconds[1] >= max(TIMES * seconds[0], SECONDS + seconds[0]):
        yield "slower export", f"{seconds[1]:.1f} s, {seconds[0]:.1f} s before"
    yield from (("slower artifact", text) for text in _slower(old, new))
    if old.size is not None and new.size is not None:
        before, now = old.size.files, new.size.files
        if now >= max(LARGER * before, BYTES + before):
            yield "larger file", f"{bytes_text(now)}, {bytes_text(before)} before"


def _slower(old: Verdict, new: Verdict) -> Iterator[str]:
    """Yield the latencies that grew: the interval of the ratio lies above the old one.

    Ratios to eager are compared, because the runs may be of two machines.
    """
    before = {latency.at: latency for latency in old.latency}
    for latency in new.latency:
        was = before.get(latency.at)
        if was is not None and latency.low > was.high and latency.ratio >= SLOWER * was.ratio:
            at = f" at {latency.at}" if latency.sizes else ""
            yield f"{latency.times}{at}, {was.times} before"


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
        elif key[2] and _whole_item(key, after) is None:
            yield Change("not checked", entry, (f"{entry.outcome} before", "not called any more"))
    for found in gone.values():
        outcomes = dict.fromkeys(entry.outcome for entry in found)
        more = len({entry.item.nodeid for entry in found}) - 1
        also = [f"and {more} more item{'s' * (more > 1)} of this test"] if more else []
        yield Change("gone", found[0], (f"{', '.join(outcomes)} before", *also))
