"""eager/watch.py: what a forward does besides returning, and the lines at which something moves."""

# ruff: noqa: ARG005, PLW0108  # forwards in one line

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pytest_torchexport.eager.fingerprint import StateRef
from pytest_torchexport.eager.watch import Fill, changed_at, seeded_at, streams, watch
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.subject import Subject


def watched(thing, *args, names=None, **options):
    """The tape of a watched run."""
    return watch(Subject.of(thing), Call(args), 0, names=names, **options)[0]


def drawn(thing):
    return watch(Subject.of(thing), Call((torch.ones(2),)), 0)[1]


def test_a_compiled_function_is_watched_as_it_was_written():
    @torch.compile(backend="eager")
    def compiled(x):
        return x.sin() + 1

    assert compiled(torch.zeros(2)).tolist() == [1, 1]
    found = watched(lambda x: compiled(x), torch.zeros(2))
    assert [op.name for op in found.steps] == ["sin", "add"]
    assert compiled(torch.zeros(2)).tolist() == [1, 1]


# -- random numbers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("forward", "names"),
    [
        (lambda x: x + torch.rand(4), ["torch.rand"]),
        (lambda x: F.dropout(x), ["torch.bernoulli_"]),
        (lambda x: F.dropout(x, training=False), []),
        (lambda x: F.rrelu(x, training=False), []),
    ],
)
def test_operators_that_draw_are_told_and_those_that_only_could_are_not(forward, names):
    found = watched(forward, torch.ones(1, 2, 4)).steps
    assert [op.in_torch for op in found if op.draws] == names


def test_streams_outside_torch_that_moved_are_named():
    assert drawn(lambda x: x * random.random()) == ("Python's random",)
    assert drawn(lambda x: x + 1) == ()
    assert set(streams()) == {"Python's random", "numpy.random"}


# -- writes ----------------------------------------------------------------------------------------


class Writing(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.zeros(1))
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, x, y):
        self.steps += 1
        self.weight.data.mul_(0.9)
        y[0].relu_()
        torch._foreach_add_([x, y], 1.0)
        (x + 1).mul_(2)
        x.clone().add_(1)
        return x


def test_writes_are_told_by_the_name_of_what_is_written_to():
    found = watched(Writing(), torch.ones(2), torch.ones(2), names=["x", "y"])
    x, y = StateRef("input", "x"), StateRef("input", "y")
    assert [op.writes for op in found.steps if op.writes] == [
        (StateRef("buffer", "steps"),),
        (StateRef("parameter", "weight"),),
        (y,),
        (x, y),
    ]


# -- uninitialized memory and digests --------------------------------------------------------------


def test_memory_that_nobody_initialized_is_told():
    found = watched(lambda x: x.new_empty(2).copy_(x), torch.ones(2))
    assert [op.in_torch for op in found.steps if op.bare] == ["torch.new_empty"]


@pytest.mark.parametrize(
    ("make", "filled"),
    [
        (lambda x: torch.empty(3), [7.0] * 3),
        (lambda x: x.clone().resize_(4), [1, 1, 7, 7]),
        (lambda x: torch.empty(1, dtype=torch.int64), [1]),
    ],
)
def test_such_memory_can_be_filled(make, filled):
    assert watched(make, torch.ones(2), fill=Fill(7.0, 1)).outcome.value.tolist() == filled


def test_digests_line_two_runs_up():
    factor = [2.0]

    def function(x):
        return (x + 1) * factor[0] - 1

    def digests():
        return [op.results for op in watched(function, torch.ones(2), digests=True).steps]

    one, same = digests(), digests()
    factor[0] = 3.0
    other = digests()
    assert one == same
    assert [a == b for a, b in zip(one, other, strict=True)] == [True, False, False]


# -- lines at which something moves ----------------------------------------------------------------

CALL = Call((torch.ones(2, 3),))
SEEN = []


class Moves(nn.Module):
    count = 0

    def __init__(self):
        super().__init__()
        self.seen = {"calls": []}

    def note(self, x):
        self.seen["calls"].append(len(x))
        return x

    def forward(self, x):
        Moves.count += 1
        SEEN.append(x)
        if not hasattr(self, "offset"):
            self.register_buffer("offset", x.mean(0))
        return self.note(x * 2)


@pytest.mark.parametrize(
    ("ref", "line"),
    [
        (StateRef("attribute", "1.seen['calls']"), ".append(len(x))"),
        (StateRef("buffer", "1.offset"), "register_buffer"),
        (StateRef("class attribute", "Moves.count"), "Moves.count += 1"),
        (StateRef("global", "SEEN"), "SEEN.append(x)"),
        (StateRef("global", "numbers"), "None"),
    ],
)
def test_the_line_that_changes_a_place(ref, line):
    subject = Subject.of(nn.Sequential(nn.ReLU(), Moves()))
    assert line in str(changed_at(subject, CALL, 0, [ref]).get(ref))


def test_the_line_that_sets_a_seed():
    def seeds(x):
        y = x * 2
        torch.manual_seed(7)
        return y + torch.rand(3)

    assert "manual_seed(7)" in str(seeded_at(Subject.of(seeds), CALL, 1))
    assert seeded_at(Subject.of(lambda x: x + torch.rand(3)), CALL, 1) is None
