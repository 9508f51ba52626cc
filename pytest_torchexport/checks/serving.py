"""Part of the check ``round_trip``: does the saved artifact run on the devices that serve it.

Separate because it loads the file on other devices, and reads which constants tie it to this one.
Raises nothing itself: RoundTripDiffers is held back for the end.
"""

from __future__ import annotations

import dataclasses

import torch

from pytest_torchexport import targets
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.case import Case
from pytest_torchexport.judge.log import ItemLog
from pytest_torchexport.judge.runners import LoadedArtifact
from pytest_torchexport.outcomes.observe import (
    Crashed,
    NotTransferable,
    Outcome,
    Raised,
    Returned,
    TimedOut,
)
from pytest_torchexport.outcomes.subject import unusable_device
from pytest_torchexport.results.failures import RoundTripDiffers
from pytest_torchexport.targets.formats.devices import (
    RAISES,
    RETURNED,
    BakedDevice,
    about_devices,
    indexed,
)

# How many of the constants are named.
NAMED = 3
REMEDY = (
    "remedy: make it from an input (torch.zeros_like(x), x.new_zeros(...)) or a registered buffer; "
    "or export it there"
)


def serve(case: Case) -> None:
    """Load the artifact on each device of ``torchexport_serve_on``, and run the example there.

    If a device is missing here, the program's constants are inspected instead. A program that is
    only tied to its own device is a note: most files are served on the kind of device they were
    made on.
    """
    if case.saved is None:
        return
    tied = [item for item in case.artifact.facts.devices() if item.effect in (RAISES, RETURNED)]
    others = [d for d in case.plan.settings.serve_on if indexed(d) != indexed(case.plan.device)]
    moved_by = targets.get(case.plan.target).traits.moved_by
    if tied:
        moved = f"; {moved_by} moves it" if moved_by else ""
        case.log.note(f"tied to {case.plan.device}: {_listed(tied)}{moved}")
    for device in others:
        reason = unusable_device(device) or targets.get(case.plan.target).unavailable(device)
        if reason is None:
            _call_on(case, device)
            continue
        case.log.ineffective.append(f"not loaded on {device}, where it is to be served: {reason}")
        if tied and not moved_by:
            case.log.hold(_tied(device, tied))
        raised = _on_meta(case)
        if raised:
            case.log.hold(
                RoundTripDiffers(f"it will not run on {device}: moved to meta, it raises {raised}")
            )


def _on_meta(case: Case) -> str | None:
    """Return what a copy of the artifact on ``meta``, which every machine has, raises about
    devices.

    None is no proof: some operations accept on ``meta`` what they refuse on a GPU.
    """
    if not isinstance(case.artifact.program, torch.nn.Module | torch.export.ExportedProgram):
        return None  # ONNX Runtime has no such device
    outcome = _outcome_on(case, "meta", case.spec.example)
    return about_devices(outcome.message) if isinstance(outcome, Raised) else None


def _call_on(case: Case, device: str) -> None:
    example = case.spec.example
    outcome = _outcome_on(case, device, example)
    if outcome is None:
        return
    if isinstance(outcome, (Raised, Crashed, TimedOut)):
        case.log.hold(RoundTripDiffers(f"loaded on {device}: {outcome}"))
        return
    if isinstance(outcome, NotTransferable):
        case.log.note(f"loaded on {device}, and not compared: {outcome}")
        return
    expected = case.reference.on_device(example, case.reference.on_cpu(example))
    if not isinstance(expected, Returned):
        return
    expected, outcome = _on_cpu(expected), _on_cpu(outcome)
    # A log of its own: another device rounds differently, and has another random stream.
    random_paths = case.random_paths | case.reference.random
    judge = case.judge_of(case.runner, ItemLog(), random_paths)
    differences = judge.differences([example], expected, outcome)
    if differences:
        case.log.hold(RoundTripDiffers(f"loaded on {device}", differences=tuple(differences)))


def _on_cpu(outcome: Returned) -> Returned:
    """Return the same outcome on the CPU: the two were made on different devices."""
    (value,) = Call((outcome.value,)).to("cpu").args
    return dataclasses.replace(outcome, value=value, inputs=outcome.inputs.to("cpu"))


def _outcome_on(case: Case, device: str, call: Call) -> Outcome | None:
    """Return the outcome of a call on another device; None if there is no file to load."""
    if case.saved is None:
        return None
    with case.log.timed("round trip"), case.saved.open(device) as session:
        if session.problem is not None:
            return session.problem
        loaded = LoadedArtifact(session=session, artifact=case.artifact)
        outcome, _ = loaded.run(call, seed=case.plan.seed, limit=case.call_limit())
        return outcome


def _tied(device: str, tied: list[BakedDevice]) -> RoundTripDiffers:
    first = tied[0]
    return RoundTripDiffers(
        f"it will not run on {device}: {first.op} gives a tensor on {first.device}, "
        "wherever the inputs are",
        details=(
            *(f"also {item.op} at {item.where}" for item in tied[1:NAMED]),
            REMEDY,
        ),
        where=first.where,
    )


def _listed(tied: list[BakedDevice]) -> str:
    places = list(dict.fromkeys(item.where.place if item.where else "" for item in tied))
    more = f" and {len(places) - NAMED} more lines" if len(places) > NAMED else ""
    return f"{tied[0].op} at {', '.join(places[:NAMED])}{more}"
