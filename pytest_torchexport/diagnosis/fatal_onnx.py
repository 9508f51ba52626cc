"""Run an ONNX model node by node in ONNX Runtime, up to the one that ends its process.

Separate from ``onnx_nodes``, which compares the values of a run that returned.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pytest_torchexport.diagnosis.last_step import LastStep
from pytest_torchexport.diagnosis.onnx_models import OnnxModel
from pytest_torchexport.diagnosis.onnx_nodes import place_of, translated_by
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.observe import Raised, raised
from pytest_torchexport.outcomes.tape import Tape
from pytest_torchexport.results.diagnosis import Place, Structural
from pytest_torchexport.results.source_line import source_line
from pytest_torchexport.targets.formats import onnx_model
from pytest_torchexport.targets.formats.branches import users_place
from pytest_torchexport.targets.formats.onnx_inside import node_by_node


@dataclass(frozen=True, kw_only=True)
class OnnxSteps:
    """The model that ONNX Runtime ran, and the call that ends it."""

    model: OnnxModel
    device: str
    call: Call

    def run(self, last: LastStep) -> Raised | None:
        """Run every node by itself, and write down each. Return what one raised."""
        feeds = self.model.artifact.pack_inputs(self.call.to(self.device)).kwargs
        try:
            for node, run in node_by_node(self.model.path, self.device, feeds):
                with last.step(node.op_type):
                    run()
        except Exception as error:
            return raised(error)
        return None

    def place(self, number: int) -> Place:
        """Return the place of a node."""
        node = onnx_model.read(self.model.path).graph.node[number - 1]
        program = self.model.program
        if program is not None:
            own = translated_by(node, program.module(check_guards=False))
            if own is not None:
                return replace(place_of(own), operator=node.op_type)
        at = users_place(onnx_model.frames_of(node))
        where = source_line(*at) if at is not None else None
        return Place(operator=node.op_type, where=where)

    def operand(self, number: int, eager: Tape) -> Structural | None:
        """Return None: the nodes have other operands than eager's operators."""
        return None
