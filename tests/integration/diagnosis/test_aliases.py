"""diagnosis/aliases.py: one tensor given for two arguments, which the artifact cannot tell."""

from __future__ import annotations

import torch
from torch import nn

from pytest_torchexport import check_export

Q = torch.ones(3, 4)


class Asks(nn.Module):
    def forward(self, q, k):
        return q * 5 if q is k else q * 2 + k


def test_a_trace_that_cannot_tell_that_two_tensors_are_one():
    found = check_export(Asks(), (Q, Q), target="trace", checks=["parity"], max_examples=5)
    assert found.failure == "OutputsDiffer"
    assert "k is q" in found.call
    (cause,) = found.diagnosis.causes
    assert cause.kind == "one tensor twice"
    assert "the artifact cannot tell" in cause.text
    followed = check_export(
        Asks(), (Q, Q.clone()), target="trace", checks=["parity"], max_examples=5
    )
    assert followed.status == "passed"
