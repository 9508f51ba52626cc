"""targets/capturing.py: a pass says if the dims had to be written in another way than the usual one."""

from __future__ import annotations

import torch
from torch import nn

from pytest_torchexport import check_export
from pytest_torchexport.results.text import failure_text


class ViewByInt(nn.Module):
    def forward(self, x):
        return x.view(int(x.shape[0]), -1) * 2


TOLD = (
    "with dynamic_shapes={'x': {0: Dim('batch')}} the exporter silently makes batch static; "
    "exported with dynamic_shapes={'x': {0: Dim.DYNAMIC}}: write them so in "
    "your export script too"
)


def test_another_spelling_of_the_dims_than_the_usual_one_is_told():
    verdict = check_export(ViewByInt(), (torch.randn(4, 5),), target="onnx", max_examples=3)
    assert (verdict.status, verdict.ineffective) == ("passed", (TOLD,))


def test_a_dim_that_the_usual_spelling_makes_static_in_silence_is_red_under_strict():
    net, x = ViewByInt(), torch.randn(4, 5)
    verdict = check_export(net, (x,), target="onnx", max_examples=3, strict=True)
    assert (verdict.failure, verdict.reason) == ("Ineffective", TOLD)
    again = next(
        line for line in failure_text(verdict, "t.py::test").splitlines() if "rerun" in line
    )
    assert again.endswith(" --torchexport-strict")
