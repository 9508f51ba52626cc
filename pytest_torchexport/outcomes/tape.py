"""The tape of a run: every operator, of eager or of an artifact, with what it was given and made.

One recorder at the dispatcher, which also sees the operators inside TorchScript and inside
programs. Each ``Step`` has the operator, its arguments with the steps that they come from, its
results as far as they are to be kept, the user's line, the submodule, and the memory that it wrote
to. What a mechanism wants to know of a run is a query on its steps: draws, writes, aliases, memory
left as it was, the numbers that Python read. A recorded run only explains: verdicts come from runs
that are not recorded.

What needs the live tensors of an operator, before it writes or while autograd can still be asked,
takes each ``Operation`` as it runs (``operators.operations``), with the same vocabulary.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import traceback
import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import CodeType, FrameType
from typing import Any

import torch

from pytest_torchexport.inputs.pytrees import copy_tensor, flatten
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.messages import Pick, first_owned, innermost
from pytest_torchexport.outcomes.observe import Outcome, named_tensors, observe
from pytest_torchexport.outcomes.operator_table import READ
from pytest_torchexport.outcomes.operators import Operation, operations, tensors_among, with_tensors
from pytest_torchexport.outcomes.torch_state import GradMode
from pytest_torchexport.results.source_line import SourceLine, is_users, source_line
from pytest_torchexport.torch_private.dispatcher import schema_of
from pytest_torchexport.torch_private.memory import memory_of

# A forward that loops a million times is known after its first rounds.
MOST_STEPS = 50_000
# Results are kept whole up to so many bytes in all; of further ones, a sample.
KEPT = 2**29
SAMPLED = 4096


class UsersLines:
    """Remembers lines and files that it has met: a forward reaches a line many times."""

    def __init__(self) -> None:
        self._line = functools.cache(source_line)
        self._is_users = functools.cache(is_users)
        self._picked = functools.cache(lambda pick, paths: pick(paths))

    def to_name(
        self, frame: FrameType | None, boundary: CodeType | None, pick: Pick = innermost
    ) -> tuple[SourceLine | None, str]:
        """Return the line to name from a frame on, and the library's function that was called.

        ``pick`` says which; for a number that Python reads it is ``first_owned``, for what the user
        calls reads it. Frames from ``boundary`` on are not looked at.
        """
        frames: list[FrameType] = []
        while frame is not None and frame.f_code is not boundary:
            frames.append(frame)
            if self._is_users(frame.f_code.co_filename):
                break
            frame = frame.f_back
        number = self._picked(pick, tuple(each.f_code.co_filename for each in frames))
        via = frames[0].f_code.co_name if frames and number != 0 else ""
        if number is None:
            return None, via
        named = frames[number]
        return self._line(named.f_code.co_filename, named.f_lineno), via


def is_behind(line: SourceLine, frame: FrameType) -> bool:
    """Return True if a frame, or one that it was called from, is on a line."""
    return any(
        number == line.line and source_line(caller.f_code.co_filename, number) == line
        for caller, number in traceback.walk_stack(frame)
    )


# -- steps and their sources -----------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class FromStep:
    """A tensor that a step made, wrote to, or took a view of."""

    step: int


@dataclass(frozen=True, eq=False)
class FromOutside:
    """A tensor that no step made: a parameter, an input, a constant.

    ``name``: ``parameter head.weight``, or empty for a constant. ``where``: the user's line that
    brought it in; None if it was there before.
    """

    tensor: torch.Tensor
    name: Any = ""
    where: SourceLine | None = None


Source = FromStep | FromOutside


@dataclass(frozen=True, eq=False)
class Result:
    """The result of a step: a tensor's numbers, or a sample of them, or a number of Python's."""

    shape: tuple[int, ...]
    dtype: torch.dtype | type
    numbers: Any
    whole: bool = True


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """One operator of a run.

    ``name``: ``view`` for ``aten::view`` and ``aten::view_``. ``arguments`` are its arguments by
    name, with a Source for each tensor. ``sources`` are the numbers of the steps that they come
    from. ``results`` are what was kept of its results; empty if it raised.

    ``where`` is the user's line, ``via`` the library's Python function that called the operator
    (``dropout``), ``module`` the path of the submodule that ran. ``draws``: it drew random numbers.
    ``bare``: it returned memory that it did not initialize. ``writes``: the names of the tensors
    from outside that it wrote to.
    """

    name: str
    operator: Any
    arguments: Mapping[str, Any]
    sources: frozenset[int]
    results: tuple[Any, ...]
    where: SourceLine | None = None
    via: str = ""
    module: str = ""
    draws: bool = False
    bare: bool = False
    writes: tuple[Any, ...] = ()

    @property
    def operator_name(self) -> str:
        """``aten.view``."""
        return str(self.operator).rpartition(".")[0]

    @property
    def in_torch(self) -> str:
        """``torch.bernoulli_`` for ``aten.bernoulli_.float``."""
        space, _, rest = str(self.operator).partition(".")
        named = f"torch.{rest.partition('.')[0]}"
        return named if space == "aten" else str(self.operator).removesuffix(".default")

    @property
    def drops(self) -> bool:
        line = self.where.text if self.where is not None else ""
        return self.draws and "dropout" in (self.via or line)

    @property
    def read(self) -> tuple[float, ...]:
        """The number that Python reads from a tensor here; none for a complex one."""
        numbers = [result.numbers for result in self.results] if self.name == READ else []
        return tuple(float(number) for number in numbers if isinstance(number, (bool, int, float)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Tape:
    """One run. ``last`` has the source of each tensor that it returned or left, by path.

    ``trained`` are the paths of the submodules that ran in training mode. ``raised``: the number of
    the step that raised, None if none did. ``complete``: every step was recorded.
    """

    outcome: Outcome
    steps: tuple[Step, ...]
    last: Mapping[str, Source]
    trained: tuple[str, ...] = ()
    raised: int | None = None
    complete: bool = True


@dataclass(frozen=True, kw_only=True)
class How:
    """The ways in which a run is recorded.

    ``parts`` are the names of submodules by ``id``, and ``outside(call)`` yields names of the
    tensors that are there before the run, of which the call's are clones; by default those of the
    module and of the call. ``keep`` returns what is kept of a result, a tensor or a number; by
    default a ``Result``. ``run`` runs each operation.
    """

    parts: Mapping[int, str] | None = None
    outside: Callable[[Call], Iterable[tuple[Hashable, torch.Tensor]]] | None = None
    keep: Callable[[Any], Any] | None = None
    run: Callable[[Operation], Any] = Operation.run


def record(
    function: Callable[..., Any],
    call: Call,
    *,
    seed: int,
    grad_mode: GradMode = GradMode.NO_GRAD,
    module: torch.nn.Module | None = None,
    how: How = How(),  # frozen
) -> Tape:
    """Run a function on a clone of a call, and record its operators.

    ``module`` holds its state; its parts name the steps, and its tensors are among those it leaves.
    Run it once unrecorded before: if its first call loads torch._dynamo (``torch.cond`` does), the
    operators of that call cannot be seen.
    """
    parts = how.parts
    if parts is None:
        paths = module.named_modules() if module is not None else ()
        parts = {id(part): f"{p} ({type(part).__name__})" if p else "" for p, part in paths}
    recorder = _Recorder(parts, how.keep or _Numbers().keep, how.run)

    def run(*args: Any, **kwargs: Any) -> Any:
        given = Call(args, kwargs)
        tensors = [*named_tensors(module), *given.flatten("inputs")[0]]
        recorder.begin(tensors if how.outside is None else how.outside(given))
        with contextlib.ExitStack() as stack:
            stack.enter_context(submodules(recorder.enter, recorder.leave))
            stack.enter_context(operations(recorder.operator))
            value = function(*args, **kwargs)
        recorder.ended([*given.flatten("inputs")[0], *named_tensors(module)], value)
        return value

    recorder.boundary = run.__code__
    outcome = observe(run, call, seed=seed, grad_mode=grad_mode)
    return Tape(
        outcome=outcome,
        steps=tuple(recorder.steps),
        last=recorder.last,
        trained=tuple(recorder.trained),
        raised=recorder.raised,
        complete=recorder.complete,
    )


@dataclass
class _Recorder:
    parts: Mapping[int, str]
    keep: Callable[[Any], Any]
    run: Callable[[Operation], Any]
    boundary: CodeType | None = None
    steps: list[Step] = field(default_factory=list)
    last: dict[str, Source] = field(default_factory=dict)
    trained: dict[str, None] = field(default_factory=dict)
    raised: int | None = None
    complete: bool = True
    _stack: list[str] = field(default_factory=list)
    _lines: UsersLines = field(default_factory=UsersLines)
    # Tensors from outside: their names by themselves and by their memory. They are kept alive, or
    # another tensor in their freed memory would get their names.
    _names: dict[int, Any] = field(default_factory=dict)
    _memory: dict[int, Any] = field(default_factory=dict)
    _held: list[Any] = field(default_factory=list)
    # Of each tensor: the step that made it; of its memory: the last step that wrote to it.
    _made: dict[int, tuple[weakref.ref[torch.Tensor], Source]] = field(default_factory=dict)
    _wrote: dict[int, int] = field(default_factory=dict)

    def begin(self, outside: Iterable[tuple[Any, Any]]) -> None:
        for name, tensor in outside:
            if isinstance(tensor, torch.Tensor):
                self._held.append(tensor)
                self._names[id(tensor)] = name
                self._memory.setdefault(memory_of(tensor), name)
        self._memory.pop(0, None)

    def enter(self, module: torch.nn.Module) -> None:
        inherited = self._stack[-1] if self._stack else ""
        self._stack.append(self.parts.get(id(module), inherited))
        if getattr(module, "training", False):
            self.trained[self._stack[-1]] = None

    def leave(self) -> None:
        if self._stack:
            self._stack.pop()

    def operator(self, operation: Operation) -> Any:
        name = operation.name
        if name == READ and not isinstance(operation.operand, torch.Tensor):
            return operation.operand  # a trace gives it the number itself
        self.complete = self.complete and len(self.steps) < MOST_STEPS
        if not name or not self.complete:
            return self.run(operation)
        pick = first_owned if name == READ else innermost
        operation.where, via = self._lines.to_name(sys._getframe(3), self.boundary, pick)
        arguments = {key: with_tensors(self._source, value) for key, value in operation.arguments}
        sources = [self._source(tensor) for tensor in tensors_among(dict(operation.arguments))]
        written = list(tensors_among(operation.written))
        step = functools.partial(
            Step,
            name=name,
            operator=operation.func,
            arguments=arguments,
            sources=frozenset(each.step for each in sources if isinstance(each, FromStep)),
            where=operation.where,
            via=via if name != READ else "",
            module=self._stack[-1] if self._stack else "",
            writes=self._named(operation, written),
        )
        self.raised = None  # an exception that forward caught
        before = torch.default_generator.get_state() if operation.may_draw else None
        # One that resizes leaves the new elements alone as they are.
        grown = operation.operand.numel() if operation.leaves_memory and written else 0
        try:
            out = self.run(operation)
        except BaseException:
            self.raised = len(self.steps)
            self.steps.append(step(results=()))
            raise
        kinds, whole = operation.row.kinds, False
        if "range" in kinds:  # ``x[:]``: of ``x[:, 1:]`` eager leaves it out, and a trace does not
            ends = arguments["start"] in (None, 0) and arguments["end"] in (None, sys.maxsize)
            whole = ends and arguments["step"] == 1
        if "passes_on" in kinds or whole:
            self._pass_on(sources, out, operation.where)
            return out
        number = len(self.steps)
        made = [leaf for _, leaf in flatten(out)[0]]
        self.steps.append(
            step(
                results=tuple(map(self.keep, made)),
                draws=before is not None and _drew(before, out, operation),
                bare=operation.leaves_memory and out.numel() > grown,
            )
        )
        for tensor in written:
            self._wrote[memory_of(tensor)] = number
        # A view has memory that the operator was given.
        is_view = any(item.alias_info is not None for item in schema_of(operation.func).returns)
        for tensor in tensors_among(made):
            self._made[id(tensor)] = weakref.ref(tensor), FromStep(number)
            if not is_view:
                self._wrote[memory_of(tensor)] = number
        self._wrote.pop(0, None)
        return out

    def _named(self, operation: Operation, written: list[torch.Tensor]) -> tuple[Any, ...]:
        if "writes_no_numbers" in operation.row.kinds:
            return ()
        named = [self._memory[at] for at in map(memory_of, written) if at in self._memory]
        return tuple(dict.fromkeys(named))

    def ended(self, left: Iterable[tuple[str, Any]], value: Any) -> None:
        """Look where the returned tensors, the inputs and the module's tensors come from."""
        for path, leaf in (*flatten(value, "output")[0], *left):
            if isinstance(leaf, torch.Tensor):
                self.last[path] = self._source(leaf)

    def _source(self, tensor: torch.Tensor) -> Source:
        """Return the last step that made the tensor or wrote to its memory."""
        held, made = self._made.get(id(tensor), (None, None))
        made = made if held is not None and held() is tensor else None
        wrote = self._wrote.get(memory_of(tensor))
        if isinstance(made, FromStep):
            return FromStep(max(made.step, -1 if wrote is None else wrote))
        if wrote is not None:
            return FromStep(wrote)
        return made or FromOutside(tensor, self._names.get(id(tensor), ""))

    def _pass_on(self, sources: list[Source], out: Any, where: SourceLine | None) -> None:
        if sources and isinstance(out, torch.Tensor):
            source = sources[0]
            if isinstance(source, FromOutside) and source.where is None:
                source = replace(source, where=where)
            self._made[id(out)] = weakref.ref(out), source


@dataclass
class _Numbers:
    kept: int = 0

    def keep(self, value: Any) -> Result:
        if not isinstance(value, torch.Tensor):
            return Result((), type(value), value)
        shape, numbers, whole = () if value.is_nested else tuple(value.shape), None, False
        with contextlib.suppress(Exception):  # sparse or quantized in a way that has no clone
            numbers, whole = self._numbers(value.detach())
        return Result(shape, value.dtype, numbers, whole)

    def _numbers(self, tensor: torch.Tensor) -> tuple[torch.Tensor, bool]:
        """Return the numbers, or a sample of them, and if it has all."""
        size = tensor.numel() * tensor.itemsize
        if self.kept + size <= KEPT:
            self.kept += size
            return copy_tensor(tensor), True
        flat = tensor.reshape(-1)
        return flat[:: max(1, flat.numel() // SAMPLED)].clone(), False


def _drew(before: torch.Tensor, out: Any, operation: Operation) -> bool:
    """Return True if an operator that may draw did draw: attention without dropout does not."""
    if operation.kwargs.get("generator") is not None:
        return True
    if isinstance(out, torch.Tensor) and out.device.type != torch.device("cpu").type:
        return True
    return not torch.equal(before, torch.default_generator.get_state())


@contextmanager
def submodules(
    enter: Callable[[torch.nn.Module], None], leave: Callable[[], None]
) -> Iterator[None]:
    """Call ``enter`` when a module's call begins, and ``leave`` when it ends.

    By global hooks: a module that sees hooks on its parts may take another path (the fused one of
    ``TransformerEncoderLayer``), and a ScriptModule takes no hooks.
    """
    hooks = torch.nn.modules.module
    before = hooks.register_module_forward_pre_hook(lambda module, _: enter(module))
    after = hooks.register_module_forward_hook(lambda *_: leave(), always_call=True)
    try:
        yield
    finally:
        before.remove()
        after.remove()
