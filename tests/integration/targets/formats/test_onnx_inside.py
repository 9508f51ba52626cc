"""targets/formats/onnx_inside.py: the nodes of a file, each run by itself."""

from __future__ import annotations

import onnx
import torch
from onnx import TensorProto, helper

from pytest_torchexport.targets.formats.onnx_inside import node_by_node

SCALAR = [1]


def written(directory):
    """Return a file of ``x * 2``, an ``If`` that takes values from outside, and a root."""
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node(kind, ["twice", "two"], [name])],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)],
        )
        for name, kind in (("then", "Add"), ("else", "Sub"))
    }
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "two"], ["twice"]),
            helper.make_node("If", ["yes"], ["chosen"], **branches),
            helper.make_node("Sqrt", ["chosen"], ["y"]),
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SCALAR)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, SCALAR)],
        initializer=[
            helper.make_tensor("two", TensorProto.FLOAT, SCALAR, [2.0]),
            helper.make_tensor("yes", TensorProto.BOOL, [], [True]),
        ],
    )
    path = directory / "model.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path)
    return path


def test_each_node_is_run_in_its_order_on_what_those_before_it_made(tmp_path):
    done = []
    for node, run in node_by_node(written(tmp_path), "cpu", {"x": torch.tensor([7.0])}):
        run()
        done.append(node.op_type)
    assert done == ["Mul", "If", "Sqrt"]
