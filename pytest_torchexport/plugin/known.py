"""Known failures in a run of pytest: xfail what is known, fail what is fixed, write what is asked.

Each process compares its own items. Under xdist only the controller writes, and it alone sees
whether two workers claim one known failure for tests that have moved.
"""

from __future__ import annotations

import ast
import dataclasses
import datetime as dt
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_torchexport.plugin.ini_and_flags import Configuration
from pytest_torchexport.plugin.kept import KEPT, tidy
from pytest_torchexport.plugin.left_out import KEY, LeftOut
from pytest_torchexport.results import known_files, known_patches, reports
from pytest_torchexport.results.entries import without_variant
from pytest_torchexport.results.escaped import in_shell
from pytest_torchexport.results.failures import Failure
from pytest_torchexport.results.known_failure import (
    EXPECTED,
    KnownFailure,
    KnownMatch,
    Stored,
)
from pytest_torchexport.results.known_files import Changes, KnownFilesError
from pytest_torchexport.results.known_matching import Known
from pytest_torchexport.results.known_text import (
    CREATE,
    REASON,
    TIGHTEN,
    commit_lines,
    difference_lines,
    fixed_text,
    known_lines,
    left_lines,
    match_lines,
    why_expected,
)
from pytest_torchexport.results.verdict import ItemResult, Verdict

PLUGIN = "torchexport-known"
PROPOSED = "torchexport-known-proposed"
# The key under which a worker of xdist sends the entries of tests that are gone.
GONE = "torchexport_known_gone"
# An entry with such a match stays, whatever else matches it.
KEEP = ("known", "worse", "ambiguous")


class KnownFailures:
    """The known failures of a run. Registered as a plugin, for what collection shows."""

    def __init__(self, config: pytest.Config, configuration: Configuration) -> None:
        settings = configuration.settings
        self._config = config
        self._configuration = configuration
        self._mode = settings.known
        self._reason = settings.known_reason
        self._directory = Path(config.rootpath, settings.known_directory)
        stored = read(self._directory)
        wanted = any(each.entry.when for each in stored)
        self._known = Known(stored, reports.environment() if wanted else {}, today())
        self._modules: dict[str, Any] = {}
        self._tests: dict[str, set[str]] = {}
        self._gone: list[Stored] | None = None
        self._gone_elsewhere: set[tuple[str, int]] = set()
        self._left_out = LeftOut(config, configuration)
        config.pluginmanager.register(self._left_out, f"{PLUGIN}-left-out")
        self._dropped: list[Stored] = []
        self._left: list[tuple[Stored, str]] = []
        self._written: list[str] = []
        self._patch = ""
        self._problem = ""

    @property
    def _writes(self) -> bool:
        """True if this run changes the directory. In CI none does."""
        return self._mode != "check" and not os.environ.get("CI")

    # -- what collection shows ---------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(
        self, collector: pytest.Collector
    ) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
        """Note the tests of a file that was collected, whatever is selected later."""
        report = yield
        if report.passed and not self._config.getoption("lf", default=False):
            if isinstance(collector, pytest.Module):
                self._modules[collector.nodeid] = collector.obj
            for node in report.result or ():
                if isinstance(node, pytest.Function):
                    name = node.nodeid.partition("[")[0]
                    self._tests.setdefault(name, set()).add(node.nodeid)
        return report

    def gone(self) -> list[Stored]:
        """Return the entries of tests that are certainly no longer there."""
        if self._gone is None:
            self._gone = [each for each in self._known.stored if self._is_gone(each.entry)]
        return self._gone

    def _is_gone(self, entry: KnownFailure) -> bool:
        names = entry.test.partition("[")[0]
        path, *parts = names.split("::")
        if not (self._config.rootpath / path).is_file():
            return True
        found = self._modules.get(path)
        if found is None:
            return False
        for part in parts:
            found = getattr(found, part, None)
        if found is None:
            return not _defines(self._config.rootpath / path, parts[-1])
        if self._configuration.only_targets is not None or self._configuration.only_devices:
            return False
        # A target or device that no item has may be missing on this machine alone.
        here = f"{entry.target}-{entry.device}"
        items = {item: without_variant(item, here) for item in self._tests.get(names, ())}
        tests = {test for item, test in items.items() if test != item}
        return bool(tests) and entry.test not in tests

    # -- items -------------------------------------------------------------------------------------

    def judge(
        self,
        report: pytest.TestReport,
        verdicts: Sequence[Verdict],
        *,
        whole: bool,
        ours: bool,
    ) -> list[KnownMatch]:
        """Change an item's report by what is known of its failures; return the matches.

        ``whole``: the verdicts are on all subjects of the test. ``ours``: the item failed by the
        failures of these verdicts, and by nothing else.
        """
        if self._config.getoption("runxfail", default=False):
            return []
        if not report.passed and not (report.failed and ours):
            return []
        found = self._known.matches(report.nodeid, verdicts, gone=self.gone, whole=whole)
        if report.passed:  # a test may expect a failure itself
            found = [match for match in found if match.status == "fixed"]
        if self._mode == "create" and self._writes:
            found = [self._created(match) for match in found]
        fixed = [match for match in found if match.status == "fixed"]
        if self._mode == "tighten" and self._writes:
            fixed = []
        failing = [match for match in found if match.status != "fixed"]
        if report.passed and fixed:
            report.outcome = "failed"
            report.longrepr = fixed_text(fixed, [report.nodeid])
        elif failing and not fixed and all(match.status in EXPECTED for match in failing):
            report.outcome = "skipped"
            report.wasxfail = why_expected(failing)
        elif report.failed:
            _add(report, difference_lines([*failing, *fixed]))
        return found

    def _created(self, match: KnownMatch) -> KnownMatch:
        """Return the match of a failure that becomes known now, if it may."""
        if match.status in (*EXPECTED, "fixed") or match.now.failure == Failure.__name__:
            return match
        now = dataclasses.replace(match.now, reason=self._reason, since=today())
        return KnownMatch(status="created", now=now)

    def settle(
        self, report: pytest.TestReport, matches: Iterable[KnownMatch]
    ) -> tuple[KnownMatch, ...]:
        """Return the matches of an item of any process; fail the item if another has its claim."""
        found = tuple(self._known.claimed(match, report.nodeid) for match in matches)
        late = [match for match in found if match.status == "ambiguous"]
        if late and hasattr(report, "wasxfail"):
            del report.wasxfail
            report.outcome = "failed"
            _add(report, difference_lines(late))
        return found

    # -- the end of the run ------------------------------------------------------------------------

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take from a worker of xdist which entries are of tests that are gone."""
        output = getattr(node, "workeroutput", None) or {}
        self._gone_elsewhere.update((file, line) for file, line in output.get(GONE, ()))

    def end(self, results: Sequence[ItemResult]) -> None:
        """Change the directory as asked; or write the proposal, and remove that of another run.

        An entry of a test that is gone is dropped only by a run of all tests: a test that was not
        run may be the one that it is of now. A worker of xdist only sends to its controller what it
        knows of this.
        """
        output = getattr(self._config, "workeroutput", None)
        if output is not None:
            output[GONE] = [(each.file, each.line) for each in self.gone()]
            output[KEY] = self._left_out.collected()
            return
        gone = [
            each
            for each in self._known.stored
            if each in self.gone() or (each.file, each.line) in self._gone_elsewhere
        ]
        left_out = self._left_out.why()
        for each in _unclaimed(gone, results):
            lapsed = self._known.lapsed(each.entry, dated=False)
            if why := left_out or lapsed or _not_judged(each.entry, results):
                self._left.append((each, why))
            else:
                self._dropped.append(each)
        changes = _changes(results, self._dropped)
        if self._mode == "create":
            created = [*self._to_create(results)]
            # An entry of the same failure that is no longer valid is replaced.
            changes = Changes(added=created, removed=created)
        try:
            if self._writes:
                lock = self._config.rootpath / KEPT / f"{PLUGIN}.lock"
                self._written = known_files.apply(self._directory, changes, lock)
                tidy(self._config.rootpath, self._configuration.settings.reproducer_days)
                changes = Changes()
            self._propose(changes)
        except (KnownFilesError, OSError) as error:
            self._problem = f"known failures: nothing is written: {error}"

    def raise_problem(self) -> None:
        """Raise UsageError if ``end`` could not write. The summary was printed by then."""
        if self._problem:
            raise pytest.UsageError(self._problem)

    def _to_create(self, results: Sequence[ItemResult]) -> Iterator[KnownFailure]:
        for result in results:
            for match in result.known:
                created = self._created(match)
                if created.status == "created":
                    yield created.now

    def _propose(self, changes: Changes) -> None:
        """Leave the corrected directory and a patch for somebody to commit."""
        root, start = self._config.rootpath, self._config.invocation_params.dir
        written = self._configuration.settings.report
        files = [path for _, path in written if path != reports.STDOUT]
        beside = Path(start, files[0]).parent if files else root / KEPT
        repositories = (each for each in (root, *root.parents) if (each / ".git").exists())
        patch = beside / known_patches.PATCH
        if known_patches.propose(
            self._directory,
            changes,
            root=next(repositories, root),
            into=beside / PROPOSED,
            patch=patch,
        ):
            self._patch = os.path.relpath(patch, start)
            if not files:
                tidy(root, self._configuration.settings.reproducer_days)

    def lines(self, results: Sequence[ItemResult]) -> Iterator[str]:
        """Yield the lines of the summary."""
        yield from known_lines(
            results,
            directory=self._configuration.settings.known_directory,
            dropped=self._dropped,
            left=self._left,
        )
        yield from self._commit_lines()

    def quiet_lines(self, results: Sequence[ItemResult]) -> Iterator[str]:
        """Yield the lines that the summary has with ``-q`` too: no red item says these."""
        yield from match_lines(results, ("worse", "moved"))
        if self._mode == "tighten":
            yield from left_lines(self._left)
        yield from self._commit_lines()

    def _commit_lines(self) -> Iterator[str]:
        creates = f"{CREATE} {REASON}={in_shell(self._reason)}"
        again = creates if self._mode == "create" else TIGHTEN
        return commit_lines(written=self._written, patch=self._patch, again=again)


def _unclaimed(gone: Sequence[Stored], results: Sequence[ItemResult]) -> list[Stored]:
    """Return what is gone and was not claimed; not what an ambiguous failure may be."""
    matches = [match for result in results for match in result.known]
    claimed = {match.known.identity for match in matches if match.known and match.status == "moved"}
    open_ones = {
        (match.now.target, match.now.device, match.now.failure)
        for match in matches
        if match.status == "ambiguous"
    }
    return [
        each
        for each in gone
        if each.entry.identity not in claimed
        and (each.entry.target, each.entry.device, each.entry.failure) not in open_ones
    ]


def _not_judged(entry: KnownFailure, results: Sequence[ItemResult]) -> str:
    """Return why the test of an entry may be in this run without a verdict; empty if it is not."""
    verdicts = [verdict for result in results for verdict in result.verdicts]
    if entry.device != "cpu" and all(each.device != entry.device for each in verdicts):
        return f"nothing was checked on {entry.device}"
    where = (entry.target, entry.device)
    for result in results:
        if (result.target, result.device) not in (where, ("", "")):
            continue
        own = [
            each.status
            for each in result.verdicts
            if (each.target, each.device, each.subject) == (*where, entry.subject)
        ]
        # Nothing is known of an item whose body failed too: it was not compared.
        open_one = "skipped" in own or (own and result.outcome == "failed" and not result.known)
        if open_one or (not result.verdicts and result.outcome != "passed"):
            return f"{result.nodeid} was not judged"
    return ""


def _changes(results: Sequence[ItemResult], gone: Sequence[Stored]) -> Changes:
    """Return the changes that tighten: what is fixed, moved, or gone."""
    matches = [match for result in results for match in result.known]
    # An item that runs twice may fail once, and two items may claim one entry.
    kept = {match.known.identity for match in matches if match.known and match.status in KEEP}
    changed = [
        match for match in matches if match.known is not None and match.status in ("fixed", "moved")
    ]
    changed = [match for match in changed if match.known and match.known.identity not in kept]
    removed = [match.known for match in changed if match.known is not None]
    return Changes(
        added=[match.now for match in changed if match.status == "moved"],
        removed=[*removed, *(each.entry for each in gone)],
    )


def _add(report: pytest.TestReport, lines: Iterable[str]) -> None:
    """Add lines to the text of an item's failure."""
    found = list(lines)
    if found:
        report.longrepr = "\n".join([str(report.longrepr or ""), *found])


def read(directory: Path) -> list[Stored]:
    """Return the known failures. Raises UsageError for a file that is wrong."""
    try:
        return known_files.read(directory) if directory.is_dir() else []
    except KnownFilesError as error:
        raise pytest.UsageError(f"known failures: {error}") from None


def today() -> str:
    """Return the date of today (ISO)."""
    return dt.datetime.now().astimezone().date().isoformat()


def _defines(path: Path, name: str) -> bool:
    """Return True if a file defines a test, maybe below an ``if`` that is not true here."""
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    tree = ast.parse(path.read_bytes())
    return any(isinstance(each, definitions) and each.name == name for each in ast.walk(tree))
