"""targets/torch_export_shared.py: a pass says if the dims had to be written in another way than the usual one."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.export import Dim

import pytest_torchexport
from pytest_torchexport.inputs.dynamic_shapes import spelled


class ViewByInt(nn.Module):
    def forward(self, x):
        return x.view(int(x.shape[0]), -1) * 2


class ViewBySize(nn.Module):
    def forward(self, x):
        return x.view(x.shape[0], -1) * 2


def cautions(module):
    verdict = pytest_torchexport.check_export(
        module, (torch.randn(4, 5),), target="onnx", max_examples=3
    )
    assert verdict.status == "passed"
    return verdict.cautions


def test_another_spelling_of_the_dims_is_told_with_the_one_to_use():
    (told,) = cautions(ViewByInt())
    assert told == (
        "with dynamic_shapes={'x': {0: Dim('batch')}} the exporter silently makes a dim static "
        "that varies; exported with dynamic_shapes={'x': {0: Dim.DYNAMIC}}: write them so in your "
        "export script too"
    )


def test_the_usual_spelling_is_not():
    assert cautions(ViewBySize()) == ()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"x": {0: Dim("n"), 1: 2 * Dim("m")}}, "{'x': {0: Dim('n'), 1: 2*m}}"),
        (
            {"x": [None, ({},)], "y": (Dim.DYNAMIC, 3)},
            "{'x': [None, ({},)], 'y': (Dim.DYNAMIC, 3)}",
        ),
    ],
)
def test_dynamic_shapes_are_written_as_code(given, text):
    assert spelled(given) == text
