"""Check that the artifact varies with the random seed if eager does, and only then.

Raises OutputsDiffer. If the artifact draws from another random stream than eager, its random
outputs are not compared.
"""

from __future__ import annotations

import dataclasses

from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.case import Case
from pytest_torchexport.outcomes.compare import Tolerance, compare_values
from pytest_torchexport.outcomes.observe import Returned
from pytest_torchexport.results.failures import OutputsDiffer


def compare_streams(case: Case) -> Case | None:
    """Raise OutputsDiffer if the artifact is constant and eager is not.

    Return a case that knows which outputs the artifact draws from a stream of its own.
    """
    eager, example, seed = case.reference, case.spec.example, case.plan.seed
    if not eager.random:
        return None
    wanted = eager.on_cpu(example)
    first, again, other = (case.judge.run(example, at) for at in (seed, seed, seed + 1))
    if not isinstance(first, Returned) or not isinstance(wanted, Returned):
        return None  # parity judges what it raises
    returned = Call((first.value,)).to("cpu").args[0]
    if any(d.kind != "values" for d in compare_values(wanted.value, returned, Tolerance())):
        return None  # parity judges another structure too
    own = eager.differing(first, again)
    constant = eager.random - own - eager.differing(first, other)
    if constant:
        raise OutputsDiffer(
            "the artifact is constant where eager varies with the random seed: "
            + ", ".join(sorted(constant)),
            details=eager.draws,
        )
    return dataclasses.replace(case, random_paths=own)


def check_seeds(case: Case) -> None:
    """Raise OutputsDiffer if the artifact varies with the seed and eager does not.

    A forward may set a seed of its own, which exporters leave out. With one seed alone, the two
    agree if both seeds are the same number.
    """
    if case.reference.random:
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
