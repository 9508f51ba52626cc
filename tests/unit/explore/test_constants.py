"""explore/constants.py: numbers that code may compare with."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pytest_torchexport.explore.constants import MAX_CONSTANTS, MAX_NUMEL, constants_of


class Config:
    def __init__(self, **values):
        vars(self).update(values)


class Holder(nn.Module):
    def __init__(self, **values):
        super().__init__()
        for name, value in values.items():
            setattr(self, name, value)


class Refusing(list):
    def __len__(self):
        raise NotImplementedError


def test_numbers_of_the_code_come_first_and_once():
    assert constants_of([512, "text", 0.25, 512, None, (3,)], Holder(limit=7, other=512)) == (
        512,
        0.25,
        7,
    )


def test_what_every_code_holds_is_left_out():
    found = constants_of(
        [0, 1, -1, 2, True, False, 1.0, math.inf, math.nan, 2**60, 5j, b"5", 3], None
    )
    assert found == (3,)


@pytest.mark.parametrize(
    "value",
    [
        9.5,
        [9.5],
        {"a": {"b": (9.5, "c")}},
        Config(inner=Config(limit=9.5)),
        torch.tensor(9.5),
        torch.tensor([[9.5]], dtype=torch.float64),
        {9.5},
        Refusing((9.5,)),
    ],
    ids=["number", "list", "dict", "config", "scalar", "matrix", "set", "refusing"],
)
def test_attributes_are_looked_into(value):
    assert constants_of([], Holder(value=value)) == (9.5,)
    assert constants_of([], nn.Sequential(nn.Identity(), Holder(value=value))) == (9.5,)


def test_small_buffers_and_parameters_are_looked_into():
    module = Holder(scale=nn.Parameter(torch.tensor([4.5])))
    module.register_buffer("limit", torch.tensor(50256))
    module.register_buffer("table", torch.arange(3.0, MAX_NUMEL + 4))
    module.register_buffer("none", None)
    module.register_buffer("complex", torch.tensor(3 + 4j))
    assert constants_of([], module) == (4.5, 50256)


def test_what_torch_keeps_for_itself_is_left_out():
    assert constants_of([], nn.Sequential(nn.Conv2d(8, 16, 5, bias=False), nn.Dropout(0.3))) == ()
    assert constants_of([], Holder(_private=77)) == ()


def test_what_holds_itself_comes_to_an_end():
    config = Config(limit=6)
    config.own = config
    endless = [8]
    endless.append(endless)
    assert constants_of([], Holder(config=config, endless=endless)) == (6, 8)


def test_there_is_an_end_to_the_numbers():
    assert constants_of(range(3, 1000), None) == tuple(range(3, 3 + MAX_CONSTANTS))
