"""Watch one run of a forward: what does it do besides returning?

A dispatch mode sees each ATen operator that the forward reaches: the user's line, the submodule,
and if it draws random numbers, allocates memory without initializing it, or writes to an argument.
A watched run only explains: verdicts come from runs that are not watched.
"""

from __future__ import annotations

import contextlib
import random
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import CodeType
from typing import Any, Literal

import torch

from pytest_torchexport.eager.fingerprint import Reached, reach
from pytest_torchexport.eager.state_ref import StateRef
from pytest_torchexport.inputs.pytrees import bits_of, flatten
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.observe import Outcome, observe
from pytest_torchexport.outcomes.operator_table import row_of
from pytest_torchexport.outcomes.operators import dispatched, name_of
from pytest_torchexport.outcomes.subject import Subject
from pytest_torchexport.outcomes.users_lines import UsersLines
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.torch_private.dispatcher import schema_of
from pytest_torchexport.torch_private.memory import memory_of

# A forward that loops a million times is known after its first rounds.
MAX_OPS = 50_000


@dataclass(frozen=True)
class Op:
    """One operator that a forward reached.

    ``line`` is that of the user's innermost frame, ``module`` the path of the submodule that ran,
    ``via`` the library's Python function that called the operator (``dropout``), ``writes`` the
    inputs and the state that it wrote to. ``digest`` is a checksum of its output's bits.
    """

    name: str
    line: SourceLine | None = None
    module: str = ""
    via: str = ""
    draws: bool = False
    uninitialized: bool = False
    writes: tuple[StateRef, ...] = ()
    digest: int | None = None

    @property
    def short(self) -> str:
        """Return ``torch.bernoulli_`` for ``aten.bernoulli_.float``."""
        space, _, rest = self.name.partition(".")
        base = rest.partition(".")[0] or space
        return f"torch.{base}" if space == "aten" else self.name.removesuffix(".default")


@dataclass(frozen=True)
class Watched:
    """The result of one watched run.

    ``aliases`` pairs the path of an output with the place it shares memory with; ``streams`` are
    the global random streams outside torch that it drew from; ``trained`` are the paths of the
    parts that ran in training mode, None if that was not recorded; ``cut`` is True if operators
    after the first ``MAX_OPS`` were not recorded.
    """

    outcome: Outcome
    ops: tuple[Op, ...] = ()
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


# How much of the operators to record: nothing, all but digests, or digests of their outputs too.
Recorded = Literal["nothing", "operators", "digests"]


def watch(
    subject: Subject,
    call: Call,
    seed: int,
    *,
    names: Sequence[str] | None = None,
    reached: Reached | None = None,
    fill: Fill | None = None,
    record: Recorded = "operators",
) -> Watched:
    """Run the subject itself, not a copy, on a clone of the call, and record what it does.

    Run it once unwatched before: if its first call loads torch._dynamo (``torch.cond`` does), the
    operators of that call cannot be seen. ``names`` are the paths of the call's leaves; ``reached``
    is what ``fingerprint.reach`` found from the subject, and names its tensors and modules.
    """
    root = subject.module if subject.module is not None else subject.function
    log = _Log(reached or reach(root), fill, digests=record == "digests")

    def run(*args: Any, **kwargs: Any) -> Any:
        log.begin(Call(args, kwargs), names)
        try:
            with ExitStack() as stack:
                if record != "nothing":
                    stack.enter_context(submodules(log.enter, log.leave))
                    stack.enter_context(dispatched(log.op))
                value = subject.function(*args, **kwargs)
        finally:
            log.end()
        log.returned(value)
        return value

    log.boundary = run.__code__
    outcome = observe(run, call, seed=seed, grad_mode=subject.grad_mode)
    return Watched(
        outcome,
        tuple(log.ops),
        tuple(log.aliases),
        log.streams,
        trained=tuple(log.trained) if record != "nothing" else None,
        cut=log.cut,
    )


def streams() -> dict[str, Any]:
    """Return the states of the global random streams outside torch."""
    found: dict[str, Any] = {"Python's random": random.getstate()}
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        state = numpy.random.get_state()
        found["numpy.random"] = (state[1].tobytes(), *state[2:])
    return found


def storage_of(tensor: torch.Tensor) -> int:
    """Return a number for a tensor's memory; 0 if it has none that could be shared."""
    try:
        return memory_of(tensor)
    except Exception:
        return 0  # sparse, nested, or a subclass without one


def digest(value: Any) -> int | None:
    """Return a checksum of the bits of an operator's output; None if they cannot be read."""
    items = value if isinstance(value, (tuple, list)) else (value,)
    total = 0
    for item in items:
        data = _bytes(item)
        if data is None:
            return None
        total = zlib.crc32(data, total)
    return total


def _bytes(item: Any) -> Any:
    if not isinstance(item, torch.Tensor):
        return repr(item).encode()
    try:
        return f"{item.dtype}{tuple(item.shape)}".encode() + bits_of(item)
    except Exception:
        return None  # sparse, nested, quantized, meta


class _Log:
    """Records what happens while the forward runs."""

    def __init__(self, reached: Reached, fill: Fill | None, *, digests: bool) -> None:
        self.ops: list[Op] = []
        self.aliases: list[tuple[str, StateRef]] = []
        self.streams: tuple[str, ...] = ()
        self.trained: dict[str, None] = {}
        self.cut = False
        self.boundary: CodeType | None = None
        self._parts = reached.parts
        self._fill = fill
        self._digests = digests
        # Keeps the tensors alive: another tensor in their freed memory would get their names.
        self._held = list(reached.tensors.values())
        self._known: dict[int, StateRef] = {}
        for ref, tensor in reached.tensors.items():
            self._known.setdefault(storage_of(tensor), ref)
        self._known.pop(0, None)
        self._stack: list[str] = []
        self._streams: dict[str, Any] = {}
        self._lines = UsersLines()

    def begin(self, call: Call, names: Sequence[str] | None) -> None:
        leaves = call.flatten("input")[0]
        paths = names if names is not None and len(names) == len(leaves) else [p for p, _ in leaves]
        for path, (_, leaf) in zip(paths, leaves, strict=True):
            if isinstance(leaf, torch.Tensor):
                self._held.append(leaf)
                self._known[storage_of(leaf)] = StateRef("input", path)
        self._known.pop(0, None)
        self._streams = streams()

    def end(self) -> None:
        after = streams()
        self.streams = tuple(
            name for name, state in after.items() if self._streams.get(name, state) != state
        )

    def returned(self, value: Any) -> None:
        for path, leaf in flatten(value, "output")[0]:
            if isinstance(leaf, torch.Tensor) and storage_of(leaf) in self._known:
                self.aliases.append((path, self._known[storage_of(leaf)]))

    def enter(self, module: torch.nn.Module) -> None:
        inherited = self._stack[-1] if self._stack else ""
        path = self._parts.get(id(module), inherited)
        self._stack.append(path)
        if getattr(module, "training", False):
            self.trained[path] = None

    def leave(self) -> None:
        if self._stack:
            self._stack.pop()

    def op(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        facts = _facts(function)
        if len(self.ops) >= MAX_OPS:
            self.cut = True
            return function(*args, **kwargs)
        writes = self._names(facts, args, kwargs) if facts.writes else ()
        before = torch.default_generator.get_state() if facts.seeded else None
        grown = args[0].numel() if facts.base == "resize_" else 0
        out = function(*args, **kwargs)
        line, via = self._lines.innermost(sys._getframe(2), self.boundary)
        bare = facts.uninitialized and _numel(out) > grown
        if bare and self._fill is not None:
            _fill(out, grown, self._fill if self._fill.line in (None, line) else _ZEROS)
        self.ops.append(
            Op(
                facts.name,
                line,
                self._stack[-1] if self._stack else "",
                via,
                draws=before is not None and _drew(before, out, kwargs),
                uninitialized=bare,
                writes=writes,
                # The content of uninitialized memory is arbitrary, unless it was filled.
                digest=digest(out)
                if self._digests and (not bare or self._fill is not None)
                else None,
            )
        )
        return out

    def _names(
        self, facts: _Facts, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[StateRef, ...]:
        found: list[StateRef | None] = []
        for index, name in facts.writes:
            value = args[index] if index < len(args) else kwargs.get(name)
            items = value if isinstance(value, (list, tuple)) else (value,)
            found += [
                self._known.get(storage_of(item))
                for item in items
                if isinstance(item, torch.Tensor)
            ]
        return tuple(dict.fromkeys(ref for ref in found if ref is not None))


_ZEROS = Fill(0.0, 0)


@dataclass(frozen=True)
class _Facts:
    """The facts about an operator in its schema and tags."""

    name: str
    base: str = ""
    seeded: bool = False
    uninitialized: bool = False
    writes: tuple[tuple[int, str], ...] = ()


_known_facts: dict[Any, _Facts] = {}


def _facts(function: Any) -> _Facts:
    facts = _known_facts.get(function)
    if facts is None:
        facts = _known_facts[function] = _read_facts(function)
    return facts


def _read_facts(function: Any) -> _Facts:
    name = str(function)
    schema = schema_of(function)
    if schema is None:  # torch.cond and its kin have none
        return _Facts(name)
    base = name.split(".")[1] if "." in name else name
    ours = name.startswith("aten.")
    kinds = row_of(name_of(function)).kinds
    written = [
        (index, argument.name)
        for index, argument in enumerate(schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    return _Facts(
        name,
        base,
        seeded=torch.Tag.nondeterministic_seeded in function.tags,
        uninitialized=ours and "uninitialized" in kinds,
        writes=() if "writes_no_numbers" in kinds else tuple(written),
    )


def _numel(out: Any) -> int:
    try:
        return out.numel() if isinstance(out, torch.Tensor) else 0
    except Exception:
        return 0


def _drew(before: torch.Tensor, out: Any, kwargs: dict[str, Any]) -> bool:
    """Return True if an operator that may draw did draw: attention without dropout does not."""
    if kwargs.get("generator") is not None:
        return True
    if isinstance(out, torch.Tensor) and out.device.type != "cpu":
        return True
    return not torch.equal(before, torch.default_generator.get_state())


def _fill(out: torch.Tensor, start: int, fill: Fill) -> None:
    number = fill.number if out.is_floating_point() or out.is_complex() else fill.whole
    with contextlib.suppress(RuntimeError, NotImplementedError):  # layouts that cannot be filled
        target = out.view(-1)[start:] if start else out
        target.fill_(number)


@contextmanager
def submodules(
    enter: Callable[[torch.nn.Module], None], leave: Callable[[], None]
) -> Iterator[None]:
    """Call ``enter`` when a module's call begins, and ``leave`` when it ends.

    By global hooks: a module that sees hooks on its parts may take another path (the fused one of
    ``TransformerEncoderLayer``), and a ScriptModule takes no hooks.
    """
    from torch.nn.modules.module import (
        register_module_forward_hook,
        register_module_forward_pre_hook,
    )

    before = register_module_forward_pre_hook(lambda module, _: enter(module))
    after = register_module_forward_hook(lambda *_: leave(), always_call=True)
    try:
        yield
    finally:
        before.remove()
        after.remove()
