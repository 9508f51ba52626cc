"""``torch.jit.script``: TorchScript compiled from the source, branches and loops included."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from pytest_torchexport.inputs.spec import Call, InputSpec
from pytest_torchexport.targets.base import DirectArtifact, NotApplicable, TargetTraits
from pytest_torchexport.targets.formats import contents, torchscript


class Script:
    """The target."""

    traits = TargetTraits(read=torchscript.read)

    def unavailable(self, device: str) -> str | None:
        """Gone with torch versions that no longer have TorchScript."""
        return None if hasattr(torch.jit, "script") else "this torch has no torch.jit.script"

    def export(
        self, module: Callable[..., Any], example: Call, spec: InputSpec, **options: Any
    ) -> DirectArtifact | NotApplicable:
        """Compile; what is TorchScript already is taken as it is."""
        _forget_types()
        owner = getattr(module, "__self__", None)
        if isinstance(owner, torch.nn.Module) and not isinstance(module, torch.nn.Module):
            module = _with_forward(owner, module.__name__)
        extra = options.pop("_extra_files", {})
        return DirectArtifact(**script_fields(torch.jit.script(module, **options), extra))

    def load(self, path: Path, device: str) -> Callable[..., Any]:
        """``torch.jit.load`` on the device."""
        return torchscript.load(path, device)


def _forget_types() -> None:
    """Drop TorchScript's cache of compiled module types: a class whose compilation failed stays there half
    made, and its next compilation fails for another reason. Private, so feature-detected.
    """
    recursive = getattr(torch.jit, "_recursive", None)
    store = getattr(getattr(recursive, "concrete_type_store", None), "type_store", None)
    if store is not None:
        store.clear()


def _with_forward(owner: torch.nn.Module, name: str) -> torch.nn.Module:
    """The module with another of its methods as ``forward``: the one that TorchScript compiles and saves."""
    cls = type(owner)
    twin = type(cls.__name__, (cls,), {"forward": getattr(cls, name), "__module__": cls.__module__})
    module: torch.nn.Module = object.__new__(twin)
    module.__dict__ = owner.__dict__
    return module


def script_fields(program: Any, extra_files: Mapping[str, str | bytes]) -> dict[str, Any]:
    """Return the fields of a DirectArtifact for a ScriptModule or ScriptFunction."""
    return {
        "program": program,
        "module": program if isinstance(program, torch.nn.Module) else None,
        "run": program,
        "write": lambda path: torchscript.save(program, path, extra_files),
        "filename": torchscript.FILENAME,
        "native_loops": torchscript.has_loops(program),
        "facts": torchscript.TorchScriptFacts(
            program=program, extras=contents.given_extras(extra_files)
        ),
    }


TARGET = Script()
