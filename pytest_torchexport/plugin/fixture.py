"""Check modules inside an item: those given to the fixture, and those that a marked body called.

Separate from the plugin's hooks, which pytest loads at its start: this file imports torch.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pytest

from pytest_torchexport import engine
from pytest_torchexport.checks import artifact_files
from pytest_torchexport.config.loop import Loop
from pytest_torchexport.config.options import parse_check_options
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.subject import Subject, without
from pytest_torchexport.outcomes.torch_state import WITHOUT_AUTOCAST
from pytest_torchexport.plugin.active_item import ActiveItem
from pytest_torchexport.plugin.capture import CallRecorder, Recording
from pytest_torchexport.plugin.items import MARKER
from pytest_torchexport.plugin.same import same
from pytest_torchexport.plugin.stand_in import Served, run_again
from pytest_torchexport.plugin.terminal import why_skipped
from pytest_torchexport.results.failures import (
    CannotJudge,
    Failure,
    Ineffective,
    SpecError,
    by_name,
    facts_of,
)
from pytest_torchexport.results.text import failure_texts
from pytest_torchexport.results.verdict import Recorded, Verdict, with_more
from pytest_torchexport.targets.base import Artifact


class TorchExport:
    """The ``torchexport`` fixture: checks and exports on the item's target and device."""

    def __init__(self, plan: Plan, item: ActiveItem) -> None:
        self._plan = plan
        self._item = item

    @property
    def target(self) -> str:
        """The item's target: ``"trace"``, ``"onnx"``, ..."""
        return self._plan.target

    @property
    def device(self) -> str:
        """The item's device: ``"cpu"``, ``"cuda"``, ..."""
        return self._plan.device

    def using(self, **options: Any) -> TorchExport:
        """Return a fixture with other options: the marker's, except targets, devices and xfail."""
        merged = parse_check_options(options).over(self._plan.options)
        return TorchExport(dataclasses.replace(self._plan, options=merged), self._item)

    def check(self, module: Any, /, *args: Any, **kwargs: Any) -> Verdict:
        """Check a module, function or bound method. The other arguments are those of ``forward``.

        Returns the Verdict; raises its Failure; skips the test if the module cannot be judged.
        """
        plan = self._item.shipping(self._plan, module)
        return self._finished(engine.check(module, [Call(args, kwargs)], plan))

    def check_artifact(self, artifact: Any, module: Any, /, *args: Any, **kwargs: Any) -> Verdict:
        """Check an artifact that you made against a module, instead of exporting one.

        The artifact is a file of your export script (``.pt``, ``.pt2``, ``.onnx``, ``.xml``,
        ``.pte``) or a callable. A file is loaded only in the clean process. Skips the test on
        targets that the file does not belong to. Returns the Verdict; raises its Failure.
        """
        call = Call(args, kwargs)
        # A file of the user's own is where its owner put it.
        settings = dataclasses.replace(self._plan.settings, ship="")
        plan = dataclasses.replace(self._plan, settings=settings)
        return self._finished(engine.check_artifact(artifact, module, call, plan))

    def check_loop(
        self,
        step: Any,
        /,
        *args: Any,
        steps: int | None = None,
        carry: Mapping[str, str] | None = None,
        feed: Mapping[str, Any] | None = None,
        artifact: Any = None,
        **kwargs: Any,
    ) -> Verdict:
        """Check a step that is called in a loop: with a cache, a state, chunk by chunk.

        The other arguments are the first step's call. ``carry={"output[1]": "past"}``: that output
        becomes that input of the next step. ``feed={"ids": how}``: that input is what ``how``
        returns for what the step returns; or ``how`` are its values from the second step on.
        ``steps``: 32, or as many as there are values. ``artifact``: a file or a callable to check
        instead of exporting. Returns the Verdict; raises its Failure.
        """
        loop = Loop.of(steps, carry, feed)
        signature = Subject.of(step).signature()
        left = [*signature.parameters][len(args) :] if signature is not None else []
        said = {"steps": steps, "carry": carry, "feed": feed, "artifact": artifact}
        for name in left:
            if said.get(name) is not None:
                raise SpecError(
                    f"check_loop: {name}= says how the loop goes, and the step has an argument of "
                    "that name too: give the step's own by its position"
                )
        plan = self._item.shipping(self._plan, step)
        call = Call(args, kwargs)
        return self._finished(engine.in_a_loop(step, call, loop, plan, artifact))

    def same(self, build: Callable[[Any], Any], model: Any, /, *, file: bool = False) -> Verdict:
        """Compare what ``build(model)`` returns with what ``build`` returns for the artifact.

        ``build`` is a function of your code that makes a pipeline around what it gets, runs it, and
        returns any value. It gets the module first, then the artifact, which has nothing else of
        the module; with ``file=True``, the path of the artifact's file. Sizes are those of all
        calls of the module. Returns the Verdict; raises its Failure.
        """
        return self._finished(same(build, model, self._plan, file=file))

    def _finished(self, verdict: Verdict) -> Verdict:
        self._item.add(verdict)
        raise_for([verdict], self._item)
        return verdict

    def export(self, module: Any, /, *args: Any, **kwargs: Any) -> Artifact:
        """Return the artifact, for asserts of your own. Raises ExportRefused."""
        try:
            return engine.export(module, [Call(args, kwargs)], self._plan)
        except CannotJudge as reason:
            pytest.skip(str(reason))


NO_MODULE = (
    "the test's body calls no torch.nn.Module: there is nothing to export. Call the module in the "
    "body (net(x), not net.forward(x)), or request the torchexport fixture"
)
APART = (
    "the test calls this module in {ways} ways (other dtypes, numbers of axes, containers or "
    "Python values); each has an export of its own, which was not run on the calls of another"
)
OF_VALUES = (
    "the body needs {count} artifacts of {name}, as each has a Python value of its own ({first}; "
    "{second}): give the module a tensor for what varies"
)
UNCOPIED = (
    "calls of {modules} were not recorded: tensors and parameters inside torch.func.grad, vmap and "
    "jacrev, and parameters that are computed for functional_call, cannot be copied. To check the "
    "module, call it outside of these too: net(x)"
)
CARRIED = (
    "the calls are a loop: each changes a {cls} that the next one gets, and an artifact takes and "
    "returns tensors. Check one step in its loop with torchexport.check_loop "
    "(docs/howto/loops.md), or run the test without a {cls} (use_cache=False)"
)
LEFT_OUT = (
    "of the test's calls, {left} were not run again, beside {kept} that were; inputs= takes more"
)
INSIDE = (
    "only {part} was checked, which {name}, {place}, calls: that method itself was not. Request "
    "the torchexport fixture: torchexport.check(net.{method}, ...)"
)


def check_recorded(
    recorder: CallRecorder, plans: Sequence[Plan], item: ActiveItem, random: Callable[[], None]
) -> Iterator[AbstractContextManager[Any]]:
    """Check every module that a test body called, on each plan; raise once, when all have run.

    Yields a context for each further run of the body that is needed for that. ``random`` puts
    random numbers to where the body's first run had them.
    """
    recordings = recorder.recordings
    counts = Counter(type(recording.module) for recording in recordings)
    ways = Counter(id(recording.module) for recording in recordings)
    uncopied = UNCOPIED.format(modules=", ".join(recorder.uncopied))
    of_values = _of_values(recordings)
    verdicts: list[Verdict] = []
    for plan in plans:
        numbers: Counter[type] = Counter()
        served = []
        for recording in recordings:
            cls, several = type(recording.module), ways[id(recording.module)]
            numbers[cls] += 1
            own = item.shipping(plan, recording.module)
            verdict = verdict_on(recording, own)
            recorded = Recorded(
                number=numbers[cls],
                count=counts[cls],
                call=recording.calls[0].describe() if recording.calls else "unknown arguments",
                where=recording.line,
            )
            apart = [APART.format(ways=several)] if several > 1 else []
            cautions = [uncopied] if recorder.uncopied else []
            if plan.options.stand_in and recording.key in of_values:
                cautions.append(of_values[recording.key])
            verdict = with_more(verdict, notes=apart, cautions=cautions)
            verdict = dataclasses.replace(verdict, recorded=recorded)
            served.append(Served(recording, verdict, own))
        if plan.options.stand_in and served:
            verdicts += yield from run_again(served, recorder.body, random)
        else:
            verdicts += [each.verdict for each in served]
    if recorder.uncopied and not verdicts:
        verdicts = [_unchecked(plan, next(iter(recorder.uncopied)), uncopied) for plan in plans]
    is_own = any(mark.name == MARKER for mark in item.item.own_markers)
    # An inherited marker also reaches tests that call no module: that is no failure.
    if not verdicts and (is_own or plans[0].settings.strict):
        verdicts = [_unchecked(plan, "body", Ineffective(NO_MODULE)) for plan in plans]
    for verdict in verdicts:
        item.add(verdict)
    raise_for(verdicts, item)


def _of_values(recordings: Sequence[Recording]) -> dict[Any, str]:
    """Return a line by the key of each recording that others differ from by Python values alone."""
    ways: dict[Any, list[Recording]] = {}
    for recording in recordings:
        if recording.key is not None and recording.calls:
            instance, (structure, kinds) = recording.key
            but_for_values = instance, structure, tuple(kind for kind, _ in kinds)
            ways.setdefault(but_for_values, []).append(recording)
    lines: dict[Any, str] = {}
    for alike in ways.values():
        first, second = (each.calls[0].describe() for each in (alike * 2)[:2])
        name = type(alike[0].module).__name__
        text = OF_VALUES.format(count=len(alike), name=name, first=first, second=second)
        lines.update({each.key: text for each in alike if len(alike) > 1})
    return lines


def verdict_on(recording: Recording, plan: Plan) -> Verdict:
    if recording.carried:
        return _unchecked(
            plan, type(recording.module).__name__, CARRIED.format(cls=recording.carried)
        )
    if recording.problem is not None:
        return _unchecked(plan, type(recording.module).__name__, recording.problem)
    with recording.grad_mode.entered():
        verdict = engine.check(recording.module, recording.calls, plan, is_copy=True)
    cautions = [WITHOUT_AUTOCAST] if recording.autocast else []
    notes = [without(recording.wrappers)] if recording.wrappers else []
    if recording.left_out:
        notes.append(LEFT_OUT.format(left=recording.left_out, kept=len(recording.calls)))
    inside = []
    if recording.caller is not None and verdict.status == "passed":
        name, place = recording.caller
        method = name.rpartition(".")[2]
        inside = [INSIDE.format(part=verdict.subject, name=name, place=place, method=method)]
    if inside and plan.settings.strict:
        if plan.settings.ship:
            artifact_files.clear(plan.settings.ship)
        return _unchecked(plan, verdict.subject, Ineffective(inside[0]))
    return with_more(verdict, cautions=cautions, notes=notes, ineffective=inside)


def _unchecked(plan: Plan, subject: str, why: Failure | str) -> Verdict:
    """Return a failure, or for a text a skip, which is a failure under strict."""
    if isinstance(why, str) and not plan.settings.strict:
        return plan.verdict(subject, status="skipped", reason=why)
    failure = Ineffective(why) if isinstance(why, str) else why
    return plan.verdict(subject, **facts_of(failure))


def raise_for(verdicts: Sequence[Verdict], item: ActiveItem) -> None:
    """Raise the failure of the verdicts, or a group of unlike ones; skip the test; or return."""
    by_class: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        if verdict.status == "failed":
            by_class.setdefault(verdict.failure or "Failure", []).append(verdict)
    whole = item.item.config.get_verbosity() > 0
    failures = [
        by_name(name)(
            "\n\n".join(failure_texts(alike, item.nodeid, whole=whole)),
            verdicts=tuple(alike),
        )
        for name, alike in by_class.items()
    ]
    if len(failures) > 1:
        raise ExceptionGroup(f"{len(failures)} kinds of failure", failures)
    if failures:
        raise failures[0]
    reason = why_skipped(verdicts)
    if reason:
        pytest.skip(reason)
