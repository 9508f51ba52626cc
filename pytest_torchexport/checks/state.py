"""State: calls in a row, where a forward changes its module: what the artifact carries must follow eager."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from pytest_torchexport.judge.failure_of import failure_class
from pytest_torchexport.outcomes.compare import Tolerance, compare_values
from pytest_torchexport.results.failures import ArtifactCrashed, ArtifactHung, StateDiffers
from pytest_torchexport.results.verdict import Difference

LENGTH = 3

Tensors = Mapping[str, Any]


def exported(pristine: Tensors, carried: Tensors, changes: Sequence[str]) -> None:
    """Raise where exporting itself has moved the state on: tracing runs forward, and keeps what it left."""
    found = carried_differences(pristine, carried, Tolerance(0.0, 0.0))
    if found:
        raise StateDiffers(
            "exporting ran forward and kept what that changed: the artifact does not start where the "
            "module does",
            details=_said(changes),
            differences=tuple(found),
        )


def followed(
    number: int,
    length: int,
    differences: Sequence[Difference],
    changes: Sequence[str],
    *,
    stateful: bool,
    state: Container[str] = (),
) -> None:
    """Raise where the artifact parts from eager (``stateful``, where its forward changes its module) at call
    ``number`` of ``length`` in a row, in what it returns or in the state it leaves
    (tensors of the names ``state``). What the first call returns is
    parity's.
    """
    found = [item for item in differences if number > 1 or item.path in state]
    if not found:
        return
    row = f"call {number} of {length} in a row"
    ended = failure_class(found)
    if ended in (ArtifactCrashed, ArtifactHung):
        raise ended(found[0].actual, details=(row,), output=found[0].what)
    what = (
        "forward changes its module, and the artifact does not follow"
        if stateful
        else "the artifact keeps something from call to call, and forward does not"
    )
    raise StateDiffers(f"{row}: {what}", details=_said(changes), differences=tuple(found))


def carried_differences(
    eager: Tensors, artifact: Tensors, tolerance: Tolerance
) -> list[Difference]:
    """Differences in the parameters and buffers that both have under one name."""
    return [
        difference
        for name in eager
        if name in artifact
        for difference in compare_values(eager[name], artifact[name], tolerance, name)
    ]


def not_carried(eager: Tensors, changed: Tensors, artifact: Tensors) -> list[str]:
    """Names of the tensors that forward changes and that the artifact does not have."""
    exact = Tolerance(0.0, 0.0)
    return [
        name
        for name, before in eager.items()
        if name not in artifact
        and name in changed
        and compare_values(before, changed[name], exact, name)
    ]


def _said(changes: Sequence[str]) -> tuple[str, ...]:
    return (f"forward changes {', '.join(changes)}",) if changes else ()
