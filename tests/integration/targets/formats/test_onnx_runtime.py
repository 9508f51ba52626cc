"""targets/formats/onnx_runtime.py: a copy of a file shows what its nodes decide on."""

from __future__ import annotations

import pytest
import torch

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx_by_hand  # noqa: E402

from pytest_torchexport.targets.formats import onnx_model  # noqa: E402
from pytest_torchexport.targets.formats.onnx_runtime import OpenFile  # noqa: E402


def test_an_open_file_shows_its_values_and_returns_what_the_file_does(tmp_path):
    model = onnx_by_hand.model(
        onnx.helper.make_node("Mul", ["x", "x"], ["square"]),
        onnx.helper.make_node("Floor", ["square"], ["whole"]),
        onnx.helper.make_node("Cast", ["whole"], ["number"], to=onnx.TensorProto.INT64),
    )

    seen = {}
    x = torch.tensor([0.5, 1.5])
    file = OpenFile(tmp_path / "model.onnx", model, onnx_model.decided_on(model), "cpu")
    (returned,) = file.show({"x": x}, seen.__setitem__)
    assert torch.equal(returned, x)
    assert {name: value.tolist() for name, value in seen.items()} == {
        "square": [0.25, 2.25],
        "whole": [0.0, 2.0],
    }
