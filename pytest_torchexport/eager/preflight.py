"""Is eager a reference at all? Run before anything is exported, and say what the reader should know of it.

Some five forwards on copies of the subject: three in a row on one, a watched and a clean one on another;
more only where those show a reason. Each finding names the submodule and the user's line where they are known.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import inspect
import random
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch

from pytest_torchexport.eager import set_order
from pytest_torchexport.eager.fingerprint import Reached, changed, fingerprint, reach
from pytest_torchexport.eager.state_ref import Change, StateRef
from pytest_torchexport.eager.watch import Fill, Op, Watched, streams, watch
from pytest_torchexport.inputs.spec import Call, flatten_call
from pytest_torchexport.outcomes.compare import Tolerance, compare
from pytest_torchexport.outcomes.limits import TimeLimitExceeded
from pytest_torchexport.outcomes.messages import is_users, source_line
from pytest_torchexport.outcomes.observe import Outcome, Returned, differ, observe
from pytest_torchexport.outcomes.subject import Subject
from pytest_torchexport.results.source_line import SourceLine

__all__ = ["Findings", "changed", "examine", "fingerprint"]

MAX_SENTENCES = 8
MAX_CANDIDATES = 4
MAX_EVENTS = 20_000
# Pairs of runs after which a difference that comes and goes is left without a line.
PAIRS = 3

# Two fillings under which whatever reads such memory differs: nan shows in products with zero, one in
# comparisons and clamps; as an index both stay in bounds.
_FILLS = ((1.0, 1), (float("nan"), 0))

# What makes a run differ from the next without any state: C functions by module and name.
_CLOCKS = {
    "time": None,
    "posix": ("urandom", "getpid", "times"),
    "nt": ("urandom", "getpid", "times"),
    "datetime": None,
    "_uuid": None,
    "builtins": ("id",),
    "random": ("seed", "random", "getrandbits"),
    "torch._C": ("seed",),
}


_DROPOUT = (
    torch.nn.Dropout,
    torch.nn.Dropout1d,
    torch.nn.Dropout2d,
    torch.nn.Dropout3d,
    torch.nn.AlphaDropout,
    torch.nn.FeatureAlphaDropout,
)


@dataclass(frozen=True)
class Findings:
    """What there is to say about eager, in sentences; nothing where all is well.

    ``unrepeatable`` is set where eager does not agree with itself, with ``where`` it first does not;
    ``uninitialized`` says that memory nobody initialized is why. ``changed`` are the places behind
    ``changes``, ``written`` the paths of the inputs behind ``writes_inputs``.
    ``complete`` is False where a run raised (or the subject cannot be copied): the rest was not looked at.
    """

    random: tuple[str, ...] = ()
    uninitialized: tuple[str, ...] = ()
    unrepeatable: str | None = None
    where: SourceLine | None = None
    writes_inputs: tuple[str, ...] = ()
    written: tuple[str, ...] = ()
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
    """What eager does with the example besides returning. ``subject`` is never run: only copies of it.

    ``names`` are the paths of the call's leaves; without, forward's own signature says them. Never raises
    for an odd model: what is known by then is returned.
    """
    examination = _Examination(subject, example, seed, names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the clean runs of the check say them once
        for step in examination.steps():
            try:
                more = step()
            except (KeyboardInterrupt, TimeLimitExceeded):
                raise
            except BaseException:
                more, examination.complete = False, False
            if not more:
                break
    return Findings(**examination.found, complete=examination.complete)


@dataclass
class _Examination:
    subject: Subject
    example: Call
    seed: int
    names: Sequence[str] | None
    found: dict[str, Any] = field(default_factory=dict)
    complete: bool = True
    watched: Watched = field(init=False)
    reached: Reached = field(init=False)
    first: Subject = field(init=False)
    row: list[Outcome] = field(init=False)

    def steps(self) -> list[Callable[[], bool]]:
        """In this order; one that returns False is the last."""
        return [self.look, self.run, self.watch, self.repeat, self.fill]

    # -- without running it ------------------------------------------------------------------------

    def look(self) -> bool:
        if self.names is None:
            self.names = _leaf_names(self.subject, self.example)
        self.first = self.subject.copy()
        self.reached = reach(self._root(self.first), values=True)
        self._say("training", _training(self.first.module, self.reached))
        self._say("unregistered", _unregistered(self.first.module, self.reached))
        with contextlib.suppress(Exception):
            self._say("set_order", _set_order(self.first, self.reached))
        return True

    def run(self) -> bool:
        """Three clean calls in a row. Before anything is watched: a first call may load torch._dynamo."""
        copy = self.subject.copy()
        self.row = [self._run(copy) for _ in range(3)]
        self.complete = all(isinstance(outcome, Returned) for outcome in self.row)
        return isinstance(self.row[0], Returned)

    # -- one watched run ---------------------------------------------------------------------------

    def watch(self) -> bool:
        self.watched = self._watch(self.first, self.reached)
        if not isinstance(self.watched.outcome, Returned):
            # It cannot bear being watched: without its operators, the rest is still known.
            self.first = self.subject.copy()
            self.reached = reach(self._root(self.first), values=True)
            self.watched = self._watch(self.first, self.reached, operators=False)
        if not isinstance(self.watched.outcome, Returned):
            self.complete = False
            return False
        after = reach(self._root(self.first), values=True)
        self._say("random", [*_draws(self.watched.ops, self._modules()), *self._streams()])
        self._inputs(self.watched.outcome)
        self._changes(changed(self.reached.tokens, after.tokens))
        self._say("aliases", _aliases(self.watched.aliases))
        return True

    def _inputs(self, outcome: Returned) -> None:
        lines = _first_writes(self.watched.ops)
        names = self.names or []
        before, after = self.example.leaves(), outcome.inputs.leaves()
        written = [ref.path for ref in lines if ref.kind == "input"]
        if len(names) == len(before) == len(after):
            for name, old, new in zip(names, before, after, strict=True):
                if name not in written and _moved(old, new):
                    written.append(name)
        self.found["written"] = tuple(written)
        self._say(
            "writes_inputs",
            [f"writes to {name}{_at(lines.get(StateRef('input', name)))}" for name in written],
        )

    def _changes(self, changes: Sequence[Change]) -> None:
        lines = _first_writes(self.watched.ops)
        seen = {change.ref for change in changes}
        # A write by way of .data leaves no trace in the parameter itself.
        state = [Change(ref) for ref in lines if ref.kind != "input" and ref not in seen]
        every = (*changes, *state)
        self.found["changed"] = every
        self._say(
            "changes", [f"{item}{self._written(item, lines.get(item.ref))}" for item in every]
        )

    def _written(self, change: Change, op: Op | None) -> str:
        """Where a change was made: by the operator that said so, or by the only line that could."""
        op = op or self._kernel(change.ref)
        if op is not None:
            return _at(op)
        if change.happened == "gone":
            return ""
        return _stored(self.subject, self.reached, change.ref)

    def _kernel(self, ref: StateRef) -> Op | None:
        """The operator that may have written a buffer without saying so (batch norm's statistics)."""
        owner = ref.path.rpartition(".")[0]
        if ref.kind != "buffer":
            return None
        inside = [op for op in self.watched.ops if op.module == owner]
        normed = [op for op in inside if "norm" in op.name]
        return normed[0] if normed else None

    def _streams(self) -> list[str]:
        """Draws from Python's and numpy's global streams: one more run tells their lines."""
        if not self.watched.streams:
            return []
        subject = self.subject.copy()
        parts = {id(part): path for path, part in _named(subject)}
        finder = _StreamFinder(self.watched.streams, parts)
        observe(_traced(subject.function, finder), self.example, seed=self.seed)
        known = {stream for stream, _ in finder.found}
        return [
            *(f"{stream}{where}" for stream, where in finder.found),
            *(stream for stream in self.watched.streams if stream not in known),
        ]

    # -- again, and again --------------------------------------------------------------------------

    def repeat(self) -> bool:
        row = self.row
        again = self._run(self.first if not self.found["changed"] else self.subject.copy())
        steady = not _differ(row[1], row[2])
        if not self._repeats(row[0], again):
            self._unrepeatable()
        elif steady and _differ(row[0], row[1]):
            causes = [str(item) for item in self.found["changed"] if item.ref.kind != "hooks"]
            said = f": it changed {', '.join(causes[:4])}" if causes else ""
            self.found["warm_up"] = f"the first call differs from the later ones{said}"
        return self.found.get("unrepeatable") is None or self._bare() != []

    def _repeats(self, clean: Outcome, again: Outcome) -> bool:
        """What differs on a copy that ran before, or in a watched run, may be their doing: fresh copies
        decide.
        """
        if not _differ(clean, again) and not _differ(self.watched.outcome, clean):
            return True
        return not any(_differ(clean, self._run(self.subject.copy())) for _ in range(2))

    def _unrepeatable(self) -> None:
        text = "two calls on equal inputs, from equal state and seed, differ"
        op = self._first_difference()
        causes = [
            str(item)
            for item in self.found["changed"]
            if item.ref.kind in ("global", "class attribute")
        ]
        suspect = _suspect(self.subject, self.example, self.seed)
        if op is not None:
            text += f", first at {op.short}" + (f" in {op.module}" if op.module else "")
        if causes:
            text += f"; forward changes {', '.join(causes[:3])}, which copies share"
        elif suspect is not None:
            text += f"; forward calls {suspect[0]}"
        self.found["unrepeatable"] = text
        self.found["where"] = (op and op.line) or (suspect and suspect[1])

    def _first_difference(self) -> Op | None:
        """The first operator whose output differs between two runs while those before it agree."""
        for _ in range(PAIRS):
            left, right = (
                self._watch(self.subject.copy(), fill=Fill(*_FILLS[0]), digests=True).ops
                for _ in range(2)
            )
            for one, other in zip(left, right, strict=False):
                if (one.name, one.line, one.digest) != (other.name, other.line, other.digest):
                    return one
        return None

    # -- memory that nobody initialized ------------------------------------------------------------

    def _bare(self) -> list[Op]:
        return [op for op in self.watched.ops if op.uninitialized]

    def fill(self) -> bool:
        bare = self._bare()
        if not bare or not self._depends(None):
            return False
        lines = list(dict.fromkeys(op.line for op in bare if op.line))
        guilty = [line for line in lines[:MAX_CANDIDATES] if len(lines) == 1 or self._depends(line)]
        ops = [op for op in _unique(bare) if op.line in guilty] or bare[:1]
        self._say("uninitialized", [f"{op.short} is never initialized{_at(op)}" for op in ops])
        self.found["unrepeatable"] = (
            f"the output depends on memory that {ops[0].short} left uninitialized"
            + (f" in {ops[0].module}" if ops[0].module else "")
        )
        self.found["where"] = ops[0].line
        return True

    def _depends(self, line: SourceLine | None) -> bool:
        """Whether what such memory held (that of one line, or all of it) changes what eager does."""
        one, other = (
            self._watch(self.subject.copy(), fill=Fill(number, whole, line)).outcome
            for number, whole in _FILLS
        )
        if self.found.get("unrepeatable") is not None:
            # What differs under one filling alike has another reason.
            again = self._watch(self.subject.copy(), fill=Fill(*_FILLS[0], line)).outcome
            if _differ(one, again):
                return False
        return _differ(one, other) or (isinstance(other, Returned) and _differ(other, one))

    # -- helpers -----------------------------------------------------------------------------------

    def _root(self, subject: Subject) -> Any:
        return subject.module if subject.module is not None else subject.function

    def _run(self, subject: Subject) -> Outcome:
        return observe(subject.function, self.example, seed=self.seed)

    def _watch(
        self,
        subject: Subject,
        reached: Reached | None = None,
        *,
        fill: Fill | None = None,
        digests: bool = False,
        operators: bool = True,
    ) -> Watched:
        reached = reached if reached is not None else reach(self._root(subject))
        return watch(
            subject,
            self.example,
            self.seed,
            names=self.names,
            known=reached.tensors,
            parts=reached.parts,
            fill=fill,
            digests=digests,
            operators=operators,
        )

    def _modules(self) -> Mapping[str, torch.nn.Module]:
        return self.reached.modules

    def _say(self, name: str, sentences: Sequence[str]) -> None:
        kept = list(dict.fromkeys(sentences))
        more = len(kept) - MAX_SENTENCES
        self.found[name] = (*kept[:MAX_SENTENCES], *([f"and {more} more"] if more > 0 else ()))


# -- sentences -------------------------------------------------------------------------------------


def _at(op: Op | None) -> str:
    """`` in block, net.py:12  x = ...``, as far as it is known."""
    if op is None:
        return ""
    return (f" in {op.module}" if op.module else "") + (f", {op.line}" if op.line else "")


def _unique(ops: Sequence[Op]) -> list[Op]:
    return list({(op.name, op.line, op.module): op for op in reversed(ops)}.values())[::-1]


def _first_writes(ops: Sequence[Op]) -> dict[StateRef, Op]:
    """Return for each place that operators write to the first one that does."""
    found: dict[StateRef, Op] = {}
    for op in ops:
        for ref in op.writes:
            found.setdefault(ref, op)
    return found


def _draws(ops: Sequence[Op], modules: Mapping[str, torch.nn.Module]) -> Iterator[str]:
    root = modules.get("")
    evaluating = root is not None and not getattr(root, "training", False)
    for op in _unique([op for op in ops if op.draws]):
        part = modules.get(op.module)
        if not _is_dropout(op):
            yield f"{op.short}{_at(op)}"
        elif isinstance(part, _DROPOUT):
            left = ", left in training mode" if evaluating else ""
            name = f"{op.module or 'the module'} ({type(part).__name__}{left})"
            yield f"{name} drops at random" + (f", {op.line}" if op.line else "")
        elif evaluating:
            advice = "dropout is active in eval mode (pass training=self.training)"
            yield f"{advice}{_at(op)}"
        else:
            yield f"dropout{_at(op)}"


def _is_dropout(op: Op) -> bool:
    text = op.line.text if op.line is not None else ""
    return "dropout" in op.via or (not op.via and "dropout" in text)


def _aliases(pairs: Sequence[tuple[str, StateRef]]) -> list[str]:
    return [
        f"{output} shares memory with {ref.path if ref.kind == 'input' else ref}"
        for output, ref in pairs
    ]


def _training(module: torch.nn.Module | None, reached: Reached) -> list[str]:
    """Parts still in training mode in a module that is not."""
    if module is None or getattr(module, "training", True):
        return []
    hidden = _hidden(reached)
    return [
        f"{path} ({type(part).__name__}) is still in training mode"
        for path, part in reached.modules.items()
        if getattr(part, "training", False) and (path not in hidden or _heeds_training(part))
    ]


def _hidden(reached: Reached) -> frozenset[str]:
    """Paths of the unregistered modules and of their parts."""
    return frozenset(
        path
        for path in reached.modules
        for root in reached.unregistered
        if path == root or path.startswith(f"{root}.")
    )


_HEEDING = (
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


def _heeds_training(part: torch.nn.Module) -> bool:
    """Whether the flag can make a difference to it: an activation in a list does not care."""
    if isinstance(part, _HEEDING):
        return True
    method = getattr(type(part), "forward", None)
    code = getattr(method, "__code__", None)
    own = not type(part).__module__.startswith("torch.")
    return own and code is not None and "training" in code.co_names


def _unregistered(module: torch.nn.Module | None, reached: Reached) -> list[str]:
    """Modules with state that only a plain container or object holds."""
    if module is None:
        return []
    return [
        f"{path} ({type(part).__name__}) is in no register of its parent: .to(), .eval() and state_dict "
        "pass it by"
        for path in reached.unregistered
        if (part := reached.modules.get(path)) is not None
        and (_has_state(part) or any(map(_heeds_training, part.modules())))
    ]


def _has_state(part: torch.nn.Module) -> bool:
    return any(True for _ in part.parameters()) or any(True for _ in part.buffers())


def _set_order(subject: Subject, reached: Reached) -> list[str]:
    note = "iterates a set, whose order differs between processes"
    found: list[str] = []
    seen: set[tuple[type, frozenset[str]]] = set()
    for path, part in reached.modules.items():
        cls = type(part)
        own = {k: v for k, v in vars(part).items() if isinstance(v, (set, frozenset))}
        key = (cls, frozenset(own))
        if cls.__module__.startswith("torch.") or (key in seen and not own):
            continue
        seen.add(key)
        inside = f" in {path}" if path else ""
        start = "forward" if path or subject.function is part else _method_name(subject)
        found += [f"{note}{inside}, {line}" for line in set_order.in_class(cls, own, start)]
    if subject.module is None:
        holder = getattr(subject.function, "__self__", None)
        own = dict(vars(holder)) if hasattr(holder, "__dict__") else {}
        found += [f"{note}, {line}" for line in set_order.in_function(subject.function, own)]
    return found


def _method_name(subject: Subject) -> str:
    inner = getattr(subject.function, "func", subject.function)
    return getattr(inner, "__name__", "forward")


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


def _named(subject: Subject) -> list[tuple[str, torch.nn.Module]]:
    return list(subject.module.named_modules()) if subject.module is not None else []


# -- the line that changes a Python attribute ----


def _stored(subject: Subject, reached: Reached, ref: StateRef) -> str:
    """``, net.py:12  self.steps += 1`` for a Python attribute or a global, where only one line stores it."""
    kind = ref.kind
    owner, _, bare = ref.path.partition("[")[0].rpartition(".")
    if kind not in ("attribute", "buffer", "class attribute", "global"):
        return ""
    while owner and owner not in reached.modules and kind != "class attribute":
        owner = owner.rpartition(".")[0]  # an attribute of an object that the module holds
    parts = list(reached.modules.values())
    if kind in ("attribute", "buffer") and owner in reached.modules:
        parts = [reached.modules[owner]]
    classes = [type(part) for part in parts]
    functions = [
        function
        for cls in dict.fromkeys(classes)
        for label, function in set_order.methods(cls).items()
        if label != "__init__"
    ]
    if isinstance(subject.function, types.FunctionType):
        functions.append(subject.function)
    lines = {
        (function.__code__.co_filename, line)
        for function in functions
        for line in _store_lines(function.__code__, bare)
    }
    return f", {source_line(*lines.pop())}" if len(lines) == 1 else ""


@functools.lru_cache(maxsize=1024)
def _store_lines(code: types.CodeType, name: str) -> tuple[int, ...]:
    """The lines that store an attribute or a global of this name; else those that mention it."""
    stores, loads = set(), set()
    for instruction in dis.get_instructions(code):
        line = instruction.positions.lineno if instruction.positions is not None else None
        if line is None or instruction.argval != name:
            continue
        if instruction.opname in ("STORE_ATTR", "STORE_GLOBAL"):
            stores.add(line)
        elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_GLOBAL", "LOAD_DEREF"):
            loads.add(line)
    return tuple(stores or loads)


# -- comparing -------------------------------------------------------------------------------------


def _differ(expected: Outcome, actual: Outcome) -> bool:
    """Whether eager did two different things; beyond rounding, which memory's alignment may change."""
    if not isinstance(expected, Returned):
        return False
    return bool(compare(expected, actual, Tolerance()))


def _moved(old: Any, new: Any) -> bool:
    if not isinstance(old, torch.Tensor) or not isinstance(new, torch.Tensor):
        return False
    if old.shape != new.shape:
        return True
    return old.device == new.device and differ(old, new)


# -- who drew, who looked at the clock -------------------------------------------------------------


class _StreamFinder:
    """A trace function: at each of the user's lines, did the line before it draw from a watched stream."""

    def __init__(self, watched: Sequence[str], parts: Mapping[int, str]) -> None:
        self.found: list[tuple[str, str]] = []
        self._watched = watched
        self._parts = parts
        self._last = streams()
        self._place: tuple[str, int, str] | None = None
        self._events = 0

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not is_users(frame.f_code.co_filename) or self._events > MAX_EVENTS:
            return None
        self._events += 1
        self.check()
        back = frame.f_back
        at = back if event == "return" and back is not None else frame
        if is_users(at.f_code.co_filename):
            owner = at.f_locals.get("self")
            self._place = (at.f_code.co_filename, at.f_lineno, self._parts.get(id(owner), ""))
        return self

    def check(self) -> None:
        """Who drew since the last time."""
        now = streams()
        for name in self._watched:
            if now.get(name) != self._last.get(name) and self._place is not None:
                filename, number, module = self._place
                where = (f" in {module}" if module else "") + f", {source_line(filename, number)}"
                if (name, where) not in self.found:
                    self.found.append((name, where))
        self._last = now


def _traced(function: Callable[..., Any], finder: _StreamFinder) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        finder._last = streams()
        before = sys.gettrace()
        sys.settrace(finder)
        try:
            return function(*args, **kwargs)
        finally:
            sys.settrace(before)
            finder.check()

    return run


@contextmanager
def _profiled(handle: Callable[[FrameType, str, Any], None]) -> Iterator[None]:
    before = sys.getprofile()
    sys.setprofile(handle)
    try:
        yield
    finally:
        sys.setprofile(before)


def _suspect(subject: Subject, example: Call, seed: int) -> tuple[str, SourceLine] | None:
    """The first call of a clock, of the system's randomness or of ``id`` from the user's own lines."""
    found: list[tuple[str, SourceLine]] = []

    def handle(frame: FrameType, event: str, function: Any) -> None:
        if event != "c_call" or found:
            return
        home, name = _home(function), getattr(function, "__name__", "")
        if getattr(function, "__self__", None) is getattr(random.random, "__self__", None):
            return  # the global stream, which is seeded
        if home in _CLOCKS and name in (_CLOCKS[home] or (name,)):
            user: FrameType | None = frame
            while user is not None and not is_users(user.f_code.co_filename):
                if user.f_code is run.__code__:
                    return
                user = user.f_back
            if user is not None:
                shown = f"os.{name}" if home in ("posix", "nt") else f"{home}.{name}"
                shown = shown.removeprefix("builtins.")
                found.append((shown, source_line(user.f_code.co_filename, user.f_lineno)))

    copy = subject.copy()

    def run(*args: Any, **kwargs: Any) -> Any:
        with _profiled(handle):
            return copy.function(*args, **kwargs)

    observe(run, example, seed=seed)
    return found[0] if found else None


def _home(function: Any) -> str:
    module = getattr(function, "__module__", None)
    if isinstance(module, str):
        return module
    owner = getattr(function, "__self__", None)
    return (type(owner) if not isinstance(owner, type) else owner).__module__
