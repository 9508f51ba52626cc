"""AOTInductor, by way of the program of the target ``export``."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from pytest_torchexport import targets
from pytest_torchexport.targets import DirectArtifact, MadeOf, NotApplicable, TargetTraits


@dataclass(frozen=True, kw_only=True)
class Artifact(DirectArtifact):
    content: bytes

    def fresh(self):
        return replace(self, run=opened(self.content))

    def made_of(self):
        captured = MadeOf("ExportedProgram", self.program.module(), "capture")
        return captured, MadeOf("AOTInductor", self, "translation")


class Aoti:
    traits = TargetTraits(specializes_0_1=True, fixes_layouts=True)

    def unavailable(self, device):
        there = shutil.which("g++") and device == "cpu"
        return None if there else "g++ is needed, and the CPU"

    def export(self, module, example, spec, **options):
        made = targets.get("export").export(module, example, spec, **options)
        if isinstance(made, NotApplicable):
            return made
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "model.pt2")
            torch._inductor.aoti_compile_and_package(made.program, package_path=str(path))
            content = path.read_bytes()
        return Artifact(
            program=made.program,
            module=None,
            run=opened(content),
            write=lambda to: to.write_bytes(content),
            filename="model.pt2",
            facts=made.facts,
            content=content,
        )

    def load(self, path, _device):
        return torch._inductor.aoti_load_package(str(path))


def opened(content):
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "model.pt2")
        path.write_bytes(content)
        return torch._inductor.aoti_load_package(str(path))
