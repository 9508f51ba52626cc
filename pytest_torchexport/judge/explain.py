"""From the first failing call to one that a person can read, and to the sizes at which it fails.

Separate from the engine because nothing here changes the verdict's class: it only explains it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from pytest_torchexport.inputs.recipes import Recipe, build, describe_recipe
from pytest_torchexport.inputs.shrink import shrink
from pytest_torchexport.judge.judge import Judge
from pytest_torchexport.judge.log import Shrunk
from pytest_torchexport.results.failures import Failure, SpecError
from pytest_torchexport.results.verdict import Sizes

# How many sizes of a dim a failing call is tried at.
SWEEP = 8


def explained(
    judge: Judge,
    recipe: Recipe,
    cls: type[Failure],
    may_go_on: Callable[[], bool],
    as_well: Callable[[Recipe], bool],
) -> tuple[Shrunk, Failure | None]:
    """The smallest call found that fails with the same class, and its failure. ``as_well`` is what else must
    be true of it.
    """

    def still_fails(candidate: Recipe) -> bool:
        return may_go_on() and type(judge.quietly(candidate)) is cls and as_well(candidate)

    recipe = shrink(judge.spec, recipe, still_fails)
    final = judge.quietly(recipe)
    call = build(judge.spec, recipe)
    text = describe_recipe(judge.spec, recipe, call) if call is not None else ""
    return Shrunk(recipe, text, sweep(judge, recipe)), final


def sweep(judge: Judge, recipe: Recipe) -> tuple[Sizes, ...]:
    """At which sizes of each dim the call fails: the others as in the example, or else as in the call."""
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
