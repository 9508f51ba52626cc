"""outcomes/copying.py: copies of modules that torch.jit.script made."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pytest_torchexport.outcomes.subject import copied_module

X = torch.ones(2, 3)


class WithLoop(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor, n: int) -> torch.Tensor:
        for _ in range(n):
            x = self.linear(x)
        return x


@pytest.mark.parametrize("wrap", [lambda net: net, nn.Sequential], ids=["alone", "in a module"])
def test_a_script_module_is_copied_with_its_parts(wrap):
    scripted = torch.jit.script(WithLoop())
    copied = copied_module(wrap(scripted))
    inner = copied[0] if isinstance(copied, nn.Sequential) else copied
    inner.linear.weight.data.zero_()
    assert scripted.linear.weight.abs().sum() > 0
    torch.testing.assert_close(inner(X, 1), scripted.linear.bias.expand(2, 3))
