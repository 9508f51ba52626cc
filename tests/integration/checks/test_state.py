"""checks/state.py with exporters: state that tracing moves, that formats drop, and that only some calls change."""

from __future__ import annotations

import torch
from torch import nn

from pytest_torchexport import check_export


def X(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def verdict_of(module, *args, target="trace", **options):
    return check_export(module, args, target=target, max_examples=10, **options)


class Steps(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x):
        self.steps += 1
        return x * 2


class StepsAndSize(Steps):
    """torch warns of a line that has nothing to do with the state."""

    def forward(self, x):
        if len(x) == 0:
            return x
        return super().forward(x)


def test_where_is_the_line_that_writes_the_state_not_one_that_torch_warns_of():
    found = verdict_of(StepsAndSize(), X(2, 3))
    assert found.failure == "StateDiffers"
    assert any("TracerWarning" in warning for warning in found.warnings)
    assert found.where.text == "self.steps += 1"
    (note,) = [note for note in found.notes if "forward changes" in note]
    assert found.where.text in note
    assert not found.details  # the note says it once


class Late(nn.Module):
    """Changes itself on calls that are unlike the example."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        if x.shape[0] > 3:
            self.calls += 1
        return x + self.calls


def test_state_that_the_example_does_not_change_is_found_out():
    found = verdict_of(Late(), X(2, 3))
    assert found.failure == "BranchFrozen"
    assert found.where.text.endswith("if x.shape[0] > 3:")
    assert any("attribute calls on some calls" in note for note in found.notes)
