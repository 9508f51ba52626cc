"""Sizes: what the artifact's metadata says about dims, held against calls."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_torchexport.checks import dims
from pytest_torchexport.failures import DimsNarrowed, Failure
from pytest_torchexport.ledger import Shrunk
from pytest_torchexport.recipes import Recipe, build, describe_recipe, example_recipe, plain_recipe
from pytest_torchexport.spec.exporters import EXPORTED_AT, specialized_dims
from pytest_torchexport.stages.bench import Bench
from pytest_torchexport.stages.explain import sweep

# How many parts of a larger call are tried at the example's sizes.
WINDOWS = 8


def audit(bench: Bench) -> None:
    """Raise DimsNarrowed where a call shows that the artifact takes fewer sizes than declared."""
    ask = getattr(bench.artifact, "audit", None)
    suspicions = ask(bench.spec, bench.spec.example) if ask is not None else ()
    if not suspicions:
        return
    tried: list[Recipe] = []
    otherwise: list[Recipe] = []

    def witness(sizes: Mapping[str, int]) -> Failure | None:
        normal = plain_recipe(
            bench.spec, "normal", {**bench.spec.example_sizes, **sizes}, bench.plan.seed
        )
        for recipe in (normal, example_recipe(bench.spec, sizes)):
            failure = bench.judge.quietly(recipe)
            if failure is None:
                continue
            if not _fails_elsewhere(bench, recipe):
                tried.append(recipe)
                return failure
            otherwise.append(recipe)
        return None

    with bench.ledger.timed("dims"):
        try:
            cleared = dims.check(suspicions, witness)
            if not otherwise:  # what fails at every size clears none
                for sentence in cleared:
                    bench.ledger.note(sentence)
        except DimsNarrowed as failure:
            assumed = [name for name, dim in bench.spec.dims.items() if not dim.declared]
            if assumed and bench.plan.options.shapes is None:
                failure.details += (bench.spec.opt_out(assumed),)
            recipe = tried[-1]
            call = build(bench.spec, recipe)
            text = describe_recipe(bench.spec, recipe, call) if call is not None else ""
            bench.ledger.shrunk = Shrunk(recipe, text, sweep(bench.judge, recipe), searched=False)
            raise


def _fails_elsewhere(bench: Bench, recipe: Recipe) -> bool:
    """Whether the values of a call fail at the example's sizes too, or at those that an exporter was given
    instead: then it is the values, and no question of sizes.
    """
    found = bench.legal.call(recipe)
    if found is None:
        return False
    tried = {**bench.spec.example_sizes, **found.recipe.sizes}
    sizes = bench.spec.example_sizes
    if tried == sizes:
        sizes |= {dim.name: EXPORTED_AT for dim in specialized_dims(bench.spec)}
    windows = max(-(-tried[name] // max(size, 1)) for name, size in sizes.items())
    return any(
        bench.judge.fails(bench.spec.resized(found.call, sizes, window * max(sizes.values())))
        for window in range(min(windows, WINDOWS))
    )
