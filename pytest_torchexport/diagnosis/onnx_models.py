"""The ONNX models between eager and what ONNX Runtime ran, as files, and what runs them.

Separate from the examinations, several of which run the same files.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.case import Case, made_or_refused
from pytest_torchexport.judge.runner import (
    InProcess,
    InSandbox,
    artifact_directory,
    opened,
    source_of,
)
from pytest_torchexport.outcomes.observe import Outcome, raised
from pytest_torchexport.targets.base import Artifact, NotApplicable
from pytest_torchexport.targets.formats.onnx_inside import Inside, ReferenceFile, run_inside
from pytest_torchexport.targets.formats.onnx_model import FILENAME
from pytest_torchexport.targets.formats.onnx_runtime import (
    AS_SHIPPED,
    WITH_SETTINGS_PATH,
    Optimizations,
    TensorFile,
    beside,
)
from pytest_torchexport.targets.onnx import OnnxArtifact
from pytest_torchexport.targets.onnx_legacy import LegacyArtifact

# Without the exporter's optimizer. The old exporter itself folds constants.
UNOPTIMIZED = {"optimize": False}
LEGACY_UNOPTIMIZED = {"do_constant_folding": False}
MADE_ELSEWHERE = "the file was made elsewhere"


@dataclass(frozen=True, kw_only=True, eq=False)
class OnnxModel:
    """An ONNX file. ``artifact`` translates calls and values.

    ``program``: the ExportedProgram whose nodes are named like its values; None if there is none.
    """

    path: Path
    artifact: OnnxArtifact | LegacyArtifact | Artifact
    program: torch.export.ExportedProgram | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class OnnxModels:
    """The models of a case: ``shipped``, the one that failed, and ``plain``, made to compare."""

    case: Case
    directory: Path

    @property
    def sandboxed(self) -> bool:
        """True if they may run in the clean process only, where no value inside can be seen."""
        return self.case.foreign or self.case.runner.isolated

    @cached_property
    def shipped(self) -> OnnxModel:
        """The model that ONNX Runtime ran. Raises whatever saving raises."""
        artifact = self.case.artifact
        if self.case.foreign:
            return OnnxModel(path=Path(artifact.program), artifact=artifact)
        return _model(artifact, self._folder("shipped"))

    @cached_property
    def plain(self) -> OnnxModel | str:
        """The model without the exporter's optimizer, or why there is none."""
        if self.case.foreign:
            return MADE_ELSEWHERE
        return made_or_refused(self._made_plain)

    def _made_plain(self) -> OnnxModel | NotApplicable:
        case = self.case
        plain = LEGACY_UNOPTIMIZED if isinstance(case.artifact, LegacyArtifact) else UNOPTIMIZED
        # From the subject: an ExportedProgram that was translated once is not translated alike
        # again, as torch.onnx inserts its promotions of dtypes once more.
        made = case.exported(case.call_to_export(), options=plain)
        if isinstance(made, NotApplicable):
            return made
        return _model(made, self._folder("plain"))

    def run(
        self, model: OnnxModel, call: Call, optimizations: Optimizations = AS_SHIPPED
    ) -> Outcome:
        """Return the outcome of a call, with ONNX Runtime's optimizations or without them."""
        if self.sandboxed:
            return self._run_in_sandbox(model, call, optimizations)
        try:
            file = TensorFile(model.path, self.case.plan.device, optimizations)
        except Exception as error:
            return raised(error)
        return self._run_with(model, call, file)

    def run_reference(self, model: OnnxModel, call: Call) -> Outcome:
        """Return the outcome of a call by onnx.reference."""
        try:
            file = ReferenceFile(model.path)
        except Exception as error:
            return raised(error)
        return self._run_with(model, call, file)

    def run_inside(self, model: OnnxModel, call: Call) -> Inside:
        """Return every value of a call, by ONNX Runtime without its optimizations."""
        device = self.case.plan.device
        feeds = model.artifact.pack_inputs(call.to(device)).kwargs
        nodes = model.program.graph.nodes if model.program is not None else ()
        constants = {node.name for node in nodes if node.op == "call_function"}
        return run_inside(model.path, device, feeds, constants)

    def optimized(self) -> OnnxModel:
        """Return the shipped model as ONNX Runtime runs it, its own optimizations made.

        Raises whatever opening it raises.
        """
        path = self._folder("optimized") / FILENAME
        optimizations = Optimizations(written=path)
        TensorFile(self.shipped.path, self.case.plan.device, optimizations)
        return dataclasses.replace(self.shipped, path=path)

    def _run_with(self, model: OnnxModel, call: Call, file: Any) -> Outcome:
        # A file from elsewhere runs in the clean process.
        assert isinstance(model.artifact, OnnxArtifact | LegacyArtifact)
        runner: InProcess = self.case.runner_of(model.artifact.with_session(file))
        return runner.run(call, self.case.plan.seed)

    def _run_in_sandbox(
        self, model: OnnxModel, call: Call, optimizations: Optimizations
    ) -> Outcome:
        case = self.case
        settings = {"enabled": optimizations.enabled, "disabled": list(optimizations.disabled)}
        beside(model.path).write_text(json.dumps(settings))
        source = source_of(
            case.plan,
            model.path,
            case.blocked,
            trusted=not case.foreign,
            load=f"{WITH_SETTINGS_PATH}.load",
            read=f"{WITH_SETTINGS_PATH}.read",
        )
        runner = InSandbox(
            artifact=model.artifact,
            open=lambda *, threads: opened(dataclasses.replace(source, threads=threads), case.plan),
            left=case.call_limit,
        )
        try:
            return runner.run(call, case.plan.seed)
        finally:
            runner.close()

    def _folder(self, name: str) -> Path:
        """Return a new folder for one model; the clean process has its own place for them."""
        if not self.sandboxed:
            folder = self.directory / name
            folder.mkdir()
            return folder
        folder = artifact_directory(self.case.plan.target)
        self.case.resources.callback(shutil.rmtree, folder, ignore_errors=True)
        return folder


def _model(artifact: Artifact, folder: Path) -> OnnxModel:
    program = getattr(artifact.program, "exported_program", None)
    return OnnxModel(path=artifact.save(folder), artifact=artifact, program=program)


def onnx_models(case: Case) -> OnnxModels | None:
    """Return the models of a case; None if its artifact is no ONNX model."""
    ours = isinstance(case.artifact, OnnxArtifact | LegacyArtifact)
    file = getattr(case.artifact, "program", None)
    theirs = case.foreign and isinstance(file, Path) and file.suffix == ".onnx"
    if not ours and not theirs:
        return None
    directory = case.resources.enter_context(tempfile.TemporaryDirectory(prefix="torchexport-"))
    return OnnxModels(case=case, directory=Path(directory))
