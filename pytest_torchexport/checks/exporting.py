"""Examine eager, and export a copy of the subject.

Raises SpecError, NotRepeatable, TrainingMode, ExportRefused, and CannotJudge if nobody named the
target or the target has no meaning for the subject. Why an export is refused is found out
afterwards, in ``diagnosis/refusal.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NoReturn

import torch

from pytest_torchexport import targets
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.eager.accepted import AcceptedCalls
from pytest_torchexport.eager.reference import Learned, Reference
from pytest_torchexport.eager.unrolled import spec_of_loop
from pytest_torchexport.explore.observed import Observed
from pytest_torchexport.inputs.dynamic_shapes import EXPORTED_AT
from pytest_torchexport.inputs.recipes import example_recipe
from pytest_torchexport.inputs.spec import Call, build_spec
from pytest_torchexport.inputs.strategies import boundary_recipes
from pytest_torchexport.judge.case import Case, Prepared
from pytest_torchexport.judge.log import BEFORE_CALLS, Activity, ItemLog, Shrunk
from pytest_torchexport.judge.runner import warm_up
from pytest_torchexport.outcomes import cuda, errors
from pytest_torchexport.outcomes.fork import survived
from pytest_torchexport.outcomes.limits import Deadline, TimeLimitExceeded
from pytest_torchexport.outcomes.messages import condense, is_about_dims, raised_at
from pytest_torchexport.outcomes.subject import Subject, local_packages, unusable_device
from pytest_torchexport.results.failures import (
    CannotJudge,
    ExportRefused,
    Ineffective,
    NotRepeatable,
    ends_the_test,
)


def prepare(  # noqa: PLR0913  # the parts of a Prepared
    subject: Subject,
    given: Sequence[Call],
    plan: Plan,
    *,
    foreign: bool,
    log: ItemLog,
    deadline: Deadline,
    resources: ExitStack,
    learned: Learned,
) -> Prepared:
    """Examine eager. ``given[0]`` is the example; further calls tell which sizes vary.

    ``foreign``: somebody else made the artifact. ``learned``: what is known of eager already.
    """
    plan.progress("eager")
    reason = unusable_device(plan.device) or targets.get(plan.target).unavailable(plan.device)
    if reason:
        text = f"unavailable: {reason}"
        raise Ineffective(text) if plan.settings.strict else CannotJudge(text, "unavailable")
    _raise_if_without_numbers(subject, given)
    if foreign or plan.checks("round_trip") or plan.why_isolated:
        warm_up(plan.target)  # without waiting, so that it is ready when a file is to be loaded
    eager = partial(log.during, Activity.EAGER)
    given = [call.to("cpu") for call in given]
    # The packages of the model's source, which the clean process does not have.
    allowed = {name.partition(".")[0] for name in plan.settings.runtime_imports}
    own = {*subject.packages(), *local_packages(plan.root or Path.cwd())}
    with log.timed("eager"), eager():
        reference = Reference(subject, plan, log.note, given[0], eager, learned)
        spec_of = partial(build_spec, subject.signature(), annotations=subject.annotations())
        if plan.loop is not None:
            spec = spec_of_loop(plan.loop, given[0], reference, plan.options, spec_of)
        else:
            spec = spec_of(given, plan.options)
        log.assumed = spec.assumed
        try:
            for text in reference.prepare(spec.example, [leaf.path for leaf in spec.leaves]):
                log.caution(text)
            log.ineffective += reference.uncompared
        except NotRepeatable:
            log.shrunk = Shrunk.as_made(spec, example_recipe(spec), spec.example)
            raise
        observed: Observed | None = None
        if plan.checks("control_flow") and plan.loop is None:
            observed = Observed(reference, plan.seed, plan.settings.follow)
            observed.learn(spec.example)
            reference.guard(observed.loops, observed.ends)
        prepared = Prepared(
            plan=plan,
            reference=reference,
            accepted=AcceptedCalls(
                spec,
                reference,
                log.note,
                fixes_layouts=targets.get(plan.target).traits.fixes_layouts,
            ),
            observed=observed,
            log=log,
            deadline=deadline,
            blocked=tuple(sorted(own - allowed)),
            resources=resources,
        )
        log.assumed = prepared.spec.assumed
        if plan.loop is None:
            _rehearse(prepared)
        else:
            reference.drifted()
        log.assumed = prepared.spec.assumed
    return prepared


def _raise_if_without_numbers(subject: Subject, given: Sequence[Call]) -> None:
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


def _rehearse(prepared: Prepared) -> None:
    """Make the boundary calls in eager alone.

    A wrong declaration raises a SpecError here. A forward that changes its module only on other
    calls than the example is detected before an artifact is compared with it.
    """
    plan = prepared.plan
    for recipe in boundary_recipes(prepared.spec, plan.seed):
        if prepared.deadline.is_past(BEFORE_CALLS):
            return
        prepared.accepted.call(recipe)
    prepared.reference.drifted()


# An exporter that may kill the interpreter is tried in a copy of it, for so long.
TRYING_SECONDS = 60.0


def export(prepared: Prepared) -> Case:
    prepared.plan.progress("export")
    if arrays := prepared.spec.arrays:
        are = "is an array of numpy" if len(arrays) == 1 else "are arrays of numpy"
        text = f"{', '.join(arrays)} {are}, which no exporter takes"
        prepared.refused(text, TypeError(text))
        raise ExportRefused(text, details=(FROM_TENSORS,))
    example = prepared.call_to_export()
    if example is not prepared.spec.example:
        dims = prepared.frozen_sizes
        names = ", ".join(f"{dim.name} (the example's is {dim.example})" for dim in dims)
        prepared.log.note(
            f"exported at size {EXPORTED_AT} of {names}: exporters freeze sizes 0 and 1"
        )
    with prepared.log.during(Activity.EXPORTER):
        # A forward that catches exceptions may kill the interpreter while it is exported.
        fatal = prepared.traits.crashes_on_caught_errors
        observed = prepared.observed
        # On the CPU: CUDA cannot be used in a fork of a process that has initialized it.
        if (
            fatal
            and observed is not None
            and observed.example_catches
            and not survived(lambda: prepared.exported(example, device="cpu"), TRYING_SECONDS)
        ):
            raise ExportRefused(fatal)
        try:
            with prepared.log.timed("export"):
                artifact = prepared.exported(example)
        except (TimeLimitExceeded, torch.OutOfMemoryError):
            raise
        except Exception as error:
            if ends_the_test(error):
                raise
            cuda.raise_if_lost()
            _refuse(prepared, error)
    return Case.of(prepared, artifact)


FROM_TENSORS = (
    "remedy: export a module that takes tensors, and check the pipeline around it with "
    "reference=, or with check_artifact(served_pipeline, pipeline, array)"
)


def _refuse(prepared: Prepared, error: Exception) -> NoReturn:
    """Raise ExportRefused, or CannotJudge if nobody named the target or gave it an option.

    Raises Ineffective if something of the machine ran out.
    """
    errors.raise_fault(error)
    options, spec = prepared.plan.options, prepared.spec
    reason, where = condense(error)
    declared = options.shapes is not None or options.dynamic_shapes is not None
    assumed = [dim.name for dim in spec.dims.values() if not dim.declared and not declared]
    details = [spec.opt_out(assumed)] if assumed and is_about_dims(error) else []
    if not (options.export_options or {}).get(prepared.plan.target):
        told = f"refused the module: {reason}{f' ({details[0]})' if details else ''}"
        prepared.refused(told, error)
    raised = raised_at(error)
    if raised not in (None, where):
        details.append(f"raised at {raised}")
    raise ExportRefused(reason, details=tuple(details), where=where) from error
