"""Find the owner of a failure of an ONNX model: the step between two stages that disagree.

The stages are tried on the failing call, those that cost an export last. What comes after the last
stage that agrees with eager is to blame.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_torchexport.diagnosis.onnx_models import MADE_ELSEWHERE, OnnxModel, OnnxModels
from pytest_torchexport.diagnosis.scene import Scene
from pytest_torchexport.diagnosis.stages import OF_THE_RUN, as_the_exporter_sees_it
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.case import Case
from pytest_torchexport.judge.runner import Runnable
from pytest_torchexport.outcomes import cuda
from pytest_torchexport.outcomes.fork import Death, can_fork, in_fork
from pytest_torchexport.outcomes.observe import (
    NotTransferable,
    Outcome,
    Raised,
    Returned,
    observe,
)
from pytest_torchexport.outcomes.torch_state import plain_attention
from pytest_torchexport.results.diagnosis import Cause, Diagnosis, Owner, Stage, StageName
from pytest_torchexport.targets.formats.onnx_inside import PLAIN
from pytest_torchexport.targets.formats.onnx_runtime import Optimizations
from pytest_torchexport.targets.upstream.rows import onnx_optimizers

TRACED: StageName = "artifact"
CAPTURED: StageName = "ExportedProgram"
REFERENCE: StageName = "ONNX without the exporter's optimizer, by onnx.reference"
TRANSLATED: StageName = (
    "ONNX without the exporter's optimizer, by ONNX Runtime without optimizations"
)
OPTIMIZED: StageName = "ONNX by ONNX Runtime without optimizations"
SHIPPED: StageName = "ONNX by ONNX Runtime"
# Each stage in its order, and who makes it of the one before.
STEPS: tuple[tuple[StageName, Owner], ...] = (
    (TRACED, "capture"),
    (CAPTURED, "capture"),
    (REFERENCE, "translation"),
    (TRANSLATED, "runtime"),
    (OPTIMIZED, "exporter's optimizer"),
    (SHIPPED, "runtime's optimizer"),
)

# A program that torch captured is tried in a fork for so long.
TRYING_SECONDS = 10.0
# More optimizers than these that are wrong each by itself are not named.
MOST = 4
LEVEL = "options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL"

IsRight = Callable[[tuple[str, ...]], bool]


def examine(scene: Scene, known: Diagnosis) -> Diagnosis:
    """Add the stages that were tried, and the owner if they tell it."""
    models = scene.onnx
    if models is None or scene.call is None or scene.expected is None:
        return known
    stages = _tried(scene, models, scene.call)
    if not stages:
        return known
    order = [name for name, _ in STEPS]
    stages.sort(key=lambda stage: order.index(stage.name))
    owner = known.owner or owner_of(stages)
    if owner == "capture" and not known.causes:
        seen = tuple(as_the_exporter_sees_it(scene))
        stages = [*seen, *stages]
        owner = "model" if any(stage.agrees is False for stage in seen) else owner
    if any(cause.kind in OF_THE_RUN for cause in known.causes):
        owner = known.owner
    known = dataclasses.replace(known, stages=(*known.stages, *stages), owner=owner)
    cause = _of_an_optimizer(scene, models, scene.call, owner)
    return known if cause is None else dataclasses.replace(known, causes=(*known.causes, cause))


def owner_of(stages: list[Stage]) -> Owner | None:
    """Return who made the first wrong stage of the last right one; None if it may be several."""
    results = {stage.name: stage.agrees for stage in stages}
    suspects: set[Owner] = set()
    for name, owner in reversed(STEPS):
        if name not in results:
            continue
        if results[name]:
            return suspects.pop() if len(suspects) == 1 else None
        if results[name] is False:
            suspects.clear()
        suspects.add(owner)
    return suspects.pop() if len(suspects) == 1 else None


def _tried(scene: Scene, models: OnnxModels, call: Call) -> list[Stage]:
    """Return the stages up to the first that tells the owner; none if the call does not fail."""

    def stage(name: StageName, outcome: Outcome) -> Stage:
        if isinstance(outcome, NotTransferable):
            return Stage(name=name, agrees=None, why=str(outcome))
        return Stage(name=name, agrees=scene.is_eagers(outcome))

    shipped = models.shipped
    stages = [stage(SHIPPED, models.run(shipped, call))]
    if stages[-1].agrees:
        return []
    stages.append(stage(OPTIMIZED, models.run(shipped, call, PLAIN)))
    if stages[-1].agrees:
        return stages
    stages.append(_captured(scene, shipped, call, stage))
    if stages[-1].agrees is False:
        return stages
    plain = models.plain
    if isinstance(plain, str):
        return [*stages, *(Stage(name=n, agrees=None, why=plain) for n in (TRANSLATED, REFERENCE))]
    translated = models.run(plain, call, PLAIN)
    stages.append(stage(TRANSLATED, translated))
    if stages[-1].agrees:
        return stages
    reference = models.run_reference(plain, call)
    if isinstance(reference, Raised) and not isinstance(translated, Raised):
        # It lacks operators and types that ONNX Runtime has.
        return [*stages, Stage(name=REFERENCE, agrees=None, why=str(reference))]
    return [*stages, stage(REFERENCE, reference)]


def _captured(
    scene: Scene, shipped: OnnxModel, call: Call, stage: Callable[[StageName, Outcome], Stage]
) -> Stage:
    """Return the stage of the program that torch captured."""
    name = CAPTURED if shipped.program is not None else TRACED
    captured = captured_by_torch(scene.case, shipped)
    if isinstance(captured, str):
        return Stage(name=name, agrees=None, why=captured)
    runner, seed = scene.case.runner_of(captured), scene.case.plan.seed

    def run() -> Stage:
        found = stage(name, runner.run(call, seed))
        if not found.agrees:
            return found
        # forward may seed torch itself, with this number: another one tells.
        other = runner.run(call, seed + 1)
        return Stage(name=name, agrees=_is_eagers_with(scene, call, seed + 1, other))

    if cuda.in_use():
        return run()  # no fork can use CUDA then
    if not can_fork():
        return Stage(name=name, agrees=None, why="this system has no fork to try it in")
    # Only an ONNX file of it has run until now, in another library.
    found = in_fork(run, TRYING_SECONDS)
    return Stage(name=name, agrees=None, why=f"it {found}") if isinstance(found, Death) else found


def _is_eagers_with(scene: Scene, call: Call, seed: int, outcome: Outcome) -> bool:
    """Return True if an outcome is that of eager with another seed."""
    device = scene.case.plan.device
    subject = scene.case.reference.pristine.copy().to(device)
    own = observe(subject.function, call.to(device), seed=seed, grad_mode=subject.grad_mode)
    return not isinstance(own, Returned) or not scene.differences(call, own, outcome)


@dataclass(frozen=True)
class _Program:
    """A program that torch captured, run in this process."""

    module: Any
    native_loops: bool = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it."""
        return self.module(*args, **kwargs)


def captured_by_torch(case: Case, shipped: OnnxModel) -> Runnable | str:
    """Return what torch captured before anything became ONNX, or why it is not known."""
    if case.foreign:
        return MADE_ELSEWHERE
    if shipped.program is not None:
        return _Program(shipped.program.module())
    with plain_attention():
        return case.exported_or_refused(case.call_to_export(), target="trace")


# -- the optimizer to blame ------------------------------------------------------------------------


def _of_an_optimizer(
    scene: Scene, models: OnnxModels, call: Call, owner: Owner | None
) -> Cause | None:
    """Return the optimization that is to blame, if an optimizer is, and what leaves it out."""
    if owner == "exporter's optimizer" and isinstance(models.plain, OnnxModel):
        if not scene.is_eagers(models.run(models.plain, call)):
            return None  # without it, ONNX Runtime's own optimizations are wrong
        return Cause(
            kind="exporter's optimizer",
            text="the exporter's optimizer: without it, eager and artifact agree",
            remedy="torch.onnx.export(..., optimize=False)",
        )
    if owner != "runtime's optimizer":
        return None

    def is_right(disabled: tuple[str, ...]) -> bool:
        optimizations = Optimizations(disabled=disabled)
        return scene.is_eagers(models.run(models.shipped, call, optimizations))

    found = guilty(is_right)
    if not found:
        text = "an optimization of ONNX Runtime: without any, eager and artifact agree"
        return Cause(kind="runtime's optimizer", text=text, remedy=LEVEL)
    listed = ", ".join(f'"{name}"' for name in found)
    return Cause(
        kind="runtime's optimizer",
        text=f"ONNX Runtime's {' and '.join(found)}: without it, eager and artifact agree",
        remedy=f"ort.InferenceSession(..., disabled_optimizers=[{listed}])",
    )


def guilty(is_right: IsRight) -> tuple[str, ...]:
    """Return the optimizers without which the model is right; none if they are not found.

    ``is_right`` tells it with these disabled. In their order, the first is searched with which the
    model becomes wrong: disabling an earlier one may only keep it from matching.
    """
    found: tuple[str, ...] = ()
    while not found or not is_right(found):
        others = [name for name in onnx_optimizers() if name not in found]
        if len(found) == MOST or not is_right((*found, *others)):
            return ()
        first = _first_wrong(others, found, is_right)
        later = (*found, *others[others.index(first) + 1 :])
        rules = onnx_optimizers().get(first, ())
        if rules and is_right((*rules, *later)):
            first = _first_wrong(rules, later, is_right)
        found = (*found, first)
    return found


def _first_wrong(names: Sequence[str], always: tuple[str, ...], is_right: IsRight) -> str:
    """Return the first name that must be enabled, with those before it, for a wrong result."""
    right, wrong = 0, len(names)
    while wrong - right > 1:
        enabled = (right + wrong) // 2
        if is_right((*always, *names[enabled:])):
            right = enabled
        else:
            wrong = enabled
    return names[wrong - 1]
