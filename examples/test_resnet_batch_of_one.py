"""A small residual network whose example has batch size 1, a size that exporters freeze."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn


class BasicBlock(nn.Module):
    def __init__(self, channels: int, out: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self, classes: int = 10):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.blocks = nn.Sequential(BasicBlock(8, 8, 1), BasicBlock(8, 16, 2))
        self.head = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(torch.relu(self.stem(x)))
        return self.head(x.mean(dim=(2, 3)))


# The example is one image. The plugin exports a dim that varies at size 2 and checks sizes 1, 2 and
# more; the report says so.
@pytest.mark.torchexport("trace", "script", "export", "onnx", "onnx_legacy", dims={"batch": (1, 4)})
def test_one_image():
    assert ResNet().eval()(torch.randn(1, 3, 8, 8)).shape == (1, 10)


# If your service gets only one image at a time, declare it: "..." is exactly the example's shape.
@pytest.mark.torchexport("export", "onnx", shapes={"x": "..."})
def test_always_one_image():
    assert ResNet().eval()(torch.randn(1, 3, 8, 8)).shape == (1, 10)
