"""diagnosis/conversions.py: the lines at which a trace reads numbers."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from pytest_torchexport.diagnosis.conversions import conversions


class Padded(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)

    def forward(self, x):
        rows = math.ceil(x.shape[2] / 2) * 2
        y = self.conv(x)
        if rows != x.shape[2]:
            y = y + 1
        return y


def read(net):
    x = torch.ones(1, 1, 8, 3)
    case = SimpleNamespace(
        plan=SimpleNamespace(seed=0),
        call_to_export=lambda: x,
        exported=lambda call, **_: torch.jit.trace(net, (call,)),
    )
    return conversions(case)


@pytest.mark.filterwarnings("ignore")
def test_where_a_module_cannot_be_traced_while_it_is_recorded_torchs_warnings_are_left():
    number, condition = read(Padded().eval())  # the trace of a parameter cannot be recorded
    assert "rows = math.ceil" in str(number.where)
    assert math.isnan(number.numbers[0])
    assert not number.decides
    assert "if rows !=" in str(condition.where)
    assert condition.decides
    assert condition.numbers


class Counts(nn.Module):
    """Python asks a tensor for an integer in three lines; a trace follows the one in brackets."""

    def forward(self, x):
        steps = list(range(x.shape[2]))
        y = x[:, :, : x.shape[2]]
        return y.view(1, x.shape[2], -1) + sum([0.5] * x.shape[3]) + len(steps)


def test_an_integer_that_python_takes_a_size_for_is_found_without_torchs_warning():
    found = {item.where.text: item for item in read(Counts())}
    assert list(found) == [
        "steps = list(range(x.shape[2]))",
        "return y.view(1, x.shape[2], -1) + sum([0.5] * x.shape[3]) + len(steps)",
    ]
    first, second = found.values()
    assert set(first.numbers) == {8.0}
    assert 3.0 in second.numbers
    assert not first.decides
    assert "__index__" not in vars(torch.Tensor)
