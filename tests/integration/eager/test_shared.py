"""eager/shared.py: what a forward writes outside its module is as it was after the check."""

from __future__ import annotations

import itertools
import os
import sys
from collections import defaultdict, deque

import pytest
import torch
import watched
from torch import nn

from pytest_torchexport import check_export
from pytest_torchexport.eager.fingerprint import reach
from pytest_torchexport.eager.shared import put_back

EXAMPLE = (torch.full((2, 3), 0.5),)
CACHE: dict = {}
HISTORY: list = []
CALLS = 0
SCALE = torch.ones(3)
HELPER = nn.BatchNorm1d(3).requires_grad_(requires_grad=False)
IDS = itertools.count()


class Statistics:
    total = 0

    def __init__(self):
        self.calls = 0
        self.sizes = []


STATISTICS = Statistics()


def noted(x):
    global CALLS, CREATED  # noqa: PLW0603  # as users write it
    CALLS += 1
    CREATED = x.shape  # a name that nobody has before
    CACHE[len(x)] = CALLS
    HISTORY.append(CALLS)
    SCALE.mul_(2)
    HELPER(x)
    STATISTICS.calls += 1
    STATISTICS.sizes.append(len(x))
    Statistics.total += 1
    watched.OF_FORWARD = len(x)
    return x


class Writes(nn.Module):
    calls = 0
    seen = []  # noqa: RUF012  # as users write it
    table = torch.zeros(3)

    def forward(self, x, cache={}):  # noqa: B006  # as users write it
        cache[len(x)] = True
        type(self).calls += 1
        type(self).latest = len(x)
        self.seen.append(len(x))
        self.table.add_(1)
        os.environ["OF_FORWARD"] = "1"
        os.environ.pop("OF_THE_USER", None)
        sys.path.append("of forward")
        return noted(x) * 2


def checked(module):
    """The verdict on a trace; the check makes few calls."""
    verdict = check_export(module, EXAMPLE, target="trace", checks=("parity",), max_examples=2)
    assert verdict.status == "passed", verdict.reason
    said = " ".join((*verdict.ineffective, *verdict.notes))
    assert "checking changed" not in said
    return said


def test_classes_globals_defaults_other_objects_and_the_environment_are_put_back(monkeypatch):
    monkeypatch.setenv("OF_THE_USER", "yes")
    environment, path = dict(os.environ), list(sys.path)
    state = {name: tensor.clone() for name, tensor in HELPER.state_dict().items()}
    seen, table = Writes.seen, Writes.table
    assert "could not put that back" not in checked(Writes())
    assert (Writes.calls, Writes.seen, hasattr(Writes, "latest")) == (0, [], False)
    assert (Writes.seen is seen, Writes.table is table, table.tolist()) == (True, True, [0] * 3)
    assert Writes.forward.__defaults__ == ({},)
    assert (CALLS, CACHE, HISTORY, "CREATED" in globals()) == (0, {}, [], False)
    assert SCALE.tolist() == [1, 1, 1]
    torch.testing.assert_close(HELPER.state_dict(), state)
    assert (STATISTICS.calls, STATISTICS.sizes, Statistics.total) == (0, [], 0)
    assert not hasattr(watched, "OF_FORWARD")
    assert (dict(os.environ), sys.path) == (environment, path)


def test_what_a_closure_a_hook_and_a_forward_of_the_instance_write_is_put_back():
    calls, count = [], 0

    def counted(x):
        nonlocal count
        count += 1
        calls.append(count)
        return noted(x)

    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[0].register_forward_hook(lambda _module, args, output: counted(args[0]) * 0 + output)
    forward = net[1].forward
    net[1].forward = lambda x: forward(counted(x))
    checked(net)
    assert (count, calls, CALLS, CACHE, HISTORY) == (0, [], 0, {}, [])


def test_what_cannot_be_put_back_is_a_note():
    class Draws(nn.Module):
        def forward(self, x):
            next(IDS)
            return x * 2

    assert "forward changes global IDS, and the check could not put that back" in checked(Draws())


def test_an_expanded_tensor_is_put_back_with_its_base_and_all_else_too():
    """torch refuses to write to the expanded one."""
    base = torch.zeros(3)

    class Holds(nn.Module):
        one, other = base.expand(4, 3), base
        count = 0

    with put_back(reach(Holds())):
        base.add_(1)
        Holds.count = 1
    assert (base.tolist(), Holds.count) == ([0.0] * 3, 0)


@pytest.mark.parametrize(
    ("made", "change"),
    [
        ({"a": 1, "b": 2}, dict.clear),
        (defaultdict(list, a=[]), lambda held: held["new"]),
        ([1, 2], list.reverse),
        ({1, 2}, lambda held: held.add(3)),
        (deque([1, 2], maxlen=2), lambda held: held.append(3)),
    ],
    ids=lambda value: getattr(value, "__name__", repr(value)),
)
def test_a_container_is_put_back_in_place(made, change):
    class Holds(nn.Module):
        held = made

    before = repr(made)
    with put_back(reach(Holds())):
        change(made)
        assert repr(made) != before
    assert repr(made) == before
    assert Holds.held is made


def test_a_module_that_an_import_adds_stays():
    """Python puts a submodule into its package's globals once, when it is first imported."""
    scope: dict = {"torch": torch}
    exec("def forward(x):\n    global part\n    return part(x)", scope)

    class Imports(nn.Module):
        forward = scope["forward"]

    with put_back(reach(Imports())):
        scope["part"] = sys
    assert scope["part"] is sys
