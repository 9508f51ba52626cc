"""diagnosis/fx_places.py: an operator in a helper function has its own line."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pytest_torchexport import check_export
from pytest_torchexport.diagnosis.fx_places import place_of
from pytest_torchexport.inputs.spec import Call

X = torch.arange(6.0).reshape(2, 3)


def helped(x, layer):
    y = x * 2
    z = layer(y)
    z = z * 3
    return deeper(z)


def deeper(z):
    return z.relu().abs()


class Calls(nn.Module):
    """A trace has the size as a constant."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        y = helped(x, self.layer)
        return y - len(x)


class Repeats(nn.Module):
    """Eager runs the helper's line for each row, and the program has other numbers of them."""

    def forward(self, x):
        return summed(x) - len(x)


def summed(x):
    y = x[0] + 1
    for row in x:
        y = y + row
    return y


def small(x, least):
    y = x.abs()
    return x / (y + least)


class Divides(nn.Module):
    """The exporter's optimizer takes the small number for 0."""

    def forward(self, x):
        return small(x, 1e-8)


@pytest.fixture
def lines(scene_of):
    """Return the line of each node of a program of a module, and the nodes' names."""

    def of(module, called_with=X):
        scene = scene_of(module, X)
        nodes = torch.export.export(module, (X,)).graph.nodes
        # The scene's call is what it makes of its recipe.
        vars(scene)["call"] = Call((called_with,), {})
        return {
            node.name: place_of(scene, node).where.text
            for node in nodes
            if node.op == "call_function"
        }

    return of


def test_each_operator_of_a_helper_has_its_own_line(lines):
    assert lines(Calls()) == {
        "mul": "y = x * 2",
        "linear": "z = layer(y)",
        "mul_1": "z = z * 3",
        "relu": "return z.relu().abs()",
        "abs_1": "return z.relu().abs()",
        "sub": "return y - len(x)",
    }


def test_an_operator_that_eager_runs_on_several_lines_more_often_keeps_forwards_line(lines):
    found = lines(Repeats(), torch.ones(3, 3))
    assert found["add"] == "return summed(x) - len(x)"
    assert found["sub"] == "return summed(x) - len(x)"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_place_in_an_onnx_model_is_the_helpers_line():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    x = torch.tensor([0.0, 1.0, 2.0])
    found = check_export(Divides(), (x,), target="onnx", checks=["parity"], max_examples=3)
    assert found.diagnosis.place.operator == "aten.add"
    assert found.diagnosis.place.where.text == "return x / (y + least)"
