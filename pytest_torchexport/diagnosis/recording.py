"""Record every operator of one run, of eager or of an artifact, with what it was given and made.

Both sides are recorded by the same dispatch mode, which also sees the operators inside TorchScript
and inside programs. Separate from ``introduced``, which compares two recordings.
"""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import Any

import torch

from pytest_torchexport.eager.watch import storage_of, submodules
from pytest_torchexport.inputs.pytrees import copy_tensor, flatten
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.grad_mode import GradMode
from pytest_torchexport.outcomes.observe import Outcome, named_tensors, observe
from pytest_torchexport.outcomes.operator_table import of_kind
from pytest_torchexport.outcomes.operators import (
    as_it_is,
    dispatched,
    name_of,
    tensors_among,
    written_to,
)
from pytest_torchexport.outcomes.users_lines import UsersLines
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.torch_private.dispatcher import Handle, is_operator, schema_of

MOST_STEPS = 50_000
# Results are kept whole up to so many bytes in all; of further ones, a sample.
KEPT = 2**29
SAMPLED = 4096
# The operator that reads a number of Python's from a tensor.
READ = "_local_scalar_dense"
# What only passes a value on: a step of one side that the other side need not have.
_PASSES_ON = of_kind("passes_on")


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
    name: str = ""
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
    from. ``results`` are empty if it raised. ``ordinal``: which operator of the run it is, counted
    from 1, with those that are no steps.
    """

    name: str
    operator: Any
    arguments: Mapping[str, Any]
    sources: frozenset[int]
    results: tuple[Result, ...]
    ordinal: int = 0
    where: SourceLine | None = None
    module: str = ""

    @property
    def operator_name(self) -> str:
        """``aten.view``."""
        return str(self.operator).rpartition(".")[0]

    @property
    def read(self) -> tuple[float, ...]:
        """The number that Python reads from a tensor here; none for a complex one."""
        found = [result.numbers for result in self.results] if self.name == READ else []
        return tuple(float(number) for number in found if isinstance(number, (bool, int, float)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """One run. ``last`` has the source of each tensor that it returned or left, by path.

    ``raised``: the number of the step that raised, None if none did. ``complete``: every step was
    recorded.
    """

    outcome: Outcome
    steps: tuple[Step, ...]
    last: Mapping[str, Source]
    raised: int | None = None
    complete: bool = True


def record(
    function: Callable[..., Any],
    call: Call,
    *,
    seed: int,
    grad_mode: GradMode = GradMode.NO_GRAD,
    module: torch.nn.Module | None = None,
    run_operator: Handle = as_it_is,
) -> Recording:
    """Run a function on a clone of a call, and record its operators.

    ``module`` holds its state; its parts name the steps, and its tensors are among those it leaves.
    ``run_operator(operator, args, kwargs)`` runs each of them.
    """
    recorder = _Recorder(module, run_operator)

    def run(*args: Any, **kwargs: Any) -> Any:
        recorder.begin(Call(args, kwargs))
        with submodules(recorder.enter, recorder.leave), recorder.recording(run.__code__):
            value = function(*args, **kwargs)
        recorder.ended(Call(args, kwargs), value)
        return value

    outcome = observe(run, call, seed=seed, grad_mode=grad_mode)
    return recorder.done(outcome)


@dataclass
class _Recorder:
    module: torch.nn.Module | None
    run_operator: Handle
    steps: list[Step] = field(default_factory=list)
    last: dict[str, Source] = field(default_factory=dict)
    raised: int | None = None
    complete: bool = True
    _ran: int = 0
    _kept: int = 0
    _parts: dict[int, str] = field(default_factory=dict)
    _stack: list[str] = field(default_factory=list)
    _lines: UsersLines = field(default_factory=UsersLines)
    _boundary: Any = None
    _names: dict[int, str] = field(default_factory=dict)
    # Of each tensor: the step that made it; of its memory: the last step that wrote to it.
    _made: dict[int, tuple[weakref.ref[torch.Tensor], Source]] = field(default_factory=dict)
    _wrote: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for path, part in self.module.named_modules() if self.module is not None else ():
            self._parts[id(part)] = f"{path} ({type(part).__name__})" if path else ""

    def begin(self, call: Call) -> None:
        leaves = [*state_of(self.module), *call.flatten("inputs")[0]]
        self._names = {id(leaf): path for path, leaf in leaves if isinstance(leaf, torch.Tensor)}

    def recording(self, boundary: Any) -> AbstractContextManager[None]:
        self._boundary = boundary
        return dispatched(self.operator)

    def enter(self, module: torch.nn.Module) -> None:
        inherited = self._stack[-1] if self._stack else ""
        self._stack.append(self._parts.get(id(module), inherited))

    def leave(self) -> None:
        if self._stack:
            self._stack.pop()

    def operator(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one operator and record it."""
        name = name_of(func) if is_operator(func) else ""
        if name == READ and not isinstance(args[0], torch.Tensor):
            return args[0]  # a trace gives it the number itself
        self._ran += 1
        self.complete = self.complete and len(self.steps) < MOST_STEPS
        if not name or not self.complete:
            return self.run_operator(func, args, kwargs)
        where = self._line_of(name, sys._getframe(2))
        arguments = {key: self._seen(value) for key, value in _bound(func, args, kwargs)}
        written = [value for key, value in _bound(func, args, kwargs) if key in written_to(func)]
        step = functools.partial(
            Step,
            name=name,
            operator=func,
            arguments=arguments,
            sources=frozenset(_steps_in(arguments)),
            ordinal=self._ran,
            where=where,
            module=self._stack[-1] if self._stack else "",
        )
        if self.raised is not None:
            self.raised = None  # an exception that forward caught
        try:
            out = self.run_operator(func, args, kwargs)
        except BaseException:
            self.raised = len(self.steps)
            self.steps.append(step(results=()))
            raise
        if name in _PASSES_ON or _is_whole_slice(name, arguments):
            self._pass_on(arguments, out)
            return out
        number = len(self.steps)
        made = [leaf for _, leaf in flatten(out)[0]]
        self.steps.append(step(results=tuple(self._result(leaf) for leaf in made)))
        for tensor in tensors_among(written):
            self._wrote[storage_of(tensor)] = number
        for tensor in tensors_among(made):
            self._made[id(tensor)] = weakref.ref(tensor), FromStep(number)
            if not _is_view(func):
                self._wrote[storage_of(tensor)] = number
        self._wrote.pop(0, None)
        return out

    def _line_of(self, name: str, frame: FrameType) -> SourceLine | None:
        if name == READ:
            return self._lines.of_a_read(frame, self._boundary)
        return self._lines.innermost(frame, self._boundary)[0]

    def ended(self, call: Call, value: Any) -> None:
        """Look where the returned tensors, the inputs and the module's tensors come from."""
        leaves = flatten(value, "output")[0] + call.flatten("inputs")[0]
        leaves += list(state_of(self.module))
        self.last = {
            path: self._source(leaf) for path, leaf in leaves if isinstance(leaf, torch.Tensor)
        }

    def done(self, outcome: Outcome) -> Recording:
        return Recording(
            outcome=outcome,
            steps=tuple(self.steps),
            last=self.last,
            raised=self.raised,
            complete=self.complete,
        )

    def _seen(self, value: Any) -> Any:
        """Return an argument with a Source in place of each tensor."""
        if isinstance(value, torch.Tensor):
            return self._source(value)
        if isinstance(value, (list, tuple)):
            return [self._seen(item) for item in value]
        return value

    def _source(self, tensor: torch.Tensor) -> Source:
        """Return the last step that made the tensor or wrote to its memory."""
        held, made = self._made.get(id(tensor), (None, None))
        made = made if held is not None and held() is tensor else None
        wrote = self._wrote.get(storage_of(tensor))
        if isinstance(made, FromStep):
            return FromStep(max(made.step, -1 if wrote is None else wrote))
        if wrote is not None:
            return FromStep(wrote)
        return made or FromOutside(tensor, self._names.get(id(tensor), ""))

    def _pass_on(self, arguments: Mapping[str, Any], out: Any) -> None:
        """Give the result the source of the operand."""
        source = next((item for item in arguments.values() if isinstance(item, Source)), None)
        if isinstance(source, FromOutside) and source.where is None:
            where, _ = self._lines.innermost(sys._getframe(3), self._boundary)
            source = replace(source, where=where)
        if isinstance(out, torch.Tensor) and source is not None:
            self._made[id(out)] = weakref.ref(out), source

    def _result(self, value: Any) -> Result:
        if not isinstance(value, torch.Tensor):
            return Result((), type(value), value)
        try:
            return self._numbers(value.detach())
        except Exception:  # nested, sparse or quantized in a way that has no clone
            return Result(tuple(value.shape), value.dtype, None, whole=False)

    def _numbers(self, tensor: torch.Tensor) -> Result:
        shape = () if tensor.is_nested else tuple(tensor.shape)
        size = tensor.numel() * tensor.itemsize
        if self._kept + size <= KEPT:
            self._kept += size
            return Result(shape, tensor.dtype, copy_tensor(tensor))
        flat = tensor.reshape(-1)
        sample = flat[:: max(1, flat.numel() // SAMPLED)].clone()
        return Result(shape, tensor.dtype, sample, whole=False)


def _is_whole_slice(name: str, arguments: Mapping[str, Any]) -> bool:
    """Return True for ``x[:]``: of ``x[:, 1:]`` eager leaves it out, and a trace does not."""
    if name != "slice":
        return False
    start, end = arguments["start"], arguments["end"]
    return start in (None, 0) and end in (None, sys.maxsize) and arguments["step"] == 1


@functools.lru_cache(maxsize=4096)
def _parameters(func: Any) -> tuple[tuple[str, Any, bool], ...]:
    """Return name, default and whether it is keyword-only of each argument of an operator."""
    arguments = schema_of(func).arguments
    return tuple((item.name, item.default_value, item.kwarg_only) for item in arguments)


def _bound(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return every argument by name, those that were not given with their default."""
    return [
        (name, args[index])
        if index < len(args) and not by_keyword
        else (name, kwargs.get(name, default))
        for index, (name, default, by_keyword) in enumerate(_parameters(func))
    ]


def _is_view(func: Any) -> bool:
    """Return True if an operator returns memory that it was given."""
    return any(item.alias_info is not None for item in schema_of(func).returns)


def _steps_in(value: Any) -> Iterator[int]:
    """Yield the steps that an argument's tensors come from."""
    if isinstance(value, FromStep):
        yield value.step
    elif isinstance(value, Mapping):
        yield from _steps_in(list(value.values()))
    elif isinstance(value, list):
        for item in value:
            yield from _steps_in(item)


def state_of(module: torch.nn.Module | None) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield a module's tensors by name; nothing if there is no module."""
    if module is not None:
        yield from named_tensors(module)
