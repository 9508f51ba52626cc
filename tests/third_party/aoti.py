"""AOTInductor, by way of the program of the target ``export``."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pytest_torchexport import targets
from pytest_torchexport.targets import DirectArtifact, MadeOf, NotApplicable, TargetTraits


@dataclass(frozen=True, kw_only=True)
class Artifact(DirectArtifact):
    path: Path
    kept: Any  # the directory of the path

    def fresh(self):
        return replace(self, run=torch._inductor.aoti_load_package(str(self.path)))

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
        kept = tempfile.TemporaryDirectory()
        path = Path(kept.name, "model.pt2")
        torch._inductor.aoti_compile_and_package(made.program, package_path=str(path))
        return Artifact(
            program=made.program,
            module=None,
            run=torch._inductor.aoti_load_package(str(path)),
            write=lambda to: shutil.copyfile(path, to),
            filename=path.name,
            facts=made.facts,
            path=path,
            kept=kept,
        )

    def load(self, path, _device):
        return torch._inductor.aoti_load_package(str(path))
