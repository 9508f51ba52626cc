"""A target of one's own: what a mobile team ships, a trace that is frozen (its weights are constants)."""

from __future__ import annotations

import torch

from pytest_torchexport import NotApplicable


class FrozenTrace:
    """What `export` returns: called like the module, and able to save itself."""

    module = None  # holds no state that a call could change
    baked = ()  # no argument became a constant
    native_loops = False  # no loop that Python could not interrupt

    def __init__(self, program):
        self.program = program

    def __call__(self, *args):
        return self.program(*args)

    def save(self, directory):
        path = directory / "model.pt"
        torch.jit.save(self.program, str(path))
        return path

    def lower(self, call):
        return call  # the loaded file is called as the module is

    def lift(self, value):
        return value  # and returns what the module returns


class Frozen:
    """The target. Copying, seeding, comparing and shrinking happen elsewhere."""

    specializes_0_1 = False  # a dim whose example is 0 or 1 is not frozen

    def unavailable(self, device):
        return None if device == "cpu" else "frozen traces are made for the CPU here"

    def export(self, module, example, spec, **options):
        if example.kwargs:
            return NotApplicable("frozen traces take positional arguments only")
        traced = torch.jit.trace(module, example.args, check_trace=False, **options)
        return FrozenTrace(torch.jit.freeze(traced))

    def load(self, path, device):
        return torch.jit.load(path, map_location=device)


TARGET = Frozen()
