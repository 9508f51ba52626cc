"""``torch.jit.script``: TorchScript compiled from the source, branches and loops included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pytest_torchexport.inputs.spec import Call, InputSpec
from pytest_torchexport.targets.base import DirectArtifact, NotApplicable, TargetTraits
from pytest_torchexport.targets.formats import torchscript
from pytest_torchexport.torch_private.between_exports import forget_script_types


class Script:
    traits = TargetTraits(
        read=torchscript.read,
        suffixes=torchscript.SUFFIXES,
        leaves_out_casts=torchscript.FUSES_ON,
        script=torchscript.SCRIPT,
        for_cpp=torchscript.write_arguments,
        # In eager the second is None.
        answers={"torch.jit.is_scripting": True, "torch._C._get_tracing_state": False},
    )

    load = staticmethod(torchscript.load)

    def unavailable(self, device: str) -> str | None:
        return None if hasattr(torch.jit, "script") else "this torch has no torch.jit.script"

    def export(
        self, module: Callable[..., Any], example: Call, spec: InputSpec, **options: Any
    ) -> DirectArtifact | NotApplicable:
        """Compile the subject; a subject that is TorchScript stays as it is."""
        forget_script_types()
        owner = getattr(module, "__self__", None)
        if isinstance(owner, torch.nn.Module) and not isinstance(module, torch.nn.Module):
            # TorchScript compiles ``forward`` alone.
            cls = type(owner)
            forward = {"forward": getattr(cls, module.__name__), "__module__": cls.__module__}
            twin: Any = object.__new__(type(cls.__name__, (cls,), forward))
            twin.__dict__ = owner.__dict__
            module = twin
        extra = options.pop("_extra_files", {})
        program = torch.jit.script(module, **options)
        return DirectArtifact(**torchscript.artifact_fields(program, extra))


TARGET = Script()
