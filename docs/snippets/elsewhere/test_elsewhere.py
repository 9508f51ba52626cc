from __future__ import annotations

import pytest
import scaling
import torch
from boxes import Boxes
from torch import nn


class Doubled(nn.Module):
    def forward(self, x):
        return scaling.double(x) + 1


class Detector(nn.Module):
    def forward(self, x):
        return Boxes(corners=x * 2, scores=x.sum(dim=1))


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(400, 200)

    def forward(self, x):
        return self.linear(x)


@pytest.mark.torchexport("trace", "export")
def test_operator():
    Doubled()(torch.randn(2, 4))


@pytest.mark.torchexport("export")
def test_container():
    Detector()(torch.randn(2, 4))


@pytest.mark.torchexport("onnx")
def test_weights_left_behind(torchexport, tmp_path):
    model, path = Head().eval(), tmp_path / "model.onnx"
    torch.onnx.export(model, (torch.randn(2, 400),), path, dynamo=True, external_data=True)
    served = tmp_path / "served" / "model.onnx"
    served.parent.mkdir()
    path.rename(served)  # model.onnx.data is not moved
    torchexport.check_artifact(served, model, torch.randn(2, 400))
