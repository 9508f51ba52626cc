"""What runs inside an item: checks of what its marker captured or its fixture was given.

Separate from the plugin's hooks, which pytest loads at its start: this imports torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from pytest_torchexport import engine
from pytest_torchexport.config.options import parse_check_options
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.plugin.capture import Recorder
from pytest_torchexport.results.failures import by_name
from pytest_torchexport.results.text import failure_text
from pytest_torchexport.results.verdict import Verdict, why_skipped
from pytest_torchexport.targets.base import Artifact

Keep = Callable[[Verdict], None]


class TorchExport:
    """The ``torchexport`` fixture: checks and exports on the item's target and device."""

    def __init__(self, plan: Plan, keep: Keep, test: str, nodeid: str) -> None:
        self._plan = plan
        self._keep = keep
        self._test = test
        self._nodeid = nodeid

    @property
    def target(self) -> str:
        """The item's target: ``"trace"``, ``"onnx"``, ..."""
        return self._plan.target

    @property
    def device(self) -> str:
        """The item's device: ``"cpu"``, ``"cuda"``, ..."""
        return self._plan.device

    def using(self, **options: Any) -> TorchExport:
        """The same object with other options (the marker's arguments, except targets and devices)."""
        merged = parse_check_options(options).over(self._plan.options)
        return TorchExport(
            dataclasses.replace(self._plan, options=merged), self._keep, self._test, self._nodeid
        )

    def check(self, module: Any, /, *args: Any, **kwargs: Any) -> Verdict:
        """Check a module, function or bound method; what follows it is ``forward``'s own.

        Returns the Verdict; raises its Failure; skips the test where the target cannot judge it.
        """
        verdict = engine.check(module, [Call(args, kwargs)], self._plan)
        self._keep(verdict)
        raise_for([verdict], self._test, self._nodeid)
        return verdict

    def check_artifact(self, artifact: Any, module: Any, /, *args: Any, **kwargs: Any) -> Verdict:
        """Check what your own export script wrote (``.pt``, ``.pt2``, ``.onnx``), or any callable, against
        a module, instead of exporting.

        A file is loaded in the clean process only. Skips the test on targets that the file does not
        belong to. Returns the Verdict; raises its Failure.
        """
        verdict = engine.check_artifact(artifact, module, Call(args, kwargs), self._plan)
        self._keep(verdict)
        raise_for([verdict], self._test, self._nodeid)
        return verdict

    def export(self, module: Any, /, *args: Any, **kwargs: Any) -> Artifact:
        """The artifact itself, for asserts of your own. Raises ExportRefused."""
        try:
            return engine.export(module, Call(args, kwargs), self._plan)
        except engine.CannotJudge as reason:
            pytest.skip(str(reason))


def check_recorded(
    recorder: Recorder,
    plans: Sequence[Plan],
    keep: Keep,
    test: str,
    nodeid: str,
    *,
    own_marker: bool,
) -> None:
    """Check everything a test body called on each plan; raise once, when all have run."""
    verdicts = []
    for plan in plans:
        for recording in recorder.recordings:
            if recording.problem is not None:
                problem = recording.problem
                name = type(recording.module).__name__
                verdicts.append(_failed(plan, name, type(problem).__name__, str(problem)))
                continue
            verdicts.append(engine.check(recording.module, recording.calls, plan))
    if not verdicts and (own_marker or plans[0].settings.strict):
        verdicts = [_nothing(plan) for plan in plans]
    for verdict in verdicts:
        keep(verdict)
    raise_for(verdicts, test, nodeid)


def _nothing(plan: Plan) -> Verdict:
    """A marked body without a module. Where the marker is inherited this is no failure (but strict)."""
    return _failed(
        plan,
        "body",
        "Ineffective",
        "the test's body calls no torch.nn.Module: there is nothing to export. Call the module in the "
        "body, or request the torchexport fixture",
    )


def _failed(plan: Plan, subject: str, failure: str, reason: str) -> Verdict:
    return Verdict(
        subject=subject,
        target=plan.target,
        device=plan.device,
        status="failed",
        failure=failure,
        reason=reason,
        seed=plan.seed,
    )


def raise_for(verdicts: Sequence[Verdict], test: str, nodeid: str) -> None:
    """Raise what the verdicts amount to: one failure, a group of unlike ones, a skip, or nothing."""
    failed = [verdict for verdict in verdicts if verdict.status == "failed"]
    by_class: dict[str, list[Verdict]] = {}
    for verdict in failed:
        by_class.setdefault(verdict.failure or "Failure", []).append(verdict)
    failures = [
        by_name(name)(
            "\n\n".join(failure_text(item, test, nodeid) for item in items), verdicts=tuple(items)
        )
        for name, items in by_class.items()
    ]
    if len(failures) > 1:
        raise ExceptionGroup(f"{len(failures)} kinds of failure", failures)
    if failures:
        raise failures[0]
    reason = why_skipped(verdicts)
    if reason:
        pytest.skip(reason)
