"""A module to script, for the tests of torch_private."""

import torch
from torch import nn


class Scripted(nn.Module):
    scale: float

    def __init__(self) -> None:
        super().__init__()
        self.scale = 2.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.jit.wait(torch.jit.fork(self.scaled, x))

    def scaled(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x) * self.scale
