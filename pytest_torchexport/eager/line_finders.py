"""Find the line of the user's code that stores an attribute, draws at random, or reads a clock.

Separate because no operator of torch shows these: they are read from bytecode, or take a run of
their own under ``sys.settrace`` or ``sys.setprofile``.
"""

from __future__ import annotations

import dis
import functools
import random
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch

from pytest_torchexport.eager import set_order
from pytest_torchexport.eager.fingerprint import Reached, held_tokens
from pytest_torchexport.eager.state_ref import StateRef
from pytest_torchexport.eager.watch import streams
from pytest_torchexport.inputs.call import Call
from pytest_torchexport.outcomes.observe import observe
from pytest_torchexport.outcomes.subject import Subject
from pytest_torchexport.results.source_line import SourceLine, is_users, source_line

# Lines of the user's that are traced in search of a draw.
MAX_EVENTS = 20_000

# C functions by module and name whose results differ between runs without any state. None: all.
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


# -- attributes and globals ------------------------------------------------------------------------


def stored_at(subject: Subject, reached: Reached, ref: StateRef) -> SourceLine | None:
    """Return the only line that stores an attribute or a global; None if there are several."""
    owner, _, name = ref.path.partition("[")[0].rpartition(".")
    if ref.kind not in ("attribute", "buffer", "class attribute", "global"):
        return None
    while owner and owner not in reached.modules and ref.kind != "class attribute":
        owner = owner.rpartition(".")[0]  # an attribute of an object that the module holds
    parts = list(reached.modules.values())
    if ref.kind in ("attribute", "buffer") and owner in reached.modules:
        parts = [reached.modules[owner]]
    functions = [
        function
        for cls in dict.fromkeys(map(type, parts))
        for label, function in set_order.methods(cls).items()
        if label != "__init__"
    ]
    if isinstance(subject.function, types.FunctionType):
        functions.append(subject.function)
    lines = {
        (function.__code__.co_filename, line)
        for function in functions
        for line in _store_lines(function.__code__, name)
    }
    return source_line(*lines.pop()) if len(lines) == 1 else None


@functools.lru_cache(maxsize=1024)
def _store_lines(code: types.CodeType, name: str) -> tuple[int, ...]:
    """Return the lines that store an attribute or a global; if none does, those that load it."""
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


# -- lines at which something moves ----------------------------------------------------------------

# Returns what is watched, by name, as it is now.
Look = Callable[[], Mapping[str, Any]]


@dataclass(frozen=True)
class Moved:
    """A line at which something moved, and the path of the module it is in."""

    what: str
    module: str
    line: SourceLine


def draws_from(subject: Subject, example: Call, seed: int, watched: Sequence[str]) -> list[Moved]:
    """Run a copy of the subject, and return the user's lines that drew from these streams.

    They are random streams outside torch.
    """

    def look() -> Mapping[str, Any]:
        return {name: state for name, state in streams().items() if name in watched}

    return _moved(subject, example, seed, lambda _: look)


def changed_at(subject: Subject, example: Call, seed: int, ref: StateRef) -> SourceLine | None:
    """Run a copy, and return the first line of the user's that changes an attribute of a module.

    Or what the attribute holds. None if no line is known to do so.
    """

    def looking_at(copy: Subject) -> Look:
        owner, name = _holder(copy, ref)
        return lambda: {name: held_tokens(getattr(owner, name, None))}

    if subject.module is None or ref.kind not in ("attribute", "buffer"):
        return None
    found = _moved(subject, example, seed, looking_at)
    return found[0].line if found else None


def seeded_at(subject: Subject, example: Call, seed: int) -> SourceLine | None:
    """Run a copy under a seed, and return the first line of the user's that sets another one."""
    found = _moved(subject, example, seed, lambda _: lambda: {"seed": torch.initial_seed()})
    return found[0].line if found else None


def _holder(subject: Subject, ref: StateRef) -> tuple[Any, str]:
    """Return the module that has the attribute in which a place lies, and its name."""
    parts = dict(subject.module.named_modules()) if subject.module is not None else {}
    names = ref.path.partition("[")[0].split(".")
    owner = next(
        ".".join(names[:count])
        for count in range(len(names) - 1, -1, -1)
        if ".".join(names[:count]) in parts
    )
    depth = len(owner.split(".")) if owner else 0
    return parts[owner], names[depth]


def _moved(
    subject: Subject, example: Call, seed: int, looking_at: Callable[[Subject], Look]
) -> list[Moved]:
    """Run a copy, and return the user's lines at which what is looked at changed."""
    copy = subject.copy()
    module = copy.module
    parts = {id(part): path for path, part in module.named_modules()} if module is not None else {}
    tracer = _LineTracer(looking_at(copy), parts)

    def run(*args: Any, **kwargs: Any) -> Any:
        tracer.begin()
        before = sys.gettrace()
        sys.settrace(tracer)
        try:
            return copy.function(*args, **kwargs)
        finally:
            sys.settrace(before)
            tracer.check()

    observe(run, example, seed=seed, grad_mode=subject.grad_mode)
    return list(tracer.found)


class _LineTracer:
    """A trace function that checks at each of the user's lines what the line before it moved."""

    def __init__(self, look: Look, parts: Mapping[int, str]) -> None:
        self.found: dict[Moved, None] = {}
        self._look = look
        self._parts = parts
        self._last: Mapping[str, Any] = {}
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

    def begin(self) -> None:
        """Remember everything as it is."""
        self._last = self._look()

    def check(self) -> None:
        """Note the last line for each thing that has moved since the last check."""
        now = self._look()
        for name, state in now.items():
            if state != self._last.get(name) and self._place is not None:
                filename, number, module = self._place
                self.found[Moved(name, module, source_line(filename, number))] = None
        self._last = now


# -- clocks ----------------------------------------------------------------------------------------


def clock_call(subject: Subject, example: Call, seed: int) -> tuple[str, SourceLine] | None:
    """Run a copy, and return the first call of a clock, of the system's randomness or of ``id``.

    Returns the function's name (``time.time``) and the user's line.
    """
    found: list[tuple[str, SourceLine]] = []
    copy = subject.copy()

    def handle(frame: FrameType, event: str, function: Any) -> None:
        if event != "c_call" or found or not _is_clock(function):
            return
        user: FrameType | None = frame
        while user is not None and not is_users(user.f_code.co_filename):
            if user.f_code is run.__code__:
                return
            user = user.f_back
        if user is not None:
            line = source_line(user.f_code.co_filename, user.f_lineno)
            found.append((_public_name(function), line))

    def run(*args: Any, **kwargs: Any) -> Any:
        with _profiled(handle):
            return copy.function(*args, **kwargs)

    observe(run, example, seed=seed, grad_mode=subject.grad_mode)
    return found[0] if found else None


def _is_clock(function: Any) -> bool:
    # The methods of the global generator, which is seeded, belong to one object.
    if getattr(function, "__self__", None) is getattr(random.random, "__self__", None):
        return False
    home, name = _home(function), getattr(function, "__name__", "")
    return home in _CLOCKS and name in (_CLOCKS[home] or (name,))


def _public_name(function: Any) -> str:
    """Return ``time.time``, ``os.urandom`` for ``posix.urandom``, ``id``."""
    home, name = _home(function), getattr(function, "__name__", "")
    shown = f"os.{name}" if home in ("posix", "nt") else f"{home}.{name}"
    return shown.removeprefix("builtins.")


def _home(function: Any) -> str:
    module = getattr(function, "__module__", None)
    if isinstance(module, str):
        return module
    owner = getattr(function, "__self__", None)
    return (type(owner) if not isinstance(owner, type) else owner).__module__


@contextmanager
def _profiled(handle: Callable[[FrameType, str, Any], None]) -> Iterator[None]:
    before = sys.getprofile()
    sys.setprofile(handle)
    try:
        yield
    finally:
        sys.setprofile(before)
