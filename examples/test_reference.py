"""What an exported module is to do: follow the pipeline that it replaces, and keep relations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pytest_torchexport import Padding, RelationBroken

# torch's exporters emit warnings, and this suite turns warnings into errors.
pytestmark = pytest.mark.filterwarnings("ignore")


# --8<-- [start:pipeline]
class Pipeline:
    """What the model was evaluated with."""

    def __init__(self, model):
        self.model = model

    def preprocess(self, image):
        image = F.interpolate(image, size=(16, 16), mode="bilinear", antialias=True)
        return (image - 0.45) / 0.225

    def postprocess(self, logits):
        return logits.softmax(-1)

    def __call__(self, image):
        return self.postprocess(self.model(self.preprocess(image)))


class Wrapper(nn.Module):
    """What is exported: the same in one module."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def preprocess(self, image):
        image = F.interpolate(image, size=(16, 16), mode="bilinear", antialias=True)
        return (image - 0.45) / 0.225

    def postprocess(self, logits):
        return logits.softmax(-1)

    def forward(self, image):
        return self.postprocess(self.model(self.preprocess(image)))


# --8<-- [end:pipeline]
torch.manual_seed(0)
MODEL = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 5)).eval()


# --8<-- [start:reference]
@pytest.mark.torchexport(
    "trace",
    "onnx",
    reference=Pipeline(MODEL),
    steps=["preprocess", "model", "postprocess"],
    shapes={"image": "batch 3 32 32"},
    dims={"batch": (1, 4)},
)
def test_wrapper():
    scores = Wrapper(MODEL)(torch.rand(2, 3, 32, 32))
    assert scores.shape == (2, 5)


# --8<-- [end:reference]


# --8<-- [start:arrays]
def tensor_of(image):
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255


def original(image):
    return MODEL(F.interpolate(tensor_of(image), size=(16, 16)))


@pytest.mark.torchexport("onnx", shapes={"image": "32 32 3"})
def test_serving_code(torchexport):
    x = torch.rand(1, 3, 16, 16)
    artifact = torchexport.using(shapes={"input": "1 3 16 16"}).export(MODEL, x)

    def served(image):
        return artifact(F.interpolate(tensor_of(image), size=(16, 16)))

    torchexport.check_artifact(served, original, np.zeros((32, 32, 3), np.uint8))


# --8<-- [end:arrays]


# --8<-- [start:relations]
class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(100, 16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, ids, mask):
        x = self.embedding(ids)
        x, _ = self.attention(x, x, x, key_padding_mask=mask == 0, need_weights=False)
        counted = mask[..., None].float()
        return (x * counted).sum(1) / counted.sum(1)


@pytest.mark.torchexport(
    "trace",
    "onnx",
    shapes={"ids": "batch time", "mask": "batch time"},
    dims={"batch": (1, 4), "time": (2, 12)},
    relations=["rows alone", "rows permuted", "twice", Padding("mask")],
)
def test_encoder():
    ids = torch.randint(100, (2, 6))
    assert Encoder()(ids, torch.ones_like(ids)).shape == (2, 16)


# --8<-- [end:relations]


class Centered(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


@pytest.mark.torchexport(
    "trace",
    relations="rows alone",
    xfail={"trace": (RelationBroken, "a row depends on the others of its batch")},
)
def test_rows_that_depend_on_each_other():
    Centered()(torch.randn(4, 8))
