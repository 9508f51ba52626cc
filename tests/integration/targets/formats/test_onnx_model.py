"""targets/formats/onnx_model.py with files that torch's exporters write, and in a process without torch."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("onnxscript") is None, reason="needs the extra [onnx]"
    ),
    pytest.mark.filterwarnings("ignore"),
]
pytest.importorskip("onnx")

from onnx_by_hand import model, tensor, written  # noqa: E402

from pytest_torchexport.targets.formats.onnx_model import problems  # noqa: E402


def test_a_custom_operator_has_no_problem(tmp_path):
    class Custom(nn.Module):
        def forward(self, x):
            return torch.ops.onnx_file_tests.twice(x)

    path = tmp_path / "model.onnx"
    any_operator = torch.onnx.OperatorExportTypes.ONNX_FALLTHROUGH
    with torch.library._scoped_library("onnx_file_tests", "DEF") as library:
        library.define("twice(Tensor x) -> Tensor")
        library.impl("twice", lambda x: x * 2, "CompositeExplicitAutograd")
        torch.onnx.export(
            Custom(), (torch.ones(2),), path, dynamo=False, operator_export_type=any_operator
        )
    assert problems(path) == []


WITHOUT_TORCH = """
import sys
from pathlib import Path
from pytest_torchexport.targets.formats import onnx_model
assert not {"torch", "onnx", "onnxruntime", "numpy"} & set(sys.modules), sorted(sys.modules)
sys.modules["torch"] = None
path = Path(sys.argv[1])
print(onnx_model.problems(path), onnx_model.external(path), onnx_model.has_loops(onnx_model.read(path)))
"""


def test_nothing_of_it_needs_torch(tmp_path):
    path = written(tmp_path, model(weights=(tensor(),)))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, path],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[4])},
    )
    assert done.stdout.startswith("[] ['w.data'] False"), done.stderr
