"""diagnosis/helper_lines.py: an operator in a helper function has its own line."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from pytest_torchexport import check_export
from pytest_torchexport.diagnosis.helper_lines import with_innermost_line
from pytest_torchexport.diagnosis.onnx_nodes import place_of
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.results.source_line import SourceLine

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
        call = Call((called_with,), {})
        return {
            node.name: with_innermost_line(place_of(node), node, scene.case, call).where.text
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


def test_a_line_that_eager_does_not_get_to_stays(scene_of):
    scene = scene_of(Calls(), X)
    node = next(
        node for node in torch.export.export(Calls(), (X,)).graph.nodes if node.name == "mul"
    )
    elsewhere = replace(place_of(node), where=SourceLine("elsewhere.py", 3, "y = f(x)"))
    assert with_innermost_line(elsewhere, node, scene.case, scene.call) == elsewhere
    nowhere = replace(elsewhere, where=None)
    assert with_innermost_line(nowhere, node, scene.case, scene.call) == nowhere


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_place_in_an_onnx_model_is_the_helpers_line():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    x = torch.tensor([0.0, 1.0, 2.0])
    found = check_export(Divides(), (x,), target="onnx", checks=["parity"], max_examples=3)
    assert found.diagnosis.place.operator == "aten.add"
    assert found.diagnosis.place.where.text == "return x / (y + least)"
