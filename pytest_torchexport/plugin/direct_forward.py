"""Find the module whose ``forward`` a test body called itself: ``net.forward(x)``.

Such a call does not go through ``Module.__call__``, where calls are recorded: only the layers
inside do. Separate because it reads the frames of running functions.
"""

from __future__ import annotations

import dis
import functools
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

import torch

from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.messages import is_users, short_path


@dataclass(frozen=True, eq=False)
class DirectForward:
    """A running ``forward`` of a module that was not called by way of ``__call__``."""

    module: torch.nn.Module
    frame: FrameType

    @property
    def call(self) -> Call | None:
        """Return the arguments of the call; None if forward has given one of them another value.

        To be asked when forward makes its first call of a module. Arguments that equal a default
        are left out where that is possible.
        """
        code, values = self.frame.f_code, self.frame.f_locals
        signature = inspect.signature(inspect.unwrap(type(self.module).forward))
        names = list(signature.parameters)[1:]
        changed = _assigned(code, self.frame.f_lasti)
        if any(name in changed or name not in values for name in names):
            return None
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for name in reversed(names):
            parameter, value = signature.parameters[name], values[name]
            if parameter.kind is parameter.VAR_POSITIONAL:
                args[:0] = value
            elif parameter.kind is parameter.VAR_KEYWORD:
                kwargs |= value
            elif parameter.kind is parameter.KEYWORD_ONLY:
                if value is not parameter.default:
                    kwargs[name] = value
            elif args or value is not parameter.default:
                args.insert(0, value)
        return Call(tuple(args), kwargs)

    def returned(self) -> bool:
        """Return True if forward has ended without an exception."""
        opcode = self.frame.f_code.co_code[self.frame.f_lasti]
        return dis.opname[opcode].startswith("RETURN")


def find() -> DirectForward | None:
    """Return the outermost ``forward`` of a module among the callers; None if there is none."""
    found: DirectForward | None = None
    for frame, module in _methods(sys._getframe(1)):
        if frame.f_code.co_name == "forward":
            found = DirectForward(module, frame)
    return found


def method_around(called: torch.nn.Module) -> str:
    """Return the outermost method of another module among the callers, with its place; or nothing.

    Such as ``Net.encode, net.py:12``: a test that calls it has called one of its layers.
    """
    found = ""
    for frame, module in _methods(sys._getframe(1)):
        code = frame.f_code
        if code.co_name != "forward" and module is not called and is_users(code.co_filename):
            place = f"{short_path(code.co_filename)}:{code.co_firstlineno}"
            found = f"{type(module).__name__}.{code.co_name}, {place}"
    return found


def _methods(frame: FrameType | None) -> Iterator[tuple[FrameType, torch.nn.Module]]:
    """Yield the frames that run a method of a module, from this one outwards, and the module."""
    while frame is not None:
        code = frame.f_code
        if code.co_argcount and code.co_varnames[0] == "self":
            module = frame.f_locals.get("self")
            if isinstance(module, torch.nn.Module) and code in _codes(type(module), code.co_name):
                yield frame, module
        frame = frame.f_back


def _codes(cls: type, name: str) -> frozenset[CodeType]:
    """Return the code of a method of a class and of its bases, without their decorators."""
    own = [vars(base)[name] for base in cls.__mro__ if name in vars(base)]
    codes = [getattr(inspect.unwrap(method), "__code__", None) for method in own]
    return frozenset(code for code in codes if code is not None)


@functools.lru_cache(maxsize=1024)
def _assigned(code: CodeType, before: int) -> frozenset[str]:
    """Return the names that a function's code assigns ahead of an instruction.

    Not those that a loop around the instruction assigns behind it: forward has made no call of a
    module yet, so the loop is in its first pass.
    """
    names: list[str] = []
    for instruction in dis.get_instructions(code):
        if instruction.offset >= before:
            break
        # From Python 3.13 on, one instruction may do what two did: STORE_FAST_LOAD_FAST.
        operations = [part for part in instruction.opname.split("_") if part in _VERBS]
        several = isinstance(instruction.argval, tuple)
        arguments = instruction.argval if several else (instruction.argval,)
        if "FAST" in instruction.opname or "DEREF" in instruction.opname:
            pairs = zip(operations, arguments, strict=False)
            names += [name for verb, name in pairs if verb != "LOAD"]
    return frozenset(names)


_VERBS = ("STORE", "DELETE", "LOAD")
