"""eager/fingerprint.py: what a module reaches, how its places are named, and what has changed."""

from __future__ import annotations

import itertools
import logging
import threading
from collections import deque
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from preflights import Healthy
from torch import nn

from pytest_torchexport.eager.fingerprint import MAX_NODES, StateRef, changed, fingerprint


def test_a_place_contains_its_items_and_attributes():
    names = ("cache[0]", "cache.size", "cached", "cache")
    inside = [StateRef("attribute", "cache").contains(StateRef("attribute", n)) for n in names]
    assert inside == [True, True, False, False]
    assert not StateRef("attribute", "cache").contains(StateRef("buffer", "cache[0]"))


class Changing(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.zeros(1))
        self.weight = nn.Parameter(torch.ones(4))
        self.flag = 1
        self.mode = "idle"
        self.history = []
        self.nested = {"deep": [1, {"x": 0}]}
        self.seen = set()
        self.config = SimpleNamespace(state=SimpleNamespace(value=0))
        self.array = np.zeros(2)
        self.rng = np.random.default_rng(0)
        self.ticks = itertools.count()
        self.drop = nn.Dropout()


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda s: s.steps.add_(1), "buffer steps"),
        (lambda s: s.weight.requires_grad_(False), "parameter weight"),
        (lambda s: s.register_buffer("late", torch.ones(1)), "buffer late (new)"),
        (lambda s: setattr(s, "flag", True), "attribute flag"),
        (lambda s: delattr(s, "mode"), "attribute mode (gone)"),
        (lambda s: s.history.append(1), "attribute history"),
        (lambda s: s.nested["deep"][1].update(x=1), "attribute nested['deep'][1]['x']"),
        (lambda s: s.seen.add("a"), "attribute seen"),
        (lambda s: setattr(s.config.state, "value", 1), "attribute config.state.value"),
        (lambda s: s.array.put(0, 1), "attribute array"),
        (lambda s: s.rng.random(), "attribute rng"),
        (lambda s: next(s.ticks), "attribute ticks"),
        (lambda s: s.drop.train(), "training flag of drop"),
        (lambda s: s.drop.register_forward_hook(print), "hooks of drop"),
        (lambda s: s.add_module("extra", nn.ReLU()), "submodules"),
    ],
)
def test_whatever_changes_is_named(change, name):
    net = Changing().eval()
    before = fingerprint(net)
    assert changed(before, fingerprint(net)) == ()
    change(net)
    changes = tuple(map(str, changed(before, fingerprint(net))))
    assert changes[0] == name
    assert len(changes) == 1 or name == "submodules"


def test_a_fingerprint_of_an_untouched_module_does_not_change():
    odd = Healthy()
    odd.limit = float("nan")
    odd.loop = [1]
    odd.loop.append(odd.loop)
    odd.parent = [odd]
    for net in (odd, nn.LSTM(3, 4), nn.TransformerEncoderLayer(4, 2, 8)):
        before = fingerprint(net)
        net.state_dict()
        assert changed(before, fingerprint(net)) == ()


def raises(*_):
    raise AssertionError("code of the user's ran")


def test_no_code_of_the_users_runs():
    class Odd(nn.Module):
        dangerous = property(raises)

        def __getattr__(self, name):
            if name in ("_parameters", "_buffers", "_modules"):
                return super().__getattr__(name)
            raise (AttributeError if name.startswith("__") else RuntimeError)(name)

    net = Odd()
    net.holder = type("Holder", (), {"value": property(raises)})()
    assert changed(fingerprint(net), fingerprint(net)) == ()


def test_a_sequence_that_refuses_to_be_counted_is_read_as_what_it_is():
    refusing = type("Refusing", (deque,), {"__len__": raises, "__iter__": raises})
    net = Healthy()
    net.held = refusing([1, net])
    before = fingerprint(net)
    assert changed(before, fingerprint(net)) == ()
    net.held = refusing([2, net])
    assert tuple(map(str, changed(before, fingerprint(net)))) == ("attribute held[0]",)


def test_a_walk_ends_and_does_not_go_into_machinery():
    net = Healthy()
    net.table = {i: [i] * 50 for i in range(2000)}
    assert len(fingerprint(net)) <= MAX_NODES + 100
    net = nn.Identity()
    net.log, net.lock = logging.getLogger("x"), threading.Thread()
    assert len(fingerprint(net)) < 10


TABLE = [1]


def test_a_global_is_walked_if_code_looks_it_up_and_not_if_an_attribute_has_its_name():
    class Named(nn.Module):
        def forward(self, x):
            return x + self.TABLE

    class LooksUp(nn.Module):
        def forward(self, x):
            return x + TABLE[0]

    place = StateRef("global", "TABLE")
    assert place not in fingerprint(Named())
    assert place in fingerprint(LooksUp())
