"""Export the subject.

Raises ExportRefused, or CannotJudge if nobody named the target or the target has no meaning for the
subject.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NoReturn, TypeVar

import torch

from pytest_torchexport import targets
from pytest_torchexport.eager.queries import Query, answering, queries, survives
from pytest_torchexport.inputs.dynamic_shapes import EXPORTED_AT
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.case import Case, Prepared, made_or_refused
from pytest_torchexport.judge.log import Activity
from pytest_torchexport.outcomes import cuda, machine
from pytest_torchexport.outcomes.fork import Death, can_fork, in_fork, survived
from pytest_torchexport.outcomes.grad_mode import GradMode
from pytest_torchexport.outcomes.limits import TimeLimitExceeded, interrupted_after
from pytest_torchexport.outcomes.messages import condense, is_about_dims, raised_at
from pytest_torchexport.outcomes.observe import Raised, observe
from pytest_torchexport.outcomes.texts import chain, text_of
from pytest_torchexport.results.diagnosis import Cause, Diagnosis
from pytest_torchexport.results.failures import ExportRefused, ends_the_test
from pytest_torchexport.targets import refusal_rules
from pytest_torchexport.targets.draft import drafted
from pytest_torchexport.targets.formats.shape_env import refused_at

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
