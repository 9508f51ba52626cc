"""Shrink a failing call to one that a person can read.

The failure's class never changes here: this only explains it.
"""

from __future__ import annotations

from collections.abc import Callable

from pytest_torchexport.inputs.building import build
from pytest_torchexport.inputs.recipes import Recipe, describe_recipe
from pytest_torchexport.inputs.shrink import shrink
from pytest_torchexport.judge.case import Case
from pytest_torchexport.judge.log import Shrunk
from pytest_torchexport.results.failures import ArtifactCrashed, ArtifactHung, Failure

# Shrinking stops at this share of the time limit.
SHRINKING_SHARE = 0.9
# After these the artifact is loaded again, which is slow: shrinking gets this further share only.
DEADLY = (ArtifactCrashed, ArtifactHung)
DEADLY_SHARE = 0.1


def explained(
    case: Case,
    recipe: Recipe,
    failure: Failure,
    as_well: Callable[[Recipe], bool] | None = None,
) -> Failure:
    """Log the smallest call found that fails with the same class, and return its failure.

    ``as_well`` is a further condition on that call.
    """
    case.plan.progress("shrinking")
    share = SHRINKING_SHARE
    if isinstance(failure, DEADLY):
        share = case.deadline.elapsed / case.plan.settings.time_limit + DEADLY_SHARE
    judge = case.judge

    def still_fails(candidate: Recipe) -> bool:
        return (
            case.deadline.elapsed <= share * case.plan.settings.time_limit
            and type(judge.quietly(candidate)) is type(failure)
            and (as_well is None or as_well(candidate))
        )

    with case.log.timed("shrinking"):
        recipe = shrink(judge.spec, recipe, still_fails)
        final = judge.quietly(recipe)
        call = build(judge.spec, recipe)
        text = describe_recipe(judge.spec, recipe, call) if call is not None else ""
        case.log.shrunk = Shrunk(recipe, text)
    return final if final is not None and type(final) is type(failure) else failure
