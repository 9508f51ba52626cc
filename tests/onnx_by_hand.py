"""ONNX files made without an exporter, for the tests of targets/formats/onnx_model.py. Needs onnx."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import helper

FLOAT = onnx.TensorProto.FLOAT


def tensor(name: str = "w", **entries: str) -> onnx.TensorProto:
    """A float32 tensor of four elements, its data elsewhere."""
    made = onnx.TensorProto(name=name, data_type=FLOAT, dims=[4])
    made.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": "w.data", "offset": "0", "length": "16", **entries}.items():
        made.external_data.add(key=key, value=value)
    return made


def model(*nodes: onnx.NodeProto, weights: tuple[onnx.TensorProto, ...] = ()) -> onnx.ModelProto:
    """``y = x + w``, and these nodes."""
    values = [helper.make_tensor_value_info(name, FLOAT, ["n"]) for name in ("x", "y")]
    inner = [helper.make_node("Add", ["x", weights[0].name], ["y"])] if weights else []
    identity = [] if weights else [helper.make_node("Identity", ["x"], ["y"])]
    graph = helper.make_graph([*inner, *identity, *nodes], "g", values[:1], values[1:], [*weights])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def written(directory: Path, made: onnx.ModelProto, data: int | None = 16) -> Path:
    path = directory / "model.onnx"
    path.write_bytes(made.SerializeToString())
    if data is not None:
        (directory / "w.data").write_bytes(bytes(data))
    return path
