"""Find the module whose ``forward`` a test body called itself: ``net.forward(x)``.

Such a call does not go through ``Module.__call__``, where calls are recorded: only the layers
inside do. Separate because it reads the frames of running functions.
"""

from __future__ import annotations

import dis
import functools
import inspect
import sys
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

import torch

from pytest_torchexport.inputs.spec import Call


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
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "forward" and frame.f_code.co_argcount:
            module = frame.f_locals.get(frame.f_code.co_varnames[0])
            if isinstance(module, torch.nn.Module) and frame.f_code in _codes(type(module)):
                found = DirectForward(module, frame)
        frame = frame.f_back
    return found


def _codes(cls: type) -> frozenset[CodeType]:
    """Return the code of every ``forward`` of a class and its bases, without their decorators."""
    found = (
        inspect.unwrap(vars(base)["forward"]) for base in cls.__mro__ if "forward" in vars(base)
    )
    return frozenset(code for one in found if (code := getattr(one, "__code__", None)) is not None)


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
