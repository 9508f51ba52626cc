"""Measure how far each node of an ONNX model is from torch, as node data of Model Explorer.

Model Explorer shows it on the graph of the file beside it. Its format:
https://github.com/google-ai-edge/model-explorer/wiki/2.-User-Guide#custom-node-data
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import fx

from pytest_torchexport.diagnosis.mixed_program import MixedProgram
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.case import Case
from pytest_torchexport.targets.formats.onnx_inside import EXPOSED, Inside, run_inside
from pytest_torchexport.targets.onnx import OnnxArtifact

# From the smallest value of the graph to the largest.
GRADIENT = [{"stop": 0, "bgColor": "#ffffff"}, {"stop": 1, "bgColor": "#e53935"}]
# A node whose numbers have another shape, or are nan or infinite where torch's are not: JSON has no
# infinity.
OTHER: dict[str, Any] = {
    "value": torch.finfo(torch.float32).max,
    "bgColor": "#6a1b9a",
    "textColor": "#ffffff",
}


def node_data(case: Case, call: Call, file: Path) -> str:
    """Return the largest difference of each node on a call; empty if it cannot be measured.

    The file is run without ONNX Runtime's optimizations, node by node beside the ExportedProgram.
    """
    artifact = case.artifact
    if not isinstance(artifact, OnnxArtifact) or case.foreign or case.runner.isolated:
        return ""
    device = case.plan.device
    own = call.to(device).clone()
    try:
        inside = run_inside(file, device, artifact.pack_inputs(own).kwargs)
    finally:
        file.with_name(EXPOSED).unlink(missing_ok=True)
    program = _Measured(artifact.program.exported_program, inside.values)
    with torch.no_grad():
        program(*own.args, **own.kwargs)
    results = _by_node(inside, program.results)
    name = inside.model.graph.name
    return (
        json.dumps({name: {"results": results, "gradient": GRADIENT}}, indent=1) if results else ""
    )


class _Measured(MixedProgram):
    """A program that compares torch's value of each node with the other run's."""

    def __init__(self, program: torch.export.ExportedProgram, values: Any) -> None:
        super().__init__(program, values)
        self.results: dict[str, dict[str, Any]] = {}

    def computed(self, node: fx.Node, value: Any) -> None:
        if node.name in self.values and isinstance(value, torch.Tensor):
            self.results[node.name] = _result(value, self.values[node.name])


def _result(eager: torch.Tensor, other: Any) -> dict[str, Any]:
    if not isinstance(other, torch.Tensor) or eager.shape != other.shape:
        return OTHER
    wide = torch.complex128 if eager.is_complex() else torch.float64
    wanted, found = eager.to(wide), other.to(wide)
    gap = (wanted - found).abs()
    gap[(wanted == found) | (wanted.isnan() & found.isnan())] = 0.0
    largest = float(gap.max()) if gap.numel() else 0.0
    return {"value": largest} if largest < OTHER["value"] else OTHER


def _by_node(inside: Inside, results: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the results by the names of the ONNX nodes that return the values."""
    return {
        node.name: results[output]
        for node in inside.model.graph.node
        for output in node.output
        if node.name and output in results
    }
