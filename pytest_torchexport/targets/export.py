"""``torch.export``: one graph with symbolic sizes and guards, or a refusal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pytest_torchexport.inputs.dynamic_shapes import without_names
from pytest_torchexport.inputs.spec import Call, InputSpec
from pytest_torchexport.targets.base import EXPORTING, DirectArtifact, NotApplicable, TargetTraits
from pytest_torchexport.targets.capturing import Capturable, exported
from pytest_torchexport.targets.formats import exported_program


class Export:
    traits = TargetTraits(
        specializes_0_1=True,
        suffixes=(".pt2",),
        takes=lambda path: "judged by aoti" if exported_program.is_compiled(path) else "",
        # torch.export.load imports them, which takes 1.4 s in each child.
        preload=("torch._dynamo", "torch.export._trace", "torch.export.pt2_archive._package"),
        moved_by="torch.export.passes.move_to_device_pass",
        read=exported_program.read,
        answers=EXPORTING,
        script=exported_program.SCRIPT,
    )

    load = staticmethod(exported_program.load)

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

        def export(shapes: Any) -> torch.export.ExportedProgram:
            return torch.export.export(
                subject.module,
                example.args,
                dict(example.kwargs),
                dynamic_shapes=without_names(shapes),
                **options,
            )

        made = exported(export, subject, example, spec)
        called = made.program.module()
        return DirectArtifact(
            program=made.program,
            module=called,
            run=called,
            write=lambda path: exported_program.save(made.program, path, extra),
            filename=exported_program.FILENAME,
            dynamic_shapes=made.dynamic_shapes,
            facts=exported_program.ExportedProgramFacts(
                program=made.program, notes=made.notes, cautions=made.cautions, doubts=made.doubts
            ),
        )


TARGET = Export()
