"""The check ``dims``: the artifact accepts the sizes that were declared.

What a program says of sizes gives only a suspicion: torch's ranges begin at 2 although 0 and 1 run
well, and a guard may be stricter than the graph under it. Raises DimsNarrowed if a call that eager
takes confirms a suspicion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from pytest_torchexport.inputs.building import build, build_leaves
from pytest_torchexport.inputs.dynamic_shapes import EXPORTED_AT, specialized_dims
from pytest_torchexport.inputs.pytrees import is_plain, tiled
from pytest_torchexport.inputs.recipes import (
    Recipe,
    describe_recipe,
    example_recipe,
    plain_recipe,
    with_leaves,
)
from pytest_torchexport.inputs.spec import InputSpec
from pytest_torchexport.judge.case import Case
from pytest_torchexport.judge.log import Shrunk
from pytest_torchexport.outcomes.messages import is_guard
from pytest_torchexport.results.failures import DimsNarrowed, Failure
from pytest_torchexport.targets.formats.sizes import Sizes, Suspicion

# How much of an expression a report shows, in characters.
READ = 160
# A legal call at the given sizes, of which it returns the failure.
Witness = Callable[[Sizes], Failure | None]


def audit(case: Case) -> None:
    """Raise DimsNarrowed if a call shows that the artifact takes fewer sizes than declared."""
    suspicions = case.artifact.facts.suspicions(case.spec, case.spec.example)
    if not suspicions:
        return
    tried: list[Recipe] = []
    exported = {dim.name: EXPORTED_AT for dim in specialized_dims(case.spec)}

    def witness(sizes: Sizes) -> Failure | None:
        """Return the failure of a call that the same values do not have at the export's sizes."""

        def normal(sizes: Sizes) -> Recipe:
            return plain_recipe(case.spec, "normal", case.spec.all_sizes(sizes), case.plan.seed)

        for make in (normal, partial(example_recipe, case.spec)):
            failing, other = make(sizes), make(exported)
            # Other values of the same kind, and just these: rows repeated.
            alike = (other, _of_the_rows(case.spec, other, failing))
            failure = case.judge.quietly(failing)
            if failure is not None and not any(map(case.judge.quietly, alike)):
                tried.append(failing)
                return failure
        return None

    with case.log.timed("dims"):
        try:
            check(suspicions, witness, case.spec)
        except DimsNarrowed as failure:
            assumed = [name for name, dim in case.spec.dims.items() if not dim.declared]
            if assumed and case.plan.options.shapes is None:
                failure.details += (case.spec.opt_out(assumed),)
            recipe = tried[-1]
            call = build(case.spec, recipe)
            text = describe_recipe(case.spec, recipe, call) if call is not None else ""
            case.log.shrunk = Shrunk(recipe, text, searched=False)
            raise


def _of_the_rows(spec: InputSpec, recipe: Recipe, source: Recipe) -> Recipe:
    """Return a recipe of the same sizes that repeats the elements of another call's tensors."""
    ours, theirs = build_leaves(spec, recipe), build_leaves(spec, source)
    pairs = enumerate(zip(ours or (), theirs or (), strict=False))
    values = {
        index: tiled(other, own.shape)
        for index, (own, other) in pairs
        if is_plain(own) and own.shape != other.shape
    }
    return with_leaves(recipe, values)


def check(suspicions: Sequence[Suspicion], witness: Witness, spec: InputSpec) -> None:
    """Raise DimsNarrowed for the first suspicion that a call confirms."""
    for suspicion in suspicions:
        confirmed = next(_failing(suspicion.sizes, witness), None)
        if confirmed is None:
            continue
        # Expressions of shifted windows can be pages long.
        said = suspicion.text if len(suspicion.text) <= READ else f"{suspicion.text[:READ]}..."
        why = f"the program says {said}: {suspicion.why}"
        if suspicion.is_torchs_minimum:
            within = next(_failing(suspicion.taken, witness), None)
            if within is not None and not isinstance(within[1], DimsNarrowed):
                # It is wrong at sizes that torch takes: the minimum is not the cause, and parity
                # judges it.
                continue
            confirmed = within or confirmed
            if within is not None or is_guard(str(confirmed[1])):
                # torch.export puts no guard on its minimum: this one says something else.
                why = f"a guard of the program refuses {_at(confirmed[0])}"
        sizes, failure = confirmed
        # A relation between dims is suspected of one, and may be refused because of another.
        name = suspicion.dim if suspicion.dim in sizes else next(iter(sizes), suspicion.dim)
        dim = spec.dims[name]
        at = f" (axis {suspicion.axis} of {suspicion.path})" if name == suspicion.dim else ""
        declared = f"{'declared' if dim.declared else 'assumed'} {dim.describe()}"
        symptom = " ".join(str(failure).split()) or failure.title
        raise DimsNarrowed(
            f"{dim.name}{at}: {declared}, {why}",
            details=(f"at {_at(sizes)}: {symptom}", *failure.details),
            where=suspicion.where or failure.where,
            differences=failure.differences,
        )


def _failing(calls: Sequence[Sizes], witness: Witness) -> Iterator[tuple[Sizes, Failure]]:
    for sizes in calls:
        failure = witness(sizes)
        if failure is not None:
            yield sizes, failure


def _at(sizes: Sizes) -> str:
    return ", ".join(f"{name} = {size}" for name, size in sizes.items())
