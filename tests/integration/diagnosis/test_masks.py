"""diagnosis/masks.py: rows that mask every element are named if the call fails only with them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pytest_torchexport import check_export

ROWS = torch.tensor([[False] * 4, [False, True, False, True]])
MASK = ROWS[:, None].repeat(1, 4, 1)
BOTH = {"mask": [True, False]}


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


@pytest.mark.parametrize("masked", [True, False])
def test_a_row_of_the_users_own_mask_is_named_without_a_fast_path(causes_of, numbers, masked):
    (row,) = causes_of(Own(masked), numbers(2, 4, 4), MASK, values=BOTH)
    assert row.startswith(f"mask is all {masked} at [0, ")
    assert row.endswith(f": with one {not masked} there, eager and artifact agree")


def test_a_row_of_minus_infinity_is_named(causes_of, numbers):
    mask = torch.zeros(4, 4).index_fill(0, torch.tensor(1), -torch.inf)
    (row,) = causes_of(Own(-torch.inf), numbers(2, 4, 4), mask)
    assert row.startswith("mask is all -inf at [")


def test_full_rows_without_which_the_call_fails_too_are_no_cause(causes_of, numbers):
    assert not causes_of(Other(), numbers(2, 4, 4), MASK, values=BOTH)


class Counts(nn.Module):
    """Its trace starts with the changed count; a call does not fail."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x, mask):
        self.calls += 1
        return x.masked_fill(~mask, 0)


def test_full_rows_are_no_cause_if_the_call_itself_does_not_fail(numbers):
    mask = torch.ones(2, 4, dtype=torch.bool)
    found = check_export(Counts(), (numbers(2, 4), mask), target="trace", max_examples=20)
    assert found.failure == "StateDiffers"
    assert [cause.kind for cause in found.diagnosis.causes] == ["changed by the export"]
