"""targets/formats/onnx_model.py with files that torch's exporters write."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
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
onnx = pytest.importorskip("onnx")

from onnx_by_hand import model, tensor, written  # noqa: E402

from pytest_torchexport.targets.formats.onnx_model import external, problems  # noqa: E402

helper = onnx.helper
X = torch.ones(2, 3)


# -- what torch writes -----------------------------------------------------------------------------


class Cond(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Linear(3, 3)

    def forward(self, x):
        return torch.cond(x.sum() > 0, self.block, lambda x: x - 1, (x,))


class Loop(nn.Module):
    def forward(self, x, times: torch.Tensor):
        for _ in range(int(times)):
            x = x + 1 if bool(x.sum() > 0) else x * 2
        return x


class Custom(nn.Module):
    def forward(self, x):
        return torch.ops.onnx_file_tests.twice(x)


@pytest.fixture
def custom_operator():
    with torch.library._scoped_library("onnx_file_tests", "DEF") as library:
        library.define("twice(Tensor x) -> Tensor")
        library.impl("twice", lambda x: x * 2, "CompositeExplicitAutograd")
        yield


def dynamo(path: Path, module: nn.Module, *args: torch.Tensor, **options: object) -> None:
    external_data = bool(options.pop("external_data", False))
    program = torch.onnx.export(module, args, dynamo=True, verbose=False, **options)
    program.save(path, external_data=external_data)


def legacy(path: Path, module: Callable[..., object], *args: torch.Tensor, **options) -> None:
    torch.onnx.export(module, args, path, dynamo=False, **options)


WRITTEN = {
    "mlp": lambda path: dynamo(path, nn.Linear(3, 3), X),
    "external data": lambda path: dynamo(
        path, nn.Linear(300, 30), X[:, :1].expand(2, 300), external_data=True
    ),
    "dynamic": lambda path: dynamo(
        path, nn.Linear(3, 3), X, dynamic_shapes=({0: torch.export.Dim("batch")},)
    ),
    "branch": lambda path: dynamo(path, Cond(), X),
    "bfloat16": lambda path: dynamo(path, nn.Linear(3, 3).bfloat16(), X.bfloat16()),
    "legacy": lambda path: legacy(path, nn.LSTM(3, 4), torch.ones(5, 2, 3)),
    "legacy, dynamic": lambda path: legacy(
        path, nn.Linear(3, 3), X, input_names=["x"], dynamic_axes={"x": {0: "batch"}}
    ),
    "legacy loop": lambda path: legacy(path, torch.jit.script(Loop()), X, torch.tensor(2)),
    "legacy custom operator": lambda path: legacy(
        path,
        Custom(),
        X,
        operator_export_type=torch.onnx.OperatorExportTypes.ONNX_FALLTHROUGH,
    ),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_torch_writes_has_no_problem(tmp_path, name, custom_operator):
    path = tmp_path / "model.onnx"
    WRITTEN[name](path)
    assert problems(path) == []
    assert external(path) == (["model.onnx.data"] if name == "external data" else [])


# -- what it says of itself ------------------------------------------------------------------------


WITHOUT_TORCH = """
import sys
from pathlib import Path
from pytest_torchexport.targets.formats import onnx_model
assert not {"torch", "onnx", "onnxruntime", "numpy"} & set(sys.modules), sorted(sys.modules)
sys.modules["torch"] = None
path = Path(sys.argv[1])
print(onnx_model.problems(path), onnx_model.external(path), onnx_model.weights(path))
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
    assert done.stdout.startswith("[] ['w.data'] {'w': 'float32"), done.stderr
