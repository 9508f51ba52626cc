"""Find the module whose ``forward`` a test body called itself: ``net.forward(x)``.

Such a call, and that of another method, does not go through ``Module.__call__``, where calls are
recorded: only the layers inside do. Separate because it reads the frames of running functions.
"""

from __future__ import annotations

import dis
import functools
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FrameType, FunctionType, MethodType
from typing import Any

import torch

from pytest_torchexport.inputs.spec import Call

# The files that run a test: no caller of these is looked at.
_RUNNERS = ("/_pytest/", "/pluggy/")


@dataclass(frozen=True, eq=False)
class DirectForward:
    """A running ``forward`` of a module that was not called by way of ``__call__``.

    ``function`` is that of the class, without its decorators.
    """

    module: torch.nn.Module
    function: FunctionType
    frame: FrameType

    @property
    def call(self) -> Call | None:
        """Return the arguments of the call; None if forward may have changed them.

        To be asked when forward makes its first call of a module. Arguments that are their default
        are left out where that is possible.
        """
        parameters = list(inspect.signature(self.function).parameters.values())[1:]
        values = self.frame.f_locals
        if _is_wrapped(self.module) or any(item.name not in values for item in parameters):
            return None
        given = {item.name: values[item.name] for item in parameters}
        seen = _seen_before(self.frame.f_code, self.frame.f_lasti)
        if seen.writes or seen.assigned.intersection(given):
            return None
        return _call_of(parameters, given)

    def returned(self) -> bool:
        """Return True if forward has ended without an exception."""
        opcode = self.frame.f_code.co_code[self.frame.f_lasti]
        return dis.opname[opcode].startswith("RETURN")


def outermost(frame: FrameType) -> DirectForward | None:
    """Return the outermost ``forward`` of a module from a frame outwards; None if there is none."""
    direct: DirectForward | None = None
    for each, module in callers(frame):
        function = inside_decorators(_forward_of(module)) if module is not None else None
        if module is not None and function is not None and function.__code__ is each.f_code:
            direct = DirectForward(module, function, each)
    return direct


def callers(frame: FrameType | None) -> Iterator[tuple[FrameType, torch.nn.Module | None]]:
    """Yield the frames from this one outwards, up to what runs the test.

    With each, its first argument if that is a module.
    """
    while frame is not None and not any(part in frame.f_code.co_filename for part in _RUNNERS):
        code = frame.f_code
        first = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        yield frame, first if isinstance(first, torch.nn.Module) else None
        frame = frame.f_back


def _forward_of(module: torch.nn.Module) -> Any:
    return vars(module).get("forward") or getattr(type(module), "forward", None)


def inside_decorators(function: Any) -> FunctionType | None:
    """Return the function inside decorators; None if there is none."""
    try:
        inner = inspect.unwrap(function.__func__ if isinstance(function, MethodType) else function)
    except ValueError:  # decorators that lead to themselves
        return None
    return inner if isinstance(inner, FunctionType) else None


def _is_wrapped(module: torch.nn.Module) -> bool:
    """Return True if forward has decorators that may change its arguments: not torch's own."""
    function = _forward_of(module)
    while hasattr(function, "__wrapped__"):
        if "/torch/" not in getattr(getattr(function, "__code__", None), "co_filename", ""):
            return True
        function = function.__wrapped__
    return False


def _call_of(parameters: list[inspect.Parameter], given: dict[str, Any]) -> Call:
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for parameter in reversed(parameters):
        value = given[parameter.name]
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


# STORE_SLICE since Python 3.12.
_ITEM_WRITES = ("STORE_SUBSCR", "DELETE_SUBSCR", "STORE_SLICE")
IN_PLACE = re.compile("[a-z]_$")
# The methods that change a list, a dict or a set.
_MUTATORS = frozenset(
    [
        "append",
        "extend",
        "insert",
        "remove",
        "reverse",
        "sort",
        "clear",
        "pop",
        "popitem",
        "setdefault",
        "update",
        "add",
        "discard",
    ]
)


@dataclass(frozen=True)
class _Seen:
    """The changes that a function's code may have made before an instruction.

    ``assigned``: the names that it gave a value. ``writes``: it wrote to an item, or named a method
    that changes a tensor (``x.add_``) or a container (``batch.pop``).
    """

    assigned: frozenset[str]
    writes: bool


@functools.lru_cache(maxsize=1024)
def _seen_before(code: CodeType, offset: int) -> _Seen:
    instructions = list(dis.get_instructions(code))
    before = [item for item in instructions if item.offset < offset]
    earlier = [*before, *_in_earlier_rounds(instructions, offset)]
    names = [str(item.argval) for item in earlier if item.opname.startswith("LOAD_")]
    return _Seen(
        assigned=frozenset(name for item in earlier for name in _stored(item)) | _nonlocals(code),
        writes=any(item.opname in _ITEM_WRITES for item in earlier)
        or any(name in _MUTATORS or IN_PLACE.search(name) for name in names),
    )


def _in_earlier_rounds(
    instructions: list[dis.Instruction], offset: int
) -> Iterator[dis.Instruction]:
    """Yield the instructions behind one in its loops, if a round may not have come to it."""
    for jump in instructions:
        if "JUMP_BACKWARD" not in jump.opname or not jump.argval <= offset < jump.offset:
            continue
        inside = [item for item in instructions if jump.argval <= item.offset <= jump.offset]
        if any("POP_JUMP" in item.opname for item in inside if item.offset < offset):
            yield from (item for item in inside if item.offset > offset)


def _stored(instruction: dis.Instruction) -> list[str]:
    """Return the local names that an instruction assigns or deletes."""
    if "FAST" not in instruction.opname and "DEREF" not in instruction.opname:
        return []
    # From Python 3.13 on, one instruction may do what two did: STORE_FAST_LOAD_FAST.
    verbs = [part for part in instruction.opname.split("_") if part in ("STORE", "DELETE", "LOAD")]
    several = isinstance(instruction.argval, tuple)
    names = instruction.argval if several else (instruction.argval,)
    return [name for verb, name in zip(verbs, names, strict=False) if verb != "LOAD"]


def _nonlocals(code: CodeType) -> frozenset[str]:
    """Return the names that functions inside a function assign to it (``nonlocal``)."""
    inner = [const for const in code.co_consts if isinstance(const, CodeType)]
    own = {
        str(item.argval)
        for each in inner
        for item in dis.get_instructions(each)
        if item.opname == "STORE_DEREF" and item.argval in each.co_freevars
    }
    return frozenset(own.union(*map(_nonlocals, inner)))
