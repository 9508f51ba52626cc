"""Run the saved artifact as it is served: elsewhere, and with the threads of production.

Elsewhere: on other devices, in C++, by other execution providers of ONNX Runtime.

Of the check ``round_trip``. Raises RoundTripDiffers, and the failures of ``parity``.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import torch

from pytest_torchexport import targets
from pytest_torchexport.config.validate import CPP, PROVIDER
from pytest_torchexport.inputs.pytrees import bits_of, flatten, is_plain
from pytest_torchexport.inputs.recipes import Recipe, example_recipe
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.case import Case, attempted
from pytest_torchexport.judge.judge import LENGTH, failure_of
from pytest_torchexport.judge.log import UNTIL_SHRUNK, ItemLog, Shrunk
from pytest_torchexport.judge.runner import InSandbox, call_loaded, opened
from pytest_torchexport.outcomes.compare import largest_error
from pytest_torchexport.outcomes.limits import interrupted_after
from pytest_torchexport.outcomes.observe import NotTransferable, Outcome, Raised, Returned
from pytest_torchexport.outcomes.subject import unusable_device
from pytest_torchexport.outcomes.torch_state import users_precision
from pytest_torchexport.results.escaped import SHOWN
from pytest_torchexport.results.failures import RoundTripDiffers
from pytest_torchexport.results.verdict import Difference
from pytest_torchexport.sandbox import cpp
from pytest_torchexport.sandbox.libraries import ONNX_RUNTIME
from pytest_torchexport.sandbox.session import SandboxSession
from pytest_torchexport.targets.formats.facts import RAISES, RETURNED, about_devices, indexed
from pytest_torchexport.targets.formats.load_errors import remedy_of
from pytest_torchexport.targets.formats.onnx_runtime import lacking, tensorrt_profiles
from pytest_torchexport.targets.onnx_artifact import OnnxArtifactFacts

# Calls are repeated so often. Two results of which one is rare may look like one.
REPEATS = 10
# The example and the boundary calls of most elements, up to this number.
REPEATED_CALLS = 6
REMEDY = (
    "remedy: make it from an input (torch.zeros_like(x), x.new_zeros(...)) or a registered buffer; "
    "or export it there"
)
ONLY_CLEAN = "a file that somebody else made is loaded in the clean process only"
AGREES = "{} the same file agrees with eager"
WITHOUT_PROVIDER = "leave it out of torchexport_serve_on, or name only onnx, onnx_legacy as targets"
WITHOUT_CPP = "leave cpp out of torchexport_serve_on, or name only trace, script, aoti as targets"
CPP_REMEDY = "remedy: register it in C++ too, or write it with torch's own operations"


# -- elsewhere -------------------------------------------------------------------------------------


def serve(case: Case) -> None:
    """Load the artifact in each place of ``torchexport_serve_on``, and make calls there.

    If a device is missing here, the program's constants are inspected instead. A program that is
    only tied to its own device is a note: most files are served on the kind of device they were
    made on.
    """
    others = [p for p in case.plan.settings.serve_on if indexed(p) != indexed(case.plan.device)]
    if case.saved is None:
        if case.foreign and others:
            text = f"not loaded on {', '.join(others)}: {ONLY_CLEAN}"
            case.log.ineffective.append(text)
        return
    tied = [item for item in case.artifact.facts.devices() if item.effect in (RAISES, RETURNED)]
    traits = targets.get(case.plan.target).traits
    moved_by = traits.moved_by
    if tied:
        places = list(dict.fromkeys(item.where.place if item.where else "" for item in tied))
        more = f" and {len(places) - SHOWN} more lines" if len(places) > SHOWN else ""
        listed = f"{tied[0].op} at {', '.join(places[:SHOWN])}{more}"
        moved = f"; {moved_by} moves it" if moved_by else ""
        case.log.note(f"tied to {case.plan.device}: {listed}{moved}")
    for place in others:
        provider = place.endswith(PROVIDER)
        is_device = not provider and place != CPP
        with case.deadline.paused():  # the program in C++ may have to be compiled
            reason = _missing(case, place)
        if reason is not None:
            text = f"not loaded {_where(place)}, where it is to be served: {reason}"
            of_others = traits.library != ONNX_RUNTIME if provider else traits.for_cpp is None
            if of_others and not is_device and not case.plan.named:
                case.log.note(text)  # as of some default targets
            else:
                case.log.ineffective.append(text)
        with interrupted_after(case.deadline.left):
            if reason is None:
                _call_on(case, place) if is_device else _call_in(case, place)
            elif is_device:
                _inspect(case, place, () if moved_by else tied)


def _where(place: str) -> str:
    if place == CPP:
        return "in C++"
    return f"{'by' if place.endswith(PROVIDER) else 'on'} {place}"


def _missing(case: Case, place: str) -> str | None:
    """Return why the artifact cannot be served there, with the next step; None if it can."""
    target = targets.get(case.plan.target)
    if place.endswith(PROVIDER):
        if target.traits.library != ONNX_RUNTIME:
            loads_none = f"ONNX Runtime loads no files of {case.plan.target}"
            return f"{loads_none}; next step: {WITHOUT_PROVIDER}"
        return lacking(place)
    if place != CPP:
        return unusable_device(place) or target.unavailable(place)
    if target.traits.for_cpp is None:
        return f"the program in C++ loads no files of {case.plan.target}; next step: {WITHOUT_CPP}"
    if case.plan.device != "cpu":
        return f"the program in C++ has no {case.plan.device}; next step: torchexport_devices = cpu"
    return found if isinstance(found := cpp.program(), str) else None


def _hold(case: Case, place: str, outcome: Outcome, differences: Sequence[Difference] = ()) -> None:
    """Hold back what a call did there; note it if it could not be sent."""
    text = f"loaded {_where(place)}"
    if isinstance(outcome, NotTransferable):
        case.log.note(f"{text}, and not compared: {outcome}")
        return
    said = (outcome.type, outcome.message) if isinstance(outcome, Raised) else ("", "")
    lines = remedy_of(*said).lines
    if place == CPP:  # the remedy is for a server in Python
        lines = (lines[0], CPP_REMEDY) if lines else ()
        lines = (AGREES.format("in Python"), *attempted(case), *lines)
    if place.endswith(PROVIDER):
        lines = (AGREES.format(f"on {case.plan.device}"), *attempted(case))
    text += "" if isinstance(outcome, Returned) else f": {outcome}"
    failure = RoundTripDiffers(text, details=lines, differences=tuple(differences))
    failure.where = getattr(outcome, "where", None)
    failure.output = getattr(outcome, "output", "")
    case.log.hold(failure)


# -- on another device -----------------------------------------------------------------------------


def _inspect(case: Case, device: str, tied: Sequence[targets.BakedDevice]) -> None:
    """Hold what would fail on a device that is missing here, as constants and meta tensors tell."""
    if tied:
        first = tied[0]
        case.log.hold(
            RoundTripDiffers(
                f"it will not run on {device}: {first.op} gives a tensor on {first.device}, "
                "wherever the inputs are",
                details=(*(f"also {item.op} at {item.where}" for item in tied[1:SHOWN]), REMEDY),
                where=first.where,
            )
        )
    if not isinstance(case.artifact.program, torch.nn.Module | torch.export.ExportedProgram):
        return  # ONNX Runtime has no meta device, which every machine has
    outcome = _outcome_on(case, "meta", case.spec.example)
    said = about_devices(outcome.message) if isinstance(outcome, Raised) else None
    if said:  # else it may still: some operators take on meta what they refuse on a GPU
        case.log.hold(
            RoundTripDiffers(f"it will not run on {device}: moved to meta, it raises {said}")
        )


def _call_on(case: Case, device: str) -> None:
    example = case.spec.example
    outcome = _outcome_on(case, device, example)
    if outcome is None:
        return
    if not isinstance(outcome, Returned):
        _hold(case, device, outcome)
        return
    on_cpu, at = case.reference.on_cpu(example), device
    expected = case.reference.on_device(example, on_cpu, at)
    if not isinstance(expected, Returned):  # eager itself does not run there
        at = case.plan.device
        expected = case.reference.on_device(example, on_cpu)
    if not isinstance(expected, Returned):
        return
    expected, outcome = (  # an output may be on another device than its kin
        dataclasses.replace(
            it, value=Call((it.value,)).to("cpu").args[0], inputs=it.inputs.to("cpu")
        )
        for it in (expected, outcome)
    )
    # Judged by the error of that eager, and with a log of its own.
    there = dataclasses.replace(case, plan=dataclasses.replace(case.plan, device=at))
    random_paths = case.random_paths | case.reference.random
    judge = there.judge_of(case.runner, ItemLog(), random_paths)
    differences = judge.differences([example], expected, outcome)
    if differences:
        _hold(case, device, outcome, differences)


def _outcome_on(case: Case, device: str, call: Call) -> Outcome | None:
    """Return the outcome of a call on another device; None if there is no file to load."""
    if case.saved is None:
        return None
    with case.log.timed("round trip"), case.saved.open(device) as session:
        if session.problem is not None:
            return session.problem
        seed, limit = case.plan.seed, case.call_limit()
        return call_loaded(session, case.artifact, call, seed=seed, limit=limit)[0]


# -- in C++, and by other execution providers ------------------------------------------------------


def _session(case: Case, place: str) -> cpp.CppSession | SandboxSession:
    """Return a session that has the file loaded in C++, or by an execution provider."""
    assert case.saved is not None
    source = case.saved.source
    if place == CPP:
        write, program = targets.get(case.plan.target).traits.for_cpp, cpp.program()
        assert write is not None  # else it is said what is missing, as of the program
        assert isinstance(program, Path)
        return cpp.CppSession(program, source, functools.partial(write, case.artifact.program))
    facts, profiles = case.artifact.facts, dict[str, str]()
    if place.startswith("Tensorrt") and isinstance(facts, OnnxArtifactFacts):
        profiles = tensorrt_profiles(facts.axes_of(case.spec))
    options = {**source.options, **profiles, "provider": place}
    return opened(dataclasses.replace(source, options=options), case.plan)


def _call_in(case: Case, place: str) -> None:
    """Make the example's calls in a row there, then boundary calls; hold the first that differs.

    It ends where Python, or ONNX Runtime on the item's device, differs from eager as well: other
    steps say that.
    """
    if case.saved is None:
        return
    judge, recipes = case.judge.aside(), [example_recipe(case.spec), *case.largest_first()]
    with case.log.timed("round trip"), _session(case, place) as session:
        if (
            isinstance(session, SandboxSession)
            and session.problem is None
            and session.found.get("alone") is False
        ):
            case.log.note(f"{place} leaves a part of the file to others, as the CPU")
        for found in case.calls(recipes[:REPEATED_CALLS]):
            case.log.trying = found.recipe
            calls = [found.call] * (LENGTH if found.recipe is recipes[0] else 1)
            runs = zip(case.reference.in_a_row(calls), case.judge.in_a_row(calls), strict=True)
            for last, ((expected, _), (here, _)) in enumerate(runs):
                row, seed, limit = calls[: last + 1], case.plan.seed, case.call_limit()
                if not isinstance(expected, Returned) or judge.differences(row, expected, here):
                    return
                outcome, _ = call_loaded(
                    session, case.artifact, row[-1], seed=seed, limit=limit, anew=not last
                )
                if differences := judge.differences(row, expected, outcome):
                    _hold(case, place, outcome, differences)
                    return


# -- with the threads and the settings of production -----------------------------------------------


def repeat(case: Case) -> None:
    """Repeat calls with the threads that serve the artifact; raise what differs from eager."""
    threads = case.plan.settings.threads
    runner = _served(case, threads)
    if runner is None:
        case.log.note(f"not repeated with {threads} threads: there is no file to load")
        return
    calls, changed, largest = 0, 0, 0.0
    with case.log.timed("served"), closing(runner):
        for recipe, call, expected in _repeated_calls(case):
            if calls and case.deadline.is_past(UNTIL_SHRUNK):
                case.log.note(f"only {calls} calls were repeated with {threads} threads")
                break
            case.log.trying = recipe
            outcomes = _repeated(case, runner, call)
            if isinstance(outcomes[-1], NotTransferable):
                case.log.note(f"not repeated with {threads} threads: {outcomes[-1]}")
                break
            for outcome in outcomes:
                _raise_if_other(case, recipe, call, expected, outcome)
            values = [outcome.value for outcome in outcomes if isinstance(outcome, Returned)]
            calls, changed = calls + 1, changed + (len(values) > 1)
            largest = max([largest, *(largest_error(values[0], it) or 0.0 for it in values[1:])])
    if changed:
        case.log.caution(
            f"with {threads} threads, {REPEATS} repeats of one call gave different results (on "
            f"{changed} of {calls} calls); the largest difference is {largest:.2g}"
        )


def _served(case: Case, threads: int) -> InSandbox | None:
    """Return a runner of the file in a process that may use the threads; None without a file."""
    if isinstance(case.runner, InSandbox):
        return dataclasses.replace(case.runner, session=None, threads=threads)
    if case.saved is None:
        return None
    return InSandbox(
        artifact=case.artifact, open=case.saved.open, left=case.call_limit, threads=threads
    )


def _repeated_calls(case: Case) -> Iterator[tuple[Recipe, Call, Returned]]:
    recipes = [example_recipe(case.spec), *case.largest_first()]
    for found in case.calls(recipes[:REPEATED_CALLS]):
        expected = case.reference.on_device(found.call, found.outcome)
        if isinstance(expected, Returned):
            yield found.recipe, found.call, expected


def _repeated(case: Case, runner: InSandbox, call: Call) -> list[Outcome]:
    """Return the outcomes that differ in a bit, of all repeats."""
    found: dict[bytes, Outcome] = {}
    for _ in range(REPEATS):
        outcome = runner.run(call, case.plan.seed, again=True)
        found.setdefault(_bits(outcome, case.random_paths), outcome)
        if not isinstance(outcome, Returned):
            break
    return list(found.values())


def _raise_if_other(
    case: Case, recipe: Recipe, call: Call, expected: Returned, outcome: Outcome
) -> None:
    # On CUDA, eager's noise is then that of the user's own precision.
    with users_precision():
        differences = case.judge.differences([call], expected, outcome)
    failure = failure_of(differences, case.reference.written_at)
    if failure is not None:
        case.log.shrunk = Shrunk.as_made(case.spec, recipe, call)
        threads = f"{case.plan.settings.threads} threads (torchexport_threads)"
        failure.details += (f"in a clean process with {threads}; with one thread it agrees",)
        raise failure


def _bits(outcome: Outcome, random_paths: frozenset[str]) -> bytes:
    """Return the bits of what an outcome holds, but for outputs of a random stream of its own."""
    if not isinstance(outcome, Returned):
        return str(outcome).encode()
    leaves = [
        leaf for path, leaf in flatten(outcome.value, "output")[0] if path not in random_paths
    ]
    return b"".join(
        bits_of(leaf) if isinstance(leaf, torch.Tensor) and is_plain(leaf) else repr(leaf).encode()
        for leaf in leaves
    )
