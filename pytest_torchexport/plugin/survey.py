"""A run with ``--torchexport-survey``: record the modules that tests call, and check each class.

The suite needs no marker, and nothing fails because of a check. One instance of each class is
checked when all tests have run, within limits of time; an interrupt ends this, and not the report.
"""

from __future__ import annotations

import dataclasses
import signal
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from pytest_torchexport.config.plan import Plan
from pytest_torchexport.outcomes.subject import unwrapped
from pytest_torchexport.plugin.active_item import seed_of
from pytest_torchexport.plugin.capture import CallRecorder, Recording
from pytest_torchexport.plugin.fixture import verdict_on
from pytest_torchexport.plugin.ini_and_flags import Configuration
from pytest_torchexport.results.survey_report import Surveyed, survey_lines
from pytest_torchexport.results.verdict import Verdict

PLUGIN = "torchexport-survey"
# A survey asks if a target is worth a marker, and not for the last bug.
MAX_EXAMPLES = 10
# Seconds for all classes, as long as somebody waits for a report; for one class on all targets, as
# many as let 18 slow ones have their turn. An interrupt ends it with what was found so far.
SECONDS, SECONDS_EACH = 1800.0, 100.0
# With less time, no target is tried.
LEAST_SECONDS = 1.0
INTERRUPTED = "interrupted"
SCRIPTED = " (ScriptModule)"


@dataclass
class _Class:
    """A module class: its name, the items that call it, and the recordings of one instance.

    The instance is the first that can be checked, and has a recording for each way in which the
    item ``recorded_in`` calls it. If none can be checked, it is the first.
    """

    name: str
    items: dict[str, None] = field(default_factory=dict)
    recordings: list[Recording] = field(default_factory=list)
    recorded_in: str = ""

    @property
    def is_recorded(self) -> bool:
        """Return True if an instance can be checked."""
        return bool(self.recordings) and self.recordings[0].problem is None

    def record(self, recording: Recording, item: str) -> None:
        """Keep the recording if it is of the instance that is checked, or the first."""
        if self.is_recorded and recording.module is self.recordings[0].module:
            self.recordings.append(recording)
        elif not self.recordings or (not self.is_recorded and recording.problem is None):
            self.recordings, self.recorded_in = [recording], item


class Survey:
    """The classes that tests have called so far, and after the tests, what became of them."""

    def __init__(self, config: pytest.Config, configuration: Configuration) -> None:
        self._config = config
        self._targets = configuration.surveyed or ()
        self._settings = dataclasses.replace(configuration.settings, ship="")
        self._device = next(iter(configuration.settings.devices), "cpu")
        self._classes: dict[str, _Class] = {}
        self._found: list[Surveyed] = []
        self._ended = ""
        self._users_handler: Any = None

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionstart(self) -> Generator[None]:
        """Take SIGTERM for an interrupt: the report comes then too."""
        if threading.current_thread() is threading.main_thread():
            self._users_handler = signal.signal(signal.SIGTERM, _interrupt)
        yield

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Record the modules that a test calls."""
        if not isinstance(item, pytest.Function):
            return (yield)
        recorder = CallRecorder(item.obj, lambda module: self._wanted(module, item.nodeid))
        try:
            with recorder:
                return (yield)
        finally:
            for recording in recorder.recordings:
                self._classes[_name_of(recording.module)].record(recording, item.nodeid)

    def _wanted(self, module: Any, item: str) -> bool:
        """Note that an item calls a class. Return True if no instance of it was recorded."""
        name = _name_of(unwrapped(module)[0])
        known = self._classes.setdefault(name, _Class(name))
        known.items[item] = None
        return not known.is_recorded

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Check each class, unless the tests were interrupted."""
        classes = sorted(self._classes.values(), key=_rank)
        try:
            if exitstatus in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.USAGE_ERROR):
                self._ended = f"{INTERRUPTED} while tests ran: no class was checked"
            else:
                self._check_all(classes)
        except KeyboardInterrupt:
            self._ended = f"{INTERRUPTED} after {len(self._found)} of {len(classes)} classes"
            session.exitstatus = pytest.ExitCode.INTERRUPTED
        finally:
            if self._users_handler is not None:
                signal.signal(signal.SIGTERM, self._users_handler)
        rest = classes[len(self._found) :]
        self._found += [Surveyed(name=each.name, items=tuple(each.items)) for each in rest]

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, exitstatus: int
    ) -> None:
        """Print the report, unless pytest could not begin: it says why itself."""
        if exitstatus == pytest.ExitCode.USAGE_ERROR and not self._found:
            return
        terminalreporter.ensure_newline()
        terminalreporter.section("torchexport survey")
        for line in survey_lines(self._found, self._targets, ended=self._ended):
            terminalreporter.write_line(line)

    def _check_all(self, classes: Sequence[_Class]) -> None:
        until = time.monotonic() + SECONDS
        for number, each in enumerate(classes, start=1):
            self._say(f"survey: module {number} of {len(classes)}: {each.name} ...")
            start = time.monotonic()
            left = until - start
            surveyed = self._checked(each, min(SECONDS_EACH, left))
            self._found.append(surveyed)
            cells = ", ".join(f"{target} {surveyed.cell(target)}" for target in self._targets)
            self._say(f" {surveyed.problem or cells} ({time.monotonic() - start:.0f} s)\n")
            # The module and its calls are not needed any more.
            each.recordings = []

    def _checked(self, each: _Class, seconds: float) -> Surveyed:
        """Return the verdicts on a class that may take so many seconds."""
        surveyed = Surveyed(name=each.name, items=tuple(each.items), checked_in=each.recorded_in)
        if not each.recordings:
            return dataclasses.replace(surveyed, problem="no call of it could be recorded")
        if not each.is_recorded:
            return dataclasses.replace(surveyed, problem=str(each.recordings[0].problem))
        until = time.monotonic() + seconds
        verdicts: list[Verdict] = []
        late: list[str] = []
        for target in self._targets:
            verdict = self._verdict(each, target, until)
            if verdict is not None:
                verdicts.append(verdict)
            if verdict is None or (verdict.status == "failed" and time.monotonic() >= until):
                late.append(target)
        return dataclasses.replace(surveyed, verdicts=tuple(verdicts), late=tuple(late))

    def _verdict(self, each: _Class, target: str, until: float) -> Verdict | None:
        """Return the verdict on the first recording that does not pass, or the last; None if the
        time is not enough for all of them.
        """
        verdict = None
        for recording in each.recordings:
            left = until - time.monotonic()
            if left < LEAST_SECONDS:
                return None
            verdict = verdict_on(recording, self._plan(each, target, left))
            if verdict.status != "passed":
                break
        return verdict

    def _plan(self, each: _Class, target: str, seconds: float) -> Plan:
        return Plan(
            target=target,
            device=self._device,
            settings=dataclasses.replace(self._settings, time_limit=seconds),
            seed=seed_of(self._config, each.name),
            max_examples=MAX_EXAMPLES,
            why_isolated="torchexport_isolate" if self._settings.isolate else "",
            root=self._config.rootpath,
        )

    def _say(self, text: str) -> None:
        """Show progress at once, if pytest prints anything."""
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and self._config.get_verbosity() >= 0:
            if not text.startswith(" "):
                reporter.ensure_newline()
            reporter.write(text, flush=True)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _rank(known: _Class) -> int:
    """Return 0 for what is checked first: time may be up before the last."""
    if known.name.endswith(SCRIPTED):
        return 1
    return 2 if known.name.startswith("torch.") else 0


def _name_of(module: Any) -> str:
    """Return ``timm.layers.mlp.Mlp``; of TorchScript ``Mlp (ScriptModule)``."""
    original = getattr(module, "original_name", None)
    if original is not None:
        return f"{original}{SCRIPTED}"
    return f"{type(module).__module__}.{type(module).__qualname__}"
