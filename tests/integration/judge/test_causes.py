"""judge/causes.py: what a failing call fails without is named, and what is beside it is not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pytest_torchexport import check_export
from pytest_torchexport.outcomes.torch_state import plain_attention

SWITCH = "torch.backends.mha.set_fastpath_enabled(False)"
NESTED = f"{SWITCH} or enable_nested_tensor=False"
# The kept elements come first in each row, or they do not: nested tensors take only the former.
LEFT = torch.tensor([[True] * 4, [True, True, False, False]])
ODD = torch.tensor([[True] * 4, [True, False, True, False]])
MASK = ~ODD[:, None].repeat(1, 4, 1)
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


class Own(nn.Module):
    """An attention of the user's that is wrong in a row without a key."""

    def __init__(self, masked):
        super().__init__()
        self.masked = masked

    def forward(self, x, mask):
        out = x * 2
        if torch.jit.is_tracing():
            out = torch.where(
                (mask.float() == float(self.masked)).all(-1, keepdim=True), out + 1, out
            )
        return out


class Other(nn.Module):
    """It takes a mask too, and its trace is wrong whatever is masked."""

    def forward(self, x, mask):
        out = x.masked_fill(mask, 0)
        return out + 1 if torch.jit.is_tracing() else out


def x(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _same_weights():
    torch.manual_seed(0)


def causes_of(module, *args, target="trace", **options):
    found = check_export(
        module.eval(), args, target=target, checks=["parity"], max_examples=20, **options
    )
    assert found.failure == "OutputsDiffer", found
    assert torch.backends.mha.get_fastpath_enabled()
    return [line for line in found.details if line.startswith(("cause: ", "eager alone: "))]


def test_the_nested_tensors_of_eager_are_named_with_the_positions_that_they_zero():
    cause, alone = causes_of(Encoder(), x(2, 4, 4), ODD)
    assert cause.startswith(f"cause: the fast path of encoder (TransformerEncoder): with {NESTED}")
    assert cause.endswith("eager returns what the artifact does")
    assert alone.startswith("eager alone: output at [0, ")
    assert alone.endswith(" is 0 with it, other numbers without it")


def test_nested_tensors_in_a_trace_are_gone_if_it_is_exported_without():
    (cause,) = causes_of(Encoder(), x(2, 4, 4), LEFT)
    assert f"with {SWITCH}, set before the export too" in cause


def test_a_fused_kernel_that_is_nan_without_a_key_is_named_beside_the_row():
    cause, alone, row = causes_of(SelfAttention(), x(2, 4, 4), ~ODD, target="export", values=BOTH)
    assert f"the fast path of attention (MultiheadAttention): with {SWITCH}, eager" in cause
    assert alone.endswith(" is nan with it, 0 without it")
    assert row.startswith("cause: mask is all True at [0]")


@pytest.mark.parametrize("masked", [True, False])
def test_a_row_of_the_users_own_mask_is_named_without_a_fast_path(masked):
    (row,) = causes_of(Own(masked), x(2, 4, 4), MASK, values=BOTH)
    assert row.startswith(f"cause: mask is all {masked} at [0, ")
    assert row.endswith(f": with one {not masked} there, eager and artifact agree")


def test_a_row_of_minus_infinity_is_named():
    mask = torch.zeros(4, 4).index_fill(0, torch.tensor(1), -torch.inf)
    (row,) = causes_of(Own(-torch.inf), x(2, 4, 4), mask)
    assert row.startswith("cause: mask is all -inf at [")


def test_what_the_call_fails_without_as_well_is_no_cause():
    """The encoder takes its fast path, and the mask has full rows: neither is why."""
    assert not causes_of(
        Baked(enable_nested_tensor=False), x(2, 4, 4), ODD, values={"keep": [True, False]}
    )
    assert not causes_of(Other(), x(2, 4, 4), MASK, values=BOTH)


def test_with_the_switch_that_is_advised_the_encoder_passes():
    with plain_attention():
        verdict = check_export(
            Encoder().eval(), (x(2, 4, 4), ODD), target="trace", checks=["parity"]
        )
    assert verdict.status == "passed", verdict
