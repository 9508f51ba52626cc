"""Examine eager, and export a copy of the subject.

Raises SpecError, NotRepeatable, TrainingMode, ExportRefused, and CannotJudge if nobody named the
target or the target has no meaning for the subject.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch

from pytest_torchexport import targets
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.eager.accepted import AcceptedCalls
from pytest_torchexport.eager.queries import Query, answering, queries, survives
from pytest_torchexport.eager.reference import Reference
from pytest_torchexport.explore.observed import Observed
from pytest_torchexport.inputs.dynamic_shapes import EXPORTED_AT
from pytest_torchexport.inputs.recipes import example_recipe
from pytest_torchexport.inputs.spec import Call, build_spec
from pytest_torchexport.inputs.strategies import boundary_recipes
from pytest_torchexport.judge.case import Case, Prepared, made_or_refused
from pytest_torchexport.judge.log import Activity, ItemLog, Shrunk
from pytest_torchexport.judge.runner import warm_up
from pytest_torchexport.outcomes import cuda, machine
from pytest_torchexport.outcomes.fork import Death, can_fork, in_fork, survived
from pytest_torchexport.outcomes.grad_mode import GradMode
from pytest_torchexport.outcomes.limits import Deadline, TimeLimitExceeded, interrupted_after
from pytest_torchexport.outcomes.messages import condense, is_about_dims, raised_at
from pytest_torchexport.outcomes.observe import Raised, observe
from pytest_torchexport.outcomes.subject import Subject, local_packages, unusable_device
from pytest_torchexport.outcomes.texts import chain, text_of
from pytest_torchexport.results.diagnosis import Cause, Diagnosis
from pytest_torchexport.results.failures import (
    CannotJudge,
    ExportRefused,
    Ineffective,
    NotRepeatable,
    ends_the_test,
)
from pytest_torchexport.targets import refusal_rules
from pytest_torchexport.targets.draft import drafted
from pytest_torchexport.targets.formats.shape_env import refused_at

# Eager's calls before the export stop at this share of the time limit.
REHEARSAL_SHARE = 0.25


def prepare(
    subject: Subject,
    given: Sequence[Call],
    plan: Plan,
    *,
    foreign: bool,
    log: ItemLog,
    deadline: Deadline,
    resources: ExitStack,
) -> Prepared:
    """Examine eager. ``given[0]`` is the example; further calls tell which sizes vary.

    ``foreign``: somebody else made the artifact.
    """
    plan.progress("eager")
    _raise_if_unavailable(plan)
    _raise_if_without_numbers(subject, given)
    _start_clean_process(plan, foreign=foreign)
    eager = partial(log.during, Activity.EAGER)
    given = [call.to("cpu") for call in given]
    with log.timed("eager"), eager():
        reference = Reference(subject, plan, log.note, given[0], running=eager)
        spec = build_spec(subject.signature(), given, plan.options, subject.annotations())
        log.assumed = spec.assumed
        try:
            reference.prepare(spec.example, [leaf.path for leaf in spec.leaves])
        except NotRepeatable:
            log.shrunk = Shrunk.as_made(spec, example_recipe(spec), spec.example)
            raise
        observed: Observed | None = None
        if plan.checks("control_flow"):
            observed = Observed(reference, plan.seed, plan.settings.follow)
            observed.learn(spec.example)
            reference.guard(observed)
        prepared = Prepared(
            plan=plan,
            reference=reference,
            accepted=AcceptedCalls(spec, reference, log.note),
            observed=observed,
            log=log,
            deadline=deadline,
            blocked=_blocked(subject, plan),
            resources=resources,
        )
        log.assumed = prepared.spec.assumed
        _rehearse(prepared)
        log.assumed = prepared.spec.assumed
    return prepared


def _raise_if_unavailable(plan: Plan) -> None:
    reason = unusable_device(plan.device) or targets.get(plan.target).unavailable(plan.device)
    if reason and plan.settings.strict:
        raise Ineffective(f"unavailable: {reason}")
    if reason:
        raise CannotJudge(f"unavailable: {reason}", "unavailable")


def _raise_if_without_numbers(subject: Subject, given: Sequence[Call]) -> None:
    """Raise CannotJudge for tensors that have no numbers or no sizes of their own."""
    arguments = [tensor for call in given for tensor in call.tensors()]
    if any(tensor.is_nested for tensor in arguments):
        raise CannotJudge(
            "an argument is a nested tensor, of which no other sizes can be made: call the module "
            "with padded tensors and a mask"
        )
    if any(tensor.is_meta for tensor in arguments):
        raise CannotJudge("an argument is on the meta device, where tensors have no numbers")
    # A buffer may be there for its shape alone.
    if subject.module is not None and any(each.is_meta for each in subject.module.parameters()):
        raise CannotJudge(
            "the module has parameters on the meta device, which have no numbers: load its weights "
            "before the call"
        )


def _start_clean_process(plan: Plan, *, foreign: bool) -> None:
    """Start the clean process without waiting, so that it is ready when a file is to be loaded."""
    wanted = foreign or plan.checks("round_trip") or bool(plan.why_isolated)
    if wanted:
        warm_up(plan.target)


def _blocked(subject: Subject, plan: Plan) -> tuple[str, ...]:
    """Return the packages of the model's source, which the clean process does not have."""
    allowed = {name.partition(".")[0] for name in plan.settings.runtime_imports}
    own = {*subject.packages(), *local_packages(plan.root or Path.cwd())}
    return tuple(sorted(own - allowed))


def _rehearse(prepared: Prepared) -> None:
    """Make the boundary calls in eager alone.

    A wrong declaration raises a SpecError here. A forward that changes its module only on other
    calls than the example is detected before an artifact is compared with it.
    """
    plan = prepared.plan
    for recipe in boundary_recipes(prepared.spec, plan.seed):
        if prepared.deadline.elapsed > REHEARSAL_SHARE * plan.settings.time_limit:
            return
        prepared.accepted.rehearse(recipe)
    if prepared.reference.drifted():
        prepared.accepted.forget()


# An exporter that may kill the interpreter is tried in a copy of it, for so long.
TRYING_SECONDS = 60.0
ON_TORCH_EXPORT = ("export", "onnx")
WITH_GRADIENTS = Cause(
    kind="mode-dependent operator",
    text="the test calls the module with gradients; under torch.no_grad() the exporter takes it",
    remedy="make the test's call and your export under torch.no_grad()",
)

T = TypeVar("T")


def export(prepared: Prepared) -> Case:
    """Export a copy of the subject."""
    prepared.plan.progress("export")
    example = _example(prepared)
    with prepared.log.during(Activity.EXPORTER):
        _raise_if_fatal(prepared, example)
        try:
            with prepared.log.timed("export"):
                artifact = prepared.exported(example)
        except (TimeLimitExceeded, torch.OutOfMemoryError):
            raise
        except Exception as error:
            if ends_the_test(error):
                raise
            cuda.raise_if_lost()
            _refuse(prepared, error, example)
    return Case.of(prepared, artifact)


def _example(prepared: Prepared) -> Call:
    """Return the call to export at; note it if it is not the example itself."""
    call = prepared.call_to_export()
    if call is not prepared.spec.example:
        dims = prepared.frozen_sizes
        names = ", ".join(f"{dim.name} (the example's is {dim.example})" for dim in dims)
        prepared.log.note(
            f"exported at size {EXPORTED_AT} of {names}: exporters freeze sizes 0 and 1"
        )
    return call


def _raise_if_fatal(prepared: Prepared, example: Call) -> None:
    """Raise ExportRefused if exporting a forward that catches exceptions kills the interpreter."""
    observed = prepared.observed
    fatal = targets.get(prepared.plan.target).traits.crashes_on_caught_errors
    if not fatal or observed is None or not observed.example_catches:
        return
    # On the CPU: CUDA cannot be used in a fork of a process that has initialized it.
    if not survived(lambda: prepared.exported(example, device="cpu"), TRYING_SECONDS):
        raise ExportRefused(fatal)


def _refuse(prepared: Prepared, error: Exception, example: Call) -> NoReturn:
    """Raise ExportRefused, or CannotJudge if nobody named the target.

    Raises Ineffective if something of the machine ran out.
    """
    machine.raise_fault(error)
    plan, spec = prepared.plan, prepared.spec
    reason, line = condense(error)
    where = refused_at(error) or line
    found = refusal_rules.diagnosed(error, plan.target, called=prepared.reference.pristine.function)
    if not found.causes:
        asking = partial(_of_a_question, prepared, error, example)
        asked = _examined(prepared, "questions about the export", asking)
        found = asked if isinstance(asked, Diagnosis) else found
    declared = plan.options.shapes is not None or plan.options.dynamic_shapes is not None
    assumed = [dim.name for dim in spec.dims.values() if not dim.declared and not declared]
    details = [spec.opt_out(assumed)] if assumed and is_about_dims(error) else []
    hints = [*details, *(cause.text for cause in found.causes)]
    raised = raised_at(error)
    if raised not in (None, found.where or where):
        details.append(f"raised at {raised}")
    prepared.refused(f"refused the module: {reason}{f' ({hints[0]})' if hints else ''}")
    if not found.causes:
        found = _with_grad_mode(prepared, found, example)
    raise ExportRefused(
        reason,
        details=tuple(details),
        where=where,
        diagnosis=_with_draft(prepared, found, example),
    ) from None


def _of_a_question(prepared: Prepared, error: Exception, example: Call) -> Diagnosis | None:
    """Return the question that makes eager raise the same if it is answered as in the export."""
    plan, subject = prepared.plan, prepared.reference.pristine
    answers, call = targets.get(plan.target).traits.answers, example.to("cpu")
    said = {text_of(each) for each in chain(error)}
    for query in queries(subject, call, plan.seed, answers):
        if not survives(subject, call, plan.seed, answers, [query]):
            continue
        function = answering(subject.copy().function, answers, [query])
        raised = observe(function, call, seed=plan.seed, grad_mode=subject.grad_mode)
        if isinstance(raised, Raised) and raised.message and raised.message in said:
            return Diagnosis(owner="model", causes=(_of_the_export(query, answers, raised),))
    return None


def _of_the_export(query: Query, answers: Mapping[str, Any], raised: Raised) -> Cause:
    return Cause(
        kind="export-only branch",
        text=f"{query.name}() is {answers[query.name]} in the export: with this answer eager "
        "raises the same",
        remedy="write on both sides what eager runs there, or give forward what it does not make "
        "while it is exported",
        details=(query.asked_at, *([f"raised at {raised.where}"] if raised.where else [])),
        where=query.where,
    )


def _with_grad_mode(prepared: Prepared, found: Diagnosis, example: Call) -> Diagnosis:
    """Add the grad mode of the test's call, if the exporter takes the module without gradients."""
    if prepared.reference.pristine.grad_mode is not GradMode.GRAD:
        return found

    def takes(mode: GradMode) -> bool:
        made = made_or_refused(lambda: prepared.exported(example, grad_mode=mode))
        return not isinstance(made, str)

    def without_alone() -> bool:
        # Again with gradients too: a refusal may be one of the first export alone.
        return takes(GradMode.NO_GRAD) and not takes(GradMode.GRAD)

    if _examined(prepared, "export without gradients", without_alone) is not True:
        return found
    return dataclasses.replace(found, owner=found.owner or "capture", causes=(WITH_GRADIENTS,))


def _with_draft(prepared: Prepared, found: Diagnosis, example: Call) -> Diagnosis:
    """Add to the cause what torch.export would refuse next, if torch can go past it."""
    if prepared.plan.target not in ON_TORCH_EXPORT or not refusal_rules.can_be_drafted(found):
        return found
    (cause,) = found.causes
    subject = prepared.reference.pristine.copy().to(prepared.plan.device)
    call = example.clone().to(prepared.plan.device)

    def draft() -> tuple[str, ...]:
        with subject.grad_mode.entered():
            return drafted(subject.function, call, prepared.spec, cause.where)

    more = _examined(prepared, "draft of the export", draft)
    if more is None:
        return found
    if isinstance(more, Death):
        return dataclasses.replace(found, not_examined=(f"draft of the export: {more}",))
    more_of_it = dataclasses.replace(cause, details=(*cause.details, *more))
    return dataclasses.replace(found, causes=(more_of_it,))


def _examined(prepared: Prepared, what: str, examine: Callable[[], T]) -> T | Death | None:
    """Return what an examination of a refusal finds within the time for a diagnosis, or its end.

    None if there is no time for one, or if the test expects the refusal.
    """
    plan = prepared.plan
    seconds = prepared.log.diagnosis_seconds(wanted=plan.diagnoses)
    if not seconds or issubclass(ExportRefused, plan.expects):
        return None
    plan.progress(f"diagnosis: {what}")
    with prepared.log.timed("diagnosis"), prepared.deadline.paused():
        return _within(seconds, examine)


def _within(seconds: float, examine: Callable[[], T]) -> T | Death:
    """Return what an examination finds, or how it ended without it.

    In a fork if possible: torch may swallow the interrupt that ends it in this process.
    """
    try:
        if can_fork():
            return in_fork(examine, seconds)
        with interrupted_after(seconds):
            return examine()
    except Exception as error:
        if ends_the_test(error):
            raise
        return Death(raised=condense(error)[0])
