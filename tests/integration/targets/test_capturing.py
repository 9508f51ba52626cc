"""targets/capturing.py: a pass says if the dims had to be written in another way than the usual one."""

from __future__ import annotations

import torch
from torch import nn

from pytest_torchexport import check_export


class ViewByInt(nn.Module):
    def forward(self, x):
        return x.view(int(x.shape[0]), -1) * 2


TOLD = (
    "with dynamic_shapes={'x': {0: Dim('batch')}} the exporter silently makes a dim static "
    "that varies; exported with dynamic_shapes={'x': {0: Dim.DYNAMIC}}: write them so in "
    "your export script too"
)


def test_another_spelling_of_the_dims_than_the_usual_one_is_told():
    verdict = check_export(ViewByInt(), (torch.randn(4, 5),), target="onnx", max_examples=3)
    assert (verdict.status, verdict.cautions) == ("passed", (TOLD,))
