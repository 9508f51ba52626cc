"""Shrink a failing call to one that a person can read, and find the sizes at which it fails.

The failure's class never changes here: this only explains it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from pytest_torchexport.inputs.recipes import Recipe, build, describe_recipe
from pytest_torchexport.inputs.shrink import shrink
from pytest_torchexport.judge.case import Case
from pytest_torchexport.judge.judge import Judge
from pytest_torchexport.judge.log import Shrunk
from pytest_torchexport.results.failures import ArtifactCrashed, ArtifactHung, Failure, SpecError
from pytest_torchexport.results.verdict import Sizes

# A failing call is tried at this many sizes of each dim.
SWEEP = 8
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
        case.log.shrunk = Shrunk(recipe, text, sweep(judge, recipe))
    return final if final is not None and type(final) is type(failure) else failure


def sweep(judge: Judge, recipe: Recipe) -> tuple[Sizes, ...]:
    """Return the sizes of each dim at which the call fails.

    The other dims are as in the example; if no size fails then, as in the call.
    """
    example = judge.spec.example_sizes
    found = []
    for name in judge.spec.dims:
        sizes = _sizes(judge, name, recipe, example)
        if not sizes.failing and recipe.sizes != example:
            sizes = _sizes(judge, name, recipe, recipe.sizes)
        found.append(sizes)
    return tuple(found)


def _sizes(judge: Judge, name: str, recipe: Recipe, others: Mapping[str, int]) -> Sizes:
    dim = judge.spec.dims[name]
    own = recipe.sizes.get(name, dim.example)
    ok: list[int] = []
    failing: list[int] = []
    for size in sorted({*list(dim.sizes[:SWEEP]), dim.high, dim.example, own}):
        try:
            judgment = judge.call(dataclasses.replace(recipe, sizes={**others, name: size}))
        except SpecError:
            continue
        if judgment is not None:
            (ok if judgment.failure is None else failing).append(size)
    return Sizes(dim=name, example=dim.example, ok=tuple(ok), failing=tuple(failing))
