"""Examine a call that ends its process or does not return: in which operator, and on which line?

The artifact runs operator by operator in a fork that writes down where it is: what it wrote last
names the operator. Then another fork runs it up to there, and learns the user's line.
"""

from __future__ import annotations

import mmap
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from torch import fx

from pytest_torchexport import targets
from pytest_torchexport.diagnosis.fx_places import place_of, translated_by
from pytest_torchexport.diagnosis.interventions import SAME
from pytest_torchexport.diagnosis.onnx_models import OnnxModel
from pytest_torchexport.diagnosis.remedies import words_of
from pytest_torchexport.diagnosis.scene import CAPTURED, Scene, program_of
from pytest_torchexport.eager.queries import Query, answering, queries
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes import machine
from pytest_torchexport.outcomes.fork import Death, can_fork, in_fork
from pytest_torchexport.outcomes.grad_mode import GradMode
from pytest_torchexport.outcomes.limits import share_of_memory
from pytest_torchexport.outcomes.observe import Raised, observe, raised
from pytest_torchexport.outcomes.operators import dispatched, name_of_packet
from pytest_torchexport.outcomes.tape import is_behind
from pytest_torchexport.results.diagnosis import Cause, Diagnosis, Place
from pytest_torchexport.results.failures import ArtifactHung
from pytest_torchexport.results.source_line import SourceLine, source_line
from pytest_torchexport.sandbox import guard
from pytest_torchexport.targets.formats import onnx_model
from pytest_torchexport.targets.formats.branches import users_place
from pytest_torchexport.targets.formats.onnx_inside import node_by_node
from pytest_torchexport.torch_private.dispatcher import Handle

# A call that did not return within its limit is looked at after so many seconds.
WAIT = 2.5
# A run of more operators than any forward of a few lines has goes round a loop.
MANY_STEPS = 2000
# The call may be fatal only after others, in a row with them.
ROW = 3
# What keeps the condition that leads eager elsewhere.
REMEDIES = {
    "trace": "compile the function that has the condition before it by @torch.jit.script",
}
# Of the last step: its number, whether it still runs, and when it began.
_LAYOUT = struct.Struct("<Q?d")


class LastStep:
    """The last step of a run, in memory that a fork shares with this process.

    What the fork wrote is still there when it has crashed. ``number`` counts from 1; it is 0 before
    the first. ``runs``: the step has not returned.
    """

    def __init__(self) -> None:
        """Make room for it."""
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)
        self._names = mmap.mmap(-1, mmap.PAGESIZE)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Write down a step that runs in the block."""
        number, began = self.number + 1, time.monotonic()
        text = name.encode()[: mmap.PAGESIZE - 1]
        self._names[: len(text) + 1] = text + b"\0"
        _LAYOUT.pack_into(self._memory, 0, number, True, began)
        yield
        _LAYOUT.pack_into(self._memory, 0, number, False, began)

    @property
    def number(self) -> int:
        return int(_LAYOUT.unpack_from(self._memory)[0])

    @property
    def runs(self) -> bool:
        return bool(_LAYOUT.unpack_from(self._memory)[1])

    @property
    def seconds(self) -> float:
        """The seconds since the step began."""
        return time.monotonic() - float(_LAYOUT.unpack_from(self._memory)[2])

    @property
    def name(self) -> str:
        return bytes(self._names).partition(b"\0")[0].decode(errors="replace")


class Steps(Protocol):
    """An artifact that can be run step by step."""

    def run(self, last: LastStep) -> Raised | None:
        """Run it, and write down each step. Return what it raised, None if it returned."""

    def place(self, number: int) -> Place:
        """Run it up to a step, and return the step's place."""


def examine(scene: Scene, known: Diagnosis) -> Diagnosis:
    """Add the operator in which the call ends, and the cause if there is evidence for it."""
    steps = _steps(scene)
    if scene.call is None or isinstance(steps, str):
        return _left_out(known, str(steps))
    last = LastStep()
    found = in_fork(partial(_limited, scene, partial(steps.run, last)), WAIT)
    cause = _cause(scene, found, last)
    if cause is None:
        return _left_out(known, f"run step by step, the call {_told(found)}")
    # Of a loop without end, an operator in it.
    number = last.number // 2 if cause.kind == "endless loop" else last.number
    place = in_fork(partial(steps.place, number), WAIT)
    if isinstance(place, Death):
        return _left_out(known, f"the run up to {last.name} {place}")
    cause = replace(cause, text=f"{place.operator} {cause.text}", where=place.where)
    if place.where is not None and not _gets_to(scene, place.where):
        cause = _not_in_eager(scene, cause, place.where)
    owner = known.owner or ("model" if cause.kind == "export-only branch" else None)
    return replace(known, owner=owner, place=place, causes=(*known.causes, cause))


def _left_out(known: Diagnosis, why: str) -> Diagnosis:
    return replace(known, not_examined=(*known.not_examined, f"operator: {why}"))


def _steps(scene: Scene) -> Steps | str:
    """Return the artifact to run step by step, or why there is none."""
    target = scene.case.plan.target
    if scene.call is None:
        return "the call is not legal"
    if not can_fork():
        return "no process to run the call in: this system or CUDA allows no fork"
    if scene.case.foreign:
        return "the file may run in a clean process only, which shows no values inside"
    if scene.onnx is not None:
        return OnnxSteps(scene, scene.onnx.shipped, scene.call)
    if CAPTURED.get(target) != target:
        return f"the operators of {target} are not known"
    return TorchSteps(scene, scene.call)


def _limited(scene: Scene, run: Callable[[], Raised | None]) -> Raised | None:
    """Run in this process, which is a fork, with the memory that an artifact may use."""
    allowed = scene.case.plan.settings.memory_limit or share_of_memory()
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    in_use = next(int(line.split()[1]) * 2**10 for line in lines if line.startswith("VmData"))
    guard.limit(in_use + allowed * 2**20)
    return run()


def _cause(scene: Scene, found: Raised | Death | None, last: LastStep) -> Cause | None:
    """Return how the run ended; None if that was in no operator, or not as the failure says."""
    hung = isinstance(scene.failure, ArtifactHung)
    what = ""
    if isinstance(found, Raised) and machine.is_out_of_memory(found.type, found.message):
        what = "uses up the memory that is allowed"
    elif isinstance(found, Death) and not found.raised and (found.seconds is not None) is hung:
        if hung and last.number > MANY_STEPS:
            what = f"is run in a loop without end: {last.number} operators within {WAIT:g} s"
            return Cause(kind="endless loop", text=what)
        ran = f"does not return: it ran for {last.seconds:.1f} s, and was ended"
        what = ran if hung else f"ends the process{_how(found)}"
    return Cause(kind="fatal operator", text=what) if what and last.runs else None


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


def _not_in_eager(scene: Scene, fatal: Cause, line: SourceLine) -> Cause:
    """Return why the artifact gets to a line to which eager does not."""
    plan, subject = scene.case.plan, scene.case.reference.pristine
    answers = targets.get(plan.target).traits.answers
    assert scene.call is not None
    every = queries(subject, scene.call, plan.seed, answers)
    asked = [query for query in every if not query.of_torch]
    if asked and _gets_to(scene, line, asked):
        names = dict.fromkeys(f"{query.name}() is {answers[query.name]}" for query in asked)
        return replace(
            fatal,
            kind="export-only branch",
            text=f"{' and '.join(names)} on {plan.target}, and eager gets there only with this "
            f"answer: {fatal.text}",
            remedy=SAME,
            where=asked[0].where,
        )
    artifact = words_of(plan.target)
    return replace(
        fatal,
        text=f"{fatal.text}; eager does not get there on the call, and {artifact} does",
        remedy=REMEDIES.get(plan.target, ""),
    )


def _gets_to(scene: Scene, line: SourceLine, asked: Sequence[Query] = ()) -> bool:
    """Return True if eager gets to an operator on a line, or in a function that is called there.

    With the export's answers at the places that ask. The operator is not run.
    """

    def run() -> bool:
        def step(operator: Any, args: Any, kwargs: Any) -> Any:
            if is_behind(line, sys._getframe(1)):
                raise Reached
            return operator(*args, **kwargs)

        plan, subject = scene.case.plan, scene.case.reference.pristine.copy()
        answers = targets.get(plan.target).traits.answers
        function = answering(subject.function, answers, asked)
        assert scene.call is not None
        found = _in_a_row(function, scene.call, step, plan.seed, subject.grad_mode)
        return found is not None and found.type == Reached.__name__

    return in_fork(run, WAIT) is True


# -- an artifact of torch --------------------------------------------------------------------------


class Reached(Exception):
    """Raised in place of an operator that would end the process."""


@dataclass(frozen=True)
class TorchSteps:
    """An artifact of ``trace``, ``script`` or ``export``, and the call that ends it."""

    scene: Scene
    call: Call

    def run(self, last: LastStep) -> Raised | None:
        def step(operator: Any, args: Any, kwargs: Any) -> Any:
            with last.step(name_of_packet(operator)):
                return operator(*args, **kwargs)

        return self._through(_Nodes.of(self.scene), step)

    def place(self, number: int) -> Place:
        function, stop = _Nodes.of(self.scene), _StopAt(number)
        found = self._through(function, stop)
        if isinstance(function, _Nodes) and function.node is not None:
            return replace(place_of(self.scene, function.node), operator=stop.name)
        return Place(operator=stop.name, where=found.where if found is not None else None)

    def _through(self, function: Any, handle: Handle) -> Raised | None:
        plan, mode = self.scene.case.plan, self.scene.case.reference.served
        return _in_a_row(function, self.call, handle, plan.seed, mode)


def _in_a_row(
    function: Any, call: Call, handle: Handle, seed: int, grad_mode: GradMode
) -> Raised | None:
    """Make the calls, each operator by ``handle``. Return what was raised."""

    def run(*args: Any, **kwargs: Any) -> Any:
        with dispatched(handle):
            return function(*args, **kwargs)

    for _ in range(ROW):
        found = observe(run, call, seed=seed, grad_mode=grad_mode)
        if isinstance(found, Raised):
            return found
    return None


@dataclass
class _StopAt:
    """Run operators, and raise in place of one; its ``name`` is known then."""

    number: int
    name: str = ""
    _seen: int = field(default=0, repr=False)

    def __call__(self, operator: Any, args: Any, kwargs: Any) -> Any:
        self._seen += 1
        if self._seen == self.number:
            self.name = name_of_packet(operator)
            raise Reached
        return operator(*args, **kwargs)


class _Nodes(fx.Interpreter):
    """An ExportedProgram that is run node by node. ``node``: the one that runs."""

    node: fx.Node | None = None

    @classmethod
    def of(cls, scene: Scene) -> Any:
        """Return the program of a case, or its artifact, if that is none of torch.export's."""
        program = program_of(scene.case.artifact)
        return scene.case.artifact if program is None else cls(program.module(check_guards=False))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*Call(args, kwargs).leaves())

    def run_node(self, n: fx.Node) -> Any:
        self.node = n
        return super().run_node(n)


# -- an ONNX model ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class OnnxSteps:
    """The model that ONNX Runtime ran, and the call that ends it."""

    scene: Scene
    model: OnnxModel
    call: Call

    def run(self, last: LastStep) -> Raised | None:
        """Run every node in a session of its own, and write down each."""
        device = self.scene.case.plan.device
        feeds = self.model.artifact.pack_inputs(self.call.to(device)).kwargs
        try:
            for node, run in node_by_node(self.model.path, device, feeds):
                with last.step(node.op_type):
                    run()
        except Exception as error:
            return raised(error)
        return None

    def place(self, number: int) -> Place:
        node = onnx_model.read(self.model.path).graph.node[number - 1]
        program = self.model.program
        if program is not None:
            own = translated_by(node, program.module(check_guards=False))
            if own is not None:
                return replace(place_of(self.scene, own), operator=node.op_type)
        at = users_place(onnx_model.frames_of(node))
        return Place(operator=node.op_type, where=source_line(*at) if at is not None else None)
