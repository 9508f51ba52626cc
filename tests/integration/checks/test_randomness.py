"""checks/randomness.py with exporters: constants where eager draws, and outputs beside random ones."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from pytest_torchexport import check_export


def X(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def verdict_of(module, *args, target="trace", **options):
    return check_export(module, args, target=target, max_examples=10, **options)


def test_a_constant_where_eager_varies_names_where_it_draws():
    class Chance(nn.Module):
        def forward(self, x):
            return x * random.random()  # no secret

    found = verdict_of(Chance(), X(2, 3))
    assert found.failure == "OutputsDiffer"
    assert found.reason == (
        "the artifact is constant where eager varies with the random seed: output"
    )
    assert "Python's random" in found.details[0]


class NoiseBeside(nn.Module):
    def forward(self, x):
        y = x * 3 if torch.compiler.is_compiling() else x * 2
        return x + torch.rand_like(x), y


def test_what_is_not_random_is_judged_on_another_stream_too():
    pytest.importorskip("onnxruntime", reason="the extra onnx")
    found = verdict_of(NoiseBeside(), X(2, 3), target="onnx")
    assert found.status == "failed"
    assert [item.path for item in found.differences] == ["output[1]"]
