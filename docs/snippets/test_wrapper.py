import pytest
import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)
MODEL = nn.Conv2d(3, 2, 3).eval()


class Original:
    def __init__(self, model):
        self.model = model

    def preprocess(self, image):
        return F.interpolate(image, size=(8, 8), mode="bilinear", antialias=True)

    def __call__(self, image):
        return self.model(self.preprocess(image))


class Wrapper(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def preprocess(self, image):
        return F.interpolate(image, size=(8, 8), mode="bilinear")

    def forward(self, image):
        return self.model(self.preprocess(image))


@pytest.mark.torchexport(
    "trace",
    reference=Original(MODEL),
    steps=["preprocess", "model"],
    shapes={"image": "1 3 16 16"},
)
def test_wrapper():
    Wrapper(MODEL)(torch.rand(1, 3, 16, 16))
