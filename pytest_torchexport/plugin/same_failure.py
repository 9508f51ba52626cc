"""Print a failure that has nothing to do with the target once per test, and name the targets.

The reports in files and pytest's counts keep one entry per target. pytest loads this file at every
start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pytest

from pytest_torchexport.plugin.terminal import color
from pytest_torchexport.results.failures import (
    Ineffective,
    NotRepeatable,
    SpecError,
    TrainingMode,
)

if TYPE_CHECKING:
    from pytest_torchexport.results.verdict import Verdict

# The failures that say something of eager, the test or the settings, and nothing of the artifact.
OF_NO_ARTIFACT = {each.__name__ for each in (SpecError, NotRepeatable, TrainingMode, Ineffective)}


def failure_key(report: pytest.TestReport, verdicts: Sequence[Verdict], *, whole: bool) -> str:
    """Return a text that items of one test have in common if they fail for the same reason.

    Empty if the item passed, or if its failure may depend on the target. ``whole``: the body and
    its fixtures are the same for all targets, so that the line that raised is enough.
    """
    if not report.failed:
        return ""
    failed = [verdict for verdict in verdicts if verdict.status == "failed"]
    if failed:
        same = all(verdict.failure in OF_NO_ARTIFACT for verdict in failed)
        return (
            "\n".join(f"{verdict.failure}: {verdict.reason}" for verdict in failed) if same else ""
        )
    crash = getattr(report.longrepr, "reprcrash", None)
    if whole and crash is not None:
        return f"{crash.path}:{crash.lineno}"
    return str(report.longrepr)


class SameFailures:
    """The failed reports of a run: for each test and reason, those of all its targets."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, ...], list[tuple[str, pytest.TestReport]]] = {}

    def note(self, report: pytest.TestReport, test: str, column: str, key: str) -> None:
        """Keep the failed report of a test on a target and device (``trace-cpu``)."""
        self._found.setdefault((test, report.when, key), []).append((column, report))

    def shorten(self, line_of: Callable[[pytest.TestReport], str]) -> None:
        """Keep the text of the first report alone, and name the other targets below it.

        ``line_of`` returns in a line why an item failed. To be called after all plugins have seen
        the reports, and before pytest prints them.
        """
        for (first_column, first), *others in self._found.values():
            for _, report in others:
                text = f"{line_of(report)}\n\n  as on {first_column}, above"
                color(report, text)
                report.sections = [each for each in report.sections if each not in first.sections]
            if others:
                columns = ", ".join(column for column, _ in others)
                first.sections.insert(0, ("the same on", columns))
