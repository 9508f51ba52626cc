"""``torch.export``: one graph with symbolic sizes and guards, or a refusal."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from pytest_torchexport.inputs.dynamic_shapes import dynamic_shapes, without_names
from pytest_torchexport.inputs.spec import Call, InputSpec
from pytest_torchexport.outcomes.messages import is_about_dims
from pytest_torchexport.outcomes.subject import as_module, signature_of, spelled_out
from pytest_torchexport.targets.base import DirectArtifact, NotApplicable, TargetTraits
from pytest_torchexport.targets.formats import contents, exported_program


class Export:
    """The target."""

    traits = TargetTraits(
        specializes_0_1=True,
        # 1.4 s that every child would pay: torch.export.load needs it.
        preload=("torch._dynamo",),
        moved_by="torch.export.passes.move_to_device_pass",
        read=exported_program.read,
    )

    def unavailable(self, device: str) -> str | None:
        """Part of every supported torch."""
        return None

    def export(
        self, module: Callable[..., Any], example: Call, spec: InputSpec, **options: Any
    ) -> DirectArtifact | NotApplicable:
        """Export with the spec's dims; where torch refuses their relation, with ``Dim.DYNAMIC``."""
        if isinstance(module, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
            return NotApplicable("torch.export does not take TorchScript")
        extra = options.pop("extra_files", {})
        subject, signature, notes = with_names(module, example, spec)
        first: Exception | None = None
        for _, shapes in dynamic_shapes(spec, example, signature):
            forget_earlier_exports()
            try:
                program = torch.export.export(
                    subject,
                    example.args,
                    dict(example.kwargs),
                    dynamic_shapes=without_names(shapes),
                    **options,
                )
            except Exception as error:
                first = first or error
                if not is_about_dims(error):
                    break
            else:
                return _artifact(program, extra, notes)
            finally:
                forget_earlier_exports()
        assert first is not None
        raise first

    def load(self, path: Path, device: str) -> Callable[..., Any]:
        """``torch.export.load``, moved to the device."""
        return exported_program.load(path, device)


def _artifact(
    program: torch.export.ExportedProgram,
    extra_files: Mapping[str, str | bytes],
    notes: tuple[str, ...],
) -> DirectArtifact:
    module = program.module()
    return DirectArtifact(
        program=program,
        module=module,
        run=module,
        write=lambda path: exported_program.save(program, path, extra_files),
        filename=exported_program.FILENAME,
        facts=exported_program.ExportedProgramFacts(
            program=program, extras=contents.given_extras(extra_files), notes=notes
        ),
    )


def with_names(
    module: Callable[..., Any], example: Call, spec: InputSpec
) -> tuple[torch.nn.Module, inspect.Signature | None, tuple[str, ...]]:
    """What torch.export gets for the subject, with its signature; and a note where that is not the subject's own."""
    varies = spec.dims and spec.dynamic_shapes is None
    named = spelled_out(module, example.kwargs) if varies else None
    if named is None:
        return as_module(module), signature_of(module), ()
    return (
        named,
        signature_of(named),
        (
            "exported through a wrapper that names all keywords of the call: torch.export has no dynamic shapes for **kwargs",
        ),
    )


def forget_earlier_exports() -> None:
    """Forget what earlier exports in this process left behind, so that none changes a later one's result.

    torch.onnx.export swaps the decomposition of ``aten.lstm`` and ``aten.gru`` without clearing the
    operator's dispatch cache, and dynamo remembers which sizes of a loop's body were static: either makes
    a declared dynamic time axis static in the next export. The caches are private, so feature-detected.
    """
    for name in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
        overload = getattr(getattr(torch.ops.aten, name, None), "input", None)
        cache = getattr(overload, "_dispatch_cache", None)
        if cache is not None:
            cache.clear()
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


TARGET = Export()
