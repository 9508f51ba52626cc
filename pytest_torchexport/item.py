"""One item: prepare eager, make the artifact, run the steps of FLOW, describe the verdict."""

from __future__ import annotations

import dataclasses
import importlib
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from pytest_torchexport.checks import artifact_files, exporting
from pytest_torchexport.config.flow import FLOW, LOOP, Step
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.config.settings import Settings
from pytest_torchexport.diagnosis.diagnose import diagnose
from pytest_torchexport.diagnosis.refusal import explained, in_other_mode
from pytest_torchexport.diagnosis.remedies import in_own_code
from pytest_torchexport.diagnosis.reproducer import write
from pytest_torchexport.eager.fingerprint import Reached
from pytest_torchexport.eager.reference import Learned
from pytest_torchexport.eager.shared import put_back
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.case import Case, Prepared, attempted
from pytest_torchexport.judge.changed_file import ChangedFile
from pytest_torchexport.judge.log import Activity, ItemLog
from pytest_torchexport.outcomes import cuda, errors
from pytest_torchexport.outcomes.errors import printable, text_of
from pytest_torchexport.outcomes.limits import Deadline, TimeLimitExceeded, interrupted_after
from pytest_torchexport.outcomes.messages import user_frame
from pytest_torchexport.outcomes.subject import Subject, without
from pytest_torchexport.outcomes.torch_state import (
    WITHOUT_AUTOCAST,
    CapturedOutput,
    outside_autocast,
    outside_inference_mode,
    quiet,
    under_autocast,
)
from pytest_torchexport.results.diagnosis import NOTHING, Diagnosis
from pytest_torchexport.results.escaped import SHOWN
from pytest_torchexport.results.failures import (
    ArtifactCrashed,
    ArtifactHung,
    ArtifactRaised,
    BranchFrozen,
    CannotJudge,
    DimsNarrowed,
    ExportRefused,
    Failure,
    Ineffective,
    OutputsDiffer,
    SpecError,
    StructureDiffers,
    ends_the_test,
    facts_of,
)
from pytest_torchexport.results.verdict import Verdict

# The characters of a skip's reason; reports have all of it.
MOST_OF_A_SKIP = 240
# What a value or a size that tracing made a constant may lead to.
FROM_A_CONSTANT = (ArtifactRaised, BranchFrozen, DimsNarrowed, OutputsDiffer, StructureDiffers)
# The failure if the item's time is up; of an activity of the artifact's, ArtifactHung.
_BLAMED: dict[Activity, type[Failure]] = {Activity.PLUGIN: Failure, Activity.EAGER: SpecError}
LAUNCH_BLOCKING = "next step: with CUDA_LAUNCH_BLOCKING=1 the error names the line"

DEFAULTS = Settings()

Make = Callable[[Prepared], Case]


@dataclass(kw_only=True)
class Item:
    """One item: what exists before anything has run, then eager examined, then the artifact."""

    subject: Subject
    plan: Plan
    foreign: bool
    log: ItemLog
    deadline: Deadline
    resources: ExitStack
    output: CapturedOutput
    learned: Learned
    prepared: Prepared | None = None
    case: Case | None = None

    def prepare(self, given: Sequence[Call]) -> Prepared:
        self.prepared = exporting.prepare(
            self.subject,
            given,
            self.plan,
            foreign=self.foreign,
            log=self.log,
            deadline=self.deadline,
            resources=self.resources,
            learned=self.learned,
        )
        return self.prepared

    def failure_of(self, error: Exception) -> Failure:
        if isinstance(error, Ineffective):
            return error
        if isinstance(error, Failure):
            # Native code says it when it ends its process. An exception is looked at where it
            # arises.
            crashed = isinstance(error, ArtifactCrashed)
            return (errors.fault_in(error.output) if crashed else None) or error
        activity = self.log.activity
        tried = attempted(self.case) if self.case is not None else ()
        if isinstance(error, cuda.ContextLost):
            cls = _BLAMED.get(activity, ArtifactCrashed)
            text = f"{activity.value} made CUDA unusable for the rest of this process: {error}"
            return cls(text, details=(*tried, LAUNCH_BLOCKING))
        if isinstance(error, TimeLimitExceeded):
            spent = [f"{stage} {n:.0f} s" for stage, n in self.log.seconds.items() if n >= 1]
            # The line at which the time went by.
            in_python = activity in (Activity.EAGER, Activity.EXPORTER)
            return self.known_failure() or _BLAMED.get(activity, ArtifactHung)(
                f"{activity.value} did not return within {self.plan.limit()}",
                details=(*tried, *([f"time: {', '.join(spent)}"] if spent else [])),
                where=user_frame(error.__cause__) if in_python and error.__cause__ else None,
            )
        ran_out = errors.fault(error, memory=True)
        if ran_out is not None:
            return ran_out
        # A bug of the plugin or of torch: the verdicts on the other subjects are still wanted.
        frames = traceback.format_exception(error)[-1 - SHOWN :]
        text = f"{type(error).__name__}: {text_of(error)}; please report it with the model"
        return Failure(text, details=tuple("".join(frames).splitlines()))

    def known_failure(self) -> Failure | None:
        """Return a failure that was found, and is held back until the steps are done."""
        held = (each.failure for each in self.log.held)
        return next(iter([*(failure for _, failure in self.log.failed), *held]), None)

    def failed(self, failure: Failure) -> Verdict:
        case, log, shrunk = self.case, self.log, self.log.shrunk
        printed = _printed(case)  # before the files are kept, which ends the process
        expected = isinstance(failure, self.plan.expects)
        diagnosis = NOTHING if expected else self._diagnosed(failure)
        prepared = case or self.prepared
        if prepared is not None:
            example, seed = prepared.spec.example, self.plan.seed
            diagnosis = in_own_code(diagnosis, prepared.reference.pristine, example, seed)
        # The line at which tracing made a constant, if there is one and it may be the cause.
        lines = list(self.output.traced)
        baked = lines[0] if isinstance(failure, FROM_A_CONSTANT) and len(lines) == 1 else None
        # The user's line of the cause may stand before the line that raises.
        where = diagnosis.where or failure.where
        if isinstance(failure, BranchFrozen):
            where = failure.where or diagnosis.where
        verdict = self.described(
            **{
                **facts_of(failure),
                "reason": printable(str(failure)),
                "details": tuple(map(printable, (*log.of_inputs(), *failure.details))),
                "where": where or baked,
                "output": failure.output or printed,
            },
            recipe=shrunk.recipe.as_dict() if shrunk else None,
            call=shrunk.text if shrunk else "",
            shrunk=shrunk is not None and shrunk.searched,
            diagnosis=diagnosis,
        )
        return verdict if expected else write(self.plan, verdict, failure, prepared)

    def _diagnosed(self, failure: Failure) -> Diagnosis:
        changed = self.case is not None and isinstance(self.case.artifact, ChangedFile)
        if failure.diagnosis is not None and not changed:
            return failure.diagnosis
        if not isinstance(failure, ExportRefused):
            return diagnose(self.case, failure) if self.case is not None else NOTHING
        found = self._refusal(failure)
        if found is NOTHING and self.prepared is not None and failure.__cause__ is not None:
            return in_other_mode(self.prepared)
        return found

    def _refusal(self, raised: BaseException) -> Diagnosis:
        """Return the diagnosis of the exporter's error that a failure or a skip was raised from."""
        if self.prepared is None or raised.__cause__ is None:
            return NOTHING
        called = self.prepared.reference.pristine.function
        return explained(raised.__cause__, self.plan.target, called)

    def skipped(self, skip: CannotJudge) -> Verdict:
        """Return the verdict of a skip: pytest's summary shows its reason on one line."""
        reason, found = printable(str(skip)), self._refusal(skip)
        cause = next(iter(found.causes), None)
        short = reason
        if cause is not None:
            at = f" ({cause.where.place})" if cause.where is not None else ""
            short = f"{self.plan.target} refused the module: {cause.text}{at}"
            whole = "; ".join(filter(None, [short, *cause.remedy.splitlines()]))
            short = whole if len(whole) <= MOST_OF_A_SKIP else short
        elif len(reason) > MOST_OF_A_SKIP:
            short = f"{reason[:MOST_OF_A_SKIP]}..."
        return self.described(
            status="skipped",
            skip=skip.kind,
            reason=short,
            details=(reason,) if short != reason else (),
            where=found.where,
            diagnosis=found,
        )

    def described(self, **fields: Any) -> Verdict:
        log, case = self.log, self.case
        return self.plan.verdict(
            self.subject.name,
            calls=dict(log.calls),
            drawn_until=log.drawn_until,
            reached={name: tuple(sorted(sizes)) for name, sizes in log.covered.sizes.items()},
            uncovered=dataclasses.replace(
                log.uncovered,
                constants=tuple(self.output.traced) if log.uncovered.fixed_sizes else (),
            ),
            assumed=log.assumed,
            baked=case.artifact.baked if case is not None else (),
            notes=tuple(map(printable, log.notes)),
            warnings=tuple(self.output.warnings),
            seconds=dict(log.seconds),
            max_error=log.max_error,
            size=log.size,
            latency=tuple(log.latency),
            explained=tuple(log.explained.values()),
            cautions=tuple(log.cautions),
            ineffective=tuple(log.ineffective),
            self_test=tuple(log.self_test),
            branches=log.branches,
            loop=log.loop,
            isolated=case is not None and case.runner.isolated,
            **{"output": _printed(case), **fields},
        )


def _printed(case: Case | None) -> str:
    """Return the end of what the artifact printed in the clean process."""
    if case is None:
        return ""
    return case.runner.printed() or (case.saved.printed() if case.saved is not None else "")


@contextmanager
def started(
    subject: Subject,
    plan: Plan,
    reached: Reached,
    *,
    foreign: bool = False,
    learned: Learned | None = None,
) -> Iterator[Item]:
    """Set torch's state for an item; afterwards restore it, and all that the subject reaches."""
    autocast = under_autocast()
    with (
        outside_inference_mode(),
        outside_autocast(),
        quiet(plan.device) as output,
        put_back(reached),
        ExitStack() as resources,
    ):
        item = Item(
            subject=subject,
            plan=plan,
            foreign=foreign,
            log=ItemLog(warned=output.own),
            deadline=Deadline(plan.settings.time_limit),
            resources=resources,
            output=output,
            learned=learned or Learned(),
        )
        if autocast:
            item.log.caution(WITHOUT_AUTOCAST)
        if item.subject.wrappers:
            item.log.note(without(item.subject.wrappers))
        yield item


def verdict_of(
    starting: AbstractContextManager[Item], given: Sequence[Call], make: Make
) -> Verdict:
    with starting as item:
        plan = item.plan
        try:
            if plan.settings.ship:
                artifact_files.clear(plan.settings.ship)
            with interrupted_after(plan.settings.time_limit):
                item.case = make(item.prepare(given))
            for step in FLOW if plan.loop is None else LOOP:
                item.case = _run(step, item.case)
        except CannotJudge as skip:
            return item.skipped(skip)
        except torch.OutOfMemoryError as error:  # a check makes several copies
            reason = f"{plan.device} is out of memory: {text_of(error)}"
            known = item.known_failure()
            if known is not None or plan.settings.strict:
                return item.failed(known or Ineffective(reason))
            return item.described(status="skipped", skip="unavailable", reason=printable(reason))
        except Exception as error:
            if ends_the_test(error):
                raise
            return item.failed(item.failure_of(error))
        return item.described(status="passed")


def _run(step: Step, case: Case) -> Case:
    """Run one step if it is asked for. Return the case for the next step."""
    plan, given, default = case.plan, case.plan.settings, DEFAULTS
    if step.settings and all(getattr(given, n) == getattr(default, n) for n in step.settings):
        return case
    asked = not step.checks or any(map(plan.checks, step.checks))
    if not asked and not (step.or_isolated and plan.why_isolated):
        return case
    plan.progress(step.name)
    module, _, function = step.run.partition(":")
    run = getattr(importlib.import_module(f"pytest_torchexport.checks.{module}"), function)
    if step.own_time:
        return run(case) or case
    with interrupted_after(case.deadline.left):
        return run(case) or case
