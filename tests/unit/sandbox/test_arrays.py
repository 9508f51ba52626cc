"""sandbox/arrays.py: tensors for a process without torch."""

from __future__ import annotations

import torch
from in_sandbox import across

from pytest_torchexport.sandbox import arrays


def test_the_other_side_may_have_no_torch():
    found = across([torch.tensor([[1.5, 2]], dtype=torch.bfloat16)], other=arrays.CODEC)
    assert (found[0].dtype, found[0].shape, len(found[0].data)) == ("bfloat16", (1, 2), 4)
    assert across(found, arrays.CODEC)[0].tolist() == [[1.5, 2]]
