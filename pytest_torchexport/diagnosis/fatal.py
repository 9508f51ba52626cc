"""Examine a call that ends its process or does not return: in which operator, and on which line?

The artifact runs operator by operator in a fork that writes down where it is: what it wrote last
names the operator. Then another fork runs it up to there, and learns the user's line.
"""

from __future__ import annotations

import ctypes
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing.sharedctypes import RawValue
from pathlib import Path
from typing import Any

import torch
from torch import fx

from pytest_torchexport import targets
from pytest_torchexport.diagnosis.interventions import of_answers, smallest
from pytest_torchexport.diagnosis.remedies import words_of
from pytest_torchexport.diagnosis.scene import CAPTURED, Scene, place_of
from pytest_torchexport.eager.queries import Query, answering, queries
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.judge import LENGTH
from pytest_torchexport.outcomes import errors
from pytest_torchexport.outcomes.fork import Death, can_fork, in_fork
from pytest_torchexport.outcomes.limits import share_of_memory
from pytest_torchexport.outcomes.observe import Raised, observe
from pytest_torchexport.outcomes.operators import dispatched, name_of_packet
from pytest_torchexport.outcomes.tape import is_behind
from pytest_torchexport.results.diagnosis import Cause, CauseKind, Diagnosis, Place
from pytest_torchexport.results.failures import ArtifactHung
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.sandbox import guard
from pytest_torchexport.torch_private.dispatcher import Handle

# A call that did not return within its limit is looked at after so many seconds.
WAIT = 2.5
# A run that is in its 500th operator, and not in one of them for long, goes round a loop.
MANY_STEPS = 500
LONG = WAIT / 2
COMPILED = "compile the function that has the condition before it by @torch.jit.script"


class LastStep(ctypes.Structure):
    """The last step of a run: its number, counted from 1, when it began, its name while it runs.

    As a ``RawValue`` it is in memory that a fork shares with this process: what the fork wrote is
    still there when it has crashed.
    """

    _fields_ = (
        ("number", ctypes.c_uint64),
        ("began", ctypes.c_double),
        ("name", ctypes.c_char * 200),
    )

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.number += 1
        self.began, self.name = time.monotonic(), name.encode()[:200]
        yield
        self.name = b""


def examine(scene: Scene, known: Diagnosis) -> Diagnosis:
    """Add the operator in which the call ends, and the cause if there is evidence for it."""
    call, target = scene.call, scene.case.plan.target
    if call is None or scene.case.foreign or not can_fork():
        return _left_out(known, "no process to run the call in: none that may, or no legal call")
    found = _operator(scene, call)
    cause, place = Cause(kind="fatal operator", text="the call ends there"), None
    if isinstance(found, str):
        known = _left_out(known, found)
    else:
        cause, place = found
    asked = _asked(scene, call, cause.where)
    if asked:
        does = f", and eager gets there only with this answer: {cause.text}"
        cause = replace(of_answers(asked, target, does), details=())
    elif place is None:
        return known
    elif asked is not None and cause.where is not None:
        there = f"eager does not get there on the call, and {words_of(target)} does"
        remedy = COMPILED if target == "trace" else ""
        cause = replace(cause, text=f"{cause.text}; {there}", remedy=remedy)
    owner = known.owner or ("model" if asked else None)
    return replace(known, owner=owner, place=place, causes=(*known.causes, cause))


def _left_out(known: Diagnosis, why: str) -> Diagnosis:
    return replace(known, not_examined=(*known.not_examined, f"operator: {why}"))


def _operator(scene: Scene, call: Call) -> tuple[Cause, Place] | str:
    """Return the operator that ends the call and how, or why it is not known."""
    function, last = _artifact(scene), RawValue(LastStep)
    if function is None:
        return f"the operators of {scene.case.plan.target} are not known"

    def step(operator: Any, args: Any, kwargs: Any) -> Any:
        with last.step(name_of_packet(operator)):
            return operator(*args, **kwargs)

    end = _end(scene, function, call, step)
    number, name = last.number, last.name.decode(errors="replace")
    seconds = time.monotonic() - last.began
    hung, text = isinstance(scene.failure, ArtifactHung), ""
    kind: CauseKind = "fatal operator"
    if _is_out_of_memory(end):
        text = "uses up the memory that is allowed"
    elif isinstance(end, Death) and not end.raised and (end.seconds is not None) is hung:
        how = signal.Signals(end.signal).name if end.signal else f"exit status {end.status}"
        text = f"does not return within {WAIT:g} s" if hung else f"ends the process by {how}"
        if hung and number > MANY_STEPS and seconds < LONG:
            text = f"is run in a loop without end: {number} operators within {WAIT:g} s"
            kind, number = "endless loop", number // 2  # an operator in the loop
    if not (text and name):  # not as the failure says, or in no operator
        told = f"raises {end.type}" if isinstance(end, Raised) else "returns"
        if isinstance(end, Death):
            told = f"{end}, in no operator of torch"
        return f"run step by step, the call {told}"
    place = in_fork(partial(step_place, scene, call, number), WAIT)
    if isinstance(place, Death):
        return f"the run up to {name} {place}"
    return Cause(kind=kind, text=f"{place.operator} {text}", where=place.where), place


def _asked(scene: Scene, call: Call, line: SourceLine | None) -> Sequence[Query] | None:
    """Return the places with whose answers of the export eager ends its process too.

    If the line of the operator is known, eager only has to get there. None if it does as it is.
    """
    plan, subject = scene.case.plan, scene.case.reference.pristine
    answers = targets.get(plan.target).traits.answers

    def step(operator: Any, args: Any, kwargs: Any) -> Any:
        if line is not None and is_behind(line, sys._getframe(1)):
            raise Reached
        return operator(*args, **kwargs)

    def ends(asked: Sequence[Query]) -> bool:
        end = _end(scene, answering(subject.copy().function, answers, asked), call, step)
        if line is not None:
            return isinstance(end, Raised) and end.type == Reached.__name__
        return isinstance(end, Death) or _is_out_of_memory(end)

    every = queries(subject, call, plan.seed, answers)
    own = [query for query in every if not query.of_torch]
    return None if ends(()) else smallest(own, ends)


def _is_out_of_memory(end: object) -> bool:
    return isinstance(end, Raised) and errors.is_out_of_memory(end.type, end.message)


# -- operator by operator --------------------------------------------------------------------------


class Reached(Exception):
    """Raised in place of an operator that would end the process."""


def step_place(scene: Scene, call: Call, number: int) -> Place:
    """Run the artifact's calls up to an operator, and return its place."""
    function, names = _artifact(scene), list[str]()

    def step(operator: Any, args: Any, kwargs: Any) -> Any:
        names.append(name_of_packet(operator))
        if len(names) == number:
            raise Reached
        return operator(*args, **kwargs)

    end = _in_a_row(scene, function, call, step)
    if isinstance(function, _Nodes) and function.node is not None:
        return replace(place_of(function.node), operator=names[number - 1])
    return Place(operator=names[number - 1], where=end.where if end is not None else None)


def _end(scene: Scene, function: Any, call: Call, handle: Handle) -> Raised | Death | None:
    """Make the calls in a fork with the memory that an artifact may use, and return how it ends."""

    def limited() -> Raised | None:
        allowed = scene.case.plan.settings.memory_limit or share_of_memory()
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        in_use = next(int(line.split()[1]) * 2**10 for line in lines if line.startswith("VmData"))
        guard.limit(in_use + allowed * 2**20)
        return _in_a_row(scene, function, call, handle)

    return in_fork(limited, WAIT)


def _in_a_row(scene: Scene, function: Any, call: Call, handle: Handle) -> Raised | None:
    """Make the calls, each operator by ``handle``. Return the exception that one raised."""
    seed, mode = scene.case.plan.seed, scene.case.reference.served

    def run(*args: Any, **kwargs: Any) -> Any:
        with dispatched(handle):
            return function(*args, **kwargs)

    for _ in range(LENGTH):  # it may be fatal only after others
        end = observe(run, call, seed=seed, grad_mode=mode)
        if isinstance(end, Raised):
            return end
    return None


def _artifact(scene: Scene) -> Any:
    """Return a program that torch runs operator by operator: of an ONNX file, the one before it."""
    artifact, target = scene.case.artifact, scene.case.plan.target
    program = getattr(artifact.program, "exported_program", artifact.program)
    if isinstance(program, torch.export.ExportedProgram):
        return _Nodes(program.module(check_guards=False))
    return artifact if CAPTURED.get(target) == target else None


class _Nodes(fx.Interpreter):
    """An ExportedProgram that is run node by node. ``node``: the one that runs."""

    node: fx.Node | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*Call(args, kwargs).leaves())

    def run_node(self, n: fx.Node) -> Any:
        self.node = n
        return super().run_node(n)
