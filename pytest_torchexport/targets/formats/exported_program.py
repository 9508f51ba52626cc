"""``torch.export`` files (``.pt2``): load and save them, and read what a program says of itself."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pytest_torchexport.inputs.spec import Call, InputSpec
from pytest_torchexport.targets.formats import branches, contents, devices
from pytest_torchexport.targets.formats.branches import Branches
from pytest_torchexport.targets.formats.devices import BakedDevice
from pytest_torchexport.targets.formats.facts import ProgramFacts
from pytest_torchexport.targets.formats.sizes import Suspicion, facts_of, suspicions

FILENAME = "model.pt2"


@dataclass(frozen=True, kw_only=True)
class ExportedProgramFacts(ProgramFacts):
    """The facts of an ExportedProgram. ``extras`` are the contents of extra files."""

    program: torch.export.ExportedProgram
    extras: Mapping[str, str] = field(default_factory=dict)

    def suspicions(self, spec: InputSpec, example: Call) -> tuple[Suspicion, ...]:
        """Return what its ranges and guards make doubtful."""
        return suspicions(spec, facts_of(self.program))

    def branches(self) -> Branches | None:
        """Return its ``torch.cond``, ``while_loop``, ``scan`` and ``map``."""
        return branches.of_exported(self.program)

    def devices(self) -> tuple[BakedDevice, ...]:
        """Return the devices that are constants of its graphs."""
        return devices.of_exported(self.program)

    def contents(self) -> dict[str, str]:
        """Return its signature, ranges, tensors and module calls, and the extra files."""
        return {**contents.of_exported(self.program), **self.extras}

    def as_plain(self) -> dict[str, Any]:
        """Return contents, branches and sizes as JSON."""
        return {**super().as_plain(), "sizes": contents.sizes_of(self.program)}


class LoadedProgram:
    """An ExportedProgram that can be called."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        self.program = program
        self.module = program.module()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it."""
        return self.module(*args, **kwargs)


def load(path: Path, device: str) -> LoadedProgram:
    """Load the file and move the program to the device. The file can hold code, which this runs."""
    program = torch.export.load(path)
    if device != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    return LoadedProgram(program)


def read(path: Path, loaded: LoadedProgram) -> ExportedProgramFacts:
    """Return the facts of a loaded program and of its archive."""
    return ExportedProgramFacts(program=loaded.program, extras=contents.extras_of(path))


def save(
    program: torch.export.ExportedProgram, path: Path, extra_files: Mapping[str, str | bytes]
) -> None:
    """Write the program by way of memory.

    Given a path, torch's C++ writer aborts the process if the disk is full.
    """
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files=dict(extra_files))
    path.write_bytes(buffer.getbuffer())
