"""Check the files that an export script of your own writes: ``torchexport.check_artifact``."""

from __future__ import annotations

import pytest
import torch
from torch import nn

# torch's exporters emit warnings, and this suite turns warnings into errors.
pytestmark = pytest.mark.filterwarnings("ignore")


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(400, 200)

    def forward(self, x):
        return torch.softmax(self.linear(x), dim=-1)


# --8<-- [start:export]
def our_export(model, directory):
    """Stands for your own export script."""
    x = torch.randn(2, 400)
    torch.jit.trace(model, x).save(str(directory / "model.pt"))
    batch = {"x": {0: torch.export.Dim("batch")}}
    torch.export.save(
        torch.export.export(model, (x,), dynamic_shapes=batch), directory / "model.pt2"
    )
    torch.onnx.export(
        model,
        (x,),
        directory / "model.onnx",
        dynamo=True,
        dynamic_shapes=batch,
        external_data=True,  # the weights are in a second file, model.onnx.data
        verbose=False,
    )


# --8<-- [end:export]


# --8<-- [start:check]
@pytest.fixture
def model(tmp_path):
    model = Head().eval()
    our_export(model, tmp_path)
    return model


@pytest.mark.torchexport("trace", dims={"batch": (1, 16)})
def test_pt(torchexport, model, tmp_path):
    torchexport.check_artifact(tmp_path / "model.pt", model, torch.randn(2, 400))


@pytest.mark.torchexport("export", dims={"batch": (1, 16)})
def test_pt2(torchexport, model, tmp_path):
    torchexport.check_artifact(tmp_path / "model.pt2", model, torch.randn(2, 400))


@pytest.mark.torchexport("onnx", dims={"batch": (1, 16)})
def test_onnx(torchexport, model, tmp_path):
    torchexport.check_artifact(tmp_path / "model.onnx", model, torch.randn(2, 400))


# --8<-- [end:check]
