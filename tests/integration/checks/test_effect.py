"""checks/effect.py: what a pass says of the ways to call the artifact, and of small differences."""

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
    (caution,) = checked("onnx", y=X, x=X.clone()).cautions
    assert caution.startswith("the file's inputs are in the order y, x")
    assert checked("trace", y=X, x=X.clone()).cautions == ()


class SmallShares(nn.Module):
    """Returns numbers below a thousandth; ``traced`` changes them where the model is traced."""

    def __init__(self, traced):
        super().__init__()
        self.traced = traced

    def forward(self, x):
        y = torch.tanh(x) * 1e-3
        return self.traced(y) if torch.jit.is_tracing() else y


def cautions(traced, **options):
    verdict = check_export(
        SmallShares(traced),
        (torch.randn(3, 8),),
        target="trace",
        checks=("parity",),
        max_examples=5,
        **options,
    )
    assert verdict.status == "passed", verdict
    return verdict.cautions


def test_half_precision_in_an_output_of_small_numbers_is_a_warning():
    (text,) = cautions(lambda y: y.half().float())
    assert text.startswith("output differs by ")
    assert "times eager's own error: within the tolerance, but no rounding" in text


def test_another_last_digit_is_none():
    assert cautions(lambda y: y * (1 + 2e-7)) == ()


def test_the_users_own_tolerance_leaves_nothing_to_doubt():
    assert cautions(lambda y: y.half().float(), rtol=1e-2, atol=1e-5) == ()
