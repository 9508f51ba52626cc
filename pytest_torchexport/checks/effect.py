"""Judge whether a pass means anything: could calls fail, and can every output be compared?

Raises Ineffective if hardly anything was checked, and under strict for every reason why a pass says
little. Raises CannotJudge if the artifact's random outputs cannot be compared.
"""

from __future__ import annotations

from pytest_torchexport.judge.case import Case
from pytest_torchexport.judge.convention import reordered, unlike
from pytest_torchexport.judge.coverage import uncovered
from pytest_torchexport.judge.doubts import Doubt
from pytest_torchexport.judge.vacuity import weighed
from pytest_torchexport.results.failures import CannotJudge, Ineffective
from pytest_torchexport.results.verdict import Difference


def weigh(case: Case) -> None:
    """Raise Ineffective if hardly anything was checked; else log why a pass says little.

    Also log what the calls left uncovered.
    """
    log, accepted = case.log, case.accepted
    log.ineffective += weighed(
        log.outputs,
        refused=log.calls["rejected"],
        refusal=accepted.refusal,
        only_the_examples_values=accepted.fell_back and not accepted.takes_other_values,
        fixed=accepted.fixed,
    )
    for text in log.outputs.partial():
        log.note(text)
    for doubt, found in case.judge.doubted():
        log.caution(_doubted(doubt, found))
    _say_how_to_call(case)
    log.uncovered = uncovered(
        log.covered, case.spec, case.plan.options, case.artifact.facts, tied=accepted.tied
    )


def _say_how_to_call(case: Case) -> None:
    """Log the ways in which eager can be called and the artifact cannot."""
    eager, facts = case.reference.pristine.signature(), case.artifact.facts
    if eager is None:
        return
    program = facts.signature()
    for text in unlike(eager, program) if program is not None else ():
        case.log.note(text)
    if text := reordered(eager, facts.inputs()):
        case.log.caution(text)


def require(case: Case) -> None:
    """Raise CannotJudge if random outputs cannot be compared.

    Raises Ineffective under strict for any reason why a pass says little.
    """
    paths = ", ".join(sorted(case.random_paths))
    unjudged = paths and (
        f"forward is random, and {case.plan.target} draws from another random stream than eager: "
        f"the values of {paths} cannot be compared"
    )
    if case.plan.settings.strict and (case.log.ineffective or unjudged):
        first, *more = [unjudged] if unjudged else case.log.ineffective
        raise Ineffective(first, details=tuple(more))
    if unjudged:
        raise CannotJudge(unjudged)


def _doubted(doubt: Doubt, found: Difference) -> str:
    many = found.in_own_errors
    times = f" and {many:.0f} times eager's own error" if many else ""
    return (
        f"{found.path} differs by {found.max_abs:.2g}, {doubt.units:.0f} units in the last place "
        f"of its largest element{times}: within the tolerance, but no rounding; give rtol and "
        "atol if it must not differ"
    )
