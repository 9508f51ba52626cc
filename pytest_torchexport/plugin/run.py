"""One run of pytest: collect and run marked items, report their verdicts, write the summary.

State is kept on an instance and not in module globals: pytester runs several sessions in one
process. Under xdist only the controller writes files; verdicts reach it on pytest's own reports.

pytest loads this file at every start: what only a marked test needs is imported once there is one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import sys
import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_torchexport.config.settings import KNOWN_DIRECTORY
from pytest_torchexport.config.validate import is_path
from pytest_torchexport.plugin.items import (
    FIXTURE,
    MARKER,
    VERDICTS,
    Configuration,
    Variant,
    is_marked,
    keep_only,
    name_of_test,
    options_of,
    torch_missing,
    variant_of,
    variants,
)
from pytest_torchexport.plugin.terminal import SameFailures, body_key, color, why_skipped

if TYPE_CHECKING:
    from pytest_torchexport.plugin.active_item import Stored
    from pytest_torchexport.plugin.fixture import TorchExport
    from pytest_torchexport.plugin.known import KnownFailures
    from pytest_torchexport.results.failures import Failure
    from pytest_torchexport.results.verdict import ItemResult, KnownMatch

# While items run, the reports are written again only after so many times the time that it took. A
# run that is killed keeps its verdicts.
TIMES_A_WRITE = 20.0
# The exit statuses of a run that came to its end.
COMPLETE = (
    pytest.ExitCode.OK,
    pytest.ExitCode.TESTS_FAILED,
    pytest.ExitCode.NO_TESTS_COLLECTED,
)
# The attribute of a pytest report with an item's result as plain data, through xdist too, and
# (``same``) what items of one test have in common whose bodies fail for the same reason.
ATTRIBUTE = "torchexport"


class Run:
    """One run of pytest: what the hooks do, and the results of its items."""

    def __init__(self, config: pytest.Config, configuration: Configuration) -> None:
        self.config = config
        self.configuration = configuration
        self.results: list[ItemResult] = []
        self._start = datetime.now(UTC)
        self._running: dict[str, ItemResult] = {}
        # The failures of --torchexport-replay; None without it.
        self._replayed: Stored | None = None
        given = config.getoption("--torchexport-replay")
        if given is not None:
            from pytest_torchexport.plugin.active_item import stored_failures

            self._replayed = stored_failures(config, given)
        if configuration.surveyed is not None:
            if missing := torch_missing():
                raise pytest.UsageError(missing)
            from pytest_torchexport.plugin.survey import PLUGIN, Survey

            config.pluginmanager.register(Survey(config, configuration), PLUGIN)
        if configuration.recorded:
            if missing := torch_missing():
                raise pytest.UsageError(missing)
            from pytest_torchexport.plugin import record

            config.pluginmanager.register(record.Record(config, configuration.recorded))
        self._known: KnownFailures | None = None
        self._same = SameFailures()
        # A body is run again.
        self._again = False
        # A value of time.monotonic: from then on the reports are written again while items run.
        self._write_from = 0.0

    def pytest_report_header(self) -> str | None:
        active = self.configuration.active
        return f"torchexport: {' '.join(active)}" if active else None

    # -- collection --------------------------------------------------------------------------------

    @pytest.hookimpl(tryfirst=True)
    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Make one item per target and device of a test that is marked or requests the fixture."""
        requested = FIXTURE in metafunc.fixturenames
        if not requested and not is_marked(metafunc.definition):
            return
        from pytest_torchexport.config.options import Options

        options = options_of(metafunc.definition) or Options()
        own = [mark for mark in metafunc.definition.own_markers if mark.name == MARKER]
        if requested and any(mark.kwargs.get("stand_in") for mark in own):
            raise pytest.Collector.CollectError(
                f"{metafunc.definition.nodeid}: @pytest.mark.torchexport: stand_in: the body of a "
                "test that requests the fixture is not recorded; use torchexport.same"
            )
        of_test = variants(options, self.configuration)
        if not of_test:
            return
        if not requested:
            metafunc.fixturenames.append(FIXTURE)
        values = []
        for variant in of_test:
            marks = [
                pytest.mark.xfail(
                    strict=True, raises=cls, reason=reason or f"{cls.__name__} is expected"
                )
                for cls, reason in variant.xfail
            ]
            values.append(pytest.param(variant, id=variant.id, marks=marks))
        metafunc.parametrize(FIXTURE, values, indirect=True)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Raise UsageError for a marker that made no items, so that none is ignored.

        A marker inside ``pytest.param`` comes too late to make items. A ``unittest`` method makes
        none, so its marker has not been checked yet. Keep the items of a replay, if this run is
        one.
        """
        for item in items:
            if not isinstance(item, pytest.Function) or not is_marked(item):
                continue
            if is_unittest(item):
                try:
                    options = options_of(item)
                except pytest.Collector.CollectError as error:
                    raise pytest.UsageError(str(error)) from None
                if options is not None and options.xfail:
                    raise pytest.UsageError(
                        f"{item.nodeid}: xfail: a unittest method is one item for all targets; use "
                        "unittest.expectedFailure, or a plain test function"
                    )
            all_own = [mark for mark in item.own_markers if mark.name == MARKER]
            on_function = [m for m in getattr(item.obj, "pytestmark", []) if m.name == MARKER]
            if len(all_own) > len(on_function):
                raise pytest.UsageError(
                    f"{item.nodeid}: a torchexport marker inside pytest.param(marks=...) comes too "
                    "late to make items; put it on the test function"
                )
        if self._replayed is not None:
            keep_only(self.config, items, self._replayed, lambda item: item.nodeid)

    @pytest.hookimpl(specname="pytest_collection_modifyitems", trylast=True)
    def pytest_torchexport_shard(self, items: list[pytest.Item]) -> None:
        """Keep every N-th test from the K-th, of those that -m, -k and others have left.

        They are sorted by name, so that their order in this run does not count. The items of a
        test, one per target and device, stay together.
        """
        part, parts = map(int, self.configuration.settings.shard.split("/"))
        if parts > 1:
            tests = sorted({name_of_test(item) for item in items})
            keep_only(self.config, items, {*tests[part - 1 :: parts]}, name_of_test)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Have the clean processes import their libraries before the first item has a file.

        With a cache of verdicts, or if nobody asks for the round trip, there may be none.
        """
        if self.config.option.collectonly or self.configuration.settings.cache:
            return
        of_items = [variant for item in session.items if (variant := variant_of(item)) is not None]
        if targets := {
            variant.target
            for variant in of_items
            if not variant.options.checks or "round_trip" in variant.options.checks
        }:
            from pytest_torchexport.judge.runner import warm_up

            for target in sorted(targets):
                warm_up(target)

    def pytest_report_collectionfinish(self, items: Sequence[pytest.Item]) -> str | None:
        """Say how many of the stored failures are run again."""
        if self._replayed is None:
            return None
        found = sum(len(self._replayed.get(item.nodeid, ())) for item in items)
        stored = sum(map(len, self._replayed.values()))
        return f"torchexport: {found} of {stored} stored failures are in this selection"

    # -- running -----------------------------------------------------------------------------------

    @pytest.fixture
    def torchexport(self, request: pytest.FixtureRequest) -> Generator[TorchExport]:
        """Check and export modules on the item's target and device."""
        if not hasattr(request, "param"):
            pytest.skip(
                "--torchexport-targets or --torchexport-devices leaves no target for this test (a "
                "survey and a recording make no checks)"
            )
        from pytest_torchexport.plugin.active_item import active
        from pytest_torchexport.plugin.fixture import TorchExport

        with active(request.node, self.configuration, self._replayed) as active_item:
            yield TorchExport(active_item.plan(request.param), active_item)

    @pytest.hookimpl(wrapper=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
        """Record a marked body that does not use the fixture, then check the modules it called."""
        variant = variant_of(pyfuncitem)
        if variant is None or FIXTURE in pyfuncitem.funcargs or self._again:
            return (yield)
        with contextlib.closing(self._runs(pyfuncitem, [variant])) as runs:
            with next(runs):
                result = yield
            self._again = True
            try:
                for run in runs:
                    with run:
                        pyfuncitem.ihook.pytest_pyfunc_call(pyfuncitem=pyfuncitem)
            finally:
                self._again = False
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Wrap a marked ``unittest`` method so that all targets run after its body.

        Afterwards, note in the item's properties that it has no verdict.
        """
        item.stash[VERDICTS] = []  # an item may be run again
        variant, of_method = variant_of(item), self._of_method(item)
        if of_method and isinstance(item, pytest.Function):
            body = item.obj

            @functools.wraps(body)
            def wrapped(*args: Any, **kwargs: Any) -> None:
                with contextlib.closing(self._runs(item, of_method)) as runs:
                    for run in runs:
                        with run:
                            body(*args, **kwargs)

            @functools.wraps(body)
            async def awaited(*args: Any, **kwargs: Any) -> None:
                with contextlib.closing(self._runs(item, of_method)) as runs:
                    for run in runs:
                        with run:
                            await body(*args, **kwargs)

            item.obj = awaited if inspect.iscoroutinefunction(body) else wrapped
            # Of a coroutine function, pytest lets unittest run the method of this name.
            setattr(item.instance, item.name, item.obj)
        try:
            return (yield)
        finally:
            if (variant is not None or of_method) and not item.stash[VERDICTS]:
                words = [variant.id] if variant is not None else []
                item.user_properties.append(("torchexport", " ".join([*words, "no verdict"])))

    def _of_method(self, item: pytest.Item) -> list[Variant]:
        """Return the variants of a marked ``unittest`` method; none for any other item."""
        if not isinstance(item, pytest.Function) or not is_marked(item) or not is_unittest(item):
            return []
        options = options_of(item)
        return variants(options, self.configuration) if options is not None else []

    def _runs(
        self, item: pytest.Function, of_item: Sequence[Variant]
    ) -> Generator[contextlib.AbstractContextManager[Any]]:
        """Yield a context for each run of the body: the first is recorded, then all is checked.

        Further ones have artifacts in the place of the modules that the body calls.
        """
        from pytest_torchexport.outcomes.torch_state import random_numbers
        from pytest_torchexport.plugin.active_item import active
        from pytest_torchexport.plugin.capture import CallRecorder
        from pytest_torchexport.plugin.fixture import check_recorded

        random, recorder = random_numbers(), CallRecorder(item.obj)
        yield recorder
        with active(item, self.configuration, self._replayed) as active_item:
            plans = [active_item.plan(variant) for variant in of_item]
            yield from check_recorded(recorder, plans, active_item, random)

    # -- reporting ---------------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Put the verdicts on the report, and the failure's own text in place of a traceback."""
        report = yield
        variant = variant_of(item)
        if variant is None and not self._of_method(item):
            return report
        raised = call.excinfo.value if call.excinfo is not None else None
        ours = failures_in(raised)
        verdicts = item.stash.get(VERDICTS, []) if call.when == "call" else []
        if call.when == "call" and raised is not None and report.outcome == "failed":
            report.longrepr = "\n\n".join(map(str, ours)) or report.longrepr
        from pytest_torchexport.results.plain import plain
        from pytest_torchexport.results.verdict import ItemResult

        of_body = isinstance(item, pytest.Function) and FIXTURE not in item.funcargs
        same = body_key(report, verdicts, whole=of_body and call.when == "call")
        known: list[KnownMatch] = []
        if verdicts and self._known is not None:
            of_verdicts = bool(ours) and all(failure.verdicts for failure in ours)
            known = self._known.judge(report, verdicts, ours=of_verdicts)
        result = ItemResult(
            report.nodeid,
            outcome="",  # known when the report is collected
            verdicts=tuple(verdicts),
            target=variant.target if variant is not None else "",
            device=variant.device if variant is not None else "",
            known=tuple(known),
        )
        setattr(report, ATTRIBUTE, {"result": plain(result), "same": same})
        is_skip = report.outcome == "skipped" and not hasattr(report, "wasxfail")
        if is_skip and (reason := why_skipped(verdicts)):
            path, line, _ = item.reportinfo()
            report.longrepr = (str(path), (line or 0) + 1, f"Skipped: {reason}")
        return report

    def pytest_sessionstart(self) -> None:
        """Write reports without verdicts: that of an earlier run is not to be taken for this one.

        Read the known failures. Raises UsageError if one of these files is wrong, or if a report
        or an artifact cannot be written.
        """
        if (
            self.configuration.settings.known == "create"
            or Path(self.config.rootpath, KNOWN_DIRECTORY).is_dir()
        ):
            from pytest_torchexport.plugin.known import KnownFailures

            self._known = KnownFailures(self.config, self.configuration)
        if self.config.option.collectonly:
            return
        for name in ("ship", "cache"):
            if given := getattr(self.configuration.settings, name):
                directory = Path(self.config.rootpath, given)
                try:
                    directory.mkdir(parents=True, exist_ok=True)
                    tempfile.TemporaryFile(dir=directory).close()
                except OSError as error:
                    raise pytest.UsageError(
                        f"torchexport_{name}: {given!r} cannot be written: {error.strerror}"
                    ) from None
        for name in filter(is_path, self.configuration.settings.serve_on):
            if not Path(self.config.rootpath, name).is_file():
                raise pytest.UsageError(
                    f"torchexport_serve_on: there is no file {name!r}, seen from the rootdir "
                    f"{self.config.rootpath}. Next step: python -m venv envs/serving, install the "
                    "runtime there, and name envs/serving/bin/python"
                )
        if self._reports_here():
            self._write_reports(complete=False)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect the results of items (on the controller: of all workers)."""
        if isinstance(report, pytest.SubtestReport):  # the item's own report follows
            return
        given = getattr(report, ATTRIBUTE, None)
        result = self._running.pop(report.nodeid, None)
        # In xdist's own report of an item whose worker died nothing is given.
        if report.when == "teardown" or (given is None and result is None):
            return
        from pytest_torchexport.results.plain import made
        from pytest_torchexport.results.verdict import ItemResult

        if report.failed and isinstance(report.longrepr, str):
            color(report, report.longrepr)
        if given is not None:
            result = made(ItemResult, given["result"])
        assert result is not None
        outcome = str(report.outcome)
        if hasattr(report, "wasxfail"):
            outcome = "xfailed" if report.outcome == "skipped" else "xpassed"
        # Of a passed item with known failures, that they are fixed is what fails.
        none_failed = all(verdict.status != "failed" for verdict in result.verdicts)
        itself = report.failed and none_failed and not result.known
        result = dataclasses.replace(
            result,
            outcome=outcome,
            reason=_reason(report) if itself or not result.verdicts else "",
            traceback=report.longreprtext if itself else "",
        )
        if report.failed and given is not None and self.config.get_verbosity() <= 0:
            self._same.note(report, result, given["same"])
        if report.when == "setup" and report.passed:
            self._running[report.nodeid] = dataclasses.replace(result, outcome="running")
        else:
            self.results.append(result)
        start = time.monotonic()
        if self._reports_here() and start >= self._write_from:
            # What cannot be written now is an error when the run ends.
            with contextlib.suppress(pytest.UsageError):
                self._write_reports(complete=False)
            now = time.monotonic()
            self._write_from = now + TIMES_A_WRITE * (now - start)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Write the table of tests x targets; with ``-v`` also the details of each verdict."""
        verbosity, settings = self.config.get_verbosity(), self.configuration.settings
        cached = bool(settings.cache)
        if not self.results or verbosity < 0:
            # Lines that -q has too; those that are no warnings not with -qq.
            quiet = list(self._known.quiet_lines()) if self._known is not None else []
            if self.results:
                from pytest_torchexport.config.advice import unchanged_lines
                from pytest_torchexport.results.summary import reason_lines, self_test_lines

                if verbosity == -1:
                    quiet += reason_lines(self.results, skips=False)
                    quiet += self_test_lines(self.results)
                    quiet += unchanged_lines(self.results, cached=cached)
                quiet += self._slowest_lines()
            for line in quiet:
                terminalreporter.write_line(line)
            return
        from pytest_torchexport.config.advice import setting_lines
        from pytest_torchexport.results.summary import detail_lines, summary_lines

        inipath, style = self.config.inipath, self.config.get_terminal_writer().markup
        lines = list(summary_lines(self.results, style, whole=verbosity > 0))
        lines += setting_lines(
            self.results,
            runtime_imports=settings.runtime_imports,
            toml=inipath is not None and inipath.suffix == ".toml",
            cached=cached,
        )
        if self._known is not None:
            lines += self._known.lines(self.results)
        if not lines:
            return  # no item came to its checks
        if settings.strict:
            from pytest_torchexport.config import tested
            from pytest_torchexport.results import reports

            devices = {verdict.device for item in self.results for verdict in item.verdicts}
            line = tested.untested(reports.environment(), tested.runs(), devices)
            lines += [line, *(tested.table(tested.runs()) if verbosity > 0 else [])] if line else []
        lines += self._slowest_lines()
        if verbosity > 0:
            lines += detail_lines(self.results)
        terminalreporter.ensure_newline()
        terminalreporter.section("torchexport")
        for line in lines:
            terminalreporter.write_line(line)

    def _slowest_lines(self) -> Iterator[str]:
        """Yield the slowest items: as many as ``--durations`` says; with ``-v`` the slow ones."""
        from pytest_torchexport.config.advice import SLOW, slowest_lines

        count, least = self.config.getoption("--durations"), 0.0
        if count is None and self.config.get_verbosity() > 0:
            count, least = 0, SLOW
        if count is not None:
            cached = bool(self.configuration.settings.cache)
            yield from slowest_lines(self.results, count, least=least, cached=cached)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> Generator[None]:
        """Write the reports, once, on the controller, after the hooks of all other plugins."""
        if limits := sys.modules.get("pytest_torchexport.outcomes.limits"):  # an item was checked
            limits.left_behind.exit_status = int(exitstatus)
        known = self._known if not self.config.option.collectonly else None
        if known is not None:
            known.end(self.results)  # the summary tells of it
        self._same.shorten(_reason)
        yield
        if self._reports_here():
            # After ``-x`` and ``--maxfail`` the exit status is that of a failed test.
            stopped = session.shouldfail or session.shouldstop
            self._write_reports(complete=exitstatus in COMPLETE and not stopped, is_last=True)
        if known is not None and known.problem:
            raise pytest.UsageError(known.problem)

    def _reports_here(self) -> bool:
        """Return True if this process writes reports: under xdist only the controller does."""
        return bool(self.configuration.settings.report) and not hasattr(self.config, "workerinput")

    def _write_reports(self, *, complete: bool, is_last: bool = False) -> None:
        from pytest_torchexport.config.what_ran import what_ran
        from pytest_torchexport.results import reports
        from pytest_torchexport.results.verdict import RunResults

        seed = self.config.getoption("--hypothesis-seed", None)
        results = RunResults(
            items=(*self.results, *self._running.values()),
            environment={**reports.environment(), **what_ran(start=self._start, seed=seed)},
            complete=complete,
        )
        errors = []
        for name, path in self.configuration.settings.report:
            if path == reports.STDOUT and not is_last:
                continue
            try:
                text = reports.rendered(name, results)
                terminal = self.config.pluginmanager.get_plugin("terminalreporter")
                if path != reports.STDOUT:
                    reports.write(Path(self.config.invocation_params.dir, path), text)
                elif terminal is None:
                    sys.stdout.write(text)
                else:
                    terminal.ensure_newline()
                    terminal.write(text)
            except OSError as error:
                errors.append(f"cannot write {path}: {error.strerror or error}")
            except reports.CannotRender as error:
                errors.append(str(error))
        if errors:
            raise pytest.UsageError(f"--torchexport-report: {'; '.join(errors)}")


def is_unittest(item: pytest.Function) -> bool:
    """Return True if the item is a method of a ``unittest.TestCase``."""
    import unittest

    cls = item.parent.obj if isinstance(item.parent, pytest.Class) else None
    return isinstance(cls, type) and issubclass(cls, unittest.TestCase)


def failures_in(error: BaseException | None) -> list[Failure]:
    """Return our failures in an exception; none if another exception is among them."""
    from pytest_torchexport.results.failures import Failure

    if isinstance(error, ExceptionGroup):
        inside = [failures_in(each) for each in error.exceptions]
        return [failure for failures in inside for failure in failures] if all(inside) else []
    return [error] if isinstance(error, Failure) else []


def _reason(report: pytest.TestReport) -> str:
    """Return in a line what pytest says of an item that did not pass."""
    if report.passed:
        return ""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    lines = (crash.message if crash is not None else str(report.longrepr)).strip().splitlines()
    errors = [line.removeprefix("E ").strip() for line in lines if line.startswith("E ")]
    return next(iter(errors or lines), "")
