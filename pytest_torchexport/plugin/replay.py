"""``--torchexport-replay PATH``: run the tests with stored failures again, their calls first.

Beside ``--lf`` for failures of another machine: a job of CI keeps ``.torchexport``, and its calls
and seeds come from there. pytest loads this file only if the flag is given.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_torchexport.config.plan import Corpus
from pytest_torchexport.plugin.items import keep_only
from pytest_torchexport.results import json
from pytest_torchexport.results.json import HALF
from pytest_torchexport.results.verdict import Verdict

FLAG = "--torchexport-replay"
LEGAL = "Legal: .torchexport, or the directory of one failure in it, which a failed test writes."
AGAIN = "Next step: run the test again, which writes its files anew."


class Replay:
    """The verdicts of stored failures, by the node id of their items."""

    def __init__(self, config: pytest.Config, given: str) -> None:
        """Read the stored failures. Raises UsageError that names the flag and the path."""
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
        self._stored: dict[str, list[Verdict]] = {}
        for path in files:
            nodeid, verdict = _read(path)
            self._stored.setdefault(nodeid, []).append(verdict)

    def select(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Keep the items that have a stored failure."""
        keep_only(config, items, self._stored, lambda item: item.nodeid)

    def seed(self, nodeid: str) -> int | None:
        """Return the seed with which an item failed."""
        return next((verdict.seed for verdict in self._stored.get(nodeid, ())), None)

    def corpus(self, nodeid: str) -> Corpus:
        """Return the calls with which an item starts."""
        recipes = (verdict.recipe for verdict in self._stored.get(nodeid, ()))
        return Corpus([recipe for recipe in recipes if recipe is not None])


def _read(path: Path) -> tuple[str, Verdict]:
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
    return item.nodeid, verdict
