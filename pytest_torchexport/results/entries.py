"""A run's results one by one: each verdict of an item, or the item itself if it has none.

Separate from the verdicts, which do not know their item: whether a failure was expected is said by
the item. All reports count, compare and group these.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pytest_torchexport.results.verdict import ItemResult, Verdict

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
        if self.verdict.status == "failed" and self.item.outcome == "xfailed":
            return self.item.outcome
        return self.verdict.status

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
