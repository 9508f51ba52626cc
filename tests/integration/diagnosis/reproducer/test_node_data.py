"""diagnosis/reproducer/node_data.py: the nodes of the file that lies beside it, as Model Explorer reads them."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import pytest_torchexport
from pytest_torchexport import engine
from pytest_torchexport.diagnosis.reproducer.node_data import OTHER, _result
from pytest_torchexport.results.diagnosis import NOTHING

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


class Digits(nn.Module):
    """ONNX has no log1p, and the exporter's loses the digits of small numbers."""

    def forward(self, x):
        return torch.log1p(x * 2) / x + 1


def test_the_node_that_brings_in_the_difference_has_a_large_value(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "diagnose", lambda *_: NOTHING)
    keep = tmp_path / "kept"
    verdict = pytest_torchexport.check_export(
        Digits(),
        (torch.tensor([1e-8, 0.5]),),
        target="onnx",
        keep=keep,
        checks=["parity"],
        max_examples=1,
    )
    assert verdict.failure == "OutputsDiffer"
    graph = onnx.load(keep / "model.onnx").graph
    (name, data), *rest = json.loads((keep / "node_data.json").read_text()).items()
    assert not rest
    assert name == graph.name
    assert set(data) == {"results", "gradient"}
    assert [stop["stop"] for stop in data["gradient"]] == [0, 1]
    by_output = {output: node.name for node in graph.node for output in node.output}
    assert set(data["results"]) <= set(by_output.values())
    values = {node: result["value"] for node, result in data["results"].items()}
    assert values[by_output["mul"]] == 0.0
    assert values[by_output["div"]] > 0.1
    assert not (keep / "exposed.onnx").exists()


@pytest.mark.parametrize(
    ("eager", "other", "value"),
    [
        ([1.0, 2.0], [1.0, 2.5], 0.5),
        ([1.0, torch.nan], [1.0, torch.nan], 0.0),
        ([1.0, torch.inf], [1.5, torch.inf], 0.5),
        ([1.0, torch.inf], [1.0, 3.0], OTHER["value"]),
        ([1.0, 2.0], [torch.nan, 2.0], OTHER["value"]),
        ([1.0], [1.0, 2.0], OTHER["value"]),
    ],
)
def test_a_value_is_a_number_that_json_has(eager, other, value):
    assert _result(torch.tensor(eager), torch.tensor(other))["value"] == value
