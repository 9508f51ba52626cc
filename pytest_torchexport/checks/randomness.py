"""Chance: where forward is random, does the artifact vary with the seed, and as eager does."""

from __future__ import annotations

from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.case import Case
from pytest_torchexport.outcomes.compare import Tolerance, compare_values
from pytest_torchexport.outcomes.observe import Returned
from pytest_torchexport.results.failures import OutputsDiffer


def streams(case: Case) -> None:
    """Raise where the artifact is constant and eager is not. Where it draws from a stream of its own, its
    random outputs are not compared from here on.
    """
    eager, example, seed = case.eager, case.spec.example, case.plan.seed
    if not eager.random:
        return
    wanted = eager.on_cpu(example)
    first, again, other = (case.judge.run(example, at) for at in (seed, seed, seed + 1))
    if not isinstance(first, Returned) or not isinstance(wanted, Returned):
        return  # parity tells what it raises
    returned = Call((first.value,)).to("cpu").args[0]
    if any(d.kind != "values" for d in compare_values(wanted.value, returned, Tolerance())):
        return  # and what it returns
    own = eager.differing(first, again)
    constant = eager.random - own - eager.differing(first, other)
    if constant:
        raise OutputsDiffer(
            f"the artifact is constant where eager varies with the random seed: {', '.join(sorted(constant))}",
            details=eager.draws,
        )
    case.judge.random_paths = own


def settled(case: Case) -> None:
    """Raise where eager is the same with all seeds and the artifact is not: forward may set a seed of its own, which
    exporters leave out. With the plan's alone the two would agree where both are the same number.
    """
    if case.eager.random:
        return
    example, seed = case.spec.example, case.plan.seed
    first, other = (case.judge.run(example, at) for at in (seed, seed + 1))
    if not isinstance(first, Returned):
        return
    differences = case.judge.differences([example], first, other)
    if differences:
        raise OutputsDiffer(
            "the artifact varies with the random seed, and eager does not",
            differences=tuple(differences),
        )


def unjudged(case: Case) -> str:
    """Why what is random cannot be compared; empty where it can, or where nothing is."""
    paths = ", ".join(sorted(case.judge.random_paths))
    return paths and (
        f"forward is random, and {case.plan.target} draws from another random stream than eager: "
        f"the values of {paths} cannot be compared"
    )
