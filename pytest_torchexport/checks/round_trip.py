"""Round trip: save, load where the model's source does not exist, and get the same as in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from pytest_torchexport import sandbox, targets
from pytest_torchexport.compare import Tolerance, compare_values
from pytest_torchexport.failures import ArtifactCrashed, ArtifactHung, LoadFailed, RoundTripDiffers
from pytest_torchexport.observe import Hung, Outcome, Raised, Returned, raised
from pytest_torchexport.sandbox.wire import NotCarried
from pytest_torchexport.spec.inputs import Call
from pytest_torchexport.targets.base import Artifact


def check(
    artifact: Artifact,
    *,
    target: str,
    device: str,
    call: Call,
    expected: Sequence[Outcome],
    tolerance: Tolerance,
    seed: int,
    limit: float,
    blocked: Sequence[str],
    imports: Sequence[str],
) -> str | None:
    """Raise where the saved artifact, called in a row, does not do what it did in memory (``expected``).

    Returns why it could not be judged, or None.
    """
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
                    runs=len(expected),
                    limit=limit,
                    blocked=blocked,
                    imports=imports,
                )
            )
        except NotCarried as error:
            return f"round trip not checked: {error}"
        except TypeError as error:
            raise LoadFailed(f"cannot be called where the source does not exist: {error}") from None
    return _judge(artifact, answer, expected, tolerance, blocked)


def _judge(
    artifact: Artifact,
    answer: sandbox.Answer,
    expected: Sequence[Outcome],
    tolerance: Tolerance,
    blocked: Sequence[str],
) -> str | None:
    if isinstance(answer, sandbox.NotLoaded):
        raise LoadFailed(
            str(answer.outcome),
            details=(f"not importable there: {', '.join(blocked)}",) if blocked else (),
        )
    if isinstance(answer, sandbox.Died):
        raise ArtifactCrashed(
            f"in the clean process: {answer.reason}", details=tuple(answer.output.splitlines()[-5:])
        )
    if len(answer) == 1 and isinstance(answer[0], Hung):
        raise ArtifactHung("the loaded artifact did not return")
    for outcome in answer:
        if isinstance(outcome, Raised) and outcome.type == NotCarried.__name__:
            return f"round trip not checked: {outcome.message}"
    for number, (outcome, wanted) in enumerate(zip(answer, expected, strict=True), start=1):
        _compare(artifact, outcome, wanted, tolerance, number)
    return None


def _compare(
    artifact: Artifact, outcome: Outcome, expected: Outcome, tolerance: Tolerance, number: int
) -> None:
    if isinstance(outcome, Returned):
        try:
            outcome = Returned(artifact.lift(outcome.value), outcome.inputs)
        except (ValueError, TypeError, IndexError) as error:
            outcome = raised(error)
    if isinstance(outcome, Raised) and isinstance(expected, Returned):
        raise RoundTripDiffers(f"run {number} after loading raises {outcome}")
    if not isinstance(expected, Returned) or not isinstance(outcome, Returned):
        return
    differences = compare_values(expected.value, outcome.value, tolerance)
    if differences:
        raise RoundTripDiffers(f"run {number} after loading", differences=tuple(differences))
