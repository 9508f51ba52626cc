"""Judge the file that is served: after float16, quantization, or an older IR version."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

# torch's exporters emit warnings, and this suite turns warnings into errors.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()


# --8<-- [start:passes]
def to_int8(path, made):
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(path)
    del model.graph.value_info[:]  # the quantizer refuses the exporter's own
    onnx.save(model, path)
    quantize_dynamic(path, made, weight_type=QuantType.QInt8)


def older(path):
    model = onnx.load(path, load_external_data=False)
    model.ir_version = 9
    onnx.save(model, path)


@pytest.mark.torchexport("onnx", after_export=[to_int8, older])
def test_what_is_served(model):
    model(torch.randn(2, 8))


# --8<-- [end:passes]


def rounded(path):
    """Keep the weights to three digits: a pass that changes numbers, and within the tolerance."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(array.round(3), tensor.name))
    onnx.save(model, path)


@pytest.mark.torchexport("onnx", after_export=rounded, rtol=1e-2, atol=1e-2)
def test_a_tolerance_of_your_own(model):
    model(torch.randn(2, 8))
