"""Known failures in a run of pytest: xfail what is known, fail what is fixed, write what is asked.

Each process compares its own items. Under xdist only the controller writes.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pytest_torchexport.config.settings import KNOWN_DIRECTORY
from pytest_torchexport.plugin.ini_and_flags import Configuration
from pytest_torchexport.results import known_failures
from pytest_torchexport.results.failures import Failure
from pytest_torchexport.results.text import labelled
from pytest_torchexport.results.verdict import ItemResult, KnownFailure, KnownMatch, Verdict


class KnownFailures:
    """The known failures of a run. Raises UsageError for a file that is wrong."""

    def __init__(self, config: pytest.Config, configuration: Configuration) -> None:
        settings = configuration.settings
        self._config = config
        self._mode = settings.known
        self._reason = settings.known_reason
        self._directory = Path(config.rootpath, KNOWN_DIRECTORY)
        # A job of CI commits nothing: what it writes is for a person to commit, and its items stay
        # red until then.
        self._accepts = not os.environ.get("CI")
        self._today = dt.datetime.now().astimezone().date().isoformat()
        self._written: list[str] = []
        self._problem = ""
        try:
            self._known = known_failures.Known(known_failures.read(self._directory), self._today)
        except known_failures.KnownFilesError as error:
            raise pytest.UsageError(f"known failures: {error}") from None

    def judge(
        self, report: pytest.TestReport, verdicts: Sequence[Verdict], *, ours: bool
    ) -> list[KnownMatch]:
        """Change an item's report by what is known of its failures; return the matches.

        ``ours``: the item failed by the failures of these verdicts, and by nothing else.
        """
        if self._config.getoption("runxfail", default=False):
            return []
        if not report.passed and not (report.failed and ours):
            return []
        matches = self._known.matches(report.nodeid, verdicts)
        if report.passed:  # a test may expect a failure itself
            matches = [match for match in matches if match.status == "fixed"]
        if self._mode == "create" and self._accepts:
            matches = [self._created(match) for match in matches]
        fixed = [match for match in matches if match.status == "fixed"]
        if self._mode == "tighten" and self._accepts:
            fixed = []
        failing = [match for match in matches if match.status != "fixed"]
        if report.passed and fixed:
            report.outcome = "failed"
            report.longrepr = known_failures.fixed_text(fixed, [report.nodeid])
        elif failing and not fixed and all(match.is_expected for match in failing):
            report.outcome = "skipped"
            report.wasxfail = known_failures.why_expected(failing)
        elif report.failed:
            blocks = known_failures.known_blocks([*failing, *fixed])
            lines = [line for block in blocks for line in labelled(block.label, block.lines)]
            report.longrepr = "\n".join([str(report.longrepr or ""), *lines])
        return matches

    def _created(self, match: KnownMatch) -> KnownMatch:
        """Return the match of a failure that becomes known now, if it may."""
        if match.status != "new" or match.now.failure == Failure.__name__:
            return match
        return KnownMatch("created", now=self._entry(match))

    def _entry(self, match: KnownMatch) -> KnownFailure:
        return dataclasses.replace(match.now, reason=self._reason, since=self._today)

    def end(self, results: Sequence[ItemResult]) -> None:
        """Add what is new, or remove what is fixed, as asked. Nothing else is touched."""
        if self._mode == "check" or hasattr(self._config, "workerinput"):
            return
        matches = [match for result in results for match in result.known]
        # An item that runs twice may fail once.
        occur = {match.known for match in matches if match.status == "known"}
        fixed = [match.now for match in matches if match.status == "fixed"]
        new = [self._entry(match) for match in matches if match.status in ("new", "created")]
        try:
            if self._mode == "create":
                added = [entry for entry in new if entry.failure != Failure.__name__]
                self._written = known_failures.change(self._directory, added=added)
            else:
                removed = [entry for entry in fixed if entry not in occur]
                self._written = known_failures.change(self._directory, removed=removed)
        except (known_failures.KnownFilesError, OSError) as error:
            self._problem = f"known failures: nothing is written: {error}"

    def raise_problem(self) -> None:
        """Raise UsageError if ``end`` could not write. The summary was printed by then."""
        if self._problem:
            raise pytest.UsageError(self._problem)

    def lines(self, results: Sequence[ItemResult]) -> Iterator[str]:
        """Yield the lines of the summary."""
        yield from known_failures.known_lines(results)
        for entry, file in self._known.file_of.items():
            if not self._is_there(entry.test):
                yield f"unused: {file}: there is no {entry.test}: rename or remove the entry"
        yield from self.quiet_lines()

    def quiet_lines(self) -> Iterator[str]:
        """Yield the lines that the summary has with ``-q`` too."""
        if self._written:
            yield f"written, to be committed: {', '.join(self._written)}"

    def _is_there(self, test: str) -> bool:
        """Return False if the file of a test is gone, or names no such test."""
        path, *names = test.partition("[")[0].split("::")
        file = self._config.rootpath / path
        if not file.is_file():
            return False
        source = file.read_text(encoding="utf-8", errors="replace")
        return all(name in source for name in names)
