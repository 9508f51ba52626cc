"""Examine eager before anything is exported: does it repeat itself, and what does it change?

Takes some five forwards on copies of the subject: three in a row on one, a watched and a clean one
on another; more only if those show a reason. Each finding names the submodule and the user's line,
if they are known.
"""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from pytest_torchexport.eager.fingerprint import Reached, changed, fingerprint, reach
from pytest_torchexport.eager.set_order import iterated_sets
from pytest_torchexport.eager.state_ref import Change, StateRef
from pytest_torchexport.eager.watch import Fill, Recorded, Watched, changed_at, draws_from, watch
from pytest_torchexport.inputs.spec import Call, flatten_call
from pytest_torchexport.outcomes import machine
from pytest_torchexport.outcomes.compare import Tolerance, compare
from pytest_torchexport.outcomes.cuda import ContextLost
from pytest_torchexport.outcomes.limits import TimeLimitExceeded
from pytest_torchexport.outcomes.observe import Outcome, Returned, differ, observe
from pytest_torchexport.outcomes.subject import Subject
from pytest_torchexport.outcomes.tape import Step
from pytest_torchexport.results.failures import Ineffective, ends_the_test
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.results.verdict import Difference

__all__ = ["Findings", "changed", "examine", "fingerprint"]

MAX_SENTENCES = 8
MAX_CANDIDATES = 4
# Pairs of runs after which a difference that comes and goes is left without a line.
PAIRS = 3

# What ends an examination and says nothing about the model.
NOT_THE_MODELS = (
    TimeLimitExceeded,
    Ineffective,
    ContextLost,
    MemoryError,
    torch.OutOfMemoryError,
)

# Two fillings of uninitialized memory under which whatever reads it differs: nan shows in products
# with zero, one in comparisons and clamps; as an index both stay in bounds.
_FILLS = ((1.0, 1), (float("nan"), 0))


@dataclass(frozen=True)
class Findings:
    """The findings about eager, in sentences; empty if all is well.

    ``unrepeatable`` is set if eager does not agree with itself, and ``where`` is the first line at
    which it does not; ``differences`` are those of its outputs. ``uninitialized`` is set if
    uninitialized memory is the reason. ``changed`` are the places behind ``changes``, ``written``
    the paths of the inputs behind ``writes_inputs``, ``written_at`` the lines that write to either,
    as far as they are known.
    ``rebuilt`` are the paths at which containers of the call no longer hold what they held.
    ``complete`` is False if a run raised or the subject cannot be copied: the rest is unknown then.
    """

    random: tuple[str, ...] = ()
    uninitialized: tuple[str, ...] = ()
    unrepeatable: str | None = None
    where: SourceLine | None = None
    differences: tuple[Difference, ...] = ()
    writes_inputs: tuple[str, ...] = ()
    written: tuple[str, ...] = ()
    written_at: Mapping[StateRef, SourceLine] = field(default_factory=dict)
    rebuilt: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    changed: tuple[Change, ...] = ()
    aliases: tuple[str, ...] = ()
    warm_up: str | None = None
    training: tuple[str, ...] = ()
    unregistered: tuple[str, ...] = ()
    set_order: tuple[str, ...] = ()
    complete: bool = True


def examine(
    subject: Subject, example: Call, seed: int, names: Sequence[str] | None = None
) -> Findings:
    """Return what eager does with the example besides returning. Only copies of the subject run.

    ``names`` are the paths of the call's leaves; without, they are taken from forward's signature.
    Never raises for an odd model: what is known by then is returned. What ran out does pass through
    (time, memory, a thing of the machine), and so does cuda.ContextLost.
    """
    found = _Found()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the clean runs of the check report them
        try:
            names = _leaf_names(subject, example) if names is None else names
            runs = _Runs(subject, example, seed, names)
            _examine(runs, found)
        except NOT_THE_MODELS:
            raise
        except BaseException as error:
            if ends_the_test(error):
                raise
            machine.raise_fault(error)
            found.add(complete=False)
    return found.so_far


def _examine(runs: _Runs, found: _Found) -> None:
    """Add what each run shows to ``found``, until one shows that there is no more to learn."""
    start = _start(runs)
    module, reached = start.subject.module, start.reached
    found.say("training", left_in_training(module, reached))
    found.say("unregistered", unregistered(module, reached))
    with contextlib.suppress(Exception):
        found.say("set_order", iterated_sets(start.subject, reached))
    # Three times in a row, unwatched: the first call may load torch._dynamo.
    copy = runs.subject.copy()
    row = [runs.run(copy) for _ in range(3)]
    found.add(complete=all(isinstance(outcome, Returned) for outcome in row))
    if not isinstance(row[0], Returned):
        return
    watched = runs.watch(start.subject, start.reached)
    if not isinstance(watched.outcome, Returned):
        # It fails if it is watched. Without its operators, the rest is still known.
        start = _start(runs)
        watched = runs.watch(start.subject, start.reached, recorded="nothing")
    if not isinstance(watched.outcome, Returned):
        found.add(complete=False)
        return
    left = left_in_training(start.subject.module, start.reached, watched.trained)
    found.say("training", left)
    examination = _Examination(runs, found, start, row, watched, watched.outcome)
    examination.changes()
    examination.repetition()
    examination.memory()


@dataclass(frozen=True)
class _Runs:
    """Make the runs of an examination: the example call, always from the same seed."""

    subject: Subject
    example: Call
    seed: int
    names: Sequence[str] | None

    def run(self, subject: Subject) -> Outcome:
        return observe(subject.function, self.example, seed=self.seed, grad_mode=subject.grad_mode)

    def watch(
        self,
        subject: Subject,
        reached: Reached | None = None,
        *,
        fill: Fill | None = None,
        recorded: Recorded = "operators",
    ) -> Watched:
        return watch(
            subject,
            self.example,
            self.seed,
            names=self.names,
            reached=reached,
            fill=fill,
            recorded=recorded,
        )


@dataclass
class _Found:
    """The findings so far."""

    so_far: Findings = field(default_factory=Findings)

    def add(self, **fields: Any) -> None:
        self.so_far = replace(self.so_far, **fields)

    def say(self, name: str, sentences: Sequence[str]) -> None:
        kept = list(dict.fromkeys(sentences))
        more = len(kept) - MAX_SENTENCES
        self.add(**{name: (*kept[:MAX_SENTENCES], *([f"and {more} more"] if more > 0 else ()))})


@dataclass(frozen=True)
class _Start:
    """A copy of the subject that nothing has run yet, and what it reaches."""

    subject: Subject
    reached: Reached


def _start(runs: _Runs) -> _Start:
    copy = runs.subject.copy()
    return _Start(copy, reach(copy.root, values=True))


@dataclass(frozen=True)
class _Examination:
    """Say what the runs show: three in a row on one copy, and a watched one on another."""

    runs: _Runs
    found: _Found
    start: _Start
    row: Sequence[Outcome]
    watched: Watched
    outcome: Returned  # of the watched run

    # -- the watched run ---------------------------------------------------------------------------

    def changes(self) -> None:
        after = reach(self.start.subject.root, values=True)
        draws = _draws(self.watched.ops, self.start.reached.modules)
        self.found.say("random", [*draws, *self._streams()])
        self._inputs(self.outcome)
        self._changes(changed(self.start.reached.tokens, after.tokens))
        self.found.say("aliases", _aliases(self.watched.aliases))

    def _inputs(self, outcome: Returned) -> None:
        lines = _first_writes(self.watched.ops)
        names = self.runs.names or []
        before, after = self.runs.example.leaves(), outcome.inputs.leaves()
        written = [ref.path for ref in lines if ref.kind == "input"]
        if len(names) == len(before) == len(after):
            for name, old, new in zip(names, before, after, strict=True):
                if name not in written and _moved(old, new):
                    written.append(name)
        self.found.add(written=tuple(written), rebuilt=outcome.rebuilt)
        self.found.say(
            "writes_inputs",
            [f"writes to {name}{_at(lines.get(StateRef('input', name)))}" for name in written],
        )

    def _changes(self, changes: Sequence[Change]) -> None:
        lines = _first_writes(self.watched.ops)
        seen = {change.ref for change in changes}
        # A write by way of .data leaves no trace in the parameter itself.
        state = [Change(ref) for ref in lines if ref.kind != "input" and ref not in seen]
        every = (*changes, *state)
        at = {ref: op.where for ref, op in lines.items()}
        silent = [item.ref for item in every if item.ref not in lines]
        if silent:
            runs = self.runs
            at |= changed_at(runs.subject, runs.example, runs.seed, silent)
        self.found.add(changed=every, written_at={ref: line for ref, line in at.items() if line})
        # All of them: the note shows the first, and counts the others.
        modules = {ref: op.module for ref, op in lines.items()}
        said = (f"{i}{_place(modules.get(i.ref, ''), at.get(i.ref))}" for i in every)
        self.found.add(changes=tuple(dict.fromkeys(said)))

    def _streams(self) -> list[str]:
        """Return the draws from Python's and numpy's global streams; one more run finds lines."""
        runs = self.runs
        if not self.watched.streams:
            return []
        draws = draws_from(runs.subject, runs.example, runs.seed, self.watched.streams)
        known = {draw.what for draw in draws}
        return [
            *(f"{draw.what}{_in(draw.module)}, {draw.line}" for draw in draws),
            *(stream for stream in self.watched.streams if stream not in known),
        ]

    # -- again, and again --------------------------------------------------------------------------

    def repetition(self) -> None:
        """Say if eager does not agree with itself, or only its first call differs."""
        row, changes = self.row, self.found.so_far.changed
        again = self.runs.run(self.runs.subject.copy() if changes else self.start.subject)
        steady = not _differ(row[1], row[2])
        if not self._agree(row[0], again):
            first = row[0]
            self._unrepeatable(
                compare(first, again, Tolerance()) if isinstance(first, Returned) else []
            )
        elif steady and _differ(row[0], row[1]):
            causes = [str(item) for item in changes if item.ref.kind != "hooks"]
            said = f": it changed {', '.join(causes[:4])}" if causes else ""
            self.found.add(warm_up=f"the first call differs from the later ones{said}")

    def _agree(self, clean: Outcome, again: Outcome) -> bool:
        """Return True if fresh copies agree: a used copy, or watching, may cause a difference."""
        if not _differ(clean, again) and not _differ(self.outcome, clean):
            return True
        return not any(_differ(clean, self.runs.run(self.runs.subject.copy())) for _ in range(2))

    def _unrepeatable(self, differences: Sequence[Difference]) -> None:
        text = "two calls on equal inputs, from equal state and seed, differ"
        op = self._first_difference()
        causes = [
            str(item)
            for item in self.found.so_far.changed
            if item.ref.kind in ("global", "class attribute")
        ]
        if op is not None:
            text += f", first at {op.in_torch}{_in(op.module)}"
        if causes:
            text += f"; forward changes {', '.join(causes[:3])}, which copies share"
        where = op.where if op is not None else None
        self.found.add(unrepeatable=text, where=where, differences=tuple(differences))

    def _first_difference(self) -> Step | None:
        """Return the first operator whose output differs between two runs."""
        for _ in range(PAIRS):
            left, right = (
                self.runs.watch(
                    self.runs.subject.copy(), fill=Fill(*_FILLS[0]), recorded="digests"
                ).ops
                for _ in range(2)
            )
            for one, other in zip(left, right, strict=False):
                sides = [(step.operator, step.where, step.results) for step in (one, other)]
                if sides[0] != sides[1]:
                    return one
        return None

    # -- uninitialized memory ----------------------------------------------------------------------

    def memory(self) -> None:
        """Say if the output depends on memory that was left uninitialized, and at which line."""
        bare = [op for op in self.watched.ops if op.bare]
        if not bare or not self._depends(None):
            return
        lines = list(dict.fromkeys(op.where for op in bare if op.where))
        guilty = [line for line in lines[:MAX_CANDIDATES] if len(lines) == 1 or self._depends(line)]
        ops = [op for op in _unique(bare) if op.where in guilty] or bare[:1]
        self.found.say(
            "uninitialized", [f"{op.in_torch} is never initialized{_at(op)}" for op in ops]
        )
        text = f"the output depends on memory that {ops[0].in_torch} left uninitialized"
        self.found.add(unrepeatable=text + _in(ops[0].module), where=ops[0].where)

    def _depends(self, line: SourceLine | None) -> bool:
        """Return True if the content of uninitialized memory (of a line, or all) has an effect."""
        one, other = (
            self.runs.watch(self.runs.subject.copy(), fill=Fill(number, whole, line)).outcome
            for number, whole in _FILLS
        )
        if self.found.so_far.unrepeatable is not None:
            # A difference between two runs with the same filling has another reason.
            again = self.runs.watch(self.runs.subject.copy(), fill=Fill(*_FILLS[0], line)).outcome
            if _differ(one, again):
                return False
        return _differ(one, other) or (isinstance(other, Returned) and _differ(other, one))


# -- sentences -------------------------------------------------------------------------------------


def _at(op: Step | None) -> str:
    """Return `` in block, net.py:12  x = ...``, as far as it is known."""
    return _place(op.module, op.where) if op is not None else ""


def _place(module: str, line: SourceLine | None) -> str:
    return _in(module) + (f", {line}" if line else "")


def _in(module: str) -> str:
    return f" in {module}" if module else ""


def _unique(ops: Sequence[Step]) -> list[Step]:
    return list({(op.operator, op.where, op.module): op for op in reversed(ops)}.values())[::-1]


def _first_writes(ops: Sequence[Step]) -> dict[StateRef, Step]:
    """Return for each place that operators write to the first one that does."""
    found: dict[StateRef, Step] = {}
    for op in ops:
        for ref in op.writes:
            found.setdefault(ref, op)
    return found


def _draws(ops: Sequence[Step], modules: Mapping[str, torch.nn.Module]) -> Iterator[str]:
    root = modules.get("")
    evaluating = root is not None and not getattr(root, "training", False)
    for op in _unique([op for op in ops if op.draws]):
        part = modules.get(op.module)
        if not _is_dropout(op):
            yield f"{op.in_torch}{_at(op)}"
        elif isinstance(part, _DROPOUT):
            left = ", left in training mode" if evaluating else ""
            name = f"{op.module or 'the module'} ({type(part).__name__}{left})"
            yield f"{name} drops at random" + (f", {op.where}" if op.where else "")
        elif evaluating:
            advice = "dropout is active in eval mode (pass training=self.training)"
            yield f"{advice}{_at(op)}"
        else:
            yield f"dropout{_at(op)}"


def _is_dropout(op: Step) -> bool:
    text = op.where.text if op.where is not None else ""
    return "dropout" in op.via or (not op.via and "dropout" in text)


def _aliases(pairs: Sequence[tuple[str, StateRef]]) -> list[str]:
    return [
        f"{output} shares memory with {ref.path if ref.kind == 'input' else ref}"
        for output, ref in pairs
    ]


def _leaf_names(subject: Subject, example: Call) -> list[str] | None:
    try:
        signature = subject.signature()
        found = signature.parameters.values() if signature is not None else ()
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        names = [item.name for item in found if item.kind in positional]
        rest = [item.name for item in found if item.kind is inspect.Parameter.VAR_POSITIONAL]
        leaves, _ = flatten_call(example, names, rest[0] if rest else "args")
        return [path for path, _ in leaves]
    except Exception:
        return None


# -- comparing -------------------------------------------------------------------------------------


def _differ(expected: Outcome, actual: Outcome) -> bool:
    """Return True if outcomes differ by more than rounding, which may depend on alignment."""
    if not isinstance(expected, Returned):
        return False
    return bool(compare(expected, actual, Tolerance()))


def _moved(old: Any, new: Any) -> bool:
    if not isinstance(old, torch.Tensor) or not isinstance(new, torch.Tensor):
        return False
    if old.shape != new.shape:
        return True
    return old.device == new.device and differ(old, new)


# -- the parts of a module, without running it -----------------------------------------------------

# torch's modules that draw at random in training mode.
_DROPOUT = (
    torch.nn.Dropout,
    torch.nn.Dropout1d,
    torch.nn.Dropout2d,
    torch.nn.Dropout3d,
    torch.nn.AlphaDropout,
    torch.nn.FeatureAlphaDropout,
)
_READ_TRAINING_FLAG = (
    *_DROPOUT,
    torch.nn.BatchNorm1d,
    torch.nn.BatchNorm2d,
    torch.nn.BatchNorm3d,
    torch.nn.SyncBatchNorm,
    torch.nn.InstanceNorm1d,
    torch.nn.InstanceNorm2d,
    torch.nn.InstanceNorm3d,
    torch.nn.RReLU,
    torch.nn.RNNBase,
    torch.nn.MultiheadAttention,
)


def left_in_training(
    module: torch.nn.Module | None, reached: Reached, ran: Collection[str] | None = None
) -> list[str]:
    """Return a sentence for each part still in training mode in a module that is not.

    ``ran``: the paths of the parts that ran in training mode; None if that is not known. A copy
    that does not run may be in training mode.
    """
    if module is None or getattr(module, "training", True):
        return []
    hidden = _hidden(reached)
    return [
        f"{path} ({type(part).__name__}) is still in training mode"
        for path, part in reached.modules.items()
        if (ran is None or path in ran)
        and getattr(part, "training", False)
        and (path not in hidden or _reads_training_flag(part))
    ]


def unregistered(module: torch.nn.Module | None, reached: Reached) -> list[str]:
    """Return a sentence for each class of modules with state that only a plain object holds.

    It names the first one: a list may hold the layers of a whole network.
    """
    if module is None:
        return []
    paths: dict[type, list[str]] = {}
    for path in reached.unregistered:
        part = reached.modules.get(path)
        if part is not None and (
            _has_state(part) or any(map(_reads_training_flag, part.modules()))
        ):
            paths.setdefault(type(part), []).append(path)
    return [
        f"{first} ({cls.__name__}) is in no register of its parent: .to(), .eval() and state_dict "
        f"pass it by{f', and {len(others)} more of its class' if others else ''}"
        for cls, (first, *others) in paths.items()
    ]


def _hidden(reached: Reached) -> frozenset[str]:
    """Return the paths of the unregistered modules and of their parts."""
    return frozenset(
        path
        for path in reached.modules
        for root in reached.unregistered
        if path == root or path.startswith(f"{root}.")
    )


def _reads_training_flag(part: torch.nn.Module) -> bool:
    """Return True if the training flag can make a difference to a module: not to an activation."""
    if isinstance(part, _READ_TRAINING_FLAG):
        return True
    method = getattr(type(part), "forward", None)
    code = getattr(method, "__code__", None)
    own = not type(part).__module__.startswith("torch.")
    return own and code is not None and "training" in code.co_names


def _has_state(part: torch.nn.Module) -> bool:
    return any(True for _ in part.parameters()) or any(True for _ in part.buffers())
