"""A run with ``--torchexport-survey``: record the modules that tests call, and check each class.

The suite needs no marker, and nothing fails because of a check. One instance of each class is
checked when all tests have run, within limits of time; an interrupt ends this, and not the report.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from pytest_torchexport.config.plan import Plan
from pytest_torchexport.outcomes.subject import unwrapped
from pytest_torchexport.plugin.active_item import seed_of
from pytest_torchexport.plugin.capture import CallRecorder, Recording
from pytest_torchexport.plugin.fixture import verdict_on
from pytest_torchexport.plugin.items import Configuration
from pytest_torchexport.results.escaped import few
from pytest_torchexport.results.failures import ExportRefused
from pytest_torchexport.results.summary import table_lines
from pytest_torchexport.results.text import headline
from pytest_torchexport.results.verdict import Verdict

PLUGIN = "torchexport-survey"
# A survey asks if a target is worth a marker, and not for the last bug.
MAX_EXAMPLES = 10
# Seconds for all classes, as long as somebody waits for a report; for one class on all targets, as
# many as let 18 slow ones have their turn. An interrupt ends it with what is known so far.
SECONDS, SECONDS_EACH = 1800.0, 100.0
# Of the reason of one cell, so many characters.
MAX_REASON = 200
LATE = "time", f"not judged in its time ({SECONDS_EACH:g} s for a class, {SECONDS:g} s for all)"

# The words of cells in which no artifact was judged.
UNMADE = frozenset({"", "skip", LATE[0], ExportRefused.__name__})


@dataclass(kw_only=True)
class Surveyed:
    """A module class that a suite calls: the items that call it, and what became of one instance.

    The instance is the first that can be checked, and has a recording for each way in which its
    item calls it. If none can be checked, it is the first. ``cells``: a word (``ok``, ``skip``,
    ``time``, a failure) and the reason by target. ``problem``: why the class was not checked; empty
    if it was.
    """

    name: str
    items: dict[str, None] = field(default_factory=dict)
    recordings: list[Recording] = field(default_factory=list)
    cells: dict[str, tuple[str, str]] = field(default_factory=dict)
    problem: str = ""

    @property
    def is_recorded(self) -> bool:
        return bool(self.recordings) and self.recordings[0].problem is None

    def record(self, recording: Recording) -> None:
        """Keep the recording if it is of the instance that is checked, or the first."""
        if self.is_recorded and recording.module is self.recordings[0].module:
            self.recordings.append(recording)
        elif not self.recordings or (not self.is_recorded and recording.problem is None):
            self.recordings = [recording]


def cell_of(verdict: Verdict) -> tuple[str, str]:
    if verdict.status == "failed":
        return verdict.failure or "failed", headline(verdict)
    if verdict.status == "skipped":
        return "skip", f"skip: {verdict.reason}"
    warning = next(iter((*verdict.cautions, *verdict.ineffective)), "")
    return ("ok (warn)", f"warn: {warning}") if warning else ("ok", "")


class Survey:
    """The classes that tests have called so far, and after the tests, what became of them."""

    def __init__(self, config: pytest.Config, configuration: Configuration) -> None:
        self._config = config
        self._targets = configuration.surveyed or ()
        self._settings = dataclasses.replace(configuration.settings, ship="")
        self._device = next(iter(configuration.settings.devices), "cpu")
        self._classes: dict[str, Surveyed] = {}
        self._ended = ""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        if not isinstance(item, pytest.Function):
            return (yield)
        recorder = CallRecorder(item.obj, lambda module: self._wanted(module, item.nodeid))
        try:
            with recorder:
                return (yield)
        finally:
            for recording in recorder.recordings:
                self._classes[_name_of(recording.module)].record(recording)

    def _wanted(self, module: Any, item: str) -> bool:
        """Note that an item calls a class. Return True if no instance of it was recorded."""
        name = _name_of(unwrapped(module)[0])
        known = self._classes.setdefault(name, Surveyed(name=name))
        known.items[item] = None
        return not known.is_recorded

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Check each class, unless the tests were interrupted."""
        classes = self._sorted()
        if exitstatus in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.USAGE_ERROR):
            self._ended = "interrupted while tests ran: no class was checked"
            return
        until = time.monotonic() + SECONDS
        for number, each in enumerate(classes):
            self._say(f"survey: module {number + 1} of {len(classes)}: {each.name} ...")
            start = time.monotonic()
            try:
                self._check(each, min(start + SECONDS_EACH, until))
            except KeyboardInterrupt:
                each.cells = {}
                self._ended = f"interrupted after {number} of {len(classes)} classes"
                session.exitstatus = pytest.ExitCode.INTERRUPTED
                return
            cells = ", ".join(f"{target} {word}" for target, (word, _) in each.cells.items())
            self._say(f" {each.problem or cells} ({time.monotonic() - start:.0f} s)\n")
            # The module and its calls are not needed any more.
            each.recordings = []

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, exitstatus: int
    ) -> None:
        """Print the report, unless pytest could not begin: it says why itself."""
        if exitstatus == pytest.ExitCode.USAGE_ERROR and not self._classes:
            return
        terminalreporter.ensure_newline()
        terminalreporter.section("torchexport survey")
        for line in survey_lines(self._sorted(), self._targets, ended=self._ended):
            terminalreporter.write_line(line)

    def _check(self, each: Surveyed, until: float) -> None:
        if not each.is_recorded:
            each.problem = "no call of it could be recorded"
            if each.recordings:
                each.problem = str(each.recordings[0].problem)
            return
        for target in self._targets:
            for recording in each.recordings:  # up to the first that does not pass
                left = until - time.monotonic()
                if left <= 0:
                    each.cells[target] = LATE
                    break
                plan = Plan(
                    target=target,
                    device=self._device,
                    settings=dataclasses.replace(self._settings, time_limit=left),
                    seed=seed_of(self._config, each.name),
                    max_examples=MAX_EXAMPLES,
                    why_isolated="torchexport_isolate" if self._settings.isolate else "",
                    root=self._config.rootpath,
                )
                verdict = verdict_on(recording, plan)
                late = verdict.status == "failed" and time.monotonic() >= until
                each.cells[target] = LATE if late else cell_of(verdict)
                if verdict.status != "passed":
                    break

    def _sorted(self) -> list[Surveyed]:
        """Return the classes, those of torch at last."""
        return sorted(self._classes.values(), key=lambda each: each.name.startswith("torch."))

    def _say(self, text: str) -> None:
        """Show progress at once, if pytest prints anything."""
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and self._config.get_verbosity() >= 0:
            if not text.startswith(" "):
                reporter.ensure_newline()
            reporter.write(text, flush=True)


def _name_of(module: Any) -> str:
    """Return ``timm.layers.mlp.Mlp``; of TorchScript ``Mlp (ScriptModule)``."""
    original = getattr(module, "original_name", None)
    if original is not None:
        return f"{original} (ScriptModule)"
    return f"{type(module).__module__}.{type(module).__qualname__}"


# -- the report ------------------------------------------------------------------------------------


def survey_lines(
    classes: Sequence[Surveyed], targets: Sequence[str], *, ended: str = ""
) -> Iterator[str]:
    """Yield the table, the reasons, and the markers. ``ended``: why it ended early, or nothing."""
    if ended:
        yield f"ended early: {ended}"
    if not classes:
        yield "no test called a module"
        return
    checked = sum(bool(each.cells) for each in classes)
    yield f"{len(classes)} module class{'es' * (len(classes) > 1)}, {checked} checked"
    rows = {
        each.name: {target: word for target, (word, _) in each.cells.items()} for each in classes
    }
    yield from table_lines(rows, targets)
    # What keeps the others, once for all classes and targets of which it is the same.
    names: dict[tuple[str, ...], list[str]] = {}
    for each in classes:
        on_targets: dict[str, list[str]] = {each.problem: []} if each.problem else {}
        for target, (_, text) in each.cells.items():
            if reason := " ".join(text.split())[:MAX_REASON]:
                on_targets.setdefault(reason, []).append(target)
        for reason, those in on_targets.items():
            names.setdefault((reason, *those), []).append(each.name)
    for (reason, *those), alike in names.items():
        on = f" on {', '.join(those)}" if those else ""
        yield f"{few(alike)}{on}: {reason}"
    if markers := list(_markers(classes, targets)):
        yield "markers to try, a test for each class, of which one instance was checked:"
    yield from markers


def _markers(classes: Sequence[Surveyed], targets: Sequence[str]) -> Iterator[str]:
    """Yield markers: for each class the first test whose modules have an artifact in common."""
    of_test: dict[str, dict[str, Surveyed]] = {}
    for each in classes:
        for item in each.items:
            of_test.setdefault(_test_of(item), {})[each.name] = each
    covered: set[str] = set()
    for each in classes:
        for test in dict.fromkeys(map(_test_of, each.items)):
            together = of_test[test].values()
            cells = {
                name: [one.cells.get(name, ("", ""))[0] for one in together] for name in targets
            }
            common = [n for n, words in cells.items() if all(w.startswith("ok") for w in words)]
            # A target whose artifact differs from eager stays: that is what the marker is for.
            red = {
                name: next(word for word in words if not word.startswith("ok"))
                for name, words in cells.items()
                if name not in common and UNMADE.isdisjoint(words)
            }
            if each.name in covered or not (common or red):
                continue
            covered.update(one.name for one in together)
            names = ", ".join(f'"{name}"' for name in targets if name in (*common, *red))
            now = ", ".join(f"{name}: {word}" for name, word in red.items())
            yield f"  {test}: @pytest.mark.torchexport({names}){f'  # red now: {now}' * bool(now)}"


def _test_of(item: str) -> str:
    return item.partition("[")[0]
