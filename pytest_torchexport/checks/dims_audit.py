"""Sizes: what the artifact's metadata says about dims, held against calls."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_torchexport.checks import dims
from pytest_torchexport.inputs.dynamic_shapes import EXPORTED_AT, specialized_dims
from pytest_torchexport.inputs.recipes import (
    Recipe,
    build,
    describe_recipe,
    example_recipe,
    plain_recipe,
)
from pytest_torchexport.judge.case import Case
from pytest_torchexport.judge.explain import sweep
from pytest_torchexport.judge.log import Shrunk
from pytest_torchexport.results.failures import DimsNarrowed, Failure

# How many parts of a larger call are tried at the example's sizes.
WINDOWS = 8


def audit(case: Case) -> None:
    """Raise DimsNarrowed where a call shows that the artifact takes fewer sizes than declared."""
    suspicions = case.artifact.facts.suspicions(case.spec, case.spec.example)
    if not suspicions:
        return
    tried: list[Recipe] = []
    otherwise: list[Recipe] = []

    def witness(sizes: Mapping[str, int]) -> Failure | None:
        normal = plain_recipe(
            case.spec, "normal", {**case.spec.example_sizes, **sizes}, case.plan.seed
        )
        for recipe in (normal, example_recipe(case.spec, sizes)):
            failure = case.judge.quietly(recipe)
            if failure is None:
                continue
            if not _fails_elsewhere(case, recipe):
                tried.append(recipe)
                return failure
            otherwise.append(recipe)
        return None

    with case.log.timed("dims"):
        try:
            cleared = dims.check(suspicions, witness)
            if not otherwise:  # what fails at every size clears none
                for sentence in cleared:
                    case.log.note(sentence)
        except DimsNarrowed as failure:
            assumed = [name for name, dim in case.spec.dims.items() if not dim.declared]
            if assumed and case.plan.options.shapes is None:
                failure.details += (case.spec.opt_out(assumed),)
            recipe = tried[-1]
            call = build(case.spec, recipe)
            text = describe_recipe(case.spec, recipe, call) if call is not None else ""
            case.log.shrunk = Shrunk(recipe, text, sweep(case.judge, recipe), searched=False)
            raise


def _fails_elsewhere(case: Case, recipe: Recipe) -> bool:
    """Whether the values of a call fail at the example's sizes too, or at those that an exporter was given
    instead: then it is the values, and no question of sizes.
    """
    found = case.legal.call(recipe)
    if found is None:
        return False
    tried = {**case.spec.example_sizes, **found.recipe.sizes}
    sizes = case.spec.example_sizes
    if tried == sizes:
        sizes |= {dim.name: EXPORTED_AT for dim in specialized_dims(case.spec)}
    windows = max(-(-tried[name] // max(size, 1)) for name, size in sizes.items())
    return any(
        case.judge.fails(case.spec.resized(found.call, sizes, window * max(sizes.values())))
        for window in range(min(windows, WINDOWS))
    )
