"""eager/line_finders.py: the line at which an attribute changes, or a seed is set."""

from __future__ import annotations

import torch
from torch import nn

from pytest_torchexport.eager.line_finders import changed_at, seeded_at
from pytest_torchexport.eager.state_ref import StateRef
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.subject import Subject

X = Call((torch.ones(2, 3),))


class Part(nn.Module):
    def __init__(self):
        super().__init__()
        self.seen = {"calls": []}

    def note(self, x):
        self.seen["calls"].append(len(x))
        return x

    def forward(self, x):
        y = x * 2
        return self.note(y)


def place(ref):
    return str(changed_at(Subject.of(nn.Sequential(nn.ReLU(), Part())), X, 0, ref))


def test_the_line_that_changes_what_an_attribute_holds():
    assert ".append(len(x))" in place(StateRef("attribute", "1.seen['calls']"))


def test_an_attribute_that_no_line_changes_has_none():
    assert place(StateRef("attribute", "1.other")) == "None"
    assert place(StateRef("global", "numbers")) == "None"


def test_the_line_that_registers_a_buffer():
    class Registers(nn.Module):
        def forward(self, x):
            if not hasattr(self, "offset"):
                self.register_buffer("offset", x.mean(0))
            return x - self.offset

    found = changed_at(Subject.of(Registers()), X, 0, StateRef("buffer", "offset"))
    assert "register_buffer" in str(found)


def test_the_line_that_sets_a_seed():
    def seeds(x):
        y = x * 2
        torch.manual_seed(7)
        return y + torch.rand(3)

    assert "manual_seed(7)" in str(seeded_at(Subject.of(seeds), X, 1))
    assert seeded_at(Subject.of(lambda x: x + torch.rand(3)), X, 1) is None
