"""checks/effect.py: what a pass says of the ways in which the artifact can be called."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pytest_torchexport import check_export

X = torch.ones(2, 3)


class Difference(nn.Module):
    def forward(self, x: Tensor, y: Tensor, scale: float = 2.0) -> Tensor:
        return x - scale * y


def checked(target, *args, **kwargs):
    verdict = check_export(
        Difference(), args, kwargs, target=target, max_examples=2, checks=("parity",)
    )
    assert verdict.status == "passed"
    return verdict


def test_a_trace_drops_arguments_with_defaults():
    assert (
        "the program does not take scale: constant since the export"
        in checked("trace", X, y=X).notes
    )


def test_a_script_is_called_like_eager():
    assert not [note for note in checked("script", X, X).notes if "the program" in note]


def test_inputs_of_a_file_in_another_order_are_a_warning():
    (caution,) = checked("onnx", y=X, x=X).cautions
    assert caution.startswith("the file's inputs are in the order y, x")
    assert checked("trace", y=X, x=X).cautions == ()
