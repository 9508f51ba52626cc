"""Search for calls that reach thresholds of eager's operators, and of the artifact's.

Separate from the search itself (``explore/difference``), which knows no Case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pytest_torchexport import targets
from pytest_torchexport.eager.queries import answering
from pytest_torchexport.explore.difference import DifferenceSearch
from pytest_torchexport.explore.operator_run import OperatorRuns
from pytest_torchexport.inputs.recipes import Recipe
from pytest_torchexport.judge.case import Case
from pytest_torchexport.judge.log import Activity
from pytest_torchexport.outcomes.observe import State


def searched(case: Case) -> Sequence[Recipe]:
    """Return calls that reach thresholds of eager's operators, and of the artifact's."""
    reference, seed = case.reference, case.plan.seed
    if reference.may_not_end():
        return ()  # a call with other numbers may be one that does not
    subject = reference.pristine.copy()
    eager = OperatorRuns(
        fresh=lambda: (
            (reference.pristine.copy() if reference.fresh_each_call else subject).function
        ),
        done=State(subject.module, thorough=reference.stateful).restore,
        seed=seed,
        grad_mode=subject.grad_mode,
    )
    search = DifferenceSearch(
        case.spec,
        eager,
        _of_artifact(case) or _as_exported(case, eager),
        bounds=case.artifact.facts.bounds(),
        straight=_is_straight(case),
        seed=seed,
        before_call=case.log.try_call,
    )
    with case.log.timed("search"), case.log.during(Activity.EAGER):
        return search.run()


def _is_straight(case: Case) -> bool:
    """Return True if every call of eager runs the same operators, as far as its code tells."""
    observed = case.observed
    return observed is not None and (not observed.branches() or case.branches.straight)


def _of_artifact(case: Case) -> OperatorRuns | None:
    """Return the runs of the artifact; None if it is not to be run here, or not by torch."""
    reference, artifact = case.reference, case.artifact
    elsewhere = case.plan.device != "cpu" or case.runner.isolated or artifact.native_loops
    by_torch = targets.get(case.plan.target).traits.library == "torch"
    if elsewhere or not by_torch or reference.fresh_each_call:
        return None
    state = State(artifact.module, thorough=reference.stateful)
    return OperatorRuns(
        fresh=lambda: artifact,
        done=state.restore,
        seed=case.plan.seed,
        grad_mode=reference.served,
    )


def _as_exported(case: Case, eager: OperatorRuns) -> OperatorRuns | None:
    """Return the runs of eager as the exporter sees it; None if it does not ask what runs it.

    None also if the artifact is isolated: eager would run here what may have killed a process.
    """
    asked = case.questions
    if not asked or case.runner.isolated:
        return None
    answers = targets.get(case.plan.target).traits.answers
    return replace(eager, fresh=lambda: answering(eager.fresh(), answers, asked))
