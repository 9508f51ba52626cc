"""targets/upstream/__init__.py: the table has every optimizer of the installed ONNX Runtime.

If this fails after an update: add the names that it prints, in the order in which ONNX Runtime logs them.
"""

from __future__ import annotations

import re
import subprocess
import sys

import onnx
import pytest
from onnx import helper

from pytest_torchexport.targets.upstream import onnx_optimizers

# What ONNX Runtime needs for running at all: nothing disables it.
NEEDED = {
    "CastFloat16Transformer",
    "EnsureUniqueDQForNodeUnit",
    "FuseFp16InitializerToFp32NodeTransformer",
    "InsertCastTransformer",
    "MemcpyTransformer",
    "RemoveDuplicateCastTransformer",
}
OPEN = """
import sys, onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level = 0
onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"], disabled_optimizers=sys.argv[2:])
"""


@pytest.fixture
def ran(tmp_path):
    """Return the names of the optimizers that run when a file is opened, with some disabled."""
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2])
    other = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [other])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, str(tmp_path / "model.onnx"))

    def names(*disabled):
        command = [sys.executable, "-c", OPEN, str(tmp_path / "model.onnx"), *disabled]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return set(re.findall(r"GraphTransformer (\w+) modified", done.stderr))

    return names


def test_the_table_has_every_optimizer_that_runs_and_each_can_be_disabled(ran):
    found = ran()
    assert "ConstantFolding" in found
    assert found - set(onnx_optimizers()) - NEEDED == set()
    assert ran(*onnx_optimizers()) - NEEDED == set()
