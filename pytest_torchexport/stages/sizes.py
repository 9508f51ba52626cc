"""Sizes: what the artifact's metadata says about dims, held against calls."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from pytest_torchexport.checks import dims
from pytest_torchexport.failures import DimsNarrowed, Failure
from pytest_torchexport.ledger import Shrunk
from pytest_torchexport.recipes import Recipe, build, describe_recipe, example_recipe, plain_recipe
from pytest_torchexport.spec.exporters import EXPORTED_AT, specialized_dims
from pytest_torchexport.stages.bench import Bench
from pytest_torchexport.stages.explain import sweep
from pytest_torchexport.strategies import CORNERS


def audit(bench: Bench) -> None:
    """Raise DimsNarrowed where a call shows that the artifact takes fewer sizes than declared."""
    ask = getattr(bench.artifact, "audit", None)
    suspicions = ask(bench.spec, bench.spec.example) if ask is not None else ()
    if not suspicions:
        return
    tried: list[Recipe] = []

    def witness(sizes: Mapping[str, int]) -> Failure | None:
        normal = plain_recipe(
            bench.spec, "normal", {**bench.example_sizes, **sizes}, bench.plan.seed
        )
        for recipe in (normal, example_recipe(bench.spec, sizes)):
            failure = bench.judge.quietly(recipe)
            if failure is not None and not _fails_elsewhere(bench, recipe):
                tried.append(recipe)
                return failure
        return None

    with bench.ledger.timed("dims"):
        try:
            for cleared in dims.check(suspicions, witness):
                bench.ledger.note(cleared)
        except DimsNarrowed:
            recipe = tried[-1]
            call = build(bench.spec, recipe)
            text = describe_recipe(bench.spec, recipe, call) if call is not None else ""
            bench.ledger.shrunk = Shrunk(recipe, text, sweep(bench.judge, recipe), searched=False)
            raise


def _fails_elsewhere(bench: Bench, recipe: Recipe) -> bool:
    """Whether calls fail at the example's sizes too, or at those that an exporter was given instead: with
    these values or any plain ones. What does is not about sizes.
    """
    sizes = bench.example_sizes
    if recipe.sizes == sizes:
        sizes |= {dim.name: EXPORTED_AT for dim in specialized_dims(bench.spec)}
    others = (
        plain_recipe(bench.spec, kind, sizes, bench.plan.seed) for kind in ("normal", *CORNERS)
    )
    return any(
        bench.judge.quietly(other) is not None
        for other in (dataclasses.replace(recipe, sizes=sizes), *others)
    )
