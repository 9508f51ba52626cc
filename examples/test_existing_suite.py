"""A whole file of tests that already exist: one line at its top is all that is new."""

from __future__ import annotations

import pytest
import torch
from torch import nn

# Every test below is checked on the targets this team ships. A closer marker replaces what it names.
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
    """Ignores arguments it does not know; TorchScript compiles no **arguments."""

    def forward(self, x, **unknown):
        return super().forward(x)


# One target switched off, the others stay: the closer marker wins, argument by argument (dims stay too).
@pytest.mark.torchexport("trace", "onnx")
def test_a_model_that_is_not_shipped_as_script():
    assert Tolerant()(torch.randn(4, 8)).shape == (4, 3)


def test_something_that_is_no_model():
    # The marker of the file finds nothing to export here: the test is what it was.
    assert torch.arange(3).sum() == 3
