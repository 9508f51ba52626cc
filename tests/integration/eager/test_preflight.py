"""eager/preflight.py: what a watched run loads in a new interpreter."""

from __future__ import annotations

import subprocess
import sys

import torch
from torch import nn

from pytest_torchexport import check_export


def test_watching_loads_no_dynamo_and_does_no_harm_to_what_does():
    code = (
        "import sys, torch\n"
        "from pytest_torchexport.inputs.spec import Call\n"
        "from pytest_torchexport.outcomes.subject import Subject\n"
        "from pytest_torchexport.eager.preflight import watch\n"
        "assert watch(Subject.of(torch.nn.ReLU()), Call((torch.ones(2),)), 0)[0].steps\n"
        "assert 'torch._dynamo' not in sys.modules\n"
        "def branching(x): return torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,))\n"
        "watch(Subject.of(branching), Call((torch.ones(2),)), 0)\n"
        "print(branching(torch.zeros(1)).item())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1.0"


class Samples(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop, self.norm = nn.Dropout(0.5), nn.BatchNorm1d(3)

    def forward(self, x):
        return self.norm(self.drop(x))


def test_sampling_keeps_the_dropout_that_the_test_has_left_on_and_nothing_else():
    net = Samples().eval()
    net.drop.train()
    net.norm.train()
    verdict = check_export(net, (torch.randn(4, 3),), target="trace", mode="sampling", strict=True)
    assert verdict.status == "passed", verdict
    assert any("forward is random (drop (Dropout" in note for note in verdict.notes)
    assert not any("changes" in note for note in verdict.notes)  # no running mean
