"""sandbox/tensors.py: torch's tensors as bytes, and back."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

import pytest
import torch
from in_sandbox import across

from pytest_torchexport.sandbox import tensors, wire


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(True),
        torch.arange(6).reshape(2, 3).t(),
        torch.zeros(2, 0, 3, dtype=torch.uint16),
        torch.arange(3).to(torch.float8_e4m3fn),
        torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        torch.zeros(1).expand(4),
        torch.randn(6)[::2].bfloat16(),
        torch.tensor([1 + 2j]).conj(),
        torch.tensor([1 + 2j]).conj().imag,
        torch.ones(2, requires_grad=True),
        torch.tensor([math.nan, math.inf, -math.inf, -0.0]),
        torch.tensor([2**63 - 1, -(2**63)]),
    ],
    ids=lambda tensor: f"{tensor.dtype}-{tuple(tensor.shape)}",
)
def test_tensors_of_every_kind_cross(tensor):
    found = across(tensor)
    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
    assert str(found.tolist()) == str(tensor.tolist())


@dataclass
class Named:
    left: torch.Tensor
    right: list


torch.export.register_dataclass(Named, serialized_type_name="in_sandbox.Named")


def test_what_is_registered_by_name_crosses_between_those_who_know_it():
    found = across([Named(torch.ones(2), [torch.zeros(1), 3])])[0]
    assert type(found) is Named
    assert found.left.tolist() == [1, 1]
    assert found.right[1] == 3


@pytest.mark.parametrize("codec", [tensors.STRICT, wire.ARRAYS])
def test_what_is_registered_does_not_cross_to_those_who_do_not(codec):
    with pytest.raises(wire.UnknownClass):
        across([Named(torch.ones(2), [])], other=codec)


def test_what_torch_has_by_name_crosses():
    values = [torch.float16, torch.strided, torch.channels_last, torch.device("cuda:1")]
    assert across(values) == values


def test_a_defaultdict_crosses_if_the_other_side_can_make_what_it_lacks():
    found = across(defaultdict(list, {"a": torch.ones(1)}))
    assert found["b"] == []
    assert found["a"].tolist() == [1]
    with pytest.raises(wire.UnknownClass):
        across(defaultdict(lambda: 1))
