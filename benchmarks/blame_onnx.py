"""Print how often a diagnosis names the operator that was made wrong in an ONNX model.

`python benchmarks/blame_onnx.py --networks 12 --jobs 2`

Each network of ``networks`` (the healthy one) is exported several times, each time with one fault:
a node replaced by another, left out, or given a wrong constant, in one of four places: where the
ExportedProgram is translated, in the exporter's optimizer, in one of ONNX Runtime's optimizers, or
in ONNX Runtime itself, which then runs another file than it is given. The torch operator that the
node translates, and its line in the network's source, are what the diagnosis is to name; a fault
that no call shows does not count.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent))

import networks
import onnx
import torch
from common import Record, blame, result
from onnx import numpy_helper

from pytest_torchexport import Verdict, check_export, register_target
from pytest_torchexport.diagnosis.scene import place_of
from pytest_torchexport.targets import onnx as onnx_target
from pytest_torchexport.targets.formats import onnx_runtime
from pytest_torchexport.targets.formats.onnx_model import fx_name

OWNERS = ("translation", "exporter's optimizer", "runtime's optimizer", "runtime")
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


# -- faults ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """One fault of a model: what is done to which node, by the name of its first output."""

    kind: str
    output: str
    fx_node: str


def faults(model: onnx.ModelProto) -> list[Fault]:
    """Return the faults that can be put into a model that the exporter's optimizer has not seen."""
    constants = {tensor.name for tensor in model.graph.initializer}
    found = []
    for node in model.graph.node:
        name, output = fx_name(node), node.output[0]
        if not name:
            continue
        if node.op_type in SWAPS:
            found.append(Fault("another operator", output, name))
        if node.op_type in SAME_SHAPE:
            found.append(Fault("left out", output, name))
        if any(a.name in ("epsilon", "alpha") and a.f for a in node.attribute):
            found.append(Fault("a wrong attribute", output, name))
        if constants & set(node.input) and node.op_type in ("Gemm", "MatMul", "Conv", "Add", "Mul"):
            found.append(Fault("a wrong constant", output, name))
    return found


def seeded(model: onnx.ModelProto, fault: Fault) -> bool:
    """Put the fault into a model. Return False if the model has no such node any more."""
    node = next((n for n in model.graph.node if n.output[0] == fault.output), None)
    if node is None:
        return False
    if fault.kind == "another operator":
        if node.op_type not in SWAPS:
            return False
        node.op_type = SWAPS[node.op_type]
        kept = [attribute for attribute in node.attribute if attribute.name in SHARED]
        kept = [] if node.op_type == "Identity" else kept
        del node.attribute[:]
        node.attribute.extend(kept)
        node.ClearField("domain")
    elif fault.kind == "left out":
        del node.attribute[:]
        del node.input[1:]
        node.op_type = "Identity"
    elif fault.kind == "a wrong attribute":
        for attribute in node.attribute:
            if attribute.name in ("epsilon", "alpha") and attribute.f:
                attribute.f = attribute.f + 0.5
    else:
        tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        index, name = next((i, n) for i, n in enumerate(node.input) if n in tensors)
        array = numpy_helper.to_array(tensors[name]).copy()
        array.reshape(-1)[0] = array.reshape(-1)[0] * 2 + 1
        wrong = numpy_helper.from_array(array, f"{name}_wrong")
        model.graph.initializer.append(wrong)
        node.input[index] = wrong.name
    return True


# -- where a fault is put --------------------------------------------------------------------------


@dataclass
class FaultyOnnx:
    """The target ``onnx``, with a fault in one of its steps or in ONNX Runtime."""

    fault: Fault | None = None
    owner: str = ""
    kept: bool = False
    made: Any = None
    plain: Any = None

    @property
    def traits(self) -> Any:
        return onnx_target.TARGET.traits

    def unavailable(self, device: str) -> str | None:
        return onnx_target.TARGET.unavailable(device)

    def load(self, path: Path, device: str) -> Callable[..., Any]:
        return onnx_target.TARGET.load(path, device)

    def export(self, module: Any, example: Any, spec: Any, **options: Any) -> Any:
        optimized = options.pop("optimize", True)
        artifact = onnx_target.TARGET.export(module, example, spec, **options, optimize=False)
        program = artifact.program
        self.plain = program.model_proto
        if self.owner == "translation":
            self.kept = self._faulty(program)
        if optimized:
            program.optimize()
            self.made = program.exported_program
            if self.owner == "exporter's optimizer":
                self.kept = self._faulty(program)
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "model.onnx")
            program.save(path)
            session = onnx_runtime.TensorFile(path, "cpu")
        return artifact.with_session(session)

    def open_session(self, path: Path, device: str, optimizations: Any = None) -> Any:
        """Open a file with the fault instead, if the fault is in ONNX Runtime."""
        given = optimizations or onnx_runtime.AS_SHIPPED
        optimizer = self.owner == "runtime's optimizer" and given.enabled
        if self.owner == "runtime" or (optimizer and SWITCH not in given.disabled):
            model = onnx.load(str(path))
            if self.fault is not None and seeded(model, self.fault):
                self.kept = True
                path = path.with_name("faulty.onnx")
                onnx.save(model, str(path))
        return _open_session(path, device, given)

    def _faulty(self, program: Any) -> bool:
        from onnxscript import ir

        if self.fault is None:
            return False
        model = ir.serde.serialize_model(program.model)
        done = seeded(model, self.fault)
        program.model = ir.serde.deserialize_model(model)
        return done


_open_session = onnx_runtime.open_session
TARGET = FaultyOnnx()


@contextlib.contextmanager
def fault_in(owner: str, fault: Fault) -> Iterator[None]:
    TARGET.owner, TARGET.fault, TARGET.kept = owner, fault, False
    with mock.patch.object(onnx_runtime, "open_session", TARGET.open_session):
        yield


# -- one network -----------------------------------------------------------------------------------


def judge(seed: int, each: int) -> list[Record]:
    """Return a record per fault of a network: as many per owner as asked for."""
    register_target("faulty_onnx", TARGET)
    network = networks.draw(seed)
    chooser = random.Random(f"blame {seed}")
    records = []
    with tempfile.TemporaryDirectory() as directory:
        healthy, _ = network.load(Path(directory))
        if _checked(network, healthy).failure is not None:
            return []
        nodes = {node.name: node for node in TARGET.made.graph.nodes}
        possible = [fault for fault in faults(TARGET.plain) if fault.fx_node in nodes]
        for owner in OWNERS:
            for fault in chooser.sample(possible, min(each, len(possible))):
                started = time.perf_counter()
                with fault_in(owner, fault):
                    verdict = _checked(network, healthy)
                record = {"seed": seed, "owner": owner, **dataclasses.asdict(fault)}
                record |= _graded(verdict, owner, nodes[fault.fx_node])
                record["seconds"] = round(time.perf_counter() - started, 2)
                records.append(record)
    return records


def _checked(network: networks.Network, module: torch.nn.Module) -> Verdict:
    return check_export(
        module, network.example(), target="faulty_onnx", checks=["parity"], max_examples=10,
        **network.options(),
    )  # fmt: skip


def _graded(verdict: Verdict, owner: str, node: Any) -> Record:
    found = verdict.diagnosis
    truth = place_of(node)
    record = {
        "counted": TARGET.kept and verdict.status == "failed" and bool(found.stages),
        "failure": verdict.failure or verdict.status,
        "reason": verdict.reason,
        "kept": TARGET.kept,
        "truth": f"{truth.operator} {truth.where}",
        "named": f"{found.place} {found.place.where}" if found.place else "",
        "named owner": found.owner,
        "not examined": list(found.not_examined),
        "diagnosis": verdict.seconds.get("diagnosis"),
        "causes": [cause.text for cause in found.causes],
    }
    record["owner is"] = result(found.owner is not None, found.owner == owner)
    # Of ONNX Runtime, the ONNX operator is named.
    same = found.place and (owner == "runtime" or found.place.operator == truth.operator)
    same = same and found.place.where == truth.where
    record["place is"] = result(found.place is not None, bool(same))
    return record


if __name__ == "__main__":
    blame(
        __doc__, judge, "owner", OWNERS, {"owner is": "owner", "place is": "operator and line"}, 1
    )
