"""A target of one's own: what a mobile team ships, a trace that is frozen (its weights are constants)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pytest_torchexport import NotApplicable
from pytest_torchexport.targets import Call, InputSpec, ProgramFacts, Target, TargetTraits


class FrozenTrace:
    """The artifact that `export` returns: called like the module, and able to save itself."""

    module = None  # holds no state that a call could change
    baked = ()  # no argument became a constant
    native_loops = False  # no loop that Python could not interrupt
    facts = ProgramFacts()  # says nothing of itself

    def __init__(self, program: torch.jit.ScriptModule) -> None:
        self.program = program

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.program(*args, **kwargs)

    def save(self, directory: Path) -> Path:
        path = directory / "model.pt"
        torch.jit.save(self.program, str(path))
        return path

    def pack_inputs(self, call: Call) -> Call:
        return call  # the loaded file is called as the module is

    def unpack_outputs(self, value: Any) -> Any:
        return value  # and returns what the module returns


class Frozen:
    """The target. Copying, seeding, comparing and shrinking happen elsewhere."""

    traits = TargetTraits()  # nothing special

    def unavailable(self, device: str) -> str | None:
        return None if device == "cpu" else "frozen traces are made for the CPU here"

    def export(
        self, module: Callable[..., Any], example: Call, spec: InputSpec, **options: Any
    ) -> FrozenTrace | NotApplicable:
        if example.kwargs:
            return NotApplicable("frozen traces take positional arguments only")
        traced = torch.jit.trace(module, example.args, check_trace=False, **options)
        return FrozenTrace(torch.jit.freeze(traced))

    def load(self, path: Path, device: str) -> Callable[..., Any]:
        return torch.jit.load(path, map_location=device)


TARGET: Target = Frozen()
