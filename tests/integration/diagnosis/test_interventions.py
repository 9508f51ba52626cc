"""diagnosis/interventions.py: the one is named with which eager does what the artifact does."""

from __future__ import annotations

import pytest
import torch
from slow import slow
from torch import nn

from pytest_torchexport import check_export
from pytest_torchexport.outcomes.torch_state import plain_attention

X = torch.ones(3, 4)
SWITCH = "torch.backends.mha.set_fastpath_enabled(False)"


# -- what forward asks -----------------------------------------------------------------------------


class Twice(nn.Module):
    """The first question changes nothing."""

    def forward(self, x):
        y = x + x if torch.jit.is_tracing() else x * 2
        return y + 1 if torch.jit.is_tracing() else y  # this one


class Together(nn.Module):
    """Neither answer alone gives what the trace computes."""

    def forward(self, x):
        x = x + 1 if torch.jit.is_tracing() else x
        return x * 3 if torch.jit.is_tracing() else x


class Baked(nn.Module):
    """Its question changes nothing; the trace is wrong for another reason."""

    def forward(self, x):
        y = x + x if torch.jit.is_tracing() else x * 2
        return y * float(x.sum())


class Shorter(nn.Module):
    """The old ONNX exporter returns a list of one as its element."""

    def forward(self, x):
        return [x + 1] if torch.jit.is_tracing() else [x + 1, x]


class AnyOfSmall(nn.Module):
    """Its question changes nothing; the old ONNX exporter makes whole numbers of what any takes."""

    def forward(self, x):
        y = x + x if torch.jit.is_tracing() else x * 2
        return torch.any(y * 0.1, dim=1)


def diagnosis_of(module, *args, target="trace", failure="OutputsDiffer", **options):
    found = check_export(
        module, args or (X,), target=target, checks=["parity"], max_examples=5, **options
    )
    assert found.failure == failure, found
    assert found.diagnosis.not_examined == ()
    return found.diagnosis


def test_the_question_is_the_cause_with_its_line():
    found = diagnosis_of(Twice())
    (cause,) = found.causes
    assert cause.kind == "export-only branch"
    assert "torch.jit.is_tracing() is True on trace: " in cause.text
    assert found.owner == "model"
    assert "this one" in cause.where.text


def test_a_question_is_the_cause_of_what_torch_captured_though_the_file_returns_yet_something_else():
    found = diagnosis_of(Shorter(), target="onnx_legacy", failure="StructureDiffers")
    (cause,) = found.causes
    assert cause.text.endswith("with this answer eager returns what torch captured")
    assert cause.where.text.startswith("return [x + 1] if torch.jit.is_tracing()")
    assert found.owner == "model"


def test_questions_that_only_together_are_the_cause_are_all_named():
    (cause,) = diagnosis_of(Together()).causes
    assert len(cause.details) == 2


@pytest.mark.parametrize("target", ["trace", "onnx_legacy"])
def test_a_question_beside_the_cause_is_not_named(target):
    (cause,) = diagnosis_of(Baked(), target=target).causes
    assert cause.kind == "baked value"


def test_a_question_beside_what_the_old_exporter_translates_wrongly_is_not_named():
    found = diagnosis_of(AnyOfSmall(), target="onnx_legacy")
    assert (found.owner, found.causes) == ("translation", ())


# -- how it runs -----------------------------------------------------------------------------------


class Silent(nn.Module):
    """Depends on the mode without a question."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x):
        y = x * self.weight
        if y.requires_grad:
            return y * 2
        return y


def test_the_grad_mode_is_named_where_nobody_asks_for_it():
    found = diagnosis_of(Silent(), target="script")
    (cause,) = found.causes
    assert cause.kind == "mode-dependent operator"
    assert "under torch.no_grad() eager returns what the artifact does" in cause.text
    assert (found.owner, cause.details) == (None, ())


ODD = torch.tensor([[True] * 4, [True, False, True, False]])


class Encoder(nn.Module):
    def __init__(self, **options):
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, **options)

    def forward(self, x, keep):
        return self.encoder(x, src_key_padding_mask=~keep)


class Counted(Encoder):
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


def test_the_nested_tensors_of_eager_are_named_and_the_switch_that_is_advised_helps(
    causes_of, numbers
):
    args = Encoder(), numbers(2, 4, 4), ODD
    (cause,) = causes_of(*args)
    assert cause.startswith(f"the fast path of encoder (TransformerEncoder): with {SWITCH}")
    assert cause.endswith("eager returns what the artifact does")
    with plain_attention():
        verdict = check_export(args[0].eval(), args[1:], target="trace", checks=["parity"])
    assert verdict.status == "passed", verdict


@slow
def test_a_fused_kernel_that_is_nan_without_a_key_is_named_beside_the_row(causes_of, numbers):
    row, cause = causes_of(
        SelfAttention(), numbers(2, 4, 4), ~ODD, target="export", values={"mask": [True, False]}
    )
    assert f"the fast path of attention (MultiheadAttention): with {SWITCH}, eager" in cause
    assert row.startswith("mask is all True at [0]")


def test_a_fast_path_without_which_the_call_fails_too_is_no_cause(causes_of, numbers):
    (cause,) = causes_of(
        Counted(enable_nested_tensor=False), numbers(2, 4, 4), ODD, values={"keep": [True, False]}
    )
    assert "a number that Python reads from a tensor" in cause


# -- the failing call ------------------------------------------------------------------------------


class Asks(nn.Module):
    def forward(self, q, k):
        return q * 5 if q is k else q * 2 + k


def test_a_trace_that_cannot_tell_that_two_tensors_are_one():
    found = diagnosis_of(Asks(), X, X)
    (cause,) = found.causes
    assert (found.owner, cause.kind) == ("capture", "one tensor twice")
    assert "the artifact cannot tell" in cause.text


def test_a_trace_that_takes_two_tensors_for_one():
    """What the test gives twice is one input of the trace: the other is not looked at."""
    (cause,) = diagnosis_of(Asks(), X, X, values={"q": (0.0, 2.0)}).causes
    assert cause.kind == "one tensor twice"


class Own(nn.Module):
    """An attention of the user's that is wrong in a row without a key."""

    def __init__(self, masked):
        super().__init__()
        self.masked = masked

    def forward(self, x, mask):
        out = x * 2
        if torch.jit.is_tracing():
            rows = (mask.float() == float(self.masked)).all(-1, keepdim=True)
            out = torch.where(rows, out + 1, out)
        return out


class Other(nn.Module):
    """It takes a mask too, and its trace is wrong whatever is masked."""

    def forward(self, x, mask):
        out = x.masked_fill(mask, 0)
        return out + 1 if torch.jit.is_tracing() else out


ROWS = torch.tensor([[False] * 4, [False, True, False, True]])
MASK = ROWS[:, None].repeat(1, 4, 1)
INFINITE = torch.zeros(4, 4).index_fill(0, torch.tensor(1), -torch.inf)


@pytest.mark.parametrize(
    ("masked", "mask"), [(True, MASK), (False, MASK), (-torch.inf, INFINITE)], ids=str
)
def test_a_row_that_masks_all_is_named_if_the_call_fails_only_with_it(
    causes_of, numbers, masked, mask
):
    options = {"values": {"mask": [True, False]}} if mask is MASK else {}
    (row,) = causes_of(Own(masked), numbers(2, 4, 4), mask, **options)
    assert row.startswith(f"mask is all {masked} at [")
    assert row.endswith("there, eager and artifact agree")


def test_full_rows_without_which_the_call_fails_too_are_no_cause(causes_of, numbers):
    assert not causes_of(Other(), numbers(2, 4, 4), MASK, values={"mask": [True, False]})
