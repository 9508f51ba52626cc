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
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any, NamedTuple

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


def watch(
    subject: Subject,
    call: Call,
    seed: int,
    *,
    names: Sequence[str] | None = None,
    reached: Reached | None = None,
    fill: Fill | None = None,
    digests: bool = False,
) -> tuple[Tape, tuple[str, ...]]:
    """Run the subject itself, not a copy, on a clone of the call, and record what it does.

    Returns the tape, which names outside tensors by their ``StateRef``, and the random streams
    outside torch that the run drew from. ``names`` are the paths of the call's leaves; ``reached``
    is what ``fingerprint.reach`` found from the subject, and names its tensors and modules. The
    results of operators are kept as checksums, with ``digests``, or not at all.
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
        parts={id(part): path for path, part in reached.modules.items()},
        outside=outside,
        keep=digest if digests else lambda _: None,
        run=Operation.run if fill is None else partial(_filled, fill=fill),
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
    """Return the user's lines that drew from these random streams, which are outside torch."""

    def look() -> Mapping[str, Any]:
        return {name: state for name, state in streams().items() if name in watched}

    return _moved(subject, example, seed, lambda _: look)


def seeded_at(subject: Subject, example: Call, seed: int) -> SourceLine | None:
    """Return the first line of the user's that sets another seed."""
    moved = _moved(subject, example, seed, lambda _: lambda: {"seed": torch.initial_seed()})
    return moved[0].line if moved else None


def changed_at(
    subject: Subject, example: Call, seed: int, refs: Iterable[StateRef]
) -> Mapping[StateRef, SourceLine]:
    """Return the user's line that first changes each place, or what it holds.

    Of attributes and buffers of modules, class attributes and globals; without those that no line
    is known to change.
    """

    def looking_at(copy: Subject) -> Look:
        reached = reach(copy.root)
        held = {ref: held for ref in refs if (held := _holder(reached, ref)) is not None}
        return lambda: {ref: held_tokens(_read(*place)) for ref, place in held.items()}

    moved = _moved(subject, example, seed, looking_at)
    return {item.what: item.line for item in reversed(moved)}


def _holder(reached: Reached, ref: StateRef) -> tuple[Any, str] | None:
    """Return the module, the class or the globals in which a place lies, and the name there."""
    names = ref.path.partition("[")[0].split(".")
    holders: Iterable[tuple[Any, str]] = ()
    if ref.kind in ("attribute", "buffer"):
        paths = ((".".join(names[:count]), names[count]) for count in reversed(range(len(names))))
        holders = ((reached.modules[path], name) for path, name in paths if path in reached.modules)
    elif ref.kind == "class attribute":
        holders = ((cls, names[1]) for cls in reached.classes if cls.__name__ == names[0])
    elif ref.kind == "global":
        holders = ((scope, names[0]) for scope, known in reached.scopes if names[0] in known)
    return next(iter(holders), None)


def _read(holder: Any, name: str) -> Any:
    return holder.get(name) if isinstance(holder, dict) else getattr(holder, name, None)


def _moved(
    subject: Subject, example: Call, seed: int, looking_at: Callable[[Subject], Look]
) -> list[Moved]:
    """Run a copy, and return the user's lines at which what is looked at changed."""
    copy = subject.copy()
    look = looking_at(copy)
    module = copy.module
    parts = {id(part): path for path, part in module.named_modules()} if module is not None else {}
    last: Mapping[Any, Any] = {}
    # The user's line that runs, and the module that it is in.
    place: tuple[str, int, str] | None = None
    events = 0
    found: dict[Moved, None] = {}

    def check() -> None:
        """Note for each thing that has moved since the last check the line that ran."""
        nonlocal last
        before, last = last, look()
        for name, state in last.items():
            if state != before.get(name) and place is not None:
                filename, number, path = place
                found[Moved(name, path, source_line(filename, number))] = None

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal place, events
        if not is_users(frame.f_code.co_filename) or events > MAX_EVENTS:
            return None
        events += 1
        check()
        back = frame.f_back
        at = back if event == "return" and back is not None else frame
        if is_users(at.f_code.co_filename):
            path = parts.get(id(at.f_locals.get("self")), "")
            place = (at.f_code.co_filename, at.f_lineno, path)
        return trace

    def run(*args: Any, **kwargs: Any) -> Any:
        nonlocal last
        last = look()
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            return copy.function(*args, **kwargs)
        finally:
            sys.settrace(before)
            check()

    observe(run, example, seed=seed, grad_mode=subject.grad_mode)
    return list(found)
