"""eager/accepted.py with traces: values and sizes that eager takes, and a pass with too few of them."""

from __future__ import annotations

import re

import torch
from torch import nn

from pytest_torchexport import check_export


def X(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def verdict_of(module, *args, target="trace", **options):
    return check_export(module, args, target=target, max_examples=10, **options)


class Shares(nn.Module):
    def __init__(self, size=None):
        super().__init__()
        self.size = size

    def forward(self, x):
        if not torch.jit.is_tracing():
            if self.size not in (None, len(x)):
                raise ValueError(f"{self.size} rows only")
            if ((x.sum(-1) - 1).abs() > 1e-5).any():
                raise ValueError("rows must sum to one")
        return x * 2


def test_where_eager_takes_the_examples_values_alone_sizes_still_vary():
    found = verdict_of(Shares(), torch.softmax(X(3, 4), -1))
    assert found.status == "passed"
    assert len(found.reached["batch"]) > 1
    assert found.ineffective == (
        "eager takes hardly any values but the example's: only sizes varied",
    )


def test_where_no_size_varies_either_nothing_was_checked():
    found = verdict_of(Shares(3), torch.softmax(X(3, 4), -1))
    assert found.failure == "Ineffective"
    # The search may find a call within what eager allows.
    assert re.fullmatch("eager takes [12] different calls of all that were generated", found.reason)
    assert found.details[0] == "the first that it refused: ValueError: rows must sum to one"
    assert "map=" in found.details[1]


def test_a_map_that_makes_calls_legal_is_enough():
    found = verdict_of(
        Shares(3),
        torch.softmax(X(3, 4), -1),
        map=lambda x: {"x": x.softmax(-1)},
    )
    assert found.status == "passed"
    assert found.ineffective == ("eager takes only one size of batch",)


class Halves(nn.Module):
    """Takes even numbers of rows, and its trace the example's alone."""

    def forward(self, x):
        if x.shape[0] % 4:
            raise ValueError("fours only")
        return x.reshape(int(x.shape[0]) // 2, -1)


def test_sizes_that_are_legal_in_steps_are_found():
    found = verdict_of(Halves(), X(8, 3))
    assert found.failure == "OutputsDiffer" or found.failure == "ArtifactRaised"
    assert "eager accepts 4 <= batch <= 16 in steps of 4 (assumed was 1..16)" in found.notes


def test_one_size_taken_by_broadcasting_is_no_step():
    class Added(nn.Module):
        def __init__(self):
            super().__init__()
            self.rows = nn.Parameter(torch.ones(4, 3))

        def forward(self, x):
            return x + self.rows

    found = verdict_of(Added(), X(4, 3))
    assert found.status == "passed"
    assert found.reached == {}
    assert found.ineffective == ("eager takes only one size of batch",)
