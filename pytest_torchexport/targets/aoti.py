"""AOTInductor on the CPU: the program of the target ``export``, compiled by torch into a package.

A package is code for this kind of processor. It reads each tensor as it lies in the example, keeps
no guards, and takes what is no tensor from the example.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.autograd.graph import increment_version

from pytest_torchexport.inputs.spec import Call, InputSpec
from pytest_torchexport.targets.base import (
    EXPORTING,
    DirectArtifact,
    MadeOf,
    NotApplicable,
    TargetTraits,
)
from pytest_torchexport.targets.capturing import constant_arguments
from pytest_torchexport.targets.formats.exported_program import FILENAME, higher_order, is_compiled
from pytest_torchexport.targets.formats.torchscript import write_values
from pytest_torchexport.torch_private import compiled

SCRIPT = """\
import torch._inductor

artifact = torch._inductor.aoti_load_package(str(path))
"""


class Package:
    """A package that is loaded. Its buffers are its own: ``fresh`` loads it again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._run = compiled.load_package(path)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        returned = self._run(*args, **kwargs)
        # What it writes to an input, autograd does not see.
        given = Call(args, kwargs).tensors()
        increment_version(tensor for tensor in given if not tensor.is_inference())
        return returned

    def fresh(self) -> Package:
        return Package(self.path)


@dataclass(frozen=True, kw_only=True)
class AotiArtifact(DirectArtifact):
    """A package, and the program that was compiled. ``stateful``: calls change its buffers."""

    run: Package
    stateful: bool

    def fresh(self) -> AotiArtifact:
        return dataclasses.replace(self, run=self.run.fresh()) if self.stateful else self

    def made_of(self) -> Sequence[MadeOf]:
        return (
            MadeOf("ExportedProgram", self.program.module(), "capture"),
            MadeOf("AOTInductor", self, "translation"),
        )


def _write_arguments(_program: Any, call: Call, path: Path) -> None:
    given = call.tensors()
    write_values(["Tensor"] * len(given), given, path)


class Aoti:
    traits = TargetTraits(
        specializes_0_1=True,
        fixes_layouts=True,
        suffixes=(".pt2",),
        takes=lambda path: "" if is_compiled(path) else "judged by export",
        preload=("torch.export.pt2_archive._package",),
        leaves_out_casts=("cpu",),
        answers=EXPORTING,
        script=SCRIPT,
        for_cpp=_write_arguments,
    )

    def unavailable(self, device: str) -> str | None:
        if device != "cpu":
            return "what AOTInductor compiles is run on the CPU here"
        named = shlex.split(os.environ.get("CXX", ""))[:1]
        if not any(map(shutil.which, named or ("g++", "clang++"))):
            return f"no C++ compiler{' '.join(['', *named])}: install g++, or name yours in CXX"
        if compiled.package_compiler() is None:
            return "this torch has no AOTInductor: install torch 2.13, or another one that has it"
        return None

    def export(
        self,
        module: Callable[..., Any],
        example: Call,
        spec: InputSpec,
        *,
        inductor_configs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> AotiArtifact | NotApplicable:
        """Export like the target ``export``, with its options, and compile that program."""
        from pytest_torchexport import targets

        made: Any = targets.get("export").export(module, example, spec, **options)
        if isinstance(made, NotApplicable):
            return made
        directory = Path(tempfile.mkdtemp(prefix="torchexport-"))
        try:
            path = directory / FILENAME
            # Else the package has one thread for ever, as this process has during a check.
            configs = {"cpp.dynamic_threads": True, **(inductor_configs or {})}
            compiled.compile_package(made.program, path, configs)
            package = Package(path)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        # The package is held by what runs it, and so are its files.
        weakref.finalize(package, shutil.rmtree, directory, ignore_errors=True)
        return AotiArtifact(
            program=made.program,
            module=None,
            run=package,
            stateful=_changes_buffers(made.program),
            write=lambda to: shutil.copyfile(path, to),
            filename=FILENAME,
            baked=constant_arguments(spec, example),
            native_loops=any(higher_order(made.program, ("while_loop",))),
            dynamic_shapes=made.dynamic_shapes,
            facts=dataclasses.replace(made.facts, guarded=False),
        )

    def load(self, path: Path, _device: str) -> Package:
        return Package(path)


def _changes_buffers(program: torch.export.ExportedProgram) -> bool:
    if not program.graph_signature.buffers:
        return False
    # The signature tells it only once no operator writes in place.
    return bool(program.run_decompositions({}).graph_signature.buffers_to_mutate)


TARGET = Aoti()
