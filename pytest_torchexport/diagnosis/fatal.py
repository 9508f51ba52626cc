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
from typing import Any

from torch import fx

from pytest_torchexport import targets
from pytest_torchexport.diagnosis.fx_places import place_of
from pytest_torchexport.diagnosis.interventions import SAME, smallest
from pytest_torchexport.diagnosis.scene import CAPTURED, Scene, program_of
from pytest_torchexport.eager.queries import Query, answering, queries
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes import machine
from pytest_torchexport.outcomes.fork import Death, can_fork, in_fork
from pytest_torchexport.outcomes.limits import share_of_memory
from pytest_torchexport.outcomes.observe import Raised, observe
from pytest_torchexport.outcomes.operators import dispatched, name_of_packet
from pytest_torchexport.outcomes.tape import is_behind
from pytest_torchexport.results.diagnosis import Cause, Diagnosis, Place
from pytest_torchexport.results.failures import ArtifactHung
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.sandbox import guard
from pytest_torchexport.torch_private.dispatcher import Handle

# A call that did not return within its limit is looked at after so many seconds.
WAIT = 2.5
# A run that is in its 500th operator, and not in one of them for long, goes round a loop.
MANY_STEPS = 500
LONG = WAIT / 2
# The call may be fatal only after others, in a row with them.
ROW = 3
# Of the last step: its number, whether it still runs, when it began, and its name.
MOST_BYTES = 200
_LAYOUT = struct.Struct(f"<Q?d{MOST_BYTES}s")


class LastStep:
    """The last step of a run, in memory that a fork shares with this process.

    What the fork wrote is still there when it has crashed.
    """

    def __init__(self) -> None:
        """Make room for it."""
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Write down a step that runs in the block."""
        number, began = self.number + 1, time.monotonic()
        _LAYOUT.pack_into(self._memory, 0, number, True, began, name.encode()[:MOST_BYTES])
        yield
        _LAYOUT.pack_into(self._memory, 0, number, False, began, b"")

    @property
    def number(self) -> int:
        """The number of the step, counted from 1; 0 before the first."""
        return int(_LAYOUT.unpack_from(self._memory)[0])

    @property
    def runs(self) -> bool:
        """True if the step has not returned."""
        return bool(_LAYOUT.unpack_from(self._memory)[1])

    @property
    def seconds(self) -> float:
        """The seconds since it began."""
        return time.monotonic() - float(_LAYOUT.unpack_from(self._memory)[2])

    @property
    def name(self) -> str:
        """Its name, while it runs."""
        return bytes(_LAYOUT.unpack_from(self._memory)[3]).rstrip(b"\0").decode(errors="replace")


def examine(scene: Scene, known: Diagnosis) -> Diagnosis:
    """Add the operator in which the call ends, and the cause if there is evidence for it."""
    call = scene.call
    if call is None or scene.case.foreign or not can_fork():
        return _left_out(known, "no process to run the call in: none that may, or no legal call")
    operator = _operator(scene, call)
    if isinstance(operator, str):
        known = _left_out(known, operator)
        operator = Cause(kind="fatal operator", text="the call ends there"), None
    cause, place = operator
    asked = _asked(scene, call, cause.where)
    if asked:
        cause = _only_exported(scene, cause, asked)
    elif place is None:
        return known
    owner = known.owner or ("model" if asked else None)
    return replace(known, owner=owner, place=place, causes=(*known.causes, cause))


def _operator(scene: Scene, call: Call) -> tuple[Cause, Place | None] | str:
    """Return the operator that ends the call and how, or why it is not known."""
    target = scene.case.plan.target
    if CAPTURED.get(target) != target:
        return f"the operators of {target} are not known"
    last = LastStep()
    end = in_fork(partial(_limited, scene, partial(_run, scene, call, last)), WAIT)
    cause = _cause(scene, end, last)
    if cause is None:
        return f"run step by step, the call {_told(end)}"
    # Of a loop without end, an operator in it.
    number = last.number // 2 if cause.kind == "endless loop" else last.number
    place = in_fork(partial(step_place, scene, call, number), WAIT)
    if isinstance(place, Death):
        return f"the run up to {last.name} {place}"
    return replace(cause, text=f"{place.operator} {cause.text}", where=place.where), place


def _left_out(known: Diagnosis, why: str) -> Diagnosis:
    return replace(known, not_examined=(*known.not_examined, f"operator: {why}"))


def _limited(scene: Scene, run: Callable[[], Raised | None]) -> Raised | None:
    """Run in this process, which is a fork, with the memory that an artifact may use."""
    allowed = scene.case.plan.settings.memory_limit or share_of_memory()
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    in_use = next(int(line.split()[1]) * 2**10 for line in lines if line.startswith("VmData"))
    guard.limit(in_use + allowed * 2**20)
    return run()


def _cause(scene: Scene, end: Raised | Death | None, last: LastStep) -> Cause | None:
    """Return how the run ended; None if that was in no operator, or not as the failure says."""
    hung = isinstance(scene.failure, ArtifactHung)
    what = ""
    if _is_out_of_memory(end):
        what = "uses up the memory that is allowed"
    elif isinstance(end, Death) and not end.raised and (end.seconds is not None) is hung:
        if hung and last.number > MANY_STEPS and last.seconds < LONG:
            what = f"is run in a loop without end: {last.number} operators within {WAIT:g} s"
            return Cause(kind="endless loop", text=what)
        how = f"exit status {end.status}"
        if end.signal is not None:
            how = signal.Signals(end.signal).name
        what = f"does not return within {WAIT:g} s" if hung else f"ends the process by {how}"
    return Cause(kind="fatal operator", text=what) if what and last.runs else None


def _is_out_of_memory(end: object) -> bool:
    return isinstance(end, Raised) and machine.is_out_of_memory(end.type, end.message)


def _told(end: Raised | Death | None) -> str:
    """Return what a run did, if that was not what the failure says."""
    if isinstance(end, Death):
        return f"{end}, in no operator of torch"
    return "returns" if end is None else f"raises {end.type}"


def _asked(scene: Scene, call: Call, line: SourceLine | None) -> Sequence[Query]:
    """Return the places with whose answers of the export eager ends its process too.

    If the line of the operator is known, eager only has to get there.
    """
    plan, subject = scene.case.plan, scene.case.reference.pristine
    answers = targets.get(plan.target).traits.answers

    def step(operator: Any, args: Any, kwargs: Any) -> Any:
        if line is not None and is_behind(line, sys._getframe(1)):
            raise Reached
        return operator(*args, **kwargs)

    def ends(asked: Sequence[Query]) -> bool:
        function = answering(subject.copy().function, answers, asked)
        run = partial(_in_a_row, scene, function, call, step)
        end = in_fork(partial(_limited, scene, run), WAIT)
        if line is not None:
            return isinstance(end, Raised) and end.type == Reached.__name__
        return isinstance(end, Death) or _is_out_of_memory(end)

    every = queries(subject, call, plan.seed, answers)
    own = [query for query in every if not query.of_torch]
    return () if ends(()) else smallest(own, ends)


def _only_exported(scene: Scene, fatal: Cause, asked: Sequence[Query]) -> Cause:
    plan = scene.case.plan
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


# -- operator by operator --------------------------------------------------------------------------


class Reached(Exception):
    """Raised in place of an operator that would end the process."""


def _run(scene: Scene, call: Call, last: LastStep) -> Raised | None:
    """Run the artifact's calls, and write down each operator. Return what one raised."""

    def step(operator: Any, args: Any, kwargs: Any) -> Any:
        with last.step(name_of_packet(operator)):
            return operator(*args, **kwargs)

    return _in_a_row(scene, _Nodes.of(scene), call, step)


def step_place(scene: Scene, call: Call, number: int) -> Place:
    """Run the artifact's calls up to an operator, and return its place."""
    function, stop = _Nodes.of(scene), _StopAt(number)
    end = _in_a_row(scene, function, call, stop)
    if isinstance(function, _Nodes) and function.node is not None:
        return replace(place_of(scene, function.node), operator=stop.name)
    return Place(operator=stop.name, where=end.where if end is not None else None)


def _in_a_row(scene: Scene, function: Any, call: Call, handle: Handle) -> Raised | None:
    """Make the calls, each operator by ``handle``. Return what was raised."""
    seed, mode = scene.case.plan.seed, scene.case.reference.served

    def run(*args: Any, **kwargs: Any) -> Any:
        with dispatched(handle):
            return function(*args, **kwargs)

    for _ in range(ROW):
        end = observe(run, call, seed=seed, grad_mode=mode)
        if isinstance(end, Raised):
            return end
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
