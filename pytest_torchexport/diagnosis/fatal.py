"""Examine a call that ends its process or does not return: in which operator, and on which line?

The artifact runs operator by operator in a fork that writes down where it is: what it wrote last
names the operator. Then another fork runs it up to there, and learns the user's line and what was
handed to the operator.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from pytest_torchexport import targets
from pytest_torchexport.diagnosis.evidence import ARTIFACTS
from pytest_torchexport.diagnosis.fatal_onnx import OnnxSteps
from pytest_torchexport.diagnosis.fatal_torch import TorchSteps, gets_to
from pytest_torchexport.diagnosis.last_step import LastStep
from pytest_torchexport.diagnosis.questions import SAME
from pytest_torchexport.diagnosis.scene import Scene
from pytest_torchexport.diagnosis.streams import TARGETS
from pytest_torchexport.eager.queries import Query, queries
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes import machine
from pytest_torchexport.outcomes.fork import Death, can_fork, in_fork
from pytest_torchexport.outcomes.limits import share_of_memory
from pytest_torchexport.outcomes.observe import Raised
from pytest_torchexport.outcomes.tape import Tape, record
from pytest_torchexport.results.diagnosis import Cause, CauseKind, Diagnosis, Place, Structural
from pytest_torchexport.results.failures import ArtifactHung
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.sandbox import guard

# A call that did not return within its limit is looked at after so many seconds.
WAIT = 2.5
# A run of so many times as many operators as eager's goes round a loop.
MANY = 20
FEW_STEPS = 500
# What keeps the condition that leads eager elsewhere.
REMEDIES = {
    "trace": "compile the function that has the condition before it by @torch.jit.script",
}


class Steps(Protocol):
    """An artifact that can be run step by step."""

    def run(self, last: LastStep) -> Raised | None:
        """Run it, and write down each step. Return what it raised, None if it returned."""

    def place(self, number: int) -> Place:
        """Run it up to a step, and return the step's place."""

    def operand(self, number: int, eager: Tape) -> Structural | None:
        """Run it up to a step, and return an operand of it that is a constant and not eager's."""


@dataclass(frozen=True, kw_only=True)
class _End:
    """The end of a run in a step. ``what``: what the step does."""

    kind: CauseKind
    what: str
    number: int


def examine(scene: Scene, known: Diagnosis) -> Diagnosis:
    """Add the operator in which the call ends, and the cause if there is evidence for it."""
    call = scene.call
    steps = _steps(scene, call) if call is not None else "the call is not legal"
    if call is None or isinstance(steps, str):
        return _left_out(known, str(steps))
    eager = _eager(scene, call)
    last = LastStep()
    found = in_fork(partial(_limited, scene, partial(steps.run, last)), WAIT)
    end = _end(scene, found, last, len(eager.steps))
    if end is None:
        return _left_out(known, f"run step by step, the call {_told(found)}")
    place = in_fork(partial(steps.place, end.number), WAIT)
    if isinstance(place, Death):
        return _left_out(known, f"the run up to {last.name} {place}")
    cause = _fatal(end, place)
    if place.where is not None and not _gets_to(scene, call, place.where):
        cause = _not_in_eager(scene, call, cause, place.where)
    elif end.kind == "fatal operator":
        operand = in_fork(partial(steps.operand, end.number, eager), WAIT)
        known = known if isinstance(operand, Death) else replace(known, structural=operand)
    modules = {step.module for step in eager.steps if step.where == place.where}
    if place.where is not None and len(modules) == 1:
        place = replace(place, module=modules.pop())
    owner = known.owner or ("model" if cause.kind == "export-only branch" else None)
    return replace(known, owner=owner, place=place, causes=(*known.causes, cause))


def _left_out(known: Diagnosis, why: str) -> Diagnosis:
    return replace(known, not_examined=(*known.not_examined, f"operator: {why}"))


def _steps(scene: Scene, call: Call) -> Steps | str:
    """Return the artifact to run step by step, or why there is none."""
    case = scene.case
    if not can_fork():
        return "no process to run the call in: this system or CUDA allows no fork"
    if case.foreign:
        return "the file may run in a clean process only, which shows no values inside"
    if scene.onnx is not None:
        return OnnxSteps(model=scene.onnx.shipped, device=case.plan.device, call=call)
    if case.plan.target not in TARGETS:
        return f"the operators of {case.plan.target} are not known"
    return TorchSteps(case=case, call=call)


def _eager(scene: Scene, call: Call) -> Tape:
    subject = scene.case.reference.pristine.copy()
    return record(
        subject.function,
        call,
        seed=scene.case.plan.seed,
        grad_mode=subject.grad_mode,
        module=subject.module,
    )


def _limited(scene: Scene, run: Callable[[], Raised | None]) -> Raised | None:
    """Run in this process, which is a fork, with the memory that an artifact may use."""
    allowed = scene.case.plan.settings.memory_limit or share_of_memory()
    guard.limit(_in_use() + allowed * 2**20)
    return run()


def _in_use() -> int:
    """Return the bytes of memory that this process can write to."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 2**10 for line in lines if line.startswith("VmData"))


def _end(scene: Scene, found: Raised | Death | None, last: LastStep, steps: int) -> _End | None:
    """Return how the run ended; None if that was in no operator, or not as the failure says."""
    hung = isinstance(scene.failure, ArtifactHung)
    if not isinstance(found, Death):
        out_of_memory = found is not None and machine.is_out_of_memory(found.type, found.message)
        if out_of_memory and last.runs:
            what = "uses up the memory that is allowed"
            return _End(kind="fatal operator", what=what, number=last.number)
        return None
    timed_out = found.seconds is not None
    if timed_out is not hung or found.raised:
        return None
    if hung and last.number > max(FEW_STEPS, MANY * steps):
        what = f"is run in a loop without end: {last.number} operators within {WAIT:g} s"
        return _End(kind="endless loop", what=what, number=last.number // 2)
    if not last.runs:
        return None
    what = f"ends the process{_how(found)}"
    if hung:
        what = f"does not return: it ran for {last.seconds:.1f} s, and was ended"
    return _End(kind="fatal operator", what=what, number=last.number)


def _fatal(end: _End, place: Place) -> Cause:
    return Cause(kind=end.kind, text=f"{place.operator} {end.what}", where=place.where)


def _how(death: Death) -> str:
    if death.signal is not None:
        return f" by {signal.Signals(death.signal).name}"
    return f" with exit status {death.status}" if death.status is not None else ""


def _told(found: Raised | Death | None) -> str:
    """Return what a run did, if that was not what the failure says."""
    if isinstance(found, Death):
        return f"{found}, in no operator of torch"
    return "returns" if found is None else f"raises {found.type}"


# -- why -------------------------------------------------------------------------------------------


def _not_in_eager(scene: Scene, call: Call, fatal: Cause, line: SourceLine) -> Cause:
    """Return why the artifact gets to a line to which eager does not."""
    plan = scene.case.plan
    asked = _asked(scene, call)
    if asked and _gets_to(scene, call, line, asked):
        answers = targets.get(plan.target).traits.answers
        names = dict.fromkeys(f"{query.name}() is {answers[query.name]}" for query in asked)
        return replace(
            fatal,
            kind="export-only branch",
            text=f"{' and '.join(names)} on {plan.target}, and eager gets there only with this "
            f"answer: {fatal.text}",
            remedy=SAME,
            where=asked[0].where,
        )
    artifact = ARTIFACTS.get(plan.target, "ONNX model")
    return replace(
        fatal,
        text=f"{fatal.text}; eager does not get there on the call, and the {artifact} does",
        remedy=REMEDIES.get(plan.target, ""),
    )


def _gets_to(scene: Scene, call: Call, line: SourceLine, asked: Sequence[Query] = ()) -> bool:
    return in_fork(partial(gets_to, scene.case, call, line, asked), WAIT) is True


def _asked(scene: Scene, call: Call) -> Sequence[Query]:
    """Return the places outside torch that ask what the export answers otherwise."""
    plan = scene.case.plan
    answers = targets.get(plan.target).traits.answers
    subject = scene.case.reference.pristine
    return [query for query in queries(subject, call, plan.seed, answers) if not query.of_torch]
