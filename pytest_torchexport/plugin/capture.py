"""Record the outermost module calls of a test body, so that an existing test needs only a marker.

Patches ``torch.nn.Module.__call__``: keyword arguments, outputs and nesting are all visible there,
and global forward hooks do not see keyword arguments. A body that calls ``net.forward(x)`` itself,
or another method of a module, passes that by: when the first layer inside is called, it is found
among the running functions.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import CodeType, FrameType, FunctionType, MethodType
from typing import Any, NamedTuple

import torch

from pytest_torchexport.config.options import MOST_INPUTS
from pytest_torchexport.inputs.pytrees import (
    attributes_of,
    has_state,
    is_plain,
    kind_of,
    leaves_of,
)
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.compare import Tolerance, compare_values
from pytest_torchexport.outcomes.subject import Subject, unwrapped
from pytest_torchexport.outcomes.torch_state import (
    GradMode,
    ModuleCallHandler,
    module_calls_through,
    outside_inference_mode,
    under_autocast,
)
from pytest_torchexport.results.failures import SpecError
from pytest_torchexport.results.source_line import SourceLine, is_users, short_path, source_line
from pytest_torchexport.torch_private.circumstances import is_transforming

MAX_SHAPES = 8
MAX_CALLS_OF_ONE_SHAPE = 3
# Further calls are kept while there are not so many, and not so many bytes of them: they are cheap.
MAX_CALLS, MAX_BYTES = MOST_INPUTS, 2**24
# A property-based test may build a module per example: only the first ones are recorded.
MAX_SUBJECTS = 16
CALLS_FORWARD = (
    "forward is called itself, and not by a call of its module: what it was called with is not "
    "known. Call the module, net(x) instead of net.forward(x)"
)
# The files that run a test: no caller of these is looked at.
_RUNNERS = ("/_pytest/", "/pluggy/")
# Losses, and modules that torch calls to build or quantize a model.
_NOT_SHIPPED = (
    "torch.nn.modules.loss",
    "torch.nn.utils.parametrizations",
    "torch.ao.quantization.observer",
    "torch.ao.quantization.fake_quantize",
)


class Caller(NamedTuple):
    """A method that the test called, of which only a module inside is checked: ``net.encode``."""

    name: str
    place: str


@dataclass
class Recording:
    """A module as it was before its first outermost call, and ``calls`` of one structure.

    ``problem``: why the module cannot be checked. ``returned``: if one of the calls returned.
    ``caller``: the method that called it and is not checked itself; None if there is none.
    ``wrappers``: what the test called it through (``torch.compile``). ``line``: the test's line of
    the first call; None if it is not known. ``grad_mode``: that of the first call. ``autocast``: if
    the first call was made under it. ``carried``: the class of an object that several calls got and
    changed, as a cache of keys and values; empty if there is none. ``key``: what another run of the
    same body finds it by. ``made``: the number of calls, kept or not, ``sizes``: the shapes of all
    of them; ``bytes``: those of calls that are kept.
    """

    module: Any
    problem: SpecError | None = None
    wrappers: tuple[str, ...] = ()
    shapes: Counter[Any] = field(default_factory=Counter)
    bytes: int = 0
    made: int = 0
    sizes: set[Any] = field(default_factory=set)
    returned: bool = False
    caller: Caller | None = None
    line: SourceLine | None = None
    grad_mode: GradMode = field(default_factory=GradMode.current)
    autocast: bool = field(default_factory=lambda: bool(under_autocast()))
    carried: str = ""
    # Objects that calls got, and copies of them as the first one did.
    _objects: dict[int, tuple[Any, Any]] = field(default_factory=dict)
    key: Any = None
    _first: list[Call] = field(default_factory=list)
    _ends: dict[Any, tuple[int, Call]] = field(default_factory=dict)

    def saw(self, call: Call, copied: Call) -> None:
        for leaf, copy in zip(call.leaves(), copied.leaves(), strict=True):
            if has_state(leaf) and not isinstance(leaf, torch.Tensor):
                _, before = self._objects.setdefault(id(leaf), (leaf, copy))
                if compare_values(before, copy, Tolerance(0.0, 0.0)) and _holds_tensors(copy):
                    self.carried = type(leaf).__name__

    @property
    def calls(self) -> list[Call]:
        """The first calls of some shapes, and those with the extreme sizes of an axis."""
        kept = (*self._first, *(call for _, call in self._ends.values()))
        return list({id(call): call for call in kept}.values())

    @property
    def left_out(self) -> int:
        return self.made - len(self.calls)

    def add(self, call: Call) -> None:
        """Keep the call, unless there are enough calls, of these shapes, or enough shapes.

        One with an extreme size of an axis is kept in any case.
        """
        shapes = shapes_of(call)
        known = self.shapes
        self.sizes.add(shapes)
        size = sum(each.nbytes for each in call.tensors() if is_plain(each))
        few = known[shapes] < MAX_CALLS_OF_ONE_SHAPE and len({*known, shapes}) <= MAX_SHAPES
        self.made += 1
        if few or (len(self._first) < MAX_CALLS and self.bytes + size <= MAX_BYTES):
            self._first.append(call)
            self.bytes += size
            known[shapes] += 1
        sizes = [
            ((i, axis), size) for i, shape in enumerate(shapes) for axis, size in enumerate(shape)
        ]
        for axis, size in sizes:
            for sign in (1, -1):
                end = self._ends.get((axis, sign))
                if end is None or sign * size > sign * end[0]:
                    self._ends[axis, sign] = size, call


def _in_order(call: Call) -> Call:
    """Return the call with its keywords in an order of their own: that of the code is none."""
    return Call(call.args, {name: call.kwargs[name] for name in sorted(call.kwargs)})


def shapes_of(call: Call) -> tuple[tuple[int, ...], ...]:
    # A nested tensor has no shape.
    tensors = _in_order(call).tensors()
    return tuple(() if each.is_nested else tuple(each.shape) for each in tensors)


class Keys:
    """Keys of calls, the same in each run of a body although it may build its modules anew.

    That is the structure of the module, its number among those of this structure, and what the
    calls have in common that one export takes: structure, dtypes, Python values. ``wanted`` is
    False for the number of a module that is not to be known.
    """

    def __init__(self, wanted: Callable[[Any, int], bool] = lambda *_: True) -> None:
        self._wanted = wanted
        # With the module, so that no other gets its id.
        self._known: dict[Any, tuple[torch.nn.Module, int]] = {}
        self._count: Counter[Any] = Counter()

    def of(self, module: torch.nn.Module, call: Call) -> tuple[Any, Any] | None:
        """Return the keys of the module and of one of its exports; None for an unknown one."""
        # Quantizing in place changes the parts of a module, and half() their types.
        parts = (
            *((path, type(part)) for path, part in module.named_modules()),
            *((path, tensor.dtype) for path, tensor in module.named_parameters()),
        )
        identity = id(module), parts
        if identity not in self._known:
            if not self._wanted(parts, self._count[parts]):
                return None
            self._known[identity] = module, self._count[parts]
            self._count[parts] += 1
        leaves, structure = _in_order(call).flatten()
        plain = (bool, int, float, str)
        kinds = tuple(
            (kind_of(leaf), leaf if isinstance(leaf, plain) else None) for _, leaf in leaves
        )
        return (parts, self._known[identity][1]), (str(structure), kinds)


class CallRecorder:
    """A context manager around a test body that records its module calls.

    ``body`` is the test's function, ``wanted`` returns False for a module whose calls are not to be
    copied, and ``keep`` is given each call that returned. ``recordings``: the modules and their
    calls. ``uncopied``: the classes of the modules that were called with tensors that cannot be
    copied.
    """

    def __init__(
        self,
        body: Callable[..., Any] | None = None,
        wanted: Callable[[torch.nn.Module], bool] = lambda _: True,
        keep: Callable[[Recording, Call], None] = Recording.add,
    ) -> None:
        self.body = getattr(_inside_decorators(body), "__code__", None)
        self._wanted, self._keep = wanted, keep
        self._by_key: dict[Any, Recording] = {}
        self._keys = Keys(lambda *_: len(self._by_key) < MAX_SUBJECTS)
        self._copies: dict[Any, tuple[Any, SpecError | None]] = {}
        self._stack = ExitStack()
        self.uncopied: dict[str, None] = {}

    @property
    def recordings(self) -> list[Recording]:
        """The modules that were called and returned, in order."""
        return [recording for recording in self._by_key.values() if recording.returned]

    def __enter__(self) -> CallRecorder:
        self._stack.enter_context(module_calls_through(outermost(self._record)))
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def _record(
        self,
        real: Callable[..., Any],
        module: torch.nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        __tracebackhide__ = True
        recording, call = self._started(module, Call(args, kwargs), sys._getframe(1))
        result = real(module, *args, **kwargs)
        if recording is not None:
            recording.returned = True
            if call is not None:
                self._keep(recording, call)
        return result

    def _started(
        self, module: torch.nn.Module, call: Call, frame: FrameType
    ) -> tuple[Recording | None, Call | None]:
        """Return the recording of a call and its copy; None for what cannot be kept."""
        outer = _forward_called_itself(frame)
        of_torch = outer is not None and _is_of_torch(outer)
        if of_torch or not self._wanted(module if outer is None else outer):
            return None, None
        if outer is not None:
            key = (id(outer), "forward")
            copied = None
            self._by_key.setdefault(key, Recording(outer, SpecError(CALLS_FORWARD)))
        else:
            try:
                # Parameters that were computed for functional_call are none of the user's model.
                if is_transforming() or not all(each.is_leaf for each in module.parameters()):
                    raise ValueError("tensors inside a transform cannot be copied")
                key = self._key(module, call)
                if key is None:
                    return None, None
                with outside_inference_mode():
                    copied = call.clone()
            except Exception:
                self.uncopied[type(module).__name__] = None
                return None, None
        recording = self._by_key[key]
        if copied is not None:
            recording.saw(call, copied)
        if recording.line is None:
            running = ((each, each.f_lineno) for each, _ in _running(frame))
            recording.line = line_of_test(running, self.body)
        if recording.caller is None and outer is None:
            recording.caller = _caller_of(module, frame)
        return recording, copied

    def _key(self, module: torch.nn.Module, call: Call) -> Any:
        """Return the key of a call's recording, which is made if needed; None beyond the limit."""
        own, wrappers = unwrapped(module)
        key = self._keys.of(own, call)
        if key is None:
            return None
        if key not in self._by_key:
            if len(self._by_key) >= MAX_SUBJECTS:
                return None
            identity, _ = key
            if identity not in self._copies:
                copied, problem = own, None
                try:
                    with outside_inference_mode():
                        copied = Subject.of(own).copy().function
                except SpecError as error:
                    problem = error
                self._copies[identity] = copied, problem
            self._by_key[key] = Recording(*self._copies[identity], wrappers, key=key)
        return key


def _holds_tensors(value: Any, depth: int = 4) -> bool:
    """Return True if there are tensors in an object, or in others that it holds."""
    return any(
        isinstance(leaf, torch.Tensor)
        or (depth > 0 and has_state(leaf) and _holds_tensors(leaf, depth - 1))
        for leaf in leaves_of(attributes_of(value))
    )


def as_called(real: Callable[..., Any], module: torch.nn.Module, args: Any, kwargs: Any) -> Any:
    __tracebackhide__ = True
    return real(module, *args, **kwargs)


def outermost(handle: ModuleCallHandler, of: torch.nn.Module | None = None) -> ModuleCallHandler:
    """Return a handler for which only the outermost calls of modules in a thread have ``handle``.

    Of those that torch makes while it captures, and of its losses, none. ``of``: only the outermost
    calls of this module, whatever they are in.
    """
    local = threading.local()

    def called(real: Callable[..., Any], module: torch.nn.Module, args: Any, kwargs: Any) -> Any:
        __tracebackhide__ = True
        # torch's trace, script, export and compile call modules too.
        traces = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]  # documented
        captures = traces or torch.compiler.is_compiling() or _is_of_torch(module)
        other = of is not None and unwrapped(module)[0] is not of
        if getattr(local, "inside", False) or captures or other:
            return real(module, *args, **kwargs)
        local.inside = True
        try:
            return handle(real, module, args, kwargs)
        finally:
            local.inside = False

    return called


def _is_of_torch(module: torch.nn.Module) -> bool:
    made = isinstance(module, torch.nn.utils.parametrize.ParametrizationList)  # by weight_norm
    return made or type(module).__module__ in _NOT_SHIPPED


# -- the functions that run when a module is called ------------------------------------------------


def _forward_called_itself(frame: FrameType) -> torch.nn.Module | None:
    """Return the outermost module whose ``forward`` runs without a call of it; None without one."""
    outermost = None
    for each, module in _running(frame):
        if module is not None:
            own = vars(module).get("forward") or getattr(type(module), "forward", None)
            if getattr(_inside_decorators(own), "__code__", None) is each.f_code:
                outermost = module
    return outermost


def _caller_of(called: torch.nn.Module, frame: FrameType) -> Caller | None:
    """Return the outermost method of another module around a call of a module; None if none is."""
    caller = None
    for each, module in _running(frame):
        code = each.f_code
        is_other = module is not None and module is not called and is_users(code.co_filename)
        if is_other and code.co_name not in ("__init__", "forward"):
            method = _inside_decorators(getattr(type(module), code.co_name, None))
            if method is not None and method.__code__ is code:
                place = f"{short_path(code.co_filename)}:{code.co_firstlineno}"
                caller = Caller(f"{type(module).__name__}.{code.co_name}", place)
    return caller


def line_of_test(
    frames: Iterable[tuple[FrameType, int]], body: CodeType | None
) -> SourceLine | None:
    """Return the line of the test's function among frames and their lines; else a user's first."""
    first = None
    for frame, line in frames:
        code = frame.f_code
        if code is body or (first is None and is_users(code.co_filename)):
            first = source_line(code.co_filename, line)
        if code is body:
            break
    return first


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
    try:
        inner = inspect.unwrap(function.__func__ if isinstance(function, MethodType) else function)
    except ValueError:  # decorators that lead to themselves
        return None
    return inner if isinstance(inner, FunctionType) else None
