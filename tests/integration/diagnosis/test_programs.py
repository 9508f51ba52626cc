"""diagnosis/programs.py: the program that torch.export makes of a subject, on any target."""

from __future__ import annotations

import torch
from torch import nn

from pytest_torchexport.diagnosis.programs import exported_program

X = torch.ones(2, 3)


class Doubled(nn.Module):
    """Wrong where it is traced, and where torch.compile or torch.export captures it."""

    def forward(self, x):
        captured = torch.jit.is_tracing() or torch.compiler.is_compiling()
        return x * 3 if captured else x * 2


class Refused(nn.Module):
    def forward(self, x):
        return x * float(x.max())


def test_the_program_of_an_artifact_that_is_one_is_not_made_again(scene_of):
    scene = scene_of(Doubled(), X, target="export")
    assert scene.program is scene.case.artifact.program


def test_a_traced_module_is_exported_once(scene_of):
    scene = scene_of(Doubled(), X)
    assert isinstance(scene.program, torch.export.ExportedProgram)
    assert scene.program is scene.program
    assert scene.program.module()(X).sum() == 18


def test_there_is_none_of_a_module_that_torch_export_refuses(scene_of):
    assert exported_program(scene_of(Refused(), X).case) is None
