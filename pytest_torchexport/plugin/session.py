"""What the plugin keeps during a run: settings, verdicts, and what becomes of them at the end.

An instance registered with pytest rather than module globals: pytester runs several sessions in one
process. Only the controller of xdist writes files; verdicts reach it on pytest's own reports.
"""

from __future__ import annotations

import functools
import inspect
import os
import platform
import shutil
import sys
import unittest
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pytest_torchexport.config.options import Options
from pytest_torchexport.plugin.crash_marker import CrashMarker
from pytest_torchexport.plugin.ini_and_flags import Given
from pytest_torchexport.plugin.items import (
    FIXTURE,
    KEPT,
    MARKER,
    CacheCorpus,
    Variant,
    kept_in,
    options_of,
    parameters,
    plan_for,
    variants,
)
from pytest_torchexport.plugin.progress import Progress
from pytest_torchexport.results.failures import ArtifactCrashed, Failure
from pytest_torchexport.results.text import (
    detail_lines,
    reason_lines,
    self_test_lines,
    summary_lines,
)
from pytest_torchexport.results.verdict import Verdict, why_skipped

if TYPE_CHECKING:
    from pytest_torchexport.config.plan import Plan
    from pytest_torchexport.plugin.fixture import TorchExport

VERDICTS = pytest.StashKey[list[Verdict]]()
# The attribute that carries verdicts on a pytest report, through xdist to the controller.
ATTRIBUTE = "torchexport"


class _Begun(NamedTuple):
    """An item that has begun: who is told how far it is, and why its artifact is called elsewhere."""

    progress: Progress
    why_isolated: str


class Session:
    """One pytest run."""

    def __init__(self, config: pytest.Config, given: Given) -> None:
        self.config = config
        self.given = given
        self.records: list[dict[str, Any]] = []

    # -- collection --------------------------------------------------------------------------------

    def generate(self, metafunc: pytest.Metafunc) -> None:
        """Parametrize a test that is marked or requests the fixture."""
        requested = FIXTURE in metafunc.fixturenames
        options = options_of(metafunc.definition, metafunc.definition.nodeid)
        if options is None and not requested:
            return
        found = variants(options or Options(), self.given)
        if not found:
            return
        if not requested:
            metafunc.fixturenames.append(FIXTURE)
        metafunc.parametrize(FIXTURE, parameters(found), indirect=True)

    def refuse_markers(self, items: list[pytest.Item]) -> None:
        """Markers that made no items: inside ``pytest.param`` they come too late, and on a ``unittest``
        method there are none to make. Both are judged here, so that none is ignored.
        """
        for item in items:
            if not isinstance(item, pytest.Function):
                continue
            if is_unittest(item):
                self._judge_marker(item)
            late = [mark for mark in item.own_markers if mark.name == MARKER]
            written = [m for m in getattr(item.obj, "pytestmark", []) if m.name == MARKER]
            if len(late) > len(written):
                raise pytest.UsageError(
                    f"{item.nodeid}: a torchexport marker inside pytest.param(marks=...) comes too late "
                    "to make items; put it on the test function"
                )

    def _judge_marker(self, item: pytest.Function) -> None:
        try:
            options = options_of(item, item.nodeid)
        except pytest.Collector.CollectError as error:
            raise pytest.UsageError(str(error)) from None
        if options is not None and options.xfail:
            raise pytest.UsageError(
                f"{item.nodeid}: xfail: a unittest method is one item for all targets; use "
                "unittest.expectedFailure, or a plain test function"
            )

    # -- running -----------------------------------------------------------------------------------

    def fixture(self, item: pytest.Item, variant: Variant) -> Iterator[TorchExport]:
        """The fixture's value for one item."""
        from pytest_torchexport.plugin.fixture import TorchExport

        with self._running(item) as begun:
            yield TorchExport(
                self._plan(item, variant, begun),
                functools.partial(keep, item),
                item.name,
                nodeid_from_here(item),
            )

    def around_body(self, item: pytest.Function) -> Generator[None, Any, Any]:
        """Record a marked body that does not use the fixture, then check what it called."""
        variant = getattr(item, "callspec", None) and item.callspec.params.get(FIXTURE)
        if not isinstance(variant, Variant) or FIXTURE in item.funcargs:
            return (yield)
        from pytest_torchexport.plugin.capture import Recorder

        with Recorder() as recorder:
            result = yield
        self._check(item, recorder, [variant])
        return result

    def wrap_method(self, item: pytest.Item) -> None:
        """Wrap a marked ``unittest`` method so that all targets run after its body."""
        item.stash[VERDICTS] = []  # a rerun starts anew
        if not isinstance(item, pytest.Function) or not is_unittest(item):
            return
        options = options_of(item, item.nodeid)
        found = variants(options, self.given) if options is not None else []
        if not found:
            return
        body = item.obj

        from pytest_torchexport.plugin.capture import Recorder

        @functools.wraps(body)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with Recorder() as recorder:
                result = body(*args, **kwargs)
            self._check(item, recorder, found)
            return result

        @functools.wraps(body)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            with Recorder() as recorder:
                result = await body(*args, **kwargs)
            self._check(item, recorder, found)
            return result

        item.obj = awaited if inspect.iscoroutinefunction(body) else wrapped

    def _check(self, item: pytest.Function, recorder: Any, found: list[Variant]) -> None:
        from pytest_torchexport.plugin.fixture import check_recorded

        with self._running(item) as begun:
            check_recorded(
                recorder,
                [self._plan(item, variant, begun) for variant in found],
                functools.partial(keep, item),
                item.name,
                nodeid_from_here(item),
                own_marker=any(mark.name == MARKER for mark in item.own_markers),
            )

    @contextmanager
    def _running(self, item: pytest.Item) -> Iterator[_Begun]:
        """Around all that is checked in an item: what was kept of its last failure is gone."""
        shutil.rmtree(kept_in(self.config.rootpath, item.nodeid), ignore_errors=True)
        running = CrashMarker(getattr(self.config, "cache", None), item.nodeid)
        progress = Progress(self.config)
        running.begin()
        try:
            yield _Begun(progress, running.why_isolated)
        finally:
            progress.close()
            failures = {verdict.failure for verdict in item.stash.get(VERDICTS, [])}
            running.end(crashed=ArtifactCrashed.__name__ in failures)

    def _plan(self, item: pytest.Item, variant: Variant, begun: _Begun) -> Plan:
        corpus = CacheCorpus(getattr(self.config, "cache", None), item.nodeid)
        return plan_for(
            variant,
            self.given,
            self.config,
            item.nodeid,
            corpus,
            begun.progress,
            begun.why_isolated,
        )

    # -- reporting ---------------------------------------------------------------------------------

    def finish_report(
        self, item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport
    ) -> None:
        """Verdicts as plain data on the report; the failure's own text in place of our traceback."""
        if call.when != "call":
            return
        verdicts = item.stash.get(VERDICTS, [])
        if verdicts:
            setattr(report, ATTRIBUTE, [verdict.as_dict() for verdict in verdicts])
        text = failure_text_of(call.excinfo.value) if call.excinfo is not None else None
        if text is not None and report.outcome == "failed":
            report.longrepr = text
        reason = why_skipped(verdicts)
        if reason and report.outcome == "skipped" and not hasattr(report, "wasxfail"):
            path, line, _ = item.reportinfo()
            report.longrepr = (str(path), (line or 0) + 1, f"Skipped: {reason}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect what the items' reports carry (on the controller, from all workers)."""
        verdicts = getattr(report, ATTRIBUTE, None)
        if verdicts is not None:
            outcome = _outcome(report)
            self.records.append({"nodeid": report.nodeid, "outcome": outcome, "verdicts": verdicts})

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """The table of tests x targets; with ``-v`` what each verdict rests on."""
        if not self.records or self.config.get_verbosity() < 0:
            return
        write = terminalreporter.write_line
        terminalreporter.ensure_newline()
        terminalreporter.section("torchexport")
        rows, columns = table(self.records)
        markup = self.config.get_terminal_writer().markup
        for line in summary_lines(rows, columns, markup):
            write(line)
        for line in reason_lines(self.records):
            write(line)
        for line in self_test_lines(self.records, markup):
            write(line)
        if any(_refused_unnamed(record) for record in self.records):
            write(
                "name the targets you ship (marker or torchexport_targets): then a refusal is a failure"
            )
        if self.config.get_verbosity() > 0:
            for record in self.records:
                for data in record["verdicts"]:
                    write(f"{record['nodeid']} {data['subject']}: {data['status']}")
                    for line in detail_lines(Verdict.from_dict(data)):
                        write(line)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, exitstatus: int) -> Generator[None]:
        """Write the reports that were asked for, once, on the controller, when all else has been said."""
        limits = sys.modules.get("pytest_torchexport.outcomes.limits")
        if limits is not None:
            limits.set_exit_status(int(exitstatus))
        yield
        if not hasattr(self.config, "workerinput"):
            self._write_reports()

    def _write_reports(self) -> None:
        if not self.given.settings.report:
            return
        from pytest_torchexport.results import reports

        for form, path in self.given.settings.report:
            target = Path(self.config.invocation_params.dir, path)
            text = reports.FORMATS[form](self.records, environment())
            try:
                reports.write(target, text)
            except OSError as error:
                raise pytest.UsageError(
                    f"--torchexport-report: cannot write {path}: {error.strerror or error}"
                ) from None


def nodeid_from_here(item: pytest.Item) -> str:
    """The node id as one types it in the directory pytest was started in; its own is relative to rootdir."""
    _, colons, rest = item.nodeid.partition("::")
    try:
        path = os.path.relpath(item.path, item.config.invocation_params.dir)
    except ValueError:
        path = str(item.path)
    return f"{path}{colons}{rest}"


def is_unittest(item: pytest.Function) -> bool:
    """Whether the item is a method of a ``unittest.TestCase``."""
    cls = item.parent.obj if isinstance(item.parent, pytest.Class) else None
    return isinstance(cls, type) and issubclass(cls, unittest.TestCase)


def keep(item: pytest.Item, verdict: Verdict) -> None:
    """Remember a verdict of an item, and show it to JUnit."""
    item.stash.setdefault(VERDICTS, []).append(verdict)
    if verdict.kept:
        # As pytest's own cache does: files for a person, not for the repository.
        ignore = item.config.rootpath / KEPT / ".gitignore"
        if ignore.parent.is_dir():
            ignore.write_text("*\n")
    item.user_properties.append(
        ("torchexport", f"{verdict.target}-{verdict.device} {verdict.status}")
    )


def failure_text_of(error: BaseException) -> str | None:
    """The text of our failures; None where something else is among them."""
    if isinstance(error, Failure):
        return str(error)
    if isinstance(error, ExceptionGroup):
        texts = [failure_text_of(item) for item in error.exceptions]
        return None if None in texts else "\n\n".join(filter(None, texts))
    return None


def table(records: list[dict[str, Any]]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Outcome per test and column (``trace-cpu``), both in the order in which they came."""
    rows: dict[str, dict[str, str]] = {}
    columns: dict[str, None] = {}
    for record in records:
        for data in record["verdicts"]:
            column = f"{data['target']}-{data['device']}"
            columns[column] = None
            single = len(record["verdicts"]) == 1
            outcome = record["outcome"] if single else data["status"]
            test = _without_variant(record["nodeid"], column)
            rows.setdefault(test, {})
            rows[test][column] = _worse(rows[test].get(column), outcome)
    return rows, list(columns)


def environment() -> dict[str, str]:
    """Versions that a verdict depends on."""
    from importlib import metadata

    found = {"python": platform.python_version()}
    for name in ("torch", "onnx", "onnxruntime", "onnxruntime-gpu", "hypothesis", "pytest"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _without_variant(nodeid: str, column: str) -> str:
    plain = column.replace(":", "")
    for text, rest in ((f"[{plain}]", ""), (f"[{plain}-", "["), (f"-{plain}]", "]")):
        if text in nodeid:
            return nodeid.replace(text, rest, 1)
    return nodeid


def _worse(first: str | None, second: str) -> str:
    order = ("failed", "error", "xpassed", "xfailed", "skipped", "passed")
    if first is None:
        return second
    return min(first, second, key=lambda name: order.index(name) if name in order else 99)


def _outcome(report: pytest.TestReport) -> str:
    if hasattr(report, "wasxfail"):
        return "xfailed" if report.outcome == "skipped" else "xpassed"
    return str(report.outcome)


def _refused_unnamed(record: dict[str, Any]) -> bool:
    return any(" refused the module: " in data["reason"] for data in record["verdicts"])
