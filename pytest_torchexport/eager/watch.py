"""Watch one run of a forward: what does it do besides returning?

A tape with the names of all that the forward reaches, with the draws from random streams outside
torch, and, if asked, with memory filled that it would leave uninitialized. A watched run only
explains: verdicts come from runs that are not watched.
"""

from __future__ import annotations

import contextlib
import random
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from pytest_torchexport.eager.fingerprint import Reached, reach
from pytest_torchexport.eager.state_ref import StateRef
from pytest_torchexport.inputs.pytrees import bits_of
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.observe import Outcome
from pytest_torchexport.outcomes.operators import Operation
from pytest_torchexport.outcomes.subject import Subject
from pytest_torchexport.outcomes.tape import How, Step, record
from pytest_torchexport.results.source_line import SourceLine


@dataclass(frozen=True)
class Watched:
    """The result of one watched run.

    ``aliases`` pairs the path of an output with the place it shares memory with; ``streams`` are
    the global random streams outside torch that it drew from; ``trained`` are the paths of the
    parts that ran in training mode, None if that was not recorded; ``cut`` is True if not all
    operators were recorded.
    """

    outcome: Outcome
    ops: tuple[Step, ...] = ()
    aliases: tuple[tuple[str, StateRef], ...] = ()
    streams: tuple[str, ...] = ()
    trained: tuple[str, ...] | None = None
    cut: bool = False


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
) -> Watched:
    """Run the subject itself, not a copy, on a clone of the call, and record what it does.

    ``names`` are the paths of the call's leaves; ``reached`` is what ``fingerprint.reach`` found
    from the subject, and names its tensors and modules.
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

    def filled(operation: Operation) -> Any:
        return _filled(operation, fill) if fill is not None else operation.run()

    how = How(
        parts=reached.parts,
        outside=outside,
        keep=digest if recorded == "digests" else lambda _: None,
        run=filled,
        operators=recorded != "nothing",
    )
    tape = record(run, call, seed=seed, grad_mode=subject.grad_mode, how=how)
    return Watched(
        tape.outcome,
        tape.steps,
        tape.shared,
        tuple(name for name, state in after.items() if before.get(name, state) != state),
        trained=tape.trained if recorded != "nothing" else None,
        cut=not tape.complete,
    )


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
