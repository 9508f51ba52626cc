"""Find the operator of an ONNX model that brings in the difference, and the user's line of it.

The ExportedProgram has the nodes of the model by the same names, and knows their lines. It is run
on the values that ONNX Runtime computed: the first node of which torch makes another value, of the
same operands, and whose value alone makes the program wrong, is the one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import fx

from pytest_torchexport.diagnosis.first_difference import ROUNDING, gap
from pytest_torchexport.diagnosis.scene import OnnxModel, Scene, place_of
from pytest_torchexport.diagnosis.stages import CAPTURED, TRANSLATED
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.results.diagnosis import Diagnosis
from pytest_torchexport.targets.formats.onnx_model import fx_name
from pytest_torchexport.targets.formats.onnx_runtime import Inside

# So many nodes with another value are tried alone.
MOST = 12


def examine(scene: Scene, known: Diagnosis) -> Diagnosis:
    """Add the place, if the owner is a step between the ExportedProgram and ONNX Runtime."""
    models = scene.onnx
    if models is None or scene.call is None or known.place is not None:
        return known
    model: OnnxModel | str | None = None  # the first that is wrong
    by_name = {stage.name: stage.agrees for stage in known.stages}
    unsure = known.owner is None and by_name.get(CAPTURED) and by_name.get(TRANSLATED) is False
    if unsure or known.owner in ("translation", "runtime"):
        model = models.plain
    elif known.owner == "exporter's optimizer":
        model = models.shipped
    elif known.owner == "runtime's optimizer":
        model = models.optimized()
    if not isinstance(model, OnnxModel) or model.program is None:
        return known
    inside = models.run_inside(model, scene.call)
    node = _first_difference(scene, scene.call, model.program, inside)
    return replace(known, place=place_of(node)) if node is not None else known


def _first_difference(
    scene: Scene, call: Call, program: torch.export.ExportedProgram, inside: Inside
) -> fx.Node | None:
    """Return the node that brings the difference in, or at which ONNX Runtime raised."""
    module = program.module(check_guards=False)
    runner_of, seed = scene.case.runner_of, scene.case.plan.seed
    whole = _Replay(module, inside.values)
    runner_of(whole).run(call, seed)
    for node in whole.differing()[:MOST]:
        alone = _Replay(module, {node.name: inside.values[node.name]})
        if scene.is_eagers(runner_of(alone).run(call, seed)):
            continue
        for missing in whole.missing_before(node):
            for given in missing.all_input_nodes:
                without = _Replay(module, inside.values, {missing.name: given})
                runner_of(without).run(call, seed)
                if node not in without.differing():
                    return missing  # the other run left it out
        return node
    if inside.raised_at is not None:
        # As the metadata of an ONNX node says.
        name = fx_name(inside.raised_at)
        return next((node for node in module.graph.nodes if node.name == name), None)
    # If all values are right, the only one that the other run lacks was left out at the very end.
    (end,) = (node for node in module.graph.nodes if node.op == "output")
    ends = [node for node in end.all_input_nodes if whole.lacks(node)]
    return ends[0] if len(ends) == 1 else None


class _Replay(fx.Interpreter):
    """An ExportedProgram as an artifact, run on the values that another run has of its nodes.

    ``own`` are torch's values of these nodes, of operands of the other run. ``left_out`` are nodes
    that return one of their inputs, by name.
    """

    native_loops = False

    def __init__(
        self,
        module: fx.GraphModule,
        values: Mapping[str, Any],
        left_out: Mapping[str, fx.Node] = MappingProxyType({}),
    ) -> None:
        super().__init__(module)
        self._left_out = left_out
        self.values: dict[str, Any] = {}
        self.own: dict[str, Any] = {}
        for node in module.graph.nodes:
            known, value = node.meta.get("val"), values.get(node.name)
            if node.op != "call_function" or value is None:
                continue
            if isinstance(known, torch.Tensor):
                if known.is_complex() and not value.is_complex() and value.shape[-1:] == (2,):
                    value = torch.view_as_complex(value.contiguous())
                self.values[node.name] = value
            elif isinstance(known, (torch.SymInt, torch.SymFloat, int)):
                self.values[node.name] = value.item() if value.numel() == 1 else value

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*Call(args, kwargs).leaves())

    def run_node(self, n: fx.Node) -> Any:
        if n.name in self._left_out:
            return self.env[self._left_out[n.name]]
        if n.name not in self.values:
            return super().run_node(n)
        with contextlib.suppress(Exception):  # operands that torch does not take
            self.own[n.name] = super().run_node(n)
        return self.values[n.name]

    def differing(self) -> list[fx.Node]:
        """Return the nodes with another tensor, those first that differ by more than rounding."""
        gaps = {
            node: gap(own, theirs)
            for node in self.graph.nodes
            for own, theirs in [(self.own.get(node.name), self.values.get(node.name))]
            if isinstance(own, torch.Tensor) and isinstance(theirs, torch.Tensor)
        }
        apart = [node for node in gaps if gaps[node]]
        return sorted(apart, key=lambda node: gaps[node] <= ROUNDING)

    def missing_before(self, node: fx.Node) -> list[fx.Node]:
        """Return the nodes that lead to one and of which the other run has no value."""
        missing: dict[fx.Node, None] = {}
        waiting = list(node.all_input_nodes)
        while waiting:
            one = waiting.pop()
            if self.lacks(one) and one not in missing:
                missing[one] = None
                waiting += one.all_input_nodes
        return list(missing)

    def lacks(self, node: fx.Node) -> bool:
        return node.op == "call_function" and node.name not in self.values
