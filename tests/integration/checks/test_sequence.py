"""checks/sequence.py: an artifact that does not take another length of a guessed sequence is a warning."""

from __future__ import annotations

import torch
from torch import nn

from pytest_torchexport import check_export


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(3, 4)

    def forward(self, scale, x):
        return self.rnn(x)[0] * scale


def test_the_sequence_is_named_also_behind_an_input_without_dimensions():
    verdict = check_export(
        Scaled(),
        (torch.tensor(2.0), torch.randn(5, 2, 3)),
        target="export",
        checks=("parity",),
        max_examples=1,
    )
    assert verdict.status == "passed", verdict.reason
    (warning,) = verdict.ineffective
    assert warning.startswith("dim 0 of x is a sequence of 5: the artifact is not right at 6")
    assert warning.endswith("""shapes={'x': "sequence batch 3"}, or not, with "5 batch 3\"""")
