"""eager/accepted.py: a wrong declaration fails before the exporter runs."""

from __future__ import annotations

import torch
from torch import nn

from pytest_torchexport import check_export


def X(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def verdict_of(module, *args, target="trace", **options):
    return check_export(module, args, target=target, max_examples=10, **options)


def test_what_was_declared_wrongly_is_told_before_what_the_exporter_makes_of_it():
    class Window(nn.Module):
        def forward(self, x):
            if x.shape[1] < 5:
                raise ValueError("too short")
            return x.unfold(1, 5, 1).amax(-1)

    found = verdict_of(
        Window(), X(2, 6), target="export", shapes={"x": "batch time"}, dims={"time": (3, 8)}
    )
    assert found.failure == "SpecError"
    assert "too short" in found.reason
