"""Search for calls that reach thresholds of eager's operators, and of the artifact's.

Separate from the search itself (``explore/difference``), which knows no Case.
"""

from __future__ import annotations

from collections.abc import Sequence

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
    )
    search = DifferenceSearch(
        case.spec,
        eager,
        _of_artifact(case),
        bounds=case.artifact.facts.bounds(),
        seed=seed,
        before_call=case.log.try_call,
    )
    with case.log.timed("search"), case.log.during(Activity.EAGER):
        return search.run()


def _of_artifact(case: Case) -> OperatorRuns | None:
    """Return the runs of the artifact; None if it is not to be run in this process."""
    reference, artifact = case.reference, case.artifact
    elsewhere = case.plan.device != "cpu" or case.runner.isolated or artifact.native_loops
    if elsewhere or reference.fresh_each_call:
        return None
    state = State(artifact.module, thorough=reference.stateful)
    return OperatorRuns(fresh=lambda: artifact, done=state.restore, seed=case.plan.seed)
