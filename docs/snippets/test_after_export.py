import onnx
import pytest
import torch
from torch import nn


# --8<-- [start:pass]
def without_dropout(path):
    model = onnx.load(path)
    for node in model.graph.node:
        if node.op_type in ("Dropout", "Relu"):
            node.op_type = "Identity"
    onnx.save(model, path)


@pytest.mark.torchexport("onnx", after_export=without_dropout)
def test_served():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    model(torch.randn(2, 8))


# --8<-- [end:pass]
