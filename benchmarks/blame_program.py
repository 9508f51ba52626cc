"""Print how often a diagnosis names the operator that was made wrong in an ExportedProgram.

`python benchmarks/blame_program.py --networks 20 --each 3`

Like ``blame_onnx``, for the target ``export``: each network of ``networks`` (the healthy one) is
exported, and one node of the program is replaced by another operator, is left out, gets another
constant, or gets its operands in the other order. The node and its line in the network's source are
what the diagnosis is to name; a fault that no call shows does not count.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent))

import networks
import torch
from common import Record, blame, result
from torch import fx

from pytest_torchexport import Verdict, check_export
from pytest_torchexport.diagnosis.scene import place_of
from pytest_torchexport.targets import export as export_target

aten = torch.ops.aten
UNARY = (
    *(aten.relu.default, aten.tanh.default, aten.sigmoid.default, aten.exp.default),
    *(aten.abs.default, aten.neg.default, aten.sin.default, aten.cos.default, aten.erf.default),
)
BINARY = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)
# Activations with a constant, and operators of one operand that keep its shape.
CONSTANT = (aten.leaky_relu.default, aten.elu.default, *BINARY)
SAME_SHAPE = (
    *UNARY,
    aten.gelu.default,
    aten.silu.default,
    aten.softmax.int,
    aten.hardswish.default,
)
ORDERED = (aten.sub.Tensor, aten.div.Tensor)
KINDS = ("another operator", "left out", "another constant", "operands exchanged")


@dataclass(frozen=True)
class Fault:
    """One fault of a program: what is done to the node of this name."""

    kind: str
    node: str


def faults(graph: fx.Graph) -> list[Fault]:
    """Return the faults that can be put into a graph."""
    found = []
    for node in graph.nodes:
        two = sum(isinstance(item, fx.Node) for item in node.args) == 2
        fits = {
            "another operator": node.target in UNARY or (node.target in BINARY and two),
            "left out": node.target in SAME_SHAPE,
            "another constant": node.target in CONSTANT and _constant(node) is not None,
            "operands exchanged": node.target in ORDERED and two,
        }
        found += [Fault(kind, node.name) for kind in KINDS if fits[kind]]
    return found


def _constant(node: fx.Node) -> int | None:
    """Return the position of the first argument that is a number."""
    numbers = (i for i, item in enumerate(node.args) if type(item) in (int, float) and item)
    return next(numbers, None)


def seed(graph: fx.Graph, fault: Fault) -> None:
    """Put the fault into a graph."""
    node = next(node for node in graph.nodes if node.name == fault.node)
    if fault.kind == "another operator":
        group = UNARY if node.target in UNARY else BINARY
        node.target = group[(group.index(node.target) + 1) % len(group)]
    elif fault.kind == "left out":
        node.replace_all_uses_with(node.args[0])
        graph.erase_node(node)
    elif fault.kind == "another constant":
        at = _constant(node)
        assert at is not None
        node.update_arg(at, node.args[at] * 2)
    else:
        node.args = (node.args[1], node.args[0], *node.args[2:])


class Exports:
    """The target's last program, and the fault that goes into each."""

    def __init__(self) -> None:
        self.fault: Fault | None = None
        self.nodes: dict[str, fx.Node] = {}
        self.possible: list[Fault] = []
        self._artifact = export_target._artifact

    def artifact(self, program: Any, *given: Any) -> Any:
        """Make the artifact of a program with the fault in it."""
        graph = program.graph_module.graph
        if self.fault is None:
            self.nodes = {node.name: node for node in graph.nodes}
            self.possible = faults(graph)
        else:
            seed(graph, self.fault)
            program.graph_module.recompile()
        return self._artifact(program, *given)


@contextlib.contextmanager
def patched(exports: Exports) -> Iterator[None]:
    with mock.patch.object(export_target, "_artifact", exports.artifact):
        yield


def judge(number: int, each: int) -> list[Record]:
    """Return a record per fault of a network."""
    network, chooser, records = networks.draw(number), random.Random(f"blame {number}"), []
    exports = Exports()
    with tempfile.TemporaryDirectory() as directory, patched(exports):
        healthy, _ = network.load(Path(directory))
        if _checked(network, healthy).failure is not None:
            return []
        for fault in chooser.sample(exports.possible, min(each, len(exports.possible))):
            exports.fault = fault
            records.append(_graded(_checked(network, healthy), number, fault, exports.nodes))
    return records


def _checked(network: networks.Network, module: torch.nn.Module) -> Verdict:
    return check_export(
        module, network.example(), target="export", checks=["parity"], max_examples=10,
        **network.options(),
    )  # fmt: skip


def _graded(verdict: Verdict, number: int, fault: Fault, nodes: dict[str, fx.Node]) -> Record:
    found, truth = verdict.diagnosis.place, place_of(nodes[fault.node])
    # torch runs aten.softmax as aten._softmax.
    named = found.operator.replace("._", ".") if found is not None else ""
    right = found is not None and (named, found.where) == (truth.operator, truth.where)
    return {
        "seed": number,
        "kind": fault.kind,
        "node": fault.node,
        "counted": verdict.failure == "OutputsDiffer",
        "failure": verdict.failure or verdict.status,
        "truth": f"{truth.operator} {truth.where}",
        "named": f"{found} {found.where}" if found is not None else "",
        "not examined": list(verdict.diagnosis.not_examined),
        "place is": result(found is not None, right),
    }


if __name__ == "__main__":
    blame(__doc__, judge, "kind", KINDS, {"place is": "operator and line"}, 3)
