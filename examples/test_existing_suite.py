"""Mark all tests of an existing file with one line."""

from __future__ import annotations

import pytest
import torch
from torch import nn

# Every test below runs on these targets. A marker on a test replaces the arguments that it names.
pytestmark = pytest.mark.torchexport("trace", "script", "onnx", dims={"batch": (1, 4)})


class Classifier(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.hidden = nn.Linear(8, 16)
        self.norm = nn.BatchNorm1d(16)
        self.head = nn.Linear(16, classes)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.hidden(x))))


def test_one_logit_per_class():
    assert Classifier()(torch.randn(4, 8)).shape == (4, 3)


@pytest.mark.parametrize("classes", [2, 5])
def test_any_number_of_classes(classes):
    assert Classifier(classes)(torch.randn(4, 8)).shape == (4, classes)


class Tolerant(Classifier):
    """Ignores unknown arguments; TorchScript does not compile **kwargs."""

    def forward(self, x, **unknown):
        return super().forward(x)


# Leave out `script` for one test. The closer marker wins, argument by argument: `dims` stays.
@pytest.mark.torchexport("trace", "onnx")
def test_a_model_that_is_not_shipped_as_script():
    assert Tolerant()(torch.randn(4, 8)).shape == (4, 3)


def test_without_a_model():
    # This test calls no module, so it runs as before.
    assert torch.arange(3).sum() == 3
