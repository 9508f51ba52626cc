"""sandbox/tensors.py: the layout of tensors in the clean process."""

from __future__ import annotations

import pytest
import torch
from in_sandbox import run

from pytest_torchexport.inputs.pytrees import Call


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6.0).reshape(2, 3).t(),
        torch.arange(24.0).reshape(1, 2, 3, 4).contiguous(memory_format=torch.channels_last),
        torch.arange(12.0)[::3],
        torch.arange(2.0).reshape(2, 1).expand(2, 5),
    ],
    ids=lambda tensor: f"{tuple(tensor.shape)}-{tensor.stride()}",
)
def test_tensors_lie_in_memory_as_they_did(load, tensor):
    value = run(load("LAYOUT"), Call((tensor,), {"y": torch.ones(2)})).value
    # Each call is made on a clone, there as here.
    assert tuple(value["strides"]) == tensor.clone().stride()
    assert torch.equal(value["x"], tensor)
