"""``--torchexport-replay PATH``: run stored failures again, and say what became of each.

pytest loads this file only if the flag is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_torchexport.diagnosis.reproducer.directory import HALF
from pytest_torchexport.results import json
from pytest_torchexport.results.files import without_private_paths
from pytest_torchexport.results.known_failures import entry_of, is_same
from pytest_torchexport.results.text import headline
from pytest_torchexport.results.verdict import ItemResult, RunResults, Verdict

FLAG = "--torchexport-replay"
LEGAL = "Legal: .torchexport, or the directory of one failure in it, which a failed test writes."
AGAIN = "Next step: run the test again, which writes its files anew."


@dataclass(frozen=True)
class Stored:
    """One stored failure: its directory, the item's node id, its verdict."""

    directory: Path
    nodeid: str
    verdict: Verdict


class ReplayCorpus:
    """Gives the stored calls to an item, and stores nothing."""

    def __init__(self, recipes: Sequence[dict[str, Any]]) -> None:
        self._recipes = recipes

    def load(self, key: str, *, shared: bool = False) -> Sequence[dict[str, Any]]:
        """Return the recipes of the stored failures."""
        return () if shared else self._recipes

    def store(self, key: str, recipes: Sequence[dict[str, Any]], *, shared: bool = False) -> None:
        """Store nothing: a replay changes no files."""


class Replay:
    """The stored failures of a run with the flag."""

    def __init__(self, config: pytest.Config, given: str) -> None:
        """Read the stored failures. Raises UsageError that names the flag and the path."""
        self._given = given
        place = Path(config.invocation_params.dir, given)
        if not place.exists():
            raise pytest.UsageError(f"{FLAG}: there is no {given}. {LEGAL}")
        if not place.is_dir():
            raise pytest.UsageError(f"{FLAG}: {given} is a file; give its directory. {LEGAL}")
        files = [
            path
            for path in sorted(place.rglob(json.OF_A_FAILURE))
            if not any(part.startswith(HALF) for part in path.parts)
        ]
        if not files:
            raise pytest.UsageError(f"{FLAG}: no {json.OF_A_FAILURE} lies in {given}. {LEGAL}")
        self.stored = tuple(_read(path) for path in files)
        self._root = config.rootpath
        self._left_out: set[str] = set()

    def stored_of(self, nodeid: str) -> list[Stored]:
        """Return the stored failures of an item."""
        return [each for each in self.stored if each.nodeid == nodeid]

    def corpus(self, nodeid: str) -> ReplayCorpus:
        """Return the calls with which an item starts."""
        recipes = [each.verdict.recipe for each in self.stored_of(nodeid)]
        return ReplayCorpus([recipe for recipe in recipes if recipe is not None])

    def select(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Keep the items that have a stored failure."""
        wanted = {each.nodeid for each in self.stored}
        left_out = [item for item in items if item.nodeid not in wanted]
        if left_out:
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if item.nodeid in wanted]

    def leave_out(self, items: Sequence[pytest.Item]) -> None:
        """Say nothing of these items, which the user has deselected."""
        self._left_out |= {item.nodeid for item in items}

    def lines(self, results: Sequence[ItemResult]) -> Iterator[str]:
        """Yield what became of each stored failure that the user has not deselected."""
        found = {result.nodeid: result for result in results}
        for each in self.stored:
            if each.nodeid in self._left_out:
                continue
            answer = answer_of(each.verdict, found.get(each.nodeid), self._root)
            yield f"{each.nodeid} ({each.verdict.subject}): {answer}"


def answer_of(stored: Verdict, result: ItemResult | None, root: Path) -> str:
    """Return ``fixed``, ``still failing``, ``different: ...``, or why there is no answer.

    ``root``: the project's directory, below which the stored failure names its paths.
    """
    if result is None:
        return "not run: no test of this name was collected and ended"
    alike = [verdict for verdict in result.verdicts if _is_about_the_same(verdict, stored)]
    if not alike:
        return f"not run: {result.reason or f'the test no longer checks {stored.subject}'}"
    failed = [verdict for verdict in alike if verdict.status == "failed"]
    # As for known failures: by names alone.
    before = entry_of(stored, result.nodeid)
    now = [entry_of(_as_stored(verdict, root), result.nodeid) for verdict in failed]
    if any(is_same(before, each) for each in now):
        return f"still failing: {headline(stored)}"
    if failed:
        return f"different: {headline(failed[0])}; before: {headline(stored)}"
    skipped = [verdict for verdict in alike if verdict.status == "skipped"]
    return f"not judged: {skipped[0].reason}" if skipped else "fixed"


def _as_stored(verdict: Verdict, root: Path) -> Verdict:
    """Return the verdict as its file would have it: without paths of this machine."""
    item = ItemResult("", verdict.status, (verdict,))
    text = json.render(RunResults(items=(item,), environment={}, complete=True))
    (read,) = json.read(without_private_paths(text, root)).items
    return read.verdicts[0]


def _is_about_the_same(verdict: Verdict, stored: Verdict) -> bool:
    return (verdict.subject, verdict.target, verdict.device) == (
        *(stored.subject, stored.target, stored.device),
    )


def _read(path: Path) -> Stored:
    try:
        (item,) = json.read(path.read_text(encoding="utf-8")).items
        (verdict,) = item.verdicts
    except (OSError, ValueError) as error:
        raise pytest.UsageError(f"{FLAG}: cannot read {path}: {error}. {AGAIN}") from None
    if not item.nodeid:
        raise pytest.UsageError(
            f"{FLAG}: {path.parent} was written by check_export without pytest. "
            f"Next step: python {path.with_name('reproduce.py')}"
        )
    return Stored(path.parent, item.nodeid, verdict)
