"""diagnosis/attention.py: the fast path is named if the call fails without it no more, and only then."""

from __future__ import annotations

import torch
from torch import nn

from pytest_torchexport import check_export
from pytest_torchexport.outcomes.torch_state import plain_attention

SWITCH = "torch.backends.mha.set_fastpath_enabled(False)"
NESTED = f"{SWITCH} or enable_nested_tensor=False"
# The kept elements come first in each row, or they do not: nested tensors take only the former.
LEFT = torch.tensor([[True] * 4, [True, True, False, False]])
ODD = torch.tensor([[True] * 4, [True, False, True, False]])
BOTH = {"mask": [True, False]}


class Encoder(nn.Module):
    def __init__(self, **options):
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, **options)

    def forward(self, x, keep):
        return self.encoder(x, src_key_padding_mask=~keep)


class Baked(Encoder):
    """Traced, it is wrong for another reason than the encoder."""

    def forward(self, x, keep):
        return super().forward(x, keep) * int(keep.sum())


class SelfAttention(nn.Module):
    """Eager gives nan for a row without a key, and the artifact gives 0."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x, mask):
        return self.attention(x, x, x, key_padding_mask=mask, need_weights=False)[0]


def test_the_nested_tensors_of_eager_are_named_with_the_positions_that_they_zero(
    causes_of, numbers
):
    cause, alone = causes_of(Encoder(), numbers(2, 4, 4), ODD)
    assert cause.startswith(f"the fast path of encoder (TransformerEncoder): with {NESTED}")
    assert cause.endswith("eager returns what the artifact does")
    assert alone.startswith("eager alone: output at [0, ")
    assert alone.endswith(" is 0 with it, other numbers without it")


def test_nested_tensors_in_a_trace_are_gone_if_it_is_exported_without(causes_of, numbers):
    (cause,) = causes_of(Encoder(), numbers(2, 4, 4), LEFT)
    assert f"with {SWITCH}, set before the export too" in cause


def test_a_fused_kernel_that_is_nan_without_a_key_is_named_beside_the_row(causes_of, numbers):
    cause, alone, row = causes_of(
        SelfAttention(), numbers(2, 4, 4), ~ODD, target="export", values=BOTH
    )
    assert f"the fast path of attention (MultiheadAttention): with {SWITCH}, eager" in cause
    assert alone.endswith(" is nan with it, 0 without it")
    assert row.startswith("mask is all True at [0]")


def test_a_fast_path_without_which_the_call_fails_too_is_no_cause(causes_of, numbers):
    """The encoder takes its fast path: it is not why."""
    (cause,) = causes_of(
        Baked(enable_nested_tensor=False), numbers(2, 4, 4), ODD, values={"keep": [True, False]}
    )
    assert "a number that Python reads from a tensor" in cause


def test_with_the_switch_that_is_advised_the_encoder_passes(numbers):
    with plain_attention():
        verdict = check_export(
            Encoder().eval(), (numbers(2, 4, 4), ODD), target="trace", checks=["parity"]
        )
    assert verdict.status == "passed", verdict
