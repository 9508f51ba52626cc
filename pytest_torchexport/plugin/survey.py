"""A run with ``--torchexport-survey``: record the modules that tests call, and check each class.

The suite needs no marker, and nothing fails because of a check. One instance of each class is
checked when all tests have run, within limits of time; an interrupt ends this, and not the report.
"""

from __future__ import annotations

import dataclasses
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
from pytest_torchexport.results.summary import Surveyed, survey_lines
from pytest_torchexport.results.verdict import Verdict

PLUGIN = "torchexport-survey"
# A survey asks if a target is worth a marker, and not for the last bug.
MAX_EXAMPLES = 10
# Seconds for all classes, as long as somebody waits for a report; for one class on all targets, as
# many as let 18 slow ones have their turn. An interrupt ends it with what is known so far.
SECONDS, SECONDS_EACH = 1800.0, 100.0
# With less time, no target is tried.
LEAST_SECONDS = 1.0


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
        """True if an instance can be checked."""
        return bool(self.recordings) and self.recordings[0].problem is None

    @property
    def unchecked(self) -> Surveyed:
        """The class without verdicts, with the reason if it cannot have any."""
        problem = "no call of it could be recorded"
        if self.recordings:
            problem = str(self.recordings[0].problem or "")
        return Surveyed(
            name=self.name,
            items=tuple(self.items),
            checked_in=self.recorded_in,
            problem=problem,
        )

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
        self._surveyed: list[Surveyed] = []
        self._ended = ""

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
        """Check each class, unless the tests were interrupted. Those of torch are the last."""
        classes = sorted(self._classes.values(), key=lambda each: each.name.startswith("torch."))
        if exitstatus in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.USAGE_ERROR):
            self._ended = "interrupted while tests ran: no class was checked"
        else:
            try:
                self._check_all(classes)
            except KeyboardInterrupt:
                self._ended = f"interrupted after {len(self._surveyed)} of {len(classes)} classes"
                session.exitstatus = pytest.ExitCode.INTERRUPTED
        rest = classes[len(self._surveyed) :]
        self._surveyed += [dataclasses.replace(each.unchecked, problem="") for each in rest]

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, exitstatus: int
    ) -> None:
        """Print the report, unless pytest could not begin: it says why itself."""
        if exitstatus == pytest.ExitCode.USAGE_ERROR and not self._surveyed:
            return
        terminalreporter.ensure_newline()
        terminalreporter.section("torchexport survey")
        for line in survey_lines(self._surveyed, self._targets, ended=self._ended):
            terminalreporter.write_line(line)

    def _check_all(self, classes: Sequence[_Class]) -> None:
        until = time.monotonic() + SECONDS
        for number, each in enumerate(classes, start=1):
            self._say(f"survey: module {number} of {len(classes)}: {each.name} ...")
            start = time.monotonic()
            surveyed = each.unchecked
            if not surveyed.problem:
                surveyed = self._checked(each, min(start + SECONDS_EACH, until))
            self._surveyed.append(surveyed)
            cells = ", ".join(f"{target} {surveyed.cell(target)}" for target in self._targets)
            self._say(f" {surveyed.problem or cells} ({time.monotonic() - start:.0f} s)\n")
            # The module and its calls are not needed any more.
            each.recordings = []

    def _checked(self, each: _Class, until: float) -> Surveyed:
        verdicts: list[Verdict] = []
        late: list[str] = []
        for target in self._targets:
            verdict = self._verdict(each, target, until)
            if verdict is not None:
                verdicts.append(verdict)
            if verdict is None or (verdict.status == "failed" and time.monotonic() >= until):
                late.append(target)
        return dataclasses.replace(each.unchecked, verdicts=tuple(verdicts), late=tuple(late))

    def _verdict(self, each: _Class, target: str, until: float) -> Verdict | None:
        """Return the verdict on the first recording that does not pass, or the last.

        None if the time is not enough for all of them.
        """
        verdict = None
        for recording in each.recordings:
            left = until - time.monotonic()
            if left < LEAST_SECONDS:
                return None
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
            if verdict.status != "passed":
                break
        return verdict

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
