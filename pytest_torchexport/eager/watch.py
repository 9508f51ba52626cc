"""Watch one run of a forward: what does it do besides returning, and at which lines?

A tape with the names of all that the forward reaches, with the draws from random streams outside
torch, and, if asked, with memory filled that it would leave uninitialized. What no operator shows
(an attribute that changes, a draw of Python's) is looked at between the user's lines, in a run of
its own under ``sys.settrace``. A watched run only explains: verdicts come from runs that are not
watched.
"""

from __future__ import annotations

import contextlib
import random
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import Any, Literal, NamedTuple

import torch

from pytest_torchexport.eager.fingerprint import Reached, StateRef, held_tokens, reach
from pytest_torchexport.inputs.pytrees import bits_of
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.observe import observe
from pytest_torchexport.outcomes.operators import Operation
from pytest_torchexport.outcomes.subject import Subject
from pytest_torchexport.outcomes.tape import How, Tape, record
from pytest_torchexport.results.source_line import SourceLine, is_users, source_line

# Lines of the user's between which a run looks for what moves.
MAX_EVENTS = 20_000


@dataclass(frozen=True)
class Fill:
    """Two values to write into uninitialized memory: ``number`` into floats, else ``whole``.

    With a ``line``, only memory allocated there; the rest is filled with zeros.
    """

    number: float
    whole: int
    line: SourceLine | None = None


# How much of the operators to record: nothing, all but their results, or checksums of these too.
Recorded = Literal["nothing", "operators", "digests"]


def watch(
    subject: Subject,
    call: Call,
    seed: int,
    *,
    names: Sequence[str] | None = None,
    reached: Reached | None = None,
    fill: Fill | None = None,
    recorded: Recorded = "operators",
) -> tuple[Tape, tuple[str, ...]]:
    """Run the subject itself, not a copy, on a clone of the call, and record what it does.

    Returns the tape, which names outside tensors by their ``StateRef``, and the random streams
    outside torch that the run drew from. ``names`` are the paths of the call's leaves; ``reached``
    is what ``fingerprint.reach`` found from the subject, and names its tensors and modules.
    """
    reached = reached or reach(subject.root)
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}

    def run(*args: Any, **kwargs: Any) -> Any:
        before.update(streams())
        try:
            return subject.function(*args, **kwargs)
        finally:
            after.update(streams())

    def outside(given: Call) -> Iterator[tuple[StateRef, torch.Tensor]]:
        leaves = given.flatten("input")[0]
        paths = names if names is not None and len(names) == len(leaves) else [p for p, _ in leaves]
        for path, (_, leaf) in zip(paths, leaves, strict=True):
            yield StateRef("input", path), leaf
        yield from reached.tensors.items()

    how = How(
        parts=reached.parts,
        outside=outside,
        keep=digest if recorded == "digests" else lambda _: None,
        run=Operation.run if fill is None else partial(_filled, fill=fill),
        operators=recorded != "nothing",
    )
    tape = record(run, call, seed=seed, grad_mode=subject.grad_mode, how=how)
    return tape, tuple(name for name, state in after.items() if before.get(name, state) != state)


def streams() -> dict[str, Any]:
    """Return the states of the global random streams outside torch."""
    states: dict[str, Any] = {"Python's random": random.getstate()}
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        state = numpy.random.get_state()
        states["numpy.random"] = (state[1].tobytes(), *state[2:])
    return states


def digest(value: Any) -> int | None:
    """Return a checksum of the bits of a tensor or a number; None if they cannot be read."""
    if not isinstance(value, torch.Tensor):
        return zlib.crc32(repr(value).encode())
    with contextlib.suppress(Exception):  # sparse, nested, quantized, meta
        return zlib.crc32(bits_of(value), zlib.crc32(f"{value.dtype}{tuple(value.shape)}".encode()))
    return None


def _filled(operation: Operation, fill: Fill) -> Any:
    """Run an operator, and write numbers into what it left uninitialized."""
    if not operation.leaves_memory:
        return operation.run()
    # An operator that resizes leaves only the new elements as they are.
    start = operation.operand.numel() if operation.written else 0
    out = operation.run()
    fill = fill if fill.line in (None, operation.where) else Fill(0.0, 0)
    if isinstance(out, torch.Tensor):
        number = fill.number if out.is_floating_point() or out.is_complex() else fill.whole
        with contextlib.suppress(RuntimeError, NotImplementedError):  # layouts without a filling
            (out.view(-1)[start:] if start else out).fill_(number)
    return out


# -- lines at which something moves ----------------------------------------------------------------

# Returns what is watched, by name, as it is now.
Look = Callable[[], Mapping[Any, Any]]


class Moved(NamedTuple):
    """A line at which something moved, and the path of the module it is in."""

    what: Any
    module: str
    line: SourceLine


def draws_from(subject: Subject, example: Call, seed: int, watched: Sequence[str]) -> list[Moved]:
    """Run a copy of the subject, and return the user's lines that drew from these streams.

    They are random streams outside torch.
    """

    def look() -> Mapping[str, Any]:
        return {name: state for name, state in streams().items() if name in watched}

    return _moved(subject, example, seed, lambda _: look)


def changed_at(
    subject: Subject, example: Call, seed: int, refs: Iterable[StateRef]
) -> Mapping[StateRef, SourceLine]:
    """Run a copy, and return the user's line that first changes each place, or what it holds.

    Of attributes and buffers of modules, class attributes and globals; without those that no line
    is known to change.
    """

    def looking_at(copy: Subject) -> Look:
        held = {ref: held for ref in refs if (held := _holding(copy, ref)) is not None}
        return lambda: {ref: held_tokens(read()) for ref, read in held.items()}

    lines: dict[StateRef, SourceLine] = {}
    for moved in _moved(subject, example, seed, looking_at):
        lines.setdefault(moved.what, moved.line)
    return lines


def seeded_at(subject: Subject, example: Call, seed: int) -> SourceLine | None:
    """Run a copy under a seed, and return the first line of the user's that sets another one."""
    moved = _moved(subject, example, seed, lambda _: lambda: {"seed": torch.initial_seed()})
    return moved[0].line if moved else None


def _holding(subject: Subject, ref: StateRef) -> Callable[[], Any] | None:
    """Return what reads the attribute or the global in which a place lies."""
    names = ref.path.partition("[")[0].split(".")
    reached = reach(subject.root)
    if ref.kind in ("attribute", "buffer"):
        for count in range(len(names) - 1, -1, -1):
            part = reached.modules.get(".".join(names[:count]))
            if part is not None:
                return lambda: getattr(part, names[count], None)
    if ref.kind == "class attribute":
        classes = (cls for cls in reached.classes if cls.__name__ == names[0])
        return next((lambda cls=cls: getattr(cls, names[1], None) for cls in classes), None)
    if ref.kind == "global":
        scopes = (scope for scope, known in reached.scopes if names[0] in known)
        return next((lambda scope=scope: scope.get(names[0]) for scope in scopes), None)
    return None


def _moved(
    subject: Subject, example: Call, seed: int, looking_at: Callable[[Subject], Look]
) -> list[Moved]:
    """Run a copy, and return the user's lines at which what is looked at changed."""
    copy = subject.copy()
    module = copy.module
    parts = {id(part): path for path, part in module.named_modules()} if module is not None else {}
    tracer = _LineTracer(looking_at(copy), parts)

    def run(*args: Any, **kwargs: Any) -> Any:
        tracer.last = tracer.look()
        before = sys.gettrace()
        sys.settrace(tracer)
        try:
            return copy.function(*args, **kwargs)
        finally:
            sys.settrace(before)
            tracer.check()

    observe(run, example, seed=seed, grad_mode=subject.grad_mode)
    return list(tracer.found)


@dataclass
class _LineTracer:
    """A trace function that checks at each of the user's lines what the line before it moved."""

    look: Look
    parts: Mapping[int, str]
    last: Mapping[Any, Any] = field(default_factory=dict)
    found: dict[Moved, None] = field(default_factory=dict)
    _place: tuple[str, int, str] | None = None
    _events: int = 0

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not is_users(frame.f_code.co_filename) or self._events > MAX_EVENTS:
            return None
        self._events += 1
        self.check()
        back = frame.f_back
        at = back if event == "return" and back is not None else frame
        if is_users(at.f_code.co_filename):
            owner = at.f_locals.get("self")
            self._place = (at.f_code.co_filename, at.f_lineno, self.parts.get(id(owner), ""))
        return self

    def check(self) -> None:
        """Note the last line for each thing that has moved since the last check."""
        now = self.look()
        for name, state in now.items():
            if state != self.last.get(name) and self._place is not None:
                filename, number, module = self._place
                self.found[Moved(name, module, source_line(filename, number))] = None
        self.last = now
