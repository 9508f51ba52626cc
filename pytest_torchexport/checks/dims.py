"""Dims: the artifact accepts the sizes that were declared.

What a program's metadata says is only a suspicion: torch's ranges begin at 2 where 0 and 1 run well, and a
guard may be stricter than the graph under it. A failure is what a call shows that eager takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pytest_torchexport.outcomes.messages import is_guard
from pytest_torchexport.results.failures import ArtifactRaised, DimsNarrowed, Failure
from pytest_torchexport.targets.formats.sizes import LOWEST, Suspicion

# How much of an expression a report shows, in characters.
READ = 160
Witness = Callable[[Mapping[str, int]], Failure | None]


def check(suspicions: Sequence[Suspicion], witness: Witness) -> list[str]:
    """Raise DimsNarrowed for the first suspicion that a call confirms. ``witness`` makes a legal call at the
    given sizes and returns its failure.

    Returns what was suspected and not confirmed, in sentences.
    """
    cleared = []
    for suspicion in suspicions:
        for sizes in suspicion.sizes:
            failure = witness(sizes)
            if failure is not None:
                raise _narrowed(suspicion, sizes, failure)
        if suspicion.why != LOWEST:  # which is said of every program, and mostly means nothing
            cleared.append(
                f"{suspicion.dim}: {suspicion.declared}, the program says {_cut(suspicion.actual)} "
                f"({_cut(suspicion.why)}); and yet it was right at {_listed(suspicion)}"
            )
    return cleared


def as_narrowed(failure: Failure) -> Failure:
    """DimsNarrowed for an artifact that raised because a guard of its own on sizes failed."""
    if type(failure) is not ArtifactRaised or not is_guard(str(failure)):
        return failure
    return DimsNarrowed(
        " ".join(str(failure).split()),
        details=failure.details,
        where=failure.where,
        differences=failure.differences,
    )


def _narrowed(suspicion: Suspicion, sizes: Mapping[str, int], failure: Failure) -> DimsNarrowed:
    at = ", ".join(f"{name} = {size}" for name, size in sizes.items())
    return DimsNarrowed(
        f"{suspicion.dim} (axis {suspicion.axis} of {suspicion.path}): {suspicion.declared}, the "
        f"program says {_cut(suspicion.actual)}: {_cut(suspicion.why)}",
        details=(f"at {at}: {' '.join(str(failure).split()) or failure.title}", *failure.details),
        where=suspicion.where or failure.where,
        differences=failure.differences,
    )


def _cut(text: str) -> str:
    """An expression of sizes as far as a reader follows it: of windows and their shifts they grow to pages."""
    return text if len(text) <= READ else f"{text[:READ]}..."


def _listed(suspicion: Suspicion) -> str:
    calls = (", ".join(f"{n} = {s}" for n, s in sizes.items()) for sizes in suspicion.sizes)
    return "; ".join(calls)
