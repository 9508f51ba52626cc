"""The ONNX models between eager and what ONNX Runtime ran, as files, and what runs them.

Separate from the examinations, several of which run the same files.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.case import Case, made_or_refused
from pytest_torchexport.judge.runner import InProcess
from pytest_torchexport.outcomes.observe import Outcome, raised
from pytest_torchexport.targets.base import Artifact, NotApplicable
from pytest_torchexport.targets.exporter_parts import OnnxArtifact
from pytest_torchexport.targets.formats.onnx_model import FILENAME
from pytest_torchexport.targets.formats.onnx_runtime import (
    AS_SHIPPED,
    Inside,
    Optimizations,
    ReferenceFile,
    TensorFile,
    run_inside,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class OnnxModel:
    """An ONNX file. ``artifact``, an OnnxArtifact, translates calls and values.

    ``program``: the ExportedProgram whose nodes are named like its values; None if there is none.
    """

    path: Path
    artifact: Any
    program: torch.export.ExportedProgram | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class OnnxModels:
    """The models of a case: ``shipped``, the one that failed, and ``plain``, made to compare."""

    case: Case
    directory: Path

    @cached_property
    def shipped(self) -> OnnxModel:
        """The model that ONNX Runtime ran. Raises whatever saving raises."""
        return self._model(self.case.artifact, "shipped")

    @cached_property
    def plain(self) -> OnnxModel | str:
        """The model without the exporter's optimizer, or why there is none."""
        case = self.case
        plain = dict(self.shipped.artifact.unoptimized)

        def made() -> OnnxModel | NotApplicable:
            # From the subject: an ExportedProgram that was translated once is not translated alike
            # again, as torch.onnx inserts its promotions of dtypes once more.
            artifact = case.exported(case.call_to_export(), options=plain)
            if isinstance(artifact, NotApplicable):
                return artifact
            return self._model(artifact, "plain")

        return made_or_refused(made)

    def run(
        self, model: OnnxModel, call: Call, optimizations: Optimizations = AS_SHIPPED
    ) -> Outcome:
        """Return the outcome of a call, with ONNX Runtime's optimizations or without them."""
        device = self.case.plan.device
        return self._run_with(lambda: TensorFile(model.path, device, optimizations), model, call)

    def run_reference(self, model: OnnxModel, call: Call) -> Outcome:
        return self._run_with(lambda: ReferenceFile(model.path), model, call)

    def _run_with(self, opened: Callable[[], Any], model: OnnxModel, call: Call) -> Outcome:
        try:
            session = opened()
        except Exception as error:
            return raised(error)
        runner: InProcess = self.case.runner_of(model.artifact.with_session(session))
        return runner.run(call, self.case.plan.seed)

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
        path = self.directory / f"optimized-{FILENAME}"
        TensorFile(self.shipped.path, self.case.plan.device, Optimizations(written=path))
        return dataclasses.replace(self.shipped, path=path)

    def _model(self, artifact: Artifact, name: str) -> OnnxModel:
        folder = self.directory / name
        folder.mkdir()
        program = getattr(artifact.program, "exported_program", None)
        return OnnxModel(path=artifact.save(folder), artifact=artifact, program=program)


def onnx_models(case: Case) -> OnnxModels | None:
    """Return the models of a case; None if its artifact is no ONNX model of this process."""
    if not isinstance(case.artifact, OnnxArtifact) or case.runner.isolated:
        return None
    directory = case.resources.enter_context(tempfile.TemporaryDirectory(prefix="torchexport-"))
    return OnnxModels(case=case, directory=Path(directory))
