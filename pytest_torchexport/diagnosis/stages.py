"""Examine the stages between eager and an artifact that torch runs: which of them is the first to
differ on the failing call?

The owner follows from it unless a rule knows better: a cause in the model's own code is the
model's, though eager agrees with every stage but the last. If torch captured something else than
eager and nothing tells why, the owner is not known: Python's decisions and numbers, which torch
cannot capture, are the model's.
"""

from __future__ import annotations

import dataclasses

from pytest_torchexport.diagnosis.scene import Scene
from pytest_torchexport.outcomes.compare import compare
from pytest_torchexport.outcomes.observe import Returned, observe
from pytest_torchexport.results.diagnosis import CauseKind, Diagnosis, Owner, Stage, StageName
from pytest_torchexport.results.failures import LoadFailed, RoundTripDiffers

MADE: dict[str, StageName] = {
    "trace": "artifact",
    "script": "artifact",
    "export": "ExportedProgram",
}
# Causes in how the test, or the export, is run: no code is to blame.
OF_THE_RUN: tuple[CauseKind, ...] = ("attention fast path", "mode-dependent operator")
AFTER_SAVING = (LoadFailed, RoundTripDiffers)


def examine(scene: Scene, known: Diagnosis) -> Diagnosis:
    """Add the stages that were tried, and the owner if these tell it."""
    target = scene.case.plan.target
    made = MADE.get(target)
    if scene.case.foreign:
        return known
    if made is None:
        named = known.owner if known.owner != "capture" else captured_by(target, known)
        return dataclasses.replace(known, owner=named)
    if isinstance(scene.failure, AFTER_SAVING):
        loaded = (Stage(name=made, agrees=True), Stage(name="loaded artifact", agrees=False))
        elsewhere = scene.case.plan.settings.serve_on
        owner: Owner | None = None if elsewhere else "saving and loading"
        return _with(known, loaded, owner)
    stages = (Stage(name=made, agrees=False),)
    if any(cause.kind in OF_THE_RUN for cause in known.causes):
        return _with(known, stages, None)
    of_device = _agrees_on_the_cpu(scene)
    return _with(known, stages, "device" if of_device else captured_by(target, known))


def captured_by(target: str, known: Diagnosis) -> Owner | None:
    """Return the owner if what torch captured already differs from eager; None if not known.

    torch.jit.script compiles the source, with its decisions. The others run it.
    """
    differs_alone = known.structural is not None and known.structural.kind == "same"
    return "capture" if target == "script" or known.causes or differs_alone else None


def _with(known: Diagnosis, stages: tuple[Stage, ...], owner: Owner | None) -> Diagnosis:
    every = (*known.stages, Stage(name="eager", agrees=True), *stages)
    return dataclasses.replace(known, stages=every, owner=known.owner or owner)


def _agrees_on_the_cpu(scene: Scene) -> bool:
    """Return True if an artifact that is exported and run on the CPU agrees with eager there."""
    case, call = scene.case, scene.call
    if case.plan.device == "cpu" or call is None:
        return False
    wanted = case.reference.on_cpu(call)
    artifact = case.exported_or_refused(case.call_to_export(), device="cpu")
    if isinstance(artifact, str) or not isinstance(wanted, Returned):
        return False
    found = observe(artifact, call, seed=case.plan.seed, grad_mode=case.reference.served)
    return not compare(wanted, found, case.judge.tolerance)
