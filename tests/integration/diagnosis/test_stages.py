"""diagnosis/stages.py: the step that makes an ONNX model wrong is named, with operator, line and switch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pytest_torchexport import check_export

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
EVERY = {"checks": ["parity"], "max_examples": 3}


class PadsAndPools(nn.Module):
    """ONNX Runtime makes one node of both, which pads with -inf."""

    def forward(self, x):
        y = F.pad(x, (1, 1, 1, 1))
        return F.max_pool2d(y, 2) * 2


NEGATIVE = -torch.arange(1.0, 33.0).view(1, 2, 4, 4)


def diagnosed(module, *args, **options):
    found = check_export(module.eval(), args, target="onnx", **{**EVERY, **options})
    assert found.status == "failed", found
    return found.diagnosis


def test_an_optimization_of_onnx_runtime_is_named_with_the_switch():
    found = diagnosed(PadsAndPools(), NEGATIVE)
    assert found.owner == "runtime's optimizer"
    assert [stage.agrees for stage in found.stages] == [True, False]
    (cause,) = found.causes
    assert cause.text == "ONNX Runtime's Pad_Fusion: without it, eager and artifact agree"
    assert cause.remedy == 'ort.InferenceSession(..., disabled_optimizers=["Pad_Fusion"])'
    assert found.place.operator == "aten.max_pool2d"


@pytest.mark.parametrize("target", ["export", "onnx"])
def test_an_operator_that_torch_export_loses_is_its_own_fault(target, monkeypatch):
    export = torch.export.export

    def loses(*args, **kwargs):
        program = export(*args, **kwargs)
        for node in program.graph_module.graph.nodes:
            if node.target is torch.ops.aten.relu.default:
                node.replace_all_uses_with(node.args[0])
        program.graph_module.recompile()
        return program

    monkeypatch.setattr(torch.export, "export", loses)
    layers = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    found = check_export(layers, (torch.randn(2, 3),), target=target).diagnosis
    assert (found.owner, found.place.operator) == ("capture", "aten.relu")


def test_an_isolated_item_runs_no_file_in_this_process(monkeypatch):
    from pytest_torchexport.diagnosis import scene

    monkeypatch.setattr(scene, "TensorFile", None)
    found = diagnosed(PadsAndPools(), NEGATIVE, isolate=True)
    assert found.owner is None
    assert found.not_examined == (
        "stages to ONNX Runtime: the file may run in a clean process only",
    )


class Enlarges(nn.Module):
    def forward(self, x):
        return nn.functional.interpolate(x, scale_factor=1.5, mode="bilinear")


@pytest.mark.parametrize(("opset", "failure"), [(10, "OutputsDiffer"), (16, None)])
def test_what_the_exporter_warned_of_an_operator_is_the_cause(opset, failure):
    """https://github.com/onnx/onnx/blob/main/docs/Changelog.md#Resize-11: opset 10 aligns otherwise."""
    verdict = check_export(
        Enlarges(),
        (torch.randn(1, 2, 6, 8, generator=torch.Generator().manual_seed(0)),),
        target="onnx_legacy",
        export_options={"onnx_legacy": {"opset_version": opset}},
    )
    assert verdict.failure == failure
    if failure is not None:
        (cause,) = verdict.diagnosis.causes
        assert verdict.diagnosis.owner == "translation"
        assert "onnx:Resize for ONNX opset version 10. This operator might" in cause.text
