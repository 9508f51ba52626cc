"""targets/formats/onnx_runtime.py: a copy of a file shows the places that its nodes choose."""

from __future__ import annotations

import pytest
import torch

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import onnx_by_hand  # noqa: E402

from pytest_torchexport.targets.formats.onnx_runtime import OpenFile  # noqa: E402


def test_an_open_file_shows_its_values_and_returns_what_the_file_does():
    model = onnx_by_hand.model(
        onnx.helper.make_node("Constant", [], ["k"], value_ints=[1]),
        onnx.helper.make_node("TopK", ["x", "k"], ["largest", "places"]),
        onnx.helper.make_node("Add", ["places", "places"], ["twice"]),
    )

    def save(directory):
        onnx.save(model, directory / "model.onnx")
        return directory / "model.onnx"

    seen = {}
    x = torch.tensor([0.5, 1.5])
    (returned,) = OpenFile(save, "cpu").show({"x": x}, seen.__setitem__)
    assert torch.equal(returned, x)
    assert {name: value.tolist() for name, value in seen.items()} == {"places": [1], "twice": [2]}
