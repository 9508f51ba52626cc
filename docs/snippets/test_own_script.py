from __future__ import annotations

import pytest
import torch
from torch import nn


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x):
        return torch.softmax(self.linear(x), dim=-1)


def our_export(model, path):
    """Stands for your own export script."""
    torch.onnx.export(
        model, (torch.randn(2, 4),), path, dynamo=True, dynamic_shapes={"x": {0: "batch"}}
    )


@pytest.mark.torchexport("onnx", dims={"batch": (1, 16)}, max_examples=10)
def test_what_our_script_writes(torchexport, tmp_path):
    model, path = Head().eval(), tmp_path / "model.onnx"
    our_export(model, path)
    torchexport.check_artifact(path, model, torch.randn(2, 4))
