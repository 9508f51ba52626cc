"""Print how often a diagnosis names the owner, the operator and the line of what was made wrong.

`python benchmarks/blame.py --networks 20 --targets export,onnx --jobs 2`

Each network of ``networks`` (the healthy one) is exported several times, each time with one fault:
a node replaced by another operator, left out, given another constant or attribute, or its operands
exchanged. In an ExportedProgram the fault is in the program; of an ONNX model it is in one of four
places: where the program is translated, in the exporter's optimizer, in one of ONNX Runtime's
optimizers, or in ONNX Runtime itself, which then runs another file than it is given. A fault that
no call shows does not count.
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

import common
import networks
import onnx
import torch
from common import Around, Record, table
from onnx import numpy_helper
from torch import fx

from pytest_torchexport import Verdict, check_export, register_target
from pytest_torchexport.config.names import BUILT_IN
from pytest_torchexport.diagnosis.scene import place_of
from pytest_torchexport.targets import export
from pytest_torchexport.targets import onnx as onnx_target
from pytest_torchexport.targets.base import Target
from pytest_torchexport.targets.formats import onnx_runtime
from pytest_torchexport.targets.formats.onnx_model import fx_name


@dataclass(frozen=True)
class Fault:
    """What is done to the node that a node of the ExportedProgram stands for."""

    kind: str
    # The node of the ExportedProgram, and of an ONNX model the first output of the node.
    node: str
    output: str = ""


# -- faults of an ExportedProgram ------------------------------------------------------------------

aten = torch.ops.aten
UNARY = (
    *(aten.relu.default, aten.tanh.default, aten.sigmoid.default, aten.exp.default),
    *(aten.abs.default, aten.neg.default, aten.sin.default, aten.cos.default, aten.erf.default),
)
BINARY = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)
# Activations with a constant, and operators of one operand that keep its shape.
CONSTANT = (aten.leaky_relu.default, aten.elu.default, *BINARY)
KEEP_SHAPE = (
    *UNARY, aten.gelu.default, aten.silu.default, aten.softmax.int, aten.hardswish.default,
)  # fmt: skip
ORDERED = (aten.sub.Tensor, aten.div.Tensor)


def faults_of_program(graph: fx.Graph) -> list[Fault]:
    """Return the faults that can be put into a graph."""
    possible = []
    for node in graph.nodes:
        two = sum(isinstance(item, fx.Node) for item in node.args) == 2
        fits = {
            "another operator": node.target in UNARY or (node.target in BINARY and two),
            "left out": node.target in KEEP_SHAPE,
            "another constant": node.target in CONSTANT and _constant(node) is not None,
            "operands exchanged": node.target in ORDERED and two,
        }
        possible += [Fault(kind, node.name) for kind, fit in fits.items() if fit]
    return possible


def _constant(node: fx.Node) -> int | None:
    """Return the position of the first argument that is a number."""
    numbers = (i for i, item in enumerate(node.args) if type(item) in (int, float) and item)
    return next(numbers, None)


def put_into_program(graph: fx.Graph, fault: Fault) -> None:
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


class Programs(Around):
    """The target ``export``, with a fault in what it captures."""

    target = "export"
    owners = ("capture",)
    # Whether the last export or load had the fault.
    kept = False

    def __init__(self, base: Target) -> None:
        super().__init__(base)
        self.nodes: dict[str, fx.Node] = {}
        self.possible: list[Fault] = []

    @contextlib.contextmanager
    def put(self, owner: str, fault: Fault | None) -> Iterator[None]:
        """Put a fault into all exports, or learn from a healthy one which are possible."""
        plain = torch.export.export

        def exported(*args: Any, **kwargs: Any) -> torch.export.ExportedProgram:
            program = plain(*args, **kwargs)
            graph = program.graph_module.graph
            if fault is None:
                self.nodes = {node.name: node for node in graph.nodes}
                self.possible = faults_of_program(graph)
            else:
                put_into_program(graph, fault)
                program.graph_module.recompile()
                self.kept = True
            return program

        with mock.patch.object(torch.export, "export", exported):
            yield


# -- faults of an ONNX model -----------------------------------------------------------------------

# The optimizer of ONNX Runtime that is made wrong: one that runs on every model.
SWITCH = "ConstantFolding"
SWAPS = {
    "Add": "Sub", "Sub": "Add", "Mul": "Add", "Div": "Mul", "Relu": "Identity", "Tanh": "Sigmoid",
    "Sigmoid": "Tanh", "Erf": "Tanh", "Exp": "Identity", "Sqrt": "Identity", "Softplus": "Relu",
    "Elu": "Relu", "LeakyRelu": "Relu", "HardSwish": "Relu", "Gelu": "Relu", "Mish": "Relu",
    "Selu": "Elu", "Softsign": "Tanh", "ReduceMean": "ReduceMax", "ReduceMax": "ReduceMin",
    "ReduceSum": "ReduceMean", "Softmax": "LogSoftmax", "Max": "Min", "Min": "Max",
    "MaxPool": "AveragePool", "GlobalAveragePool": "GlobalMaxPool", "And": "Or", "Greater": "Less",
    "HardSigmoid": "Sigmoid", "Neg": "Identity", "Abs": "Neg", "Reciprocal": "Neg", "Cos": "Sin",
}  # fmt: skip
# Operators whose result has the shape of the first input, so that they can be left out.
SAME_SHAPE = {
    "Relu", "Tanh", "Sigmoid", "Softplus", "Elu", "LeakyRelu", "HardSwish", "Gelu", "Mish", "Selu",
    "Softsign", "Softmax", "LayerNormalization", "BatchNormalization", "PRelu", "Neg", "Erf",
}  # fmt: skip
# The attributes that two swapped operators have in common.
SHARED = {"axis", "axes", "keepdims", "kernel_shape", "strides", "pads"}


def faults_of_onnx(model: onnx.ModelProto, nodes: dict[str, fx.Node]) -> list[Fault]:
    """Return the faults that can be put into a model that the exporter's optimizer has not seen."""
    constants = {tensor.name for tensor in model.graph.initializer}
    possible = []
    for node in model.graph.node:
        weighted = node.op_type in ("Gemm", "MatMul", "Conv", "Add", "Mul")
        fits = {
            "another operator": node.op_type in SWAPS,
            "left out": node.op_type in SAME_SHAPE,
            "another attribute": bool(_numbers(node)),
            "another constant": bool(constants & set(node.input)) and weighted,
        }
        name = fx_name(node)
        if name in nodes:
            possible += [Fault(kind, name, node.output[0]) for kind, fit in fits.items() if fit]
    return possible


def _numbers(node: onnx.NodeProto) -> list[onnx.AttributeProto]:
    return [each for each in node.attribute if each.name in ("epsilon", "alpha") and each.f]


def put_into_onnx(model: onnx.ModelProto, fault: Fault) -> bool:
    """Put the fault into a model. Return False if the model has no such node any more."""
    node = next((n for n in model.graph.node if n.output[0] == fault.output), None)
    if node is None or (fault.kind == "another operator" and node.op_type not in SWAPS):
        return False
    if fault.kind == "another operator":
        node.op_type = SWAPS[node.op_type]
        kept = [each for each in node.attribute if each.name in SHARED]
        kept = [] if node.op_type == "Identity" else kept
        del node.attribute[:]
        node.attribute.extend(kept)
        node.ClearField("domain")
    elif fault.kind == "left out":
        del node.attribute[:]
        del node.input[1:]
        node.op_type = "Identity"
    elif fault.kind == "another attribute":
        for attribute in _numbers(node):
            attribute.f += 0.5
    else:
        tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        index, name = next((i, n) for i, n in enumerate(node.input) if n in tensors)
        array = numpy_helper.to_array(tensors[name]).copy()
        array.reshape(-1)[0] = array.reshape(-1)[0] * 2 + 1
        model.graph.initializer.append(numpy_helper.from_array(array, f"{name}_wrong"))
        node.input[index] = f"{name}_wrong"
    return True


class OnnxModels(Programs):
    """The target ``onnx``, with a fault in one of its steps or in ONNX Runtime."""

    target = "faulty_onnx"
    owners = ("translation", "exporter's optimizer", "runtime's optimizer", "runtime")
    owner = ""
    fault: Fault | None = None

    def export(self, module: Any, example: Any, spec: Any, **options: Any) -> Any:
        optimized = options.pop("optimize", True)
        artifact = self.base.export(module, example, spec, **options, optimize=False)
        program = artifact.program
        plain = program.model_proto
        if self.owner == "translation":
            self._spoil(program)
        if optimized:
            program.optimize()
            if self.fault is None:
                self.nodes = {node.name: node for node in program.exported_program.graph.nodes}
                self.possible = faults_of_onnx(plain, self.nodes)
            if self.owner == "exporter's optimizer":
                self._spoil(program)
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "model.onnx")
            program.save(path)
            return artifact.with_session(onnx_runtime.TensorFile(path, "cpu"))

    def _spoil(self, program: Any) -> None:
        from onnxscript import ir

        assert self.fault is not None
        model = ir.serde.serialize_model(program.model)
        self.kept = put_into_onnx(model, self.fault)
        program.model = ir.serde.deserialize_model(model)

    @contextlib.contextmanager
    def put(self, owner: str, fault: Fault | None) -> Iterator[None]:
        """Put a fault where the owner is, or learn from healthy exports which are possible."""
        self.owner, self.fault, self.kept = owner, fault, False
        open_session = onnx_runtime.open_session

        def opened(path: Path, device: str, optimizations: Any = None) -> Any:
            given = optimizations or onnx_runtime.AS_SHIPPED
            optimizer = owner == "runtime's optimizer" and given.enabled
            if owner == "runtime" or (optimizer and SWITCH not in given.disabled):
                model = onnx.load(str(path))
                if fault is not None and put_into_onnx(model, fault):
                    self.kept = True
                    path = path.with_name("faulty.onnx")
                    onnx.save(model, str(path))
            return open_session(path, device, given)

        with mock.patch.object(onnx_runtime, "open_session", opened):
            yield


# -- one network -----------------------------------------------------------------------------------

MODELS = {"export": Programs(export.TARGET), "onnx": OnnxModels(onnx_target.TARGET)}


def judge(seed: int, target: str, each: int) -> list[Record]:
    """Return a record per fault of a network: as many per owner as asked for."""
    models = MODELS[target]
    if models.target not in BUILT_IN:
        register_target(models.target, models)
    network, chooser, records = networks.Network(seed), random.Random(f"blame {seed}"), []
    with tempfile.TemporaryDirectory() as directory:
        healthy, _ = network.load(Path(directory))
        with models.put("", None):
            if _checked(network, healthy, models.target).failure is not None:
                return []
        for owner in models.owners:
            for fault in chooser.sample(models.possible, min(each, len(models.possible))):
                with models.put(owner, fault):
                    verdict = _checked(network, healthy, models.target)
                shown = models.kept and verdict.status == "failed"
                node = models.nodes[fault.node]
                record = {"seed": seed, "target": target, "owner": owner, "counted": shown}
                records.append(record | _graded(verdict, fault, owner, node))
    return records


def _checked(network: networks.Network, module: torch.nn.Module, target: str) -> Verdict:
    return check_export(
        module, network.example(), target=target, checks=["parity"], max_examples=10,
        **network.options(),
    )  # fmt: skip


def _graded(verdict: Verdict, fault: Fault, owner: str, node: fx.Node) -> Record:
    found, truth = verdict.diagnosis, place_of(node)
    place = found.place
    # torch runs aten.softmax as aten._softmax; of ONNX Runtime, the ONNX operator is named.
    named = place.operator.replace("._", ".") if place is not None else ""
    right = owner == "runtime" or named == truth.operator
    return {
        "fault": f"{fault.kind}: {fault.node} {fault.output}",
        "failure": verdict.failure or verdict.status,
        "truth": f"{truth.operator} {truth.where}",
        "named": f"{place} {place.where}" if place is not None else "",
        "named owner": found.owner,
        "not examined": list(found.not_examined),
        "owner is": _result(found.owner is not None, found.owner == owner),
        "place is": _result(place is not None, right and place.where == truth.where),
    }


RESULTS = ("right", "unknown", "wrong")


def _result(known: bool, right: bool) -> str:
    return "unknown" if not known else "right" if right else "wrong"


def main() -> None:
    parser = common.parser(__doc__, "export,onnx")
    parser.add_argument("--networks", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0, help="the first network's")
    parser.add_argument("--each", type=int, default=2, help="faults per network and owner")
    given = parser.parse_args()
    targets, seeds = given.targets.split(","), range(given.seed, given.seed + given.networks)
    items = [(seed, target, given.each) for target in targets for seed in seeds]
    counted = [record for record in common.records(judge, items, given) if record["counted"]]
    how = " / ".join(RESULTS)
    rows: list[list[object]] = [["fault in", "counted", f"owner {how}", f"operator and line {how}"]]
    for target in targets:
        for owner in MODELS[target].owners:
            own = [r for r in counted if (r["target"], r["owner"]) == (target, owner)]
            cells = (
                " / ".join(str(sum(record[key] == what for record in own)) for what in RESULTS)
                for key in ("owner is", "place is")
            )
            rows.append([f"{target}, {owner}", len(own), *cells])
    print(f"{len(seeds)} networks from seed {given.seed}\n\n{table(*rows)}")


if __name__ == "__main__":
    main()
