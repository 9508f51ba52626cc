"""torch_private/circumstances.py: transforms, modes and torch's frames are noticed."""

import torch

from pytest_torchexport.torch_private.circumstances import (
    is_transforming,
)


def test_transforms_of_torch_func_are_known():
    seen = []
    torch.func.vmap(lambda x: seen.append(is_transforming()) or x)(torch.ones(2))
    assert seen == [True]
    assert not is_transforming()
