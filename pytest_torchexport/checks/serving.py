"""Run the saved artifact where it is served: the places of ``torchexport_serve_on``.

Other devices, C++, other execution providers of ONNX Runtime, other Python environments, and
versions of ONNX Runtime that are not there. Of the check ``round_trip``. Holds RoundTripDiffers.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from packaging.requirements import Requirement

from pytest_torchexport import targets
from pytest_torchexport.config.validate import CPP, PROVIDER, VERSIONS, is_path
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.case import Case, attempted
from pytest_torchexport.judge.changed_file import ChangedFile
from pytest_torchexport.judge.judge import LENGTH
from pytest_torchexport.judge.log import ItemLog
from pytest_torchexport.judge.runner import call_loaded, opened
from pytest_torchexport.outcomes.limits import interrupted_after
from pytest_torchexport.outcomes.observe import NotTransferable, Outcome, Raised, Returned
from pytest_torchexport.outcomes.subject import unusable_device
from pytest_torchexport.results.escaped import SHOWN
from pytest_torchexport.results.failures import RoundTripDiffers
from pytest_torchexport.results.verdict import Difference
from pytest_torchexport.sandbox import cpp, interpreter
from pytest_torchexport.sandbox.libraries import ONNX_RUNTIME
from pytest_torchexport.sandbox.program import ProgramSession
from pytest_torchexport.sandbox.session import SandboxSession, Source
from pytest_torchexport.targets.formats import onnx_model
from pytest_torchexport.targets.formats.facts import RAISES, RETURNED, about_devices, indexed
from pytest_torchexport.targets.formats.load_errors import remedy_of
from pytest_torchexport.targets.formats.onnx_runtime import lacking, tensorrt_profiles
from pytest_torchexport.targets.onnx_artifact import OnnxArtifactFacts
from pytest_torchexport.targets.upstream import oldest_of

REMEDY = (
    "remedy: make it from an input (torch.zeros_like(x), x.new_zeros(...)) or a registered buffer; "
    "or export it there"
)
ONLY_CLEAN = "a file that somebody else made is loaded in the clean process only"
AGREES = "{} the same file agrees with eager"
LEAVE_OUT = "next step: leave {} out of torchexport_serve_on, or name only {} as targets"
ON_CPU = "next step: torchexport_devices = cpu"
NAME_INTERPRETER = "next step: name the path of an interpreter that has it"
CPP_REMEDY = "remedy: register it in C++ too, or write it with torch's own operations"


# -- elsewhere -------------------------------------------------------------------------------------


def serve(case: Case) -> None:
    """Load the artifact in each place of ``torchexport_serve_on``, and make calls there.

    If a device is missing here, the program's constants are inspected instead. A program that is
    only tied to its own device is a note: most files are served on the kind of device they were
    made on.
    """
    root = case.plan.root or Path.cwd()
    every = [place_of(name, root) for name in case.plan.settings.serve_on]
    others = [place for place in every if indexed(place.name) != indexed(case.plan.device)]
    if case.saved is None:
        return
    if case.foreign and not isinstance(case.artifact, ChangedFile):
        if others:
            named = ", ".join(place.name for place in others)
            case.log.ineffective.append(f"not loaded on {named}: {ONLY_CLEAN}")
        return
    tied = _tied(case)
    if tied:
        places = list(dict.fromkeys(item.where.place if item.where else "" for item in tied))
        more = f" and {len(places) - SHOWN} more lines" if len(places) > SHOWN else ""
        listed = f"{tied[0].op} at {', '.join(places[:SHOWN])}{more}"
        moved_by = case.traits.moved_by
        moved = f"; {moved_by} moves it" if moved_by else ""
        case.log.note(f"tied to {case.plan.device}: {listed}{moved}")
    for place in others:
        with case.deadline.paused():  # the program in C++ may have to be compiled
            reason = place.missing(case)
        if reason is not None:
            text = f"not loaded {place.where}, where it is to be served: {reason}"
            if place.counts(case):
                case.log.ineffective.append(text)
            else:
                case.log.note(text)
        with interrupted_after(case.deadline.left):
            if reason is None:
                place.check(case)
            else:
                place.inspect(case)


def _tied(case: Case) -> list[targets.BakedDevice]:
    return [item for item in case.artifact.facts.devices() if item.effect in (RAISES, RETURNED)]


@dataclass(frozen=True)
class Place:
    """A place where artifacts are served; ``name`` is what ``torchexport_serve_on`` says."""

    name: str

    @property
    def where(self) -> str:
        """``on cuda``, ``in C++``: for a sentence."""
        return f"by {self.name}"

    def takes(self, case: Case) -> bool:
        """Return False if it loads no files of the target, here or elsewhere."""
        return True

    def counts(self, case: Case) -> bool:
        """Return True if a pass says less because it is missing."""
        return self.takes(case) or case.plan.named  # else the target is one of the default ones

    def missing(self, case: Case) -> str | None:
        """Return why the artifact cannot be served there, with the next step; None if it can."""
        raise NotImplementedError

    def check(self, case: Case) -> None:
        """Make calls there, and hold what differs."""
        _call_in(case, self)

    def inspect(self, case: Case) -> None:
        """Hold what is known of a place that is missing."""

    def opened(self, case: Case, source: Source) -> SandboxSession | ProgramSession:
        """Return a session that has the file loaded there."""
        raise NotImplementedError

    def lines(self, case: Case, remedy: Sequence[str]) -> Sequence[str]:
        """Return the details of what a call did there; ``remedy`` is what is known of its words."""
        return (AGREES.format(f"on {case.plan.device}"), *attempted(case), *remedy)


class Device(Place):
    @property
    def where(self) -> str:
        return f"on {self.name}"

    def missing(self, case: Case) -> str | None:
        return unusable_device(self.name) or targets.get(case.plan.target).unavailable(self.name)

    def check(self, case: Case) -> None:
        _call_on(case, self)

    def inspect(self, case: Case) -> None:
        moved = case.traits.moved_by
        _inspect(case, self.name, () if moved else _tied(case))

    def lines(self, case: Case, remedy: Sequence[str]) -> Sequence[str]:
        return remedy


class InCpp(Place):
    @property
    def where(self) -> str:
        return "in C++"

    def takes(self, case: Case) -> bool:
        return case.traits.for_cpp is not None

    def missing(self, case: Case) -> str | None:
        if not self.takes(case):
            step = LEAVE_OUT.format("cpp", "trace, script, aoti")
            return f"the program in C++ loads no files of {case.plan.target}; {step}"
        if case.plan.device != "cpu":
            return f"the program in C++ has no {case.plan.device}; {ON_CPU}"
        return found if isinstance(found := cpp.program(), str) else None

    def opened(self, case: Case, source: Source) -> ProgramSession:
        write, program = case.traits.for_cpp, cpp.program()
        assert write is not None  # else it is said what is missing, as of the program
        assert isinstance(program, Path)
        return cpp.in_cpp(program, source, functools.partial(write, case.artifact.program))

    def lines(self, case: Case, remedy: Sequence[str]) -> Sequence[str]:
        # The remedy is for a server in Python.
        own = (remedy[0], CPP_REMEDY) if remedy else ()
        return (AGREES.format("in Python"), *attempted(case), *own)


class Provider(Place):
    def takes(self, case: Case) -> bool:
        return case.traits.library == ONNX_RUNTIME

    def missing(self, case: Case) -> str | None:
        if not self.takes(case):
            step = LEAVE_OUT.format("it", "onnx, onnx_legacy")
            return f"ONNX Runtime loads no files of {case.plan.target}; {step}"
        return lacking(self.name)

    def opened(self, case: Case, source: Source) -> SandboxSession:
        facts, profiles = case.artifact.facts, dict[str, str]()
        if self.name.startswith("Tensorrt") and isinstance(facts, OnnxArtifactFacts):
            profiles = tensorrt_profiles(facts.axes_of(case.spec))
        options = {**source.options, **profiles, "provider": self.name}
        session = opened(dataclasses.replace(source, options=options), case.plan)
        if session.problem is None and session.found.get("alone") is False:
            case.log.note(f"{self.name} leaves a part of the file to others, as the CPU")
        return session


@dataclass(frozen=True)
class Interpreter(Place):
    python: Path

    @property
    def where(self) -> str:
        found = interpreter.versions(self.python)
        pairs = () if isinstance(found, str) else found.items()
        versions = ", ".join(f"{name} {version}" for name, version in pairs)
        return f"by {self.name}{f' ({versions})' if versions else ''}"

    def takes(self, case: Case) -> bool:
        """Return False also if it has the runtime of other files alone."""
        found, library = interpreter.versions(self.python), _library(case)
        others = isinstance(found, dict) and not {*interpreter.RUNTIMES}.isdisjoint(found)
        return library in interpreter.RUNTIMES and (library in found or not others)

    def counts(self, case: Case) -> bool:
        return self.takes(case)

    def missing(self, case: Case) -> str | None:
        found, library = interpreter.versions(self.python), _library(case)
        if library not in interpreter.RUNTIMES:
            return f"no files of {case.plan.target} are served by another interpreter"
        if case.plan.device != "cpu":
            return f"another interpreter is served on the CPU; {ON_CPU}"
        if isinstance(found, str):
            return found
        step = f"next step: {self.name} -m pip install {library}"
        return None if library in found else f"it has no {library}; {step}"

    def opened(self, case: Case, source: Source) -> ProgramSession:
        if _library(case) == ONNX_RUNTIME:
            return interpreter.with_onnx_runtime(self.python, source)
        return interpreter.with_torch(self.python, source, case.traits.script)


class Versions(Place):
    """Versions of a runtime, of which none has to be there: a table tells which files they load."""

    def takes(self, case: Case) -> bool:
        return _library(case) == Requirement(self.name).name

    def counts(self, case: Case) -> bool:
        return self.takes(case)

    def missing(self, case: Case) -> str | None:
        required = Requirement(self.name)
        if not self.takes(case):
            return f"{required.name} loads no files of {case.plan.target}"
        if required.name == ONNX_RUNTIME and oldest_of(required.specifier) is not None:
            return None
        return f"what it loads is not known without it; {NAME_INTERPRETER}"

    def check(self, case: Case) -> None:
        oldest = oldest_of(Requirement(self.name).specifier)
        assert case.saved is not None
        assert oldest is not None  # else it is said that it is not known
        model = onnx_model.read(case.saved.path)
        said = oldest.refusals(ir=model.ir_version, opset=onnx_model.opset(model))
        if said:
            lines = (line for text in said for line in remedy_of("Fail", text).lines)
            text = f"ONNX Runtime {oldest.version} does not load the file ({self.name})"
            case.log.hold(RoundTripDiffers(text, details=tuple(lines)))


def _library(case: Case) -> str:
    """Return the library that other environments load the target's files with."""
    traits = case.traits
    return traits.library if traits.library == ONNX_RUNTIME or traits.script else ""


def place_of(name: str, root: Path) -> Place:
    """Return the place of a name; paths begin at ``root``."""
    if name == CPP:
        return InCpp(name)
    if name.endswith(PROVIDER):
        return Provider(name)
    if is_path(name):
        return Interpreter(name, root / name)
    return Versions(name) if re.match(VERSIONS, name) else Device(name)


def _hold(
    case: Case, place: Place, outcome: Outcome, differences: Sequence[Difference] = ()
) -> None:
    """Hold back what a call did there; note it if it could not be sent."""
    text = f"loaded {place.where}"
    if isinstance(outcome, NotTransferable):
        case.log.note(f"{text}, and not compared: {outcome}")
        return
    said = (outcome.type, outcome.message) if isinstance(outcome, Raised) else ("", "")
    known = remedy_of(*said).lines
    lines = place.lines(case, known)
    facts = [line for line in known if not line.startswith("remedy: ")]
    if facts and isinstance(place, Interpreter):  # shorter than what the runtime says
        text = f"not {text}: {facts[0]}"
    elif not isinstance(outcome, Returned):
        text += f": {outcome}"
    failure = RoundTripDiffers(text, details=tuple(lines), differences=tuple(differences))
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


def _call_on(case: Case, place: Device) -> None:
    example, device = case.spec.example, place.name
    outcome = _outcome_on(case, device, example)
    if outcome is None:
        return
    if not isinstance(outcome, Returned):
        _hold(case, place, outcome)
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
        _hold(case, place, outcome, differences)


def _outcome_on(case: Case, device: str, call: Call) -> Outcome | None:
    """Return the outcome of a call on another device; None if there is no file to load."""
    if case.saved is None:
        return None
    with case.log.timed("round trip"), case.saved.open(device) as session:
        if session.problem is not None:
            return session.problem
        seed, limit = case.plan.seed, case.call_limit()
        return call_loaded(session, case.artifact, call, seed=seed, limit=limit)[0]


# -- in other processes --------------------------------------------------------------------------


def _call_in(case: Case, place: Place) -> None:
    """Make the example's calls in a row there, then boundary calls; hold the first that differs.

    It ends where Python, or ONNX Runtime on the item's device, differs from eager as well: other
    steps say that.
    """
    if case.saved is None:
        return
    judge, recipes = case.judge.aside(), case.to_serve()
    with case.log.timed("round trip"), place.opened(case, case.saved.source) as session:
        for found in case.calls(recipes):
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
