"""Test the code around a model with what is served in the model's place."""

from __future__ import annotations

import pytest
import torch
from torch import nn


class Detector(nn.Module):
    """A box of four numbers, and a score, for each cell of eight by eight pixels."""

    stride = 8

    def __init__(self):
        super().__init__()
        self.backbone = nn.Conv2d(3, 5, 8, stride=8)

    def forward(self, image):
        return self.backbone(image).flatten(2).transpose(1, 2)


class Pipeline:
    """Pads an image to whole cells, runs the model, and keeps the boxes above a threshold."""

    def __init__(self, model, stride=8):
        self.model, self.stride = model, stride

    def predict(self, image, threshold):
        height, width = image.shape[-2:]
        missing = (0, -width % self.stride, 0, -height % self.stride)
        (cells,) = self.model(nn.functional.pad(image, missing)[None])
        return [{"box": row[:4].tolist()} for row in cells if row[4] > threshold]


def image(height, width):
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Detector().eval()


# --8<-- [start:stand_in]
@pytest.mark.torchexport(
    *("export", "onnx"),
    shapes={"image": "1 3 8*h 8*w"},
    dims={"h": (2, 8), "w": (2, 8)},
    stand_in=True,
)
def test_predict(model):
    pipeline = Pipeline(model, model.stride)
    assert len(pipeline.predict(image(40, 64), threshold=-9)) == 40
    assert pipeline.predict(image(24, 30), threshold=9) == []


# --8<-- [end:stand_in]
# --8<-- [start:same]
@pytest.mark.torchexport("export", "onnx")
def test_predict_is_the_same(torchexport, model):
    def predict(served):
        pipeline = Pipeline(served)
        return [pipeline.predict(image(*size), 0.0) for size in ((40, 64), (24, 30))]

    torchexport.same(predict, model)


# --8<-- [end:same]
# --8<-- [start:file]
class OnnxModel:
    """A model that is served from a file, in the place of the module."""

    def __init__(self, path):
        onnxruntime = pytest.importorskip("onnxruntime")
        self.session = onnxruntime.InferenceSession(path)

    def __call__(self, image):
        name = self.session.get_inputs()[0].name
        return torch.from_numpy(self.session.run(None, {name: image.numpy()})[0])


@pytest.mark.torchexport("onnx")
def test_predict_from_the_file(torchexport, model):
    def predict(served):
        is_module = isinstance(served, nn.Module)
        return Pipeline(served if is_module else OnnxModel(served)).predict(image(40, 64), 0.0)

    torchexport.same(predict, model, file=True)


# --8<-- [end:file]
