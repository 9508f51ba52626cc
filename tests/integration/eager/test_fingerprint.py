"""eager/fingerprint.py with a ScriptModule."""

from __future__ import annotations

import torch
from torch import nn

from pytest_torchexport.eager.fingerprint import changed, fingerprint


def test_an_attribute_of_a_script_module_is_named():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.steps = 0

        def forward(self, x):
            self.steps += 1
            return x * self.steps

    scripted = torch.jit.script(Counting())
    before = fingerprint(scripted)
    scripted(torch.ones(1))
    assert tuple(map(str, changed(before, fingerprint(scripted)))) == ("attribute steps",)
