"""Checked by mypy, never run: what a type checker says about targets of other packages.

Each ``type: ignore`` marks an error that mypy must find: it reports the comment if there is none.
The target of docs/howto/own-target.md is checked beside this file, and must have no error.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytest_torchexport import register_target
from pytest_torchexport.inputs.spec import Call, InputSpec
from pytest_torchexport.targets import (
    Artifact,
    BakedDevice,
    Branches,
    DirectArtifact,
    NotApplicable,
    ProgramFacts,
    Suspicion,
    Target,
    TargetTraits,
)
from pytest_torchexport.testing import FakeTarget


class Facts(ProgramFacts):
    """All that a format may answer."""

    def suspicions(self, spec: InputSpec, example: Call) -> tuple[Suspicion, ...]:
        return ()

    def branches(self) -> Branches | None:
        return Branches()

    def devices(self) -> tuple[BakedDevice, ...]:
        return ()


def read(path: Path, loaded: Any) -> Facts:
    return Facts()


class Complete:
    """A target that declares everything."""

    traits = TargetTraits(
        specializes_0_1=True,
        crashes_on_caught_errors="it does not survive that",
        preload=("json",),
        loader="my_package.loader:LOADER",
        library="onnxruntime",
        moved_by="my_package.move",
        read=read,
    )

    def unavailable(self, device: str) -> str | None:
        return None

    def export(
        self, module: Callable[..., Any], example: Call, spec: InputSpec, **options: Any
    ) -> Artifact | NotApplicable:
        return DirectArtifact(
            program=module,
            module=None,
            run=module,
            write=lambda path: path.touch(),
            filename="model",
            facts=Facts(notes=("a note",)),
        )

    def load(self, path: Path, device: str) -> Callable[..., Any]:
        return print


class WithoutTraits:
    def unavailable(self, device: str) -> str | None:
        return None

    def export(
        self, module: Callable[..., Any], example: Call, spec: InputSpec, **options: Any
    ) -> NotApplicable:
        return NotApplicable("never")

    def load(self, path: Path, device: str) -> Callable[..., Any]:
        return print


class WithoutLoad:
    traits = TargetTraits()

    def unavailable(self, device: str) -> str | None:
        return None

    def export(
        self, module: Callable[..., Any], example: Call, spec: InputSpec, **options: Any
    ) -> NotApplicable:
        return NotApplicable("never")


class WithoutFacts:
    """An artifact without one of its members."""

    program = None
    module = None
    baked = ()
    native_loops = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def save(self, directory: Path) -> Path:
        return directory

    def pack_inputs(self, call: Call) -> Call:
        return call

    def unpack_outputs(self, value: Any) -> Any:
        return value


complete: Target = Complete()
fake: Target = FakeTarget(lambda module: module)
without_traits: Target = WithoutTraits()  # type: ignore[assignment]
without_load: Target = WithoutLoad()  # type: ignore[assignment]
without_facts: Artifact = WithoutFacts()  # type: ignore[assignment]
TargetTraits(specialises_0_1=True)  # type: ignore[call-arg]
register_target("complete", Complete())
register_target("broken", WithoutLoad())  # type: ignore[arg-type]
