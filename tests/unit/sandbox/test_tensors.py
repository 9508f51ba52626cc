"""sandbox/tensors.py: torch's tensors as bytes, and back."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from in_sandbox import across

from pytest_torchexport.sandbox import tensors, wire

DTYPES = (
    *(torch.bool, torch.uint8, torch.int64, torch.uint16, torch.uint64),
    *(torch.bfloat16, torch.float64, torch.complex64, torch.float8_e4m3fn),
)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (3,), (2, 0, 3), (2, 3)], ids=str)
def test_tensors_of_every_dtype_cross(dtype, shape):
    numbers = torch.arange(math.prod(shape)).reshape(shape) % 2
    tensor = numbers.to(dtype)
    found = across(tensor)
    assert found.dtype == dtype
    assert found.shape == tensor.shape
    assert found.tolist() == tensor.tolist()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6).reshape(2, 3).t(),
        torch.zeros(1).expand(4),
        torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        torch.randn(6)[::2],
        torch.tensor([1 + 2j]).conj(),
        torch.tensor([1 + 2j]).conj().imag,
        torch.ones(2, requires_grad=True),
        torch.tensor([math.nan, math.inf, -math.inf, -0.0]),
        torch.tensor([2**63 - 1, -(2**63)]),
    ],
    ids=lambda tensor: f"{tensor.dtype}-{tuple(tensor.shape)}",
)
def test_unusual_tensors_cross(tensor):
    found = across(tensor)
    assert torch.equal(found.nan_to_num(7), tensor.detach().resolve_conj().nan_to_num(7))
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


@pytest.mark.parametrize(
    "value",
    [
        torch.float16,
        torch.bool,
        torch.strided,
        torch.channels_last,
        torch.device("cuda:1"),
        b"\x00\xff",
    ],
    ids=str,
)
def test_what_torch_has_by_name_crosses(value):
    assert across([value]) == [value]
