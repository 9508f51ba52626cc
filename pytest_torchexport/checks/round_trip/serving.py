"""Devices: does what was saved here run where the team serves it, and what in it is tied to this device."""

from __future__ import annotations

import torch

from pytest_torchexport import targets
from pytest_torchexport.checks.round_trip.trip import RoundTrip
from pytest_torchexport.judge.case import Case
from pytest_torchexport.judge.log import ItemLog
from pytest_torchexport.outcomes.observe import Crashed, NotTransferable, Raised, Returned, TimedOut
from pytest_torchexport.outcomes.subject import missing_device
from pytest_torchexport.results.failures import RoundTripDiffers
from pytest_torchexport.targets.formats.devices import RAISES, RETURNED, BakedDevice, about_devices

# How many of the constants are named.
NAMED = 3


def serve(case: Case, trip: RoundTrip) -> None:
    """Load the artifact on the devices that the team serves on and make the example's call there; where a device
    is missing here, its constants tell.

    What is only tied to its device is a note: most files are served on the kind of device they were made on.
    """
    tied = [item for item in case.artifact.facts.devices() if item.effect in (RAISES, RETURNED)]
    others = [d for d in case.plan.settings.serve_on if _indexed(d) != _indexed(case.plan.device)]
    moved_by = targets.get(case.plan.target).traits.moved_by
    if tied:
        moved = f"; {moved_by} moves it" if moved_by else ""
        case.log.note(f"tied to {case.plan.device}: {_listed(tied)}{moved}")
    for device in others:
        reason = missing_device(device) or targets.get(case.plan.target).unavailable(device)
        if reason is None:
            _call_on(case, trip, device)
            continue
        case.log.ineffective.append(f"not loaded on {device}, where it is to be served: {reason}")
        if tied and not moved_by:
            trip.hold(_tied(device, tied))
        said = _on_meta(case, trip)
        if said:
            trip.hold(
                RoundTripDiffers(f"it will not run on {device}: moved to meta, it raises {said}")
            )


def _on_meta(case: Case, trip: RoundTrip) -> str | None:
    """What a copy says that was moved to the one other device that is always there, if it is about devices. That it
    says nothing proves nothing: some operations accept there what they refuse on a GPU.
    """
    if not isinstance(case.artifact.program, torch.nn.Module | torch.export.ExportedProgram):
        return None  # ONNX Runtime has no such device
    outcome = trip.on("meta", case.spec.example)
    return about_devices(outcome.message) if isinstance(outcome, Raised) else None


def _call_on(case: Case, trip: RoundTrip, device: str) -> None:
    example = case.spec.example
    outcome = trip.on(device, example)
    if outcome is None:
        return
    if isinstance(outcome, (Raised, Crashed, TimedOut)):
        trip.hold(RoundTripDiffers(f"loaded on {device}: {outcome}"))
        return
    if isinstance(outcome, NotTransferable):
        case.log.note(f"loaded on {device}, and not compared: {outcome}")
        return
    expected = case.eager.on_device(example, case.eager.on_cpu(example))
    if not isinstance(expected, Returned):
        return
    # In books of its own, because another device rounds otherwise; and draws from another stream.
    judge = case.judge_of(case.artifact, ItemLog())
    judge.random_paths = case.judge.random_paths | case.eager.random
    differences = judge.differences([example], expected, outcome)
    if differences:
        trip.hold(RoundTripDiffers(f"loaded on {device}", differences=tuple(differences)))


def _tied(device: str, tied: list[BakedDevice]) -> RoundTripDiffers:
    first = tied[0]
    return RoundTripDiffers(
        f"it will not run on {device}: {first.op} gives a tensor on {first.device}, wherever the inputs are",
        details=(
            *(f"also {item.op} at {item.where}" for item in tied[1:NAMED]),
            "remedy: make it from an input (torch.zeros_like(x), x.new_zeros(...)) or a registered buffer; or export it there",
        ),
        where=first.where,
    )


def _listed(tied: list[BakedDevice]) -> str:
    places = list(dict.fromkeys(item.where.place if item.where else "" for item in tied))
    more = f" and {len(places) - NAMED} more lines" if len(places) > NAMED else ""
    return f"{tied[0].op} at {', '.join(places[:NAMED])}{more}"


def _indexed(device: str) -> torch.device:
    """``cuda`` and ``cuda:0`` are one."""
    named = torch.device(device)
    return torch.device(named.type, named.index or 0)
