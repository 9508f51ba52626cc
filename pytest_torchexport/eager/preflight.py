"""Examine eager before anything is exported: does it repeat itself, and what does it change?

Takes some three forwards on copies of the subject: one on a copy of its own, a watched and a clean
one on another; more only if those show a reason. Each finding names the submodule and the user's
line, if they are known.

A watched run has a tape with the names of all that the forward reaches, with the draws from random
streams outside torch, and, if asked, with memory filled that it would leave uninitialized. What no
operator shows (an attribute that changes, a draw of Python's) is looked at between the user's
lines, in a run of its own under ``sys.settrace``. A watched run only explains: verdicts come from
runs that are not watched.
"""

from __future__ import annotations

import contextlib
import random
import sys
import warnings
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import FrameType, FunctionType
from typing import Any, NamedTuple

import torch

from pytest_torchexport.eager.fingerprint import (
    Change,
    Reached,
    StateRef,
    changed,
    held_tokens,
    reach,
)
from pytest_torchexport.inputs.pytrees import bits_of, flatten
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes import errors
from pytest_torchexport.outcomes.compare import Tolerance, compare
from pytest_torchexport.outcomes.cuda import ContextLost
from pytest_torchexport.outcomes.limits import TimeLimitExceeded
from pytest_torchexport.outcomes.observe import Outcome, Returned, differ, observe
from pytest_torchexport.outcomes.operators import Operation
from pytest_torchexport.outcomes.subject import Subject
from pytest_torchexport.outcomes.tape import How, Step, Tape, record
from pytest_torchexport.results.failures import Ineffective, ends_the_test
from pytest_torchexport.results.source_line import SourceLine, is_users, source_line
from pytest_torchexport.results.verdict import Difference

# Lines of the user's between which a run looks for what moves.
MAX_EVENTS = 20_000
MAX_SENTENCES = 8
# Pairs of runs that are spent on finding a line: one for each line that leaves memory as it is, and
# as many until a difference that comes and goes shows.
PAIRS = 4


# -- a watched run ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fill:
    """Two values to write into uninitialized memory: ``number`` into floats, else ``whole``.

    With a ``line``, only memory allocated there; the rest is filled with zeros.
    """

    number: float
    whole: int
    line: SourceLine | None = None


# Two fillings of uninitialized memory under which whatever reads it differs: nan shows in products
# with zero, one in comparisons and clamps; as an index both stay in bounds.
_FILLS = (Fill(1.0, 1), Fill(float("nan"), 0))


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
    reached = reached or reach(subject.root, numbers=False)
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}

    def run(*args: Any, **kwargs: Any) -> Any:
        before.update(streams())
        try:
            return subject.function(*args, **kwargs)
        finally:
            after.update(streams())

    def outside(given: Call) -> Iterator[tuple[StateRef, torch.Tensor]]:
        for path, leaf in zip(names or _paths_of(call), given.leaves(), strict=True):
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


def _paths_of(call: Call) -> list[str]:
    return [path for path, _ in call.flatten("input")[0]]


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

# Returns what is watched in a run of these arguments, by name, as it is now.
Look = Callable[[tuple[Any, ...]], Mapping[Any, Any]]


class Moved(NamedTuple):
    """A line at which something moved, and the path of the module it is in."""

    what: Any
    module: str
    line: SourceLine


def draws_from(subject: Subject, example: Call, seed: int, watched: Sequence[str]) -> list[Moved]:
    """Return the user's lines that drew from these random streams, which are outside torch."""

    def look(_: tuple[Any, ...]) -> Mapping[str, Any]:
        return {name: state for name, state in streams().items() if name in watched}

    return _lines_of(subject.copy(), example, seed, look)


def seeded_at(subject: Subject, example: Call, seed: int) -> SourceLine | None:
    """Return the first line of the user's that sets another seed."""
    moved = _lines_of(subject.copy(), example, seed, lambda _: {"seed": torch.initial_seed()})
    return moved[0].line if moved else None


def changed_at(
    subject: Subject, example: Call, seed: int, refs: Iterable[StateRef]
) -> Mapping[StateRef, SourceLine]:
    """Return the user's line that first changes each place, or what it holds.

    Of attributes and buffers of modules, class attributes and globals; without those that no line
    is known to change.
    """
    copy = subject.copy()
    reached = reach(copy.root, numbers=False)
    held = {ref: held for ref in refs if (held := _holding(reached, ref)) is not None}

    def look(_: tuple[Any, ...]) -> Mapping[StateRef, Any]:
        return {ref: held_tokens(read()) for ref, read in held.items()}

    moved = _lines_of(copy, example, seed, look)
    return {item.what: item.line for item in reversed(moved)}


def rebuilt_at(
    subject: Subject, example: Call, seed: int, paths: Collection[str]
) -> SourceLine | None:
    """Return the first line of the user's that adds, removes or replaces one of these leaves."""

    def look(given: tuple[Any, ...]) -> Mapping[str, Any]:
        found = {path: id(leaf) for path, leaf in flatten(given, "inputs")[0]}
        return {path: found.get(path) for path in paths}

    moved = _lines_of(subject.copy(), example, seed, look)
    return moved[0].line if moved else None


def _holding(reached: Reached, ref: StateRef) -> Callable[[], Any] | None:
    """Return a function that reads the attribute or the global in which a place lies."""
    names = ref.path.partition("[")[0].split(".")
    read: Iterable[Callable[[], Any]] = ()
    if ref.kind in ("attribute", "buffer"):
        paths = ((".".join(names[:count]), names[count]) for count in reversed(range(len(names))))
        parts = ((reached.modules[path], name) for path, name in paths if path in reached.modules)
        read = (partial(getattr, part, name, None) for part, name in parts)
    elif ref.kind == "class attribute":
        classes = (cls for cls in reached.classes if cls.__name__ == names[0])
        read = (partial(getattr, cls, names[1], None) for cls in classes)
    elif ref.kind == "global":
        read = (
            partial(scope.get, names[0]) for scope, known in reached.scopes if names[0] in known
        )
    return next(iter(read), None)


@contextlib.contextmanager
def events_to(trace: Callable[[FrameType, str, Any], Any]) -> Iterator[None]:
    """Call a function of ``sys.settrace`` for what the block runs."""
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def _lines_of(subject: Subject, example: Call, seed: int, look: Look) -> list[Moved]:
    """Run a subject, and return the user's lines at which what is looked at changed."""
    module = subject.module
    parts = {id(part): path for path, part in module.named_modules()} if module is not None else {}
    last: Mapping[Any, Any] = {}
    # The user's line that runs, and the module that it is in.
    place: tuple[str, int, str] | None = None
    events = 0
    given: tuple[Any, ...] = ()
    found: dict[Moved, None] = {}

    def check() -> None:
        """Note for each thing that has moved since the last check the line that ran."""
        nonlocal last
        before, last = last, look(given)
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
        nonlocal last, given
        given = args, kwargs
        last = look(given)
        try:
            with events_to(trace):
                return subject.function(*args, **kwargs)
        finally:
            check()

    observe(run, example, seed=seed, grad_mode=subject.grad_mode)
    return list(found)


# -- the examination -------------------------------------------------------------------------------


@dataclass
class Findings:
    """The findings about eager, in sentences; empty if all is well.

    ``unrepeatable`` is set if eager does not agree with itself, and ``where`` is the first line at
    which it does not; ``differences`` are those of its outputs. ``uninitialized`` is set if
    uninitialized memory is the reason. ``changed`` are the places behind ``changes``, and
    ``written_at`` the lines that write to these and to inputs, as far as they are known.
    ``training``: the parts that are in training mode although the module is not; ``dropping`` and
    ``dropped_at``: the dropout that is active in such a module, and its lines. ``hidden``: copies
    agree, and calls of one copy do not: it has state in a place that nothing here reaches.
    ``complete`` is False if a run raised or the subject cannot be copied: the rest is unknown.
    """

    random: tuple[str, ...] = ()
    uninitialized: tuple[str, ...] = ()
    unrepeatable: str | None = None
    where: SourceLine | None = None
    differences: tuple[Difference, ...] = ()
    writes_inputs: tuple[str, ...] = ()
    written_at: Mapping[StateRef, SourceLine] = field(default_factory=dict)
    changes: tuple[str, ...] = ()
    changed: tuple[Change, ...] = ()
    training: tuple[str, ...] = ()
    dropping: tuple[str, ...] = ()
    dropped_at: tuple[SourceLine, ...] = ()
    hidden: bool = False
    complete: bool = True


def examine(
    subject: Subject, example: Call, seed: int, names: Sequence[str] | None = None
) -> Findings:
    """Return eager's effects on the example. Only copies of the subject run.

    ``names`` are the paths of the call's leaves; without, they are those of ``input``.
    Never raises for an odd model: what is known by then is returned. What ran out does pass through
    (time, memory, a thing of the machine), and so does cuda.ContextLost.
    """
    examination = _Examination(subject, example, seed, names or _paths_of(example))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the clean runs of the check report them
        try:
            examination.run()
        except (TimeLimitExceeded, Ineffective, ContextLost, MemoryError, torch.OutOfMemoryError):
            raise
        except BaseException as error:
            if ends_the_test(error):
                raise
            errors.raise_fault(error)
            examination.found.complete = False
    return examination.found


@dataclass
class _Examination:
    """Makes the runs, each of the example from the same seed, and says what they show."""

    subject: Subject
    example: Call
    seed: int
    names: Sequence[str]
    found: Findings = field(default_factory=Findings)

    def run(self) -> None:
        """Add what each run shows to ``found``, until one shows that there is no more to learn."""
        found, start = self.found, self.subject.copy()
        reached = reach(start.root)
        # Unwatched, because a first call may load torch._dynamo.
        first = self._outcome(self.subject.copy())
        if not isinstance(first, Returned):
            found.complete = False
            return
        tape, streams = watch(start, self.example, self.seed, names=self.names, reached=reached)
        if not isinstance(tape.outcome, Returned):
            found.complete = False
            return
        root = reached.modules.get("")
        evaluates = root is not None and not getattr(root, "training", False)
        drops = _unique([op for op in tape.steps if op.drops and evaluates])
        found.dropped_at = tuple(op.where for op in drops if op.where is not None)
        left = left_in_training(start.module, reached, tape.trained)
        active = [text for text, part in left.items() if is_dropout(part)]
        found.training = _bounded(text for text in left if text not in active)
        found.dropping = _bounded([*active, *_dropping(drops, reached.modules)])
        changes = changed(reached.tokens, reach(start.root).tokens)
        # One more run finds the lines that draw from Python's and numpy's global streams.
        outside = draws_from(self.subject, self.example, self.seed, streams) if streams else []
        known = {draw.what for draw in outside}
        found.random = _bounded(
            [
                *_draws(tape.steps, reached.modules, drops),
                *(f"{draw.what}{_place(draw.module, draw.line)}" for draw in outside),
                *(stream for stream in streams if stream not in known),
            ]
        )
        first_writes: dict[StateRef, Step] = {}
        for op in tape.steps:
            first_writes |= {ref: op for ref in op.writes if ref not in first_writes}
        self._inputs(first_writes, tape.outcome)
        self._changes(first_writes, changes)
        again = self._outcome(self.subject.copy() if found.changed else start)
        self._repetition(first, again, tape.outcome)
        self._memory(tape.steps)

    def _outcome(self, subject: Subject) -> Outcome:
        return observe(subject.function, self.example, seed=self.seed, grad_mode=subject.grad_mode)

    # -- the watched run ---------------------------------------------------------------------------

    def _inputs(self, writes: Mapping[StateRef, Step], outcome: Returned) -> None:
        pairs = zip(self.example.leaves(), outcome.inputs.leaves(), strict=True)
        moved = [name for name, pair in zip(self.names, pairs, strict=True) if _moved(*pair)]
        written = [ref.path for ref in writes if ref.kind == "input"]
        self.found.writes_inputs = _bounded(
            f"writes to {name}{_at(writes.get(StateRef('input', name)))}"
            for name in (*written, *moved)
        )

    def _changes(self, writes: Mapping[StateRef, Step], changes: Sequence[Change]) -> None:
        seen = {change.ref for change in changes}
        # A write by way of .data leaves no trace in the parameter itself.
        state = [Change(ref) for ref in writes if ref.kind != "input" and ref not in seen]
        every = (*changes, *state)
        at = {ref: op.where for ref, op in writes.items()}
        silent = [item.ref for item in every if item.ref not in writes]
        if silent:
            at |= changed_at(self.subject, self.example, self.seed, silent)
        self.found.changed = every
        self.found.written_at = {ref: line for ref, line in at.items() if line}
        # All of them: the note shows the first, and counts the others.
        modules = {ref: op.module for ref, op in writes.items()}
        said = (f"{i}{_place(modules.get(i.ref, ''), at.get(i.ref))}" for i in every)
        self.found.changes = tuple(dict.fromkeys(said))

    # -- again, and again --------------------------------------------------------------------------

    def _repetition(self, first: Outcome, again: Outcome, watched: Outcome) -> None:
        if not _differ(first, again) and not _differ(watched, first):
            return
        # Fresh copies decide: a used copy, or watching, may cause a difference.
        if not any(_differ(first, self._outcome(self.subject.copy())) for _ in range(2)):
            self.found.hidden = not self.found.changed and _differ(first, again)
            return
        text = "two calls on equal inputs, from equal state and seed, differ"
        op = self._first_difference()
        if op is not None:
            text += f", first at {op.in_torch}{_place(op.module)}"
            self.found.where = op.where
        shared = ("global", "class attribute")
        causes = [str(item) for item in self.found.changed if item.ref.kind in shared]
        if causes:
            text += f"; forward changes {', '.join(causes[:3])}, which copies share"
        self.found.unrepeatable = text
        self.found.differences = tuple(compare(first, again, Tolerance()))

    def _first_difference(self) -> Step | None:
        """Return the first operator whose output differs between two runs."""
        for _ in range(PAIRS):
            left, right = (
                watch(self.subject.copy(), self.example, self.seed, fill=_FILLS[0], digests=True)[
                    0
                ].steps
                for _ in range(2)
            )
            for one, other in zip(left, right, strict=False):
                sides = [(step.operator, step.where, step.results) for step in (one, other)]
                if sides[0] != sides[1]:
                    return one
        return None

    # -- uninitialized memory ----------------------------------------------------------------------

    def _memory(self, ops: Sequence[Step]) -> None:
        """Say if the output depends on memory that was left uninitialized, and at which line."""
        bare = [op for op in ops if op.bare]
        if not bare or not self._depends(None):
            return
        lines = list(dict.fromkeys(op.where for op in bare if op.where))
        guilty = [line for line in lines[:PAIRS] if len(lines) == 1 or self._depends(line)]
        named = [op for op in _unique(bare) if op.where in guilty] or bare[:1]
        self.found.uninitialized = _bounded(
            f"{op.in_torch} is never initialized{_at(op)}" for op in named
        )
        text = f"the output depends on memory that {named[0].in_torch} left uninitialized"
        self.found.unrepeatable, self.found.where = text + _place(named[0].module), named[0].where

    def _depends(self, line: SourceLine | None) -> bool:
        """Return True if the content of uninitialized memory (of a line, or all) has an effect."""

        def filled(fill: Fill) -> Outcome:
            fill = replace(fill, line=line)
            return watch(self.subject.copy(), self.example, self.seed, fill=fill)[0].outcome

        one, other = map(filled, _FILLS)
        # A difference between two runs with the same filling has another reason.
        if self.found.unrepeatable is not None and _differ(one, filled(_FILLS[0])):
            return False
        return _differ(one, other) or _differ(other, one)


def _differ(expected: Outcome, actual: Outcome) -> bool:
    """Return True if outcomes differ by more than rounding, which may depend on alignment."""
    return isinstance(expected, Returned) and bool(compare(expected, actual, Tolerance()))


def _moved(old: Any, new: Any) -> bool:
    if not isinstance(old, torch.Tensor) or not isinstance(new, torch.Tensor):
        return False
    return old.shape != new.shape or (old.device == new.device and differ(old, new))


# -- sentences -------------------------------------------------------------------------------------


def _bounded(sentences: Iterable[str]) -> tuple[str, ...]:
    kept = list(dict.fromkeys(sentences))
    more = [f"and {len(kept) - MAX_SENTENCES} more"] if len(kept) > MAX_SENTENCES else []
    return (*kept[:MAX_SENTENCES], *more)


def _at(op: Step | None) -> str:
    return _place(op.module, op.where) if op is not None else ""


def _place(module: str, line: SourceLine | None = None) -> str:
    """Return `` in block, net.py:12  x = ...``, as far as it is known."""
    return (f" in {module}" if module else "") + (f", {line}" if line else "")


def _unique(ops: Sequence[Step]) -> list[Step]:
    return list({(op.operator, op.where, op.module): op for op in reversed(ops)}.values())[::-1]


def _draws(
    ops: Sequence[Step], modules: Mapping[str, torch.nn.Module], drops: Sequence[Step]
) -> Iterator[str]:
    for op in _unique([op for op in ops if op.draws]):
        part = modules.get(op.module)
        if op in drops and not is_dropout(part):
            continue  # see ``Findings.training``
        if not op.drops:
            yield f"{op.in_torch}{_at(op)}"
        elif is_dropout(part):
            still = op in drops and getattr(part, "training", False)
            left = ", left in training mode" if still else ""
            name = f"{op.module or 'the module'} ({type(part).__name__}{left})"
            yield f"{name} drops at random" + (f", {op.where}" if op.where else "")
        else:
            yield f"dropout{_at(op)}"


def _dropping(drops: Iterable[Step], modules: Mapping[str, torch.nn.Module]) -> Iterator[str]:
    """Yield a sentence for each dropout in eval mode; none if its module is in training mode."""
    for op in drops:
        part = modules.get(op.module)
        if not is_dropout(part):
            yield f"dropout is active in eval mode (pass training=self.training){_at(op)}"
        elif not getattr(part, "training", False):
            name = op.module or "the module"
            yield f"{name} is in training mode for a part of forward{_place('', op.where)}"


def is_dropout(part: torch.nn.Module | None) -> bool:
    """Return True for torch's and others' modules for dropout, not for a model named so."""
    whole = part is not None and any(True for _ in part.children())
    return not whole and any("Dropout" in cls.__name__ for cls in type(part).__mro__)


# -- the parts of a module, without running it -----------------------------------------------------


def left_in_training(
    module: torch.nn.Module | None, reached: Reached, ran: Collection[str]
) -> dict[str, torch.nn.Module]:
    """Return a sentence for each part still in training mode in a module that is not.

    ``ran``: the paths of those that ran in it: a copy that does not run may be in training mode.
    """
    if module is None or getattr(module, "training", True):
        return {}
    return {
        f"{path} ({type(part).__name__}) is still in training mode": part
        for path, part in reached.modules.items()
        if path in ran and getattr(part, "training", False) and _reads_training_flag(part)
    }


def _reads_training_flag(part: torch.nn.Module) -> bool:
    """Return True if the training flag can make a difference to a module: not to an activation."""
    classes = (cls for cls in type(part).__mro__ if issubclass(cls, torch.nn.Module))
    own = (cls for cls in classes if cls is not torch.nn.Module)
    methods = (item for cls in own for item in vars(cls).values() if isinstance(item, FunctionType))
    return any("training" in method.__code__.co_names for method in methods)
