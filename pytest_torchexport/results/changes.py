"""Tell which failures are the same: known ones, those of one cause, those of an earlier run.

Names alone decide: test, target, device, subject, class, and the line of code or the operator where
it shows. Numbers and versions change without anybody's doing, so they are no part of it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_torchexport.results.escaped import in_shell, visible
from pytest_torchexport.results.failures import BranchFrozen, PipelineFailed
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.results.text import (
    MAX_LINES,
    Block,
    failure_text,
    headline,
    labelled,
    short_block,
)
from pytest_torchexport.results.verdict import (
    Entry,
    ItemResult,
    KnownFailure,
    KnownMatch,
    RunResults,
    Verdict,
    bytes_text,
    entries,
    without_variant,
)

# -- the names of a failure, and the texts about known ones ----------------------------------------

TIGHTEN = "--torchexport-known=tighten"
# Between the lines of several frozen branches: no Python has it.
BESIDE = " || "


def entry_of(verdict: Verdict, nodeid: str) -> KnownFailure:
    """Return the entry for a verdict's failure, without a reason."""
    test = without_variant(nodeid, f"{verdict.target}-{verdict.device}")
    # People review the files: what does not show, or moves the cursor, is written as its number.
    return KnownFailure(
        test=visible(test),
        target=verdict.target,
        device=verdict.device,
        subject=visible(verdict.subject),
        failure=verdict.failure or "",
        at=visible(_place_of(verdict)),
        reason="",
    )


def is_same(known: KnownFailure, now: KnownFailure) -> bool:
    """Return True if a failure is a known one, or a part of it.

    A place that is not known is any place. Of several branches, not all need be frozen any more.
    """
    before, after = ({*entry.at.split(BESIDE)} - {""} for entry in (known, now))
    return known.identity[:-1] == now.identity[:-1] and (not before or after <= before)


def _place_of(verdict: Verdict) -> str:
    """Return the user's line of a failure, or else the next best name of where it shows.

    Empty if the diagnosis, which would have named it, did not come to its end.
    """
    place = verdict.diagnosis.place
    line = verdict.where or (place.where if place is not None else None)
    if line is not None and line.text:
        frozen = [each.statement for each in verdict.branches if "diverges" in each.status.values()]
        also = frozen if verdict.failure == BranchFrozen.__name__ else ()
        return BESIDE.join(dict.fromkeys(" ".join(text.split()) for text in (line.text, *also)))
    if place is not None:
        return place.operator
    if verdict.diagnosis.not_examined:
        return ""
    if named := re.search(r"\b(aten|prim|torchvision|onnx)(?:\.|::)(\w+)", verdict.reason):
        return f"{named[1]}.{named[2]}"
    if outputs := sorted({item.path for item in verdict.differences if item.path}):
        return ", ".join(outputs)
    # The first line of the message, without numbers and paths: these change from run to run.
    first = next(filter(str.strip, verdict.reason.splitlines()), "")
    words = " ".join("..." if word.count("/") > 1 else word for word in first.split())
    return re.sub(r"0x[0-9a-f]+|\d+(\.\d+)*(e-?\d+)?", "#", words)[:120]


def reason_of(entry: KnownFailure) -> str:
    """Return ``pytorch/pytorch#1, @vision, since 2026-07-01``."""
    by = f", {entry.owner}" if entry.owner else ""
    since = f", since {entry.since}" if entry.since else ""
    return f"{entry.reason}{by}{since}"


def fixed_text(matches: Sequence[KnownMatch], nodeids: Iterable[str]) -> str:
    """Return the report of items whose known failures do not occur."""
    more = f" (and {len(matches) - 1} more)" if len(matches) > 1 else ""
    head = f"Fixed: {matches[0].now} does not occur any more{more}"
    lines = [f"{match.file}: {reason_of(match.now)}" for match in matches]
    tests = [in_shell(nodeid) for nodeid in dict.fromkeys(nodeids)]
    # A longer command is more than a line: all tests may run then.
    command = " ".join(["pytest", *(tests if len(tests) == 1 else ()), TIGHTEN])
    what = "the entry, or let it" if len(matches) == 1 else "the entries, or let them"
    remedy = Block("remedy", [f"remove {what} be removed: {command}"])
    return "\n".join([head, *labelled([short_block("known", lines), remedy])])


def known_blocks(matches: Iterable[KnownMatch]) -> Iterator[Block]:
    """Yield a block for each failure of an item that is known; new ones have none."""
    for match in matches:
        if match.status == "fixed":
            yield Block("fixed", [f"{match.now} ({match.file}): remove it: {TIGHTEN}"])
        elif match.status == "created":
            yield Block("known", [f"from now on: {match.now.reason}"])
        elif match.known is not None:
            text = match.why or f"{match.known}: {reason_of(match.known)}"
            yield Block("known", [f"{match.file}: {text}"])


def shared_lines(found: Iterable[tuple[str, str, str]]) -> Iterator[str]:
    """Yield ``label: item (and 2 more): text`` once for all items of which label and text are."""
    items: dict[tuple[str, str], dict[str, None]] = {}
    for label, item, text in found:
        items.setdefault((label, text), {})[item] = None
    for (label, text), (first, *others) in items.items():
        more = f" (and {len(others)} more)" if others else ""
        yield f"{label}: {first}{more}: {text}"


def known_lines(results: Iterable[ItemResult]) -> Iterator[str]:
    """Yield the lines of a summary: why failures are expected, what is fixed, and what is other."""
    lines = list(
        shared_lines(
            ("xfail", result.nodeid, reason_of(match.known or match.now))
            if match.is_expected
            else (match.status, result.nodeid, f"{match.now}: {match.why or match.file}")
            for result in results
            for match in result.known
            if match.is_expected or match.known is not None
        )
    )
    yield from lines[:MAX_LINES]
    if len(lines) > MAX_LINES:
        yield f"known: + {len(lines) - MAX_LINES} more lines"


# -- failures grouped by cause: a mistake in a layer fails each test and target that uses it -------


def title(entry: Entry) -> str:
    """Return in a line why an entry fails."""
    if entry.failure is not None:
        return f"{'Expired: ' * entry.expired}{headline(entry.failure)}"
    if entry.outcome == "running":
        return "the process ended while the item ran"
    head = "the test failed beside its checks" if entry.item.verdicts else "no verdict"
    return ": ".join(filter(None, (head, entry.item.reason)))


@dataclass(frozen=True)
class Cause:
    """Failures with the same cause, as far as it is known; one that is not known is its own."""

    entries: tuple[Entry, ...]

    @property
    def title(self) -> str:
        """``BranchFrozen: if x.sum() > 0 (net.py:38)``."""
        first = self.entries[0]
        return self.text.partition("\n")[0] if first.fixed else title(first)

    @property
    def text(self) -> str:
        """The report of the first failure, or of all that is fixed; empty without a verdict."""
        first = self.entries[0]
        if first.fixed:
            matches = [match for entry in self.entries for match in entry.fixed]
            return fixed_text(matches, [entry.item.nodeid for entry in self.entries])
        if first.failure is None:
            return ""
        return failure_text(first.failure, first.item.nodeid, whole=False)

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(map(str, self.entries)))

    @property
    def where(self) -> SourceLine | None:
        """The user's line, below the directory of the run; None if it is not known."""
        for verdict in (entry.verdict for entry in self.entries if entry.verdict is not None):
            diagnosis = verdict.diagnosis
            for found in (verdict, *diagnosis.causes, diagnosis.place, verdict.recorded):
                line = found.where if found is not None else None
                if line is not None and _is_below(line.file):
                    return line
        return None

    @property
    def test_file(self) -> str:
        """The file of the first test; empty if it is outside the directory of the run."""
        file = self.entries[0].item.nodeid.partition("::")[0]
        return file if _is_below(file) else ""


def _is_below(file: str) -> bool:
    """Return True for a relative path of a file: other paths are of no repository."""
    return bool(file) and not file.startswith(("/", "<", "..")) and ":" not in file


def causes(run: Iterable[Entry]) -> list[Cause]:
    """Return the causes of the entries that fail; the cause of the most failures first."""
    groups: dict[Any, list[Entry]] = {}
    for entry in run:
        if entry.fails:
            groups.setdefault(cause_of(entry), []).append(entry)
    return sorted((Cause(tuple(group)) for group in groups.values()), key=lambda c: -len(c.entries))


def cause_of(entry: Entry) -> Any:
    """Return the same value for failures that are one to the reader."""
    verdict = entry.failure
    if entry.fixed:
        known = (match.now for match in entry.fixed)
        return ("fixed", *((each.failure, each.subject, each.at) for each in known))
    if verdict is None:
        return (entry.outcome, entry.item.reason or entry.item.nodeid)
    diagnosis = verdict.diagnosis
    if diagnosis.known:
        return (verdict.failure, diagnosis.known[0])
    cause = next(iter(diagnosis.causes), None)
    line = (cause.where if cause is not None else None) or verdict.where
    # A line of a pipeline fails for many reasons, which are told in words.
    if line is not None and verdict.failure != PipelineFailed.__name__:
        return line.place  # whatever it breaks on each target: one change mends it
    if cause is not None:
        # Causes without a line differ by their words, which may name the target.
        return (verdict.failure, cause.kind, cause.text, diagnosis.place)
    differs = map(str, verdict.differences)
    return (verdict.failure, diagnosis.place, headline(verdict), verdict.subject, *differs)


# -- two runs compared -----------------------------------------------------------------------------

# The kinds of changes in the order in which they are shown, with their plural.
KINDS = {
    "new failure": "new failures",
    "expired": "expired",  # a known failure that is not accepted any more
    "other failure": "other failures",  # it failed before too, but not so
    "not checked": "not checked",  # it had a result before, and is skipped or not called now
    "now expected": "now expected",  # it is expected to fail, and was not
    "fixed": "fixed",
    "slower export": "slower exports",
    "slower artifact": "slower artifacts",  # beyond the noise of both runs
    "larger file": "larger files",
    "gone": "gone",  # the test did not run
}
NEW = "new failure"
WORSE = (NEW, "expired", "other failure")


@dataclass(frozen=True)
class Change:
    """A change of one entry; ``entry`` is that of the new run, or the old one's if it is gone."""

    kind: str
    entry: Entry
    details: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return ``fixed: test_net.py::test_net[onnx-cpu]``, with the details."""
        return ": ".join([self.kind, str(self.entry), *filter(None, ["; ".join(self.details)])])


def counted(changes: Iterable[Change]) -> str:
    """Return ``2 new failures, 1 fixed``."""
    counts = Counter(change.kind for change in changes)
    parts = (f"{n} {one if n == 1 else many}" for one, many in KINDS.items() if (n := counts[one]))
    return ", ".join(parts) or "no change"


def changes_of(new: RunResults) -> list[Change]:
    """Return the changes since the earlier run, the worst first; none without one."""
    if new.before is None:
        return []
    before, after = _by_key(new.before.items), _by_key(new.items)
    # An item without a verdict has no module in its key, and stands for all of them.
    changes = [
        change
        for key, entry in after.items()
        for change in _changes(before.get(key) or before.get((*key[:2], "")), entry)
    ]
    # What had a result and has none: a module that is not called, or a test that is gone. The items
    # of a test function that are gone are one change.
    still = {key[:2] for key in after}  # an item and its column
    gone: dict[str, list[Entry]] = {}
    for key, entry in before.items():
        if key in after or entry.outcome == "skipped":
            continue
        if key[:2] not in still:
            gone.setdefault(entry.item.nodeid.partition("[")[0], []).append(entry)
        elif key[2] and (*key[:2], "") not in after:
            why = (f"{entry.outcome} before", "not called any more")
            changes.append(Change("not checked", entry, why))
    for those in gone.values():
        outcomes = dict.fromkeys(entry.outcome for entry in those)
        more = len({entry.item.nodeid for entry in those}) - 1
        also = [f"and {more} more item{'s' * (more > 1)} of this test"] if more else []
        changes.append(Change("gone", those[0], (f"{', '.join(outcomes)} before", *also)))
    return sorted(changes, key=lambda change: [*KINDS].index(change.kind))


def _by_key(items: Iterable[ItemResult]) -> dict[tuple[str, ...], Entry]:
    """Return the entries by key; of an item that ran twice, those of its last run.

    The fixture may check several modules of one class: the second of them has a number in its key.
    """
    by_key: dict[tuple[str, ...], Entry] = {}
    for item in items:
        numbers = Counter[tuple[str, ...]]()
        for entry in entries([item]):
            numbers[entry.key] += 1
            number = numbers[entry.key]
            by_key[entry.key if number == 1 else (*entry.key, str(number))] = entry
    return by_key


def _changes(old: Entry | None, new: Entry) -> Iterator[Change]:  # noqa: C901 - a case per kind
    """Yield the changes of an entry; ``old`` is None if there was none."""
    was = old.outcome if old is not None else ""
    before = f"{was} before"
    if new.fixed:
        if old is None or not old.fixed:
            yield Change("fixed", new, ("remove the known failure",))
    elif new.fails:
        if old is None or not old.fails:
            expected = ["it was expected to fail"] if was == "xfailed" else []
            yield Change("expired" if new.expired else NEW, new, (title(new), *expected))
        elif not _fails_alike(old, new):
            yield Change("other failure", new, (title(new), f"before: {title(old)}"))
    elif old is None:
        return
    elif new.outcome == "skipped":
        if was != "skipped":
            reason = new.verdict.reason if new.verdict is not None else new.item.reason
            yield Change("not checked", new, (before, reason))
    elif new.outcome == "xfailed":
        if was != "xfailed":
            yield Change("now expected", new, (before,))
    elif (old.fails and not old.fixed) or was == "xfailed":
        yield Change("fixed", new)
    elif old.verdict is not None and new.verdict is not None:
        for kind, details in _costs(old.verdict, new.verdict):
            yield Change(kind, new, (details,))


def _fails_alike(old: Entry, new: Entry) -> bool:
    if old.failure is None or new.failure is None:
        return title(old) == title(new)
    before, now = entry_of(old.failure, old.item.nodeid), entry_of(new.failure, new.item.nodeid)
    return is_same(before, now)


def _costs(old: Verdict, new: Verdict) -> Iterator[tuple[str, str]]:
    """Yield the costs that are higher than before, of two verdicts that pass."""
    was_seconds, seconds = (verdict.seconds.get("export", 0.0) for verdict in (old, new))
    # Two runs of one commit on shared machines of CI differ by less.
    if was_seconds and seconds >= max(2 * was_seconds, was_seconds + 1):
        yield "slower export", f"{seconds:.1f} s, {was_seconds:.1f} s before"
    before = {latency.at: latency for latency in old.latency}
    for latency in new.latency:
        was = before.get(latency.at)
        # Ratios to eager are compared, because the runs may be of two machines. The machine is in
        # both sides of a ratio, and yet not all of it: less than 10 % is its own.
        if was is not None and latency.low > was.high and latency.ratio >= 1.1 * was.ratio:
            at = f" at {latency.at}" if latency.sizes else ""
            yield "slower artifact", f"{latency.times}{at}, {was.times} before"
    if old.size is not None and new.size is not None:
        was_bytes, now_bytes = old.size.files, new.size.files
        # Smaller steps are names.
        if now_bytes >= max(1.05 * was_bytes, was_bytes + 2**16):
            yield "larger file", f"{bytes_text(now_bytes)}, {bytes_text(was_bytes)} before"
