"""Record the outermost module calls of a test body, so that an existing test needs only a marker.

Patches ``torch.nn.Module.__call__``: keyword arguments, outputs and nesting are all visible there,
and global forward hooks do not see keyword arguments. A body that calls ``net.forward(x)`` itself,
or another method of a module, passes that by: when the first layer inside is called, it is found
among the running functions.
"""

from __future__ import annotations

import dis
import functools
import inspect
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import CodeType, FrameType, FunctionType, MethodType
from typing import Any

import torch

from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.grad_mode import GradMode, outside_inference_mode, under_autocast
from pytest_torchexport.outcomes.subject import Subject, unwrapped
from pytest_torchexport.outcomes.torch_state import module_calls_through
from pytest_torchexport.results.failures import SpecError
from pytest_torchexport.results.source_line import SourceLine, is_users, short_path, source_line
from pytest_torchexport.torch_private.circumstances import is_tracing, is_transforming

MAX_SHAPES = 8
MAX_CALLS_OF_ONE_SHAPE = 3
# A property-based test may build a module per example: only the first ones are recorded.
MAX_SUBJECTS = 16
UNKNOWN_ARGUMENTS = (
    "the test calls forward itself, and forward assigns to its arguments before it calls its first "
    "layer: what it was called with is not known. Call the module, net(x) instead of net.forward(x)"
)
# The files that run a test: no caller of these is looked at.
_RUNNERS = ("/_pytest/", "/pluggy/")


@dataclass(frozen=True)
class Caller:
    """A method that the test called, of which only a module inside is checked: ``net.encode``."""

    name: str
    place: str


@dataclass
class Recording:
    """A module as it was before its first outermost call, and its calls of one structure.

    ``problem``: why the module cannot be checked. ``returned``: if one of the calls returned.
    ``caller``: the method that called it and is not checked itself; None if there is none.
    ``wrappers``: what the test called it through (``torch.compile``). ``line``: the test's line of
    the first call; None if it is not known. ``grad_mode``: that of the first call. ``autocast``: if
    the first call was made under it.
    """

    module: Any
    calls: list[Call] = field(default_factory=list)
    shapes: Counter[Any] = field(default_factory=Counter)
    problem: SpecError | None = None
    returned: bool = False
    caller: Caller | None = None
    wrappers: tuple[str, ...] = ()
    line: SourceLine | None = None
    grad_mode: GradMode = field(default_factory=GradMode.current)
    autocast: bool = field(default_factory=lambda: bool(under_autocast()))


@dataclass(frozen=True)
class _Started:
    """A call that has not returned yet. ``call`` is None if its arguments are not known."""

    recording: Recording
    call: Call | None

    def returned(self) -> None:
        """Record the call, unless its recording has enough of these shapes, or enough shapes."""
        self.recording.returned = True
        if self.call is None:
            return
        # A nested tensor has no shape.
        shapes = tuple(
            () if tensor.is_nested else tuple(tensor.shape) for tensor in self.call.tensors()
        )
        known = self.recording.shapes
        if known[shapes] < MAX_CALLS_OF_ONE_SHAPE and len({*known, shapes}) <= MAX_SHAPES:
            self.recording.calls.append(self.call)
            known[shapes] += 1


class CallRecorder:
    """A context manager around a test body that records its module calls.

    ``body`` is the test's function, ``wanted`` returns False for a module whose calls are not to be
    copied. ``recordings``: the modules and their calls. ``left_out``: how many calls were not.
    ``uncopied``: the classes of the modules that were called with tensors that cannot be copied.
    """

    def __init__(
        self,
        body: Callable[..., Any] | None = None,
        wanted: Callable[[torch.nn.Module], bool] = lambda _: True,
    ) -> None:
        self._body = getattr(_inside_decorators(body), "__code__", None)
        self._wanted = wanted
        self._by_key: dict[Any, Recording] = {}
        self._copies: dict[Any, tuple[Any, Any, SpecError | None]] = {}
        self._local = threading.local()
        # By thread: the forward that the body called itself last, and its call.
        self._direct: dict[int, tuple[_DirectForward, _Started | None]] = {}
        self._stack = ExitStack()
        self.left_out = 0
        self.uncopied: dict[str, None] = {}

    @property
    def recordings(self) -> list[Recording]:
        """The modules that were called and returned, in order."""
        return [recording for recording in self._by_key.values() if recording.returned]

    def __enter__(self) -> CallRecorder:
        self._stack.enter_context(module_calls_through(self._record))
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()
        for thread in list(self._direct):
            self._end_direct(thread)

    def _ignores(self, module: torch.nn.Module) -> bool:
        inside = getattr(self._local, "inside", False)
        return inside or _capturing() or _is_of_torch(module)

    def _record(
        self,
        real: Callable[..., Any],
        module: torch.nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        __tracebackhide__ = True
        if self._ignores(module):
            return real(module, *args, **kwargs)
        frame = sys._getframe(1)
        direct = _direct_forward(frame)
        if direct is None:
            started = self._started(module, lambda: Call(args, kwargs))
            self._keep_caller(started, module, frame)
        else:
            started = None
            self._start_direct(direct)
        self._local.inside = True
        try:
            result = real(module, *args, **kwargs)
        finally:
            self._local.inside = False
        if started is not None:
            started.returned()
        return result

    def _start_direct(self, direct: _DirectForward) -> None:
        """Record a forward that the body calls itself, when it makes its first call of a module."""
        thread = threading.get_ident()
        if thread in self._direct and self._direct[thread][0].frame is direct.frame:
            return
        self._end_direct(thread)
        if not _is_of_torch(direct.module):
            started = self._started(direct.module, direct.call)
            self._keep_caller(started, direct.module, direct.frame.f_back)
            self._direct[thread] = direct, started

    def _keep_caller(
        self, started: _Started | None, module: torch.nn.Module, frame: FrameType | None
    ) -> None:
        if started is None:
            return
        recording = started.recording
        if recording.line is None:
            recording.line = _line_of_test(frame, self._body)
        if recording.caller is None:
            recording.caller = _caller_of(module, frame)

    def _end_direct(self, thread: int) -> None:
        if thread in self._direct:
            direct, started = self._direct.pop(thread)
            if started is not None and direct.returned():
                started.returned()

    def _started(self, module: torch.nn.Module, call: Callable[[], Call | None]) -> _Started | None:
        """Return a call with its recording; None if one of them cannot be kept.

        ``call`` returns None if its arguments are not known.
        """
        if not self._wanted(module):
            return None
        if _is_transformed(module):
            self._leave_out(module)
            return None
        try:
            known = call()
            if known is not None:
                return self._before(module, known)
        except Exception:
            self._leave_out(module)
            return None
        recording = Recording(module, problem=SpecError(UNKNOWN_ARGUMENTS))
        return _Started(self._by_key.setdefault((id(module), "forward"), recording), None)

    def _leave_out(self, module: torch.nn.Module) -> None:
        self.left_out += 1
        self.uncopied[type(module).__name__] = None

    def _before(self, module: torch.nn.Module, call: Call) -> _Started | None:
        own, wrappers = unwrapped(module)
        leaves, structure = call.flatten()
        identity = id(own), _parts(own)
        key = (*identity, str(structure), tuple(_kind(leaf) for _, leaf in leaves))
        if key not in self._by_key:
            if len(self._by_key) >= MAX_SUBJECTS:
                self.left_out += 1
                return None
            self._by_key[key] = Recording(*self._copied(own, identity), wrappers=wrappers)
        with outside_inference_mode():
            return _Started(self._by_key[key], call.clone())

    def _copied(
        self, module: torch.nn.Module, identity: Any
    ) -> tuple[Any, list[Call], Counter[Any], SpecError | None]:
        if identity not in self._copies:
            try:
                with outside_inference_mode():
                    copied, problem = Subject.of(module).copy().function, None
            except SpecError as error:
                copied, problem = module, error
            # The original is kept too, so that no other module gets its id.
            self._copies[identity] = (module, copied, problem)
        _, copied, problem = self._copies[identity]
        return copied, [], Counter(), problem


def _parts(module: torch.nn.Module) -> tuple[tuple[str, type], ...]:
    """Return paths and types of all submodules. Quantizing in place changes them."""
    return tuple((path, type(part)) for path, part in module.named_modules())


def _capturing() -> bool:
    """Return True inside torch's trace, script, export or compile, which call modules too."""
    return bool(is_tracing() or torch.compiler.is_compiling())


def _is_transformed(module: torch.nn.Module) -> bool:
    """Return True within grad or vmap, or if functional_call gave the module computed parameters.

    These are no parameters of the user's model, and they cannot be copied.
    """
    return is_transforming() or not all(tensor.is_leaf for tensor in module.parameters())


def _is_of_torch(module: torch.nn.Module) -> bool:
    """Return True for losses, and for modules that torch calls to build or quantize a model.

    The parametrization of a weight norm is one of these.
    """
    made = isinstance(module, torch.nn.utils.parametrize.ParametrizationList)
    return made or type(module).__module__ in _NOT_SHIPPED


_NOT_SHIPPED = (
    "torch.nn.modules.loss",
    "torch.nn.utils.parametrizations",
    "torch.ao.quantization.observer",
    "torch.ao.quantization.fake_quantize",
)


def _kind(leaf: Any) -> Any:
    if isinstance(leaf, torch.Tensor):
        return leaf.dtype, leaf.dim(), leaf.layout
    return type(leaf), leaf if isinstance(leaf, (bool, int, float, str)) else None


# -- the functions that run when a module is called ------------------------------------------------


@dataclass(frozen=True, eq=False)
class _DirectForward:
    """A running ``forward`` of a module that was not called by way of ``__call__``."""

    module: torch.nn.Module
    function: FunctionType
    frame: FrameType

    def call(self) -> Call | None:
        """Return the arguments; None if forward has assigned to one before its first layer."""
        parameters = list(inspect.signature(self.function).parameters.values())[1:]
        values = self.frame.f_locals
        names = {parameter.name for parameter in parameters}
        if not names <= values.keys() or names & _assigned_before(self.frame):
            return None
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for parameter in reversed(parameters):
            value = values[parameter.name]
            if parameter.kind is parameter.VAR_POSITIONAL:
                args[:0] = value
            elif parameter.kind is parameter.VAR_KEYWORD:
                kwargs |= value
            elif parameter.kind is parameter.KEYWORD_ONLY:
                if value is not parameter.default:
                    kwargs[parameter.name] = value
            elif args or value is not parameter.default:
                args.insert(0, value)
        return Call(tuple(args), kwargs)

    def returned(self) -> bool:
        """Return True if forward has ended without an exception."""
        opcode = self.frame.f_code.co_code[self.frame.f_lasti]
        return dis.opname[opcode].startswith("RETURN")


def _assigned_before(frame: FrameType) -> set[str]:
    """Return the local names to which a function may have given a value until now."""
    names: set[str] = set()
    for each in dis.get_instructions(frame.f_code):
        is_store = "FAST" in each.opname and ("STORE" in each.opname or "DELETE" in each.opname)
        is_store = is_store or each.opname in ("STORE_DEREF", "DELETE_DEREF")
        if is_store and each.offset < frame.f_lasti:
            # From Python 3.13 on, one instruction may do what two did: STORE_FAST_LOAD_FAST.
            names |= {*each.argval} if isinstance(each.argval, tuple) else {each.argval}
    return names


def _direct_forward(frame: FrameType) -> _DirectForward | None:
    """Return the outermost ``forward`` of a module from a frame outwards; None if there is none."""
    direct = None
    for each, module in _running(frame):
        if module is None:
            continue
        own = vars(module).get("forward") or getattr(type(module), "forward", None)
        function = _inside_decorators(own)
        if function is not None and function.__code__ is each.f_code:
            direct = _DirectForward(module, function, each)
    return direct


def _caller_of(called: torch.nn.Module, frame: FrameType | None) -> Caller | None:
    """Return the outermost method of another module around a call of a module; None if none is.

    A forward that an instance was given, as a function or partial, does not have it in front.
    """
    caller = None
    for each, module in _running(frame):
        code = each.f_code
        if not is_users(code.co_filename):
            continue
        place = f"{short_path(code.co_filename)}:{code.co_firstlineno}"
        for other in each.f_locals.values():
            own = vars(other).get("forward") if isinstance(other, torch.nn.Module) else None
            while isinstance(own, functools.partial):
                own = own.func
            if own is not None and getattr(_inside_decorators(own), "__code__", None) is code:
                caller = Caller(f"{type(other).__name__}.forward", place)
        if module is None or module is called or code.co_name in ("__init__", "forward"):
            continue
        method = _inside_decorators(getattr(type(module), code.co_name, None))
        if method is not None and method.__code__ is code:
            caller = Caller(f"{type(module).__name__}.{code.co_name}", place)
    return caller


def _line_of_test(frame: FrameType | None, body: CodeType | None) -> SourceLine | None:
    """Return the line of the test's function that led to a frame; else the innermost of a user."""
    innermost = None
    for each, _ in _running(frame):
        if each.f_code is body or (innermost is None and is_users(each.f_code.co_filename)):
            innermost = source_line(each.f_code.co_filename, each.f_lineno)
        if each.f_code is body:
            break
    return innermost


def _running(frame: FrameType | None) -> Iterator[tuple[FrameType, torch.nn.Module | None]]:
    """Yield the frames from this one outwards, up to what runs the test.

    With each, its first argument if that is a module.
    """
    while frame is not None and not any(part in frame.f_code.co_filename for part in _RUNNERS):
        code = frame.f_code
        first = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        yield frame, first if isinstance(first, torch.nn.Module) else None
        frame = frame.f_back


def _inside_decorators(function: Any) -> FunctionType | None:
    """Return the function inside decorators; None if there is none."""
    try:
        inner = inspect.unwrap(function.__func__ if isinstance(function, MethodType) else function)
    except ValueError:  # decorators that lead to themselves
        return None
    return inner if isinstance(inner, FunctionType) else None
