import pytest
import torch
from torch import nn


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Conv2d(3, 5, 8, stride=8)

    def forward(self, image):
        return self.backbone(image).flatten(2).transpose(1, 2)


def predict(served):
    image = torch.full((3, 24, 40), 0.5)
    if not isinstance(served, nn.Module):  # files are served with square images
        image = nn.functional.pad(image, (0, 0, 0, 16))
    return served(image[None])[0].mean(0)


@pytest.mark.torchexport("export", shapes={"image": "1 3 8*h 8*w"}, dims={"h": (2, 6), "w": (2, 6)})
def test_predict(torchexport):
    torch.manual_seed(0)
    torchexport.same(predict, Detector().eval())
