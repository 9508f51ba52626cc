"""``torch.export``: one graph with symbolic sizes and guards, or a refusal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pytest_torchexport.inputs.dynamic_shapes import dynamic_shapes, spelled, without_names
from pytest_torchexport.inputs.spec import Call, InputSpec
from pytest_torchexport.outcomes.messages import is_about_dims
from pytest_torchexport.targets.base import DirectArtifact, NotApplicable, TargetTraits
from pytest_torchexport.targets.exporter_parts import (
    EXPORTING,
    REFUSES,
    Capturable,
    forget_earlier_exports,
    respelled,
)
from pytest_torchexport.targets.formats import exported_program


class Export:
    """The target ``export``."""

    traits = TargetTraits(
        specializes_0_1=True,
        # torch.export.load imports them, which takes 1.4 s in each child.
        preload=("torch._dynamo", "torch.export._trace", "torch.export.pt2_archive._package"),
        moved_by="torch.export.passes.move_to_device_pass",
        read=exported_program.read,
        answers=EXPORTING,
        script=exported_program.SCRIPT,
    )

    def unavailable(self, device: str) -> str | None:
        """Return None: every supported torch has ``torch.export``."""
        return None

    def export(
        self, module: Callable[..., Any], example: Call, spec: InputSpec, **options: Any
    ) -> DirectArtifact | NotApplicable:
        """Export with the spec's dims; if torch refuses their relation, with ``Dim.DYNAMIC``."""
        if isinstance(module, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
            return NotApplicable("torch.export does not take TorchScript")
        extra = options.pop("extra_files", {})
        subject = Capturable.of(module, example, spec)
        first: Exception | None = None
        earlier: list[str] = []
        for shapes in dynamic_shapes(spec, example, subject.signature):
            forget_earlier_exports()
            try:
                program = torch.export.export(
                    subject.module,
                    example.args,
                    dict(example.kwargs),
                    dynamic_shapes=without_names(shapes),
                    **options,
                )
            except Exception as error:
                first = first or error
                if not is_about_dims(error):
                    break
                earlier.append(REFUSES.format(shapes=spelled(shapes)))
            else:
                made = _artifact(program, extra, subject.notes, respelled(earlier, shapes))
                return replace(made, dynamic_shapes=shapes)
            finally:
                forget_earlier_exports()
        assert first is not None
        raise first

    def load(self, path: Path, device: str) -> Callable[..., Any]:
        return exported_program.load(path, device)


def _artifact(
    program: torch.export.ExportedProgram,
    extra_files: Mapping[str, str | bytes],
    notes: tuple[str, ...],
    cautions: tuple[str, ...],
) -> DirectArtifact:
    module = program.module()
    return DirectArtifact(
        program=program,
        module=module,
        run=module,
        write=lambda path: exported_program.save(program, path, extra_files),
        filename=exported_program.FILENAME,
        facts=exported_program.ExportedProgramFacts(
            program=program, notes=notes, cautions=cautions
        ),
    )


TARGET = Export()
