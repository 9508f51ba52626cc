"""Examine the operators of eager and of the artifact on the failing call: where do they part?

One recorded run of each, for artifacts that torch itself runs in this process. For an ONNX model it
is what torch captured, if that already differs from eager.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial

from pytest_torchexport.checks import state
from pytest_torchexport.diagnosis.fatal_torch import TorchSteps
from pytest_torchexport.diagnosis.introduced import Introduced, introduced
from pytest_torchexport.diagnosis.scene import CAPTURED, Scene
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.state_differences import carried_differences
from pytest_torchexport.outcomes.compare import compare
from pytest_torchexport.outcomes.fork import Death, can_fork, in_fork
from pytest_torchexport.outcomes.observe import Returned, State
from pytest_torchexport.outcomes.tape import Tape, record, state_of
from pytest_torchexport.results.diagnosis import Diagnosis, Place, Structural
from pytest_torchexport.results.failures import StateDiffers
from pytest_torchexport.targets.base import Artifact

# The artifact runs once more for so long, to find a line of it.
SECONDS = 2.0
# Targets whose artifacts run torch's operators in this process.
TARGETS = tuple(target for target, captured in CAPTURED.items() if captured == target)


def examine(scene: Scene, known: Diagnosis) -> Diagnosis:
    """Add the operator that introduces the difference, and how the two sides differ there."""
    here = scene.case.plan.target in TARGETS
    # If torch captured it right, a later step is to blame.
    suspected = known.owner in ("capture", None) and not isinstance(scene.failure, StateDiffers)
    captured = scene.captured if here or suspected else None
    if captured is None:
        return known
    for eager, artifact, differing in _pairs(scene, captured):
        if not (eager.complete and artifact.complete):
            return known
        found = introduced(eager, artifact, differing)
        if found is not None:
            place, structural = _placed(scene, found)
            return dataclasses.replace(known, place=place, structural=structural)
    return known


def _placed(scene: Scene, found: Introduced) -> tuple[Place, Structural]:
    """Return the place, of an operator of the artifact alone as the artifact knows it."""
    step = found.extra if scene.captured is scene.case.artifact else None
    if step is None or scene.call is None or not can_fork():
        return found.place, found.structural
    steps = TorchSteps(case=scene.case, call=scene.call)
    place = in_fork(partial(steps.place, step.ordinal), SECONDS)
    if isinstance(place, Death) or place.operator != step.operator_name or place.where is None:
        return found.place, found.structural
    return place, dataclasses.replace(found.structural, where=place.where)


def _pairs(scene: Scene, captured: Artifact) -> Iterator[tuple[Tape, Tape, tuple[str, ...]]]:
    """Yield recordings of the two sides that differ, and the paths at which they do."""
    seed = scene.case.plan.seed
    call = scene.call
    if call is None:
        return
    yield from _in_a_row(scene, captured, [call], seed)
    if isinstance(scene.failure, StateDiffers):
        for row in state.rows(scene.case, state.LONGEST):
            yield from _in_a_row(scene, captured, row, seed)
    else:
        yield from _in_a_row(scene, captured, [call], seed + 1)


def _in_a_row(
    scene: Scene, captured: Artifact, calls: Sequence[Call], seed: int
) -> Iterator[tuple[Tape, Tape, tuple[str, ...]]]:
    """Yield the first of these calls, each made where the one before ended, that differs."""
    case, device = scene.case, scene.case.plan.device
    subject = case.reference.pristine.copy().to(device)
    kept = State(captured.module, thorough=case.reference.stateful)
    try:
        for call in calls:
            moved = call.to(device)
            eager = record(
                subject.function,
                moved,
                seed=seed,
                grad_mode=subject.grad_mode,
                module=subject.module,
            )
            artifact = record(
                captured,
                moved,
                seed=seed,
                grad_mode=case.reference.served,
                module=captured.module,
            )
            differing = _differing(scene, eager, artifact)
            left, right = (dict(state_of(each)) for each in (subject.module, captured.module))
            more = carried_differences(left, right, case.judge.tolerance)
            differing += tuple(item.path for item in more)
            if differing:
                yield eager, artifact, differing
                return
    finally:
        kept.restore()


def _differing(scene: Scene, eager: Tape, artifact: Tape) -> tuple[str, ...]:
    """Return the paths at which two outcomes differ; one that is empty if the artifact raised."""
    if not isinstance(eager.outcome, Returned):
        return ()
    found = compare(eager.outcome, artifact.outcome, scene.case.judge.tolerance)
    return tuple(item.path for item in found)
