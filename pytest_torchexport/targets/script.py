"""``torch.jit.script``: TorchScript compiled from the source, branches and loops included."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pytest_torchexport.inputs.spec import Call, InputSpec
from pytest_torchexport.targets.base import DirectArtifact, NotApplicable
from pytest_torchexport.targets.formats import contents, devices
from pytest_torchexport.targets.formats.branches import of_torchscript

FILENAME = "model.pt"
# The trip count that TorchScript gives a loop of which it knows none.
UNBOUNDED = 2**63 - 1


class Script:
    """The target."""

    specializes_0_1 = False

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
        return artifact(torch.jit.script(module, **options), extra)

    def load(self, path: Path, device: str) -> Callable[..., Any]:
        """``torch.jit.load`` on the device."""
        return load_script(path, device)

    def inspect(self, path: Path, loaded: Any) -> dict[str, Any]:
        """What a loaded program says of itself."""
        return inspect_script(path, loaded)


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


def artifact(program: Any, extra_files: Mapping[str, str | bytes]) -> DirectArtifact:
    """The artifact for a ScriptModule or ScriptFunction."""
    return DirectArtifact(
        program=program,
        module=program if isinstance(program, torch.nn.Module) else None,
        run=program,
        write=save_script,
        filename=FILENAME,
        extra_files=extra_files,
        native_loops=has_loops(program),
        reader=of_torchscript,
        describer=contents.of_torchscript,
        locator=devices.of_torchscript,
    )


def save_script(program: Any, path: Path, extra_files: Mapping[str, str | bytes]) -> None:
    """``torch.jit.save`` by way of memory: given a path, its C++ writer aborts the process on a full disk."""
    buffer = io.BytesIO()
    with _without_deprecations():
        torch.jit.save(program, buffer, _extra_files=dict(extra_files))
    path.write_bytes(buffer.getbuffer())


def load_script(path: Path, device: str) -> Callable[..., Any]:
    """``torch.jit.load`` on the device."""
    with _without_deprecations():
        return torch.jit.load(path, map_location=device)  # type: ignore[no-any-return,no-untyped-call]


def inspect_script(path: Path, loaded: Any) -> dict[str, Any]:
    """What a loaded program and its archive say of themselves, as plain data."""
    return {
        "described": contents.of_torchscript(loaded) | contents.extras_of(path),
        "branches": of_torchscript(loaded).as_plain(),
    }


@contextmanager
def _without_deprecations() -> Iterator[None]:
    """Saving and loading happen on the user's time too, maybe under ``-W error``: torch's advice about
    torch.jit as such is no news there. The class differs between versions, the words do not.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=r"`torch\.jit\.\w+` is (deprecated|not supported)"
        )
        yield


def has_loops(program: Any) -> bool:
    """Whether a TorchScript program has a ``while``: such a call may never return, and Python cannot
    interrupt it. A ``for`` ends by itself: its loop node knows the number of trips.
    """
    if not isinstance(program, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
        return False
    graph = getattr(program, "inlined_graph", None)
    loops = graph.findAllNodes("prim::Loop") if graph is not None else []
    return any(next(iter(loop.inputs())).toIValue() == UNBOUNDED for loop in loops)


TARGET = Script()
