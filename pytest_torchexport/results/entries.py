"""A run's results one by one: each verdict of an item, or the item itself if it has none.

Separate from the verdicts, which do not know their item: whether a failure was expected is said by
the item. All reports count, compare and group these.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pytest_torchexport.results.verdict import ItemResult, KnownMatch, Verdict

# Any other outcome is a failure: also "running", of an item whose process is gone.
GREEN = ("passed", "skipped", "xfailed", "xpassed")


@dataclass(frozen=True)
class Entry:
    """One verdict of an item; ``verdict`` is None for an item that ended without one."""

    item: ItemResult
    verdict: Verdict | None

    @property
    def outcome(self) -> str:
        """The item's outcome; the verdict's own if it is one of several."""
        if self.verdict is None or len(self.item.verdicts) == 1:
            return self.item.outcome
        if self.verdict.status == "failed" and (self.item.outcome == "xfailed" or self._is_known):
            return "xfailed"
        if self.verdict.status == "failed" and self.item.outcome in GREEN:
            return self.item.outcome  # the test itself expects the failure
        return self.verdict.status

    @property
    def shown(self) -> str:
        """The outcome in a table: ``unchecked`` for an item that passed without a verdict."""
        return "unchecked" if self.verdict is None and self.outcome == "passed" else self.outcome

    @property
    def _is_known(self) -> bool:
        """True if the verdict's failure is known, whatever else the item failed by."""
        return self.verdict is not None and any(
            match.is_expected
            and (match.now.subject, match.now.target, match.now.device)
            == (self.verdict.subject, self.verdict.target, self.verdict.device)
            for match in self.item.known
        )

    @property
    def column(self) -> str:
        """``trace-cpu``; empty for a unittest method that ended before its checks."""
        at = self.verdict or self.item
        return f"{at.target}-{at.device}" if at.target else ""

    @property
    def fails(self) -> bool:
        """Return True if the entry makes a run red."""
        return self.outcome not in GREEN

    @property
    def fixed(self) -> list[KnownMatch]:
        """The known failures that do not occur any more and make the entry fail, if nothing else
        does.
        """
        passed = self.verdict is None or self.verdict.status == "passed"
        known = self.item.known if self.fails and passed else ()
        return [match for match in known if match.status == "fixed"]

    @property
    def key(self) -> tuple[str, ...]:
        """Names that tell it apart from all others of a run, and are the same in the next run."""
        name = self.verdict.name if self.verdict is not None else ""
        return (self.item.nodeid, self.column, name)

    def __str__(self) -> str:
        """Return the node id, and the module if it is one of several."""
        if self.verdict is None or len(self.item.verdicts) == 1:
            return self.item.nodeid
        return f"{self.item.nodeid} {self.verdict.name}"


def entries(items: Sequence[ItemResult]) -> Iterator[Entry]:
    """Yield the entries of all items, in their order."""
    for item in items:
        own = [Entry(item, verdict) for verdict in item.verdicts]
        yield from own
        # An item may fail beside its verdicts, after the last of them.
        if not own or (item.outcome not in GREEN and not any(each.fails for each in own)):
            yield Entry(item, None)


def without_variant(nodeid: str, column: str) -> str:
    """Return the node id of a test without an item's target and device (``trace-cpu``)."""
    variant = column.replace(":", "")
    for part, rest in ((f"[{variant}]", ""), (f"[{variant}-", "["), (f"-{variant}]", "]")):
        if part in nodeid:
            return nodeid.replace(part, rest, 1)
    return nodeid
