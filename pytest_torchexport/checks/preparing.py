"""Examine eager before the export: is it a reference, and which calls does it take.

Raises CannotJudge if the target or the device is unavailable; SpecError, NotRepeatable and
TrainingMode about eager alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from pytest_torchexport import targets
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.eager.accepted import AcceptedCalls
from pytest_torchexport.eager.reference import Reference
from pytest_torchexport.explore.observed import Observed
from pytest_torchexport.inputs.recipes import example_recipe
from pytest_torchexport.inputs.spec import Call, build_spec
from pytest_torchexport.inputs.strategies import boundary_recipes
from pytest_torchexport.judge.case import Prepared
from pytest_torchexport.judge.loading import warm_up
from pytest_torchexport.judge.log import Activity, ItemLog, Shrunk
from pytest_torchexport.outcomes.limits import Deadline
from pytest_torchexport.outcomes.subject import Subject, local_packages, unusable_device
from pytest_torchexport.results.failures import CannotJudge, Ineffective, NotRepeatable

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
