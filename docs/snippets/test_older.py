import onnx
import pytest
import torch
from torch import nn


@pytest.mark.torchexport("onnx")
def test_head():
    nn.Linear(8, 4).eval()(torch.randn(2, 8))


# --8<-- [start:cure]
def older(path):
    model = onnx.load(path, load_external_data=False)
    model.ir_version = 9
    onnx.save(model, path)


@pytest.mark.torchexport("onnx", after_export=[older])
def test_older():
    nn.Linear(8, 4).eval()(torch.randn(2, 8))


# --8<-- [end:cure]
