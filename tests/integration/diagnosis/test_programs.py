"""diagnosis/programs.py: the program that torch.export makes of a subject, on any target."""

from __future__ import annotations

import pytest
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


class Ends(nn.Module):
    """Raise an exception while torch.export captures it; wrong where it is traced."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def forward(self, x):
        if torch.compiler.is_exporting():
            raise self.error
        return x * 3 if torch.jit.is_tracing() else x * 2


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), pytest.skip.Exception("no")])
def test_what_is_no_refusal_is_raised(error, scene_of):
    case = scene_of(Ends(error), X).case
    with pytest.raises(type(error)):
        exported_program(case)


def test_a_refusal_is_its_reason(scene_of):
    case = scene_of(Ends(ValueError("never of this kind")), X).case
    made = case.exported_or_refused(case.call_to_export(), target="export")
    assert isinstance(made, str)
    assert "never of this kind" in made
