"""TorchScript files (``.pt``): load and save them, and read what a program says of itself."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pytest_torchexport.targets.formats import branches, contents, devices
from pytest_torchexport.targets.formats.branches import Branches
from pytest_torchexport.targets.formats.devices import BakedDevice
from pytest_torchexport.targets.formats.facts import ProgramFacts

FILENAME = "model.pt"
# The trip count that TorchScript gives a loop of which it knows none.
UNBOUNDED = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class TorchScriptFacts(ProgramFacts):
    """The facts of a ScriptModule or ScriptFunction. ``extras`` are the contents of extra files."""

    program: Any
    extras: Mapping[str, str] = field(default_factory=dict)

    def branches(self) -> Branches | None:
        """Return its ``prim::If`` and ``prim::Loop``."""
        return branches.of_torchscript(self.program)

    def devices(self) -> tuple[BakedDevice, ...]:
        """Return the devices that are constants of its graph."""
        return devices.of_torchscript(self.program)

    def contents(self) -> dict[str, str]:
        """Return its methods, modes, tensors and other attributes, and the extra files."""
        return {**contents.of_torchscript(self.program), **self.extras}


def load(path: Path, device: str) -> Callable[..., Any]:
    """Load the file onto the device."""
    with _without_deprecations():
        return torch.jit.load(path, map_location=device)  # type: ignore[no-any-return,no-untyped-call]


def read(path: Path, loaded: Any) -> TorchScriptFacts:
    """Return the facts of a loaded program and of its archive."""
    return TorchScriptFacts(program=loaded, extras=contents.extras_of(path))


def save(program: Any, path: Path, extra_files: Mapping[str, str | bytes]) -> None:
    """Write the program by way of memory.

    Given a path, torch's C++ writer aborts the process if the disk is full.
    """
    buffer = io.BytesIO()
    with _without_deprecations():
        torch.jit.save(program, buffer, _extra_files=dict(extra_files))
    path.write_bytes(buffer.getbuffer())


@contextmanager
def _without_deprecations() -> Iterator[None]:
    """Hide torch's deprecation of ``torch.jit`` itself, which ``-W error`` would raise.

    Its class differs between versions of torch, its words do not.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=r"`torch\.jit\.\w+` is (deprecated|not supported)"
        )
        yield


def has_loops(program: Any) -> bool:
    """Return True if a TorchScript program has a ``while``, whose call may never return.

    A ``for`` ends by itself: its loop node knows the number of trips.
    """
    if not isinstance(program, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
        return False
    graph = getattr(program, "inlined_graph", None)
    loops = graph.findAllNodes("prim::Loop") if graph is not None else []
    return any(next(iter(loop.inputs())).toIValue() == UNBOUNDED for loop in loops)
