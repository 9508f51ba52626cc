"""``torch.jit.script``: TorchScript compiled from the source, branches and loops included."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pytest_torchexport.spec.inputs import Call, InputSpec
from pytest_torchexport.targets.base import DirectArtifact, NotApplicable

FILENAME = "model.pt"


class Script:
    """The target."""

    specializes = False

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
            return _script_method(owner, getattr(module, "__name__", "forward"), options)
        compiled = torch.jit.script(module, **options)
        return artifact(compiled, compiled)

    def load(self, path: Path, device: str) -> Callable[..., Any]:
        """``torch.jit.load`` on the device."""
        return torch.jit.load(path, map_location=device)  # type: ignore[no-any-return,no-untyped-call]


def _forget_types() -> None:
    """Drop TorchScript's cache of compiled module types: a class whose compilation failed stays there half
    made, and its next compilation fails for another reason. Private, so feature-detected.
    """
    recursive = getattr(torch.jit, "_recursive", None)
    store = getattr(getattr(recursive, "concrete_type_store", None), "type_store", None)
    if store is not None:
        store.clear()


def _script_method(
    owner: torch.nn.Module, name: str, options: dict[str, Any]
) -> DirectArtifact | NotApplicable:
    compiled = torch.jit.script(owner, **options)
    if not hasattr(compiled, name):
        return NotApplicable(
            f"torch.jit.script compiles forward; decorate {name!r} with @torch.jit.export to have it compiled"
        )
    return artifact(compiled, getattr(compiled, name))


def artifact(program: Any, run: Callable[..., Any]) -> DirectArtifact:
    """The artifact for a ScriptModule or ScriptFunction, of which ``run`` is called."""
    return DirectArtifact(
        program=program,
        module=program if isinstance(program, torch.nn.Module) else None,
        run=run,
        write=torch.jit.save,
        filename=FILENAME,
        native_loops=has_loops(program),
    )


def has_loops(program: Any) -> bool:
    """Whether a TorchScript program can loop: such a call may never return and cannot be interrupted."""
    methods = getattr(program, "_method_names", None)
    names = [name for name in methods() if name != "forward"] if callable(methods) else []
    graphs = [getattr(program, "inlined_graph", None)]
    graphs += [getattr(getattr(program, name), "inlined_graph", None) for name in names]
    return any(graph is not None and graph.findAllNodes("prim::Loop") for graph in graphs)


TARGET = Script()
