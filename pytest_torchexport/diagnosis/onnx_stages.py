"""Find the owner of a failure of an ONNX model: the step between two stages that disagree.

The stages are tried on the failing call, those that cost an export last. What comes after the last
stage that agrees with eager is to blame.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch

from pytest_torchexport.diagnosis.onnx_models import OnnxModel, OnnxModels
from pytest_torchexport.diagnosis.scene import Scene
from pytest_torchexport.diagnosis.stages import OF_THE_RUN
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.runner import Runnable
from pytest_torchexport.outcomes.observe import (
    NotTransferable,
    Outcome,
    Raised,
    Returned,
    observe,
)
from pytest_torchexport.outcomes.torch_state import plain_attention
from pytest_torchexport.results.diagnosis import Cause, Diagnosis, Owner, Stage, StageName
from pytest_torchexport.targets.formats.onnx_runtime import PLAIN, Optimizations
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

LEVEL = "options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL"


def examine(scene: Scene, known: Diagnosis) -> Diagnosis:
    """Add the stages that were tried, and the owner if they tell it."""
    models, call = scene.onnx, scene.call
    if models is None:
        left = "stages to ONNX Runtime: the file may run in a clean process only"
        return dataclasses.replace(known, not_examined=(*known.not_examined, left))
    if call is None or scene.expected is None:
        return known
    stages = _tried(scene, models, call)
    if not stages:
        return known
    order = [name for name, _ in STEPS]
    stages.sort(key=lambda stage: order.index(stage.name))
    owner = known.owner or owner_of(stages)
    if any(cause.kind in OF_THE_RUN for cause in known.causes):
        owner = known.owner
    known = dataclasses.replace(known, stages=(*known.stages, *stages), owner=owner)
    cause = _of_an_optimizer(scene, models, call, owner)
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
    shipped = models.shipped
    stages = [_stage(scene, SHIPPED, models.run(shipped, call))]
    if stages[-1].agrees:
        return []
    stages.append(_stage(scene, OPTIMIZED, models.run(shipped, call, PLAIN)))
    if stages[-1].agrees:
        return stages
    stages.append(_captured(scene, shipped, call))
    if stages[-1].agrees is False:
        return stages
    plain = models.plain
    if isinstance(plain, str):
        return [*stages, *(Stage(name=n, agrees=None, why=plain) for n in (TRANSLATED, REFERENCE))]
    translated = models.run(plain, call, PLAIN)
    stages.append(_stage(scene, TRANSLATED, translated))
    if stages[-1].agrees:
        return stages
    reference = models.run_reference(plain, call)
    if isinstance(reference, Raised) and not isinstance(translated, Raised):
        # It lacks operators and types that ONNX Runtime has.
        return [*stages, Stage(name=REFERENCE, agrees=None, why=str(reference))]
    return [*stages, _stage(scene, REFERENCE, reference)]


def _stage(scene: Scene, name: StageName, outcome: Outcome) -> Stage:
    if isinstance(outcome, NotTransferable):
        return Stage(name=name, agrees=None, why=str(outcome))
    return Stage(name=name, agrees=scene.is_eagers(outcome))


class _Program:
    """A program that torch captured, run in this process."""

    native_loops: bool = False

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        self.module = program.module()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


def _captured(scene: Scene, shipped: OnnxModel, call: Call) -> Stage:
    """Return the stage of what torch captured before anything became ONNX."""
    case, seed = scene.case, scene.case.plan.seed
    captured: Runnable | str
    if shipped.program is not None:
        name, captured = CAPTURED, _Program(shipped.program)
    else:
        name = TRACED
        with plain_attention():
            captured = case.exported_or_refused(case.call_to_export(), target="trace")
    if isinstance(captured, str):
        return Stage(name=name, agrees=None, why=captured)
    runner = case.runner_of(captured)
    stage = _stage(scene, name, runner.run(call, seed))
    if not stage.agrees:
        return stage
    # forward may seed torch itself, with this number: another one tells.
    other, device = runner.run(call, seed + 1), case.plan.device
    subject = case.reference.pristine.copy().to(device)
    own = observe(subject.function, call.to(device), seed=seed + 1, grad_mode=subject.grad_mode)
    agrees = not isinstance(own, Returned) or not scene.differences(call, own, other)
    return Stage(name=name, agrees=agrees)


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

    def is_right(disabled: Sequence[str]) -> bool:
        optimizations = Optimizations(disabled=tuple(disabled))
        return scene.is_eagers(models.run(models.shipped, call, optimizations))

    name = guilty(is_right)
    if name is None:
        text = "an optimization of ONNX Runtime: without any, eager and artifact agree"
        return Cause(kind="runtime's optimizer", text=text, remedy=LEVEL)
    return Cause(
        kind="runtime's optimizer",
        text=f"ONNX Runtime's {name}: without it, eager and artifact agree",
        remedy=f'ort.InferenceSession(..., disabled_optimizers=["{name}"])',
    )


def guilty(is_right: Callable[[Sequence[str]], bool]) -> str | None:
    """Return the optimizer without which alone the model is right; None if there is no such one.

    ``is_right`` tells it with these disabled. In their order, the first is searched with which the
    model becomes wrong: disabling an earlier one may only keep it from matching.
    """
    # Of an optimizer that is a list of rules, each rule.
    names = [one for name, rules in onnx_optimizers().items() for one in rules or (name,)]
    if not is_right(names):
        return None  # the table lacks it
    right, wrong = 0, len(names)
    while wrong - right > 1:
        enabled = (right + wrong) // 2
        if is_right(names[enabled:]):
            right = enabled
        else:
            wrong = enabled
    name = names[wrong - 1]
    return name if is_right([name]) else None
