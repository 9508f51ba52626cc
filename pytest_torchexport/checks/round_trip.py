"""Round trip: save, load where the model's source does not exist, and get the same as in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from pytest_torchexport import sandbox, targets
from pytest_torchexport.compare import Tolerance, compare
from pytest_torchexport.failures import ArtifactCrashed, ArtifactHung, LoadFailed, RoundTripDiffers
from pytest_torchexport.observe import Outcome, Raised, Returned, raised
from pytest_torchexport.spec.inputs import Call
from pytest_torchexport.targets.base import Artifact

RUNS = 3


def check(
    artifact: Artifact,
    *,
    target: str,
    device: str,
    call: Call,
    expected: Outcome,
    seed: int,
    limit: float,
    blocked: Sequence[str],
    imports: Sequence[str],
) -> str | None:
    """Raise where the saved artifact is not what it was in memory. Returns why it could not be judged."""
    entry = targets.entry_point(target)
    if entry is None:
        return f"round trip not checked: target {target!r} is registered only in this process"
    with tempfile.TemporaryDirectory(prefix="torchexport-") as directory:
        try:
            path = artifact.save(Path(directory))
        except Exception as error:
            reason = raised(error)
            raise LoadFailed(f"cannot be saved: {reason}", where=reason.where) from None
        lowered = artifact.lower(call)
        try:
            answer = sandbox.run_clean(
                sandbox.Request(
                    target=entry,
                    path=path,
                    device=device,
                    call=lowered,
                    seed=seed,
                    runs=RUNS,
                    limit=limit,
                    blocked=blocked,
                    imports=imports,
                )
            )
        except TypeError as error:
            raise LoadFailed(f"cannot be called where the source does not exist: {error}") from None
    _judge(artifact, answer, expected, blocked)
    return None


def _judge(
    artifact: Artifact, answer: sandbox.Answer, expected: Outcome, blocked: Sequence[str]
) -> None:
    if isinstance(answer, sandbox.NotLoaded):
        raise LoadFailed(
            str(answer.outcome),
            details=(f"not importable there: {', '.join(blocked)}",) if blocked else (),
        )
    if isinstance(answer, sandbox.Died):
        raise ArtifactCrashed(
            f"in the clean process: {answer.reason}", details=tuple(answer.output.splitlines()[-5:])
        )
    for number, outcome in enumerate(answer, start=1):
        _compare(artifact, outcome, expected, number)


def _compare(artifact: Artifact, outcome: Outcome, expected: Outcome, number: int) -> None:
    if isinstance(outcome, Returned):
        try:
            outcome = Returned(artifact.lift(outcome.value), outcome.inputs)
        except (ValueError, TypeError, IndexError) as error:
            outcome = raised(error)
    if isinstance(outcome, Raised) and isinstance(expected, Returned):
        raise RoundTripDiffers(f"run {number} after loading raises {outcome}")
    differences = compare(expected, outcome, Tolerance())
    if any(difference.kind == "hung" for difference in differences):
        raise ArtifactHung("the loaded artifact did not return")
    # Devices cannot differ here: tensors cross by way of the CPU.
    differences = [difference for difference in differences if difference.kind != "device"]
    if differences:
        raise RoundTripDiffers(f"run {number} after loading", differences=tuple(differences))
