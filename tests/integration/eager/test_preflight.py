"""eager/preflight.py with ScriptModules."""

from __future__ import annotations

import warnings

import torch
from preflights import findings
from torch import nn

X = torch.linspace(-1, 1, 12).reshape(1, 3, 4)


def test_an_attribute_of_a_script_module_is_named():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.steps = 0

        def forward(self, x):
            self.steps += 1
            return x * self.steps

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(Counting())
    assert tuple(map(str, findings(scripted, X).changed)) == ("attribute steps",)
