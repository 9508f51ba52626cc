"""outcomes/subject.py: the bytes of a module's weights."""

from __future__ import annotations

import torch
from torch import nn

from pytest_torchexport.outcomes.subject import unique_weight_of, weight_of


def test_memory_that_is_shared_counts_once():
    net = nn.Module()
    net.a = nn.Parameter(torch.ones(10))
    assert unique_weight_of(net) == weight_of(net) == 40
    net.b = net.a
    net.c = nn.Parameter(net.a.data)
    net.register_buffer("first", net.a.data[:5])
    net.register_buffer("wide", torch.ones(1).expand(100))
    assert unique_weight_of(net) == 40 + 4
    assert weight_of(net) == 40 + 40 + 20 + 400
    # A part of a larger memory counts as it is.
    net.d = nn.Parameter(torch.ones(1000)[:3])
    assert unique_weight_of(net) == 44 + 12


def test_tensors_without_plain_memory_count_by_their_elements():
    net = nn.Module()
    net.a = nn.Parameter(torch.ones(3, device="meta"))
    net.b = nn.Parameter(torch.ones(2, device="meta"))
    assert unique_weight_of(net) == 20
