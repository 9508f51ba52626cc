"""explore/search.py: calls that take every branch, within spec and budget, repeatably."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch
from hypothesis import strategies as st
from specs import spec_of
from specs_of_leaves import legal_leaves
from torch import nn

from pytest_torchexport.config.plan import Plan, silent
from pytest_torchexport.eager.reference import Reference
from pytest_torchexport.explore import recorder
from pytest_torchexport.explore.conditions import MORE, NONE, ONCE
from pytest_torchexport.explore.observed import Observed
from pytest_torchexport.explore.search import VALUES, Budget, Search, Seen
from pytest_torchexport.inputs.building import build
from pytest_torchexport.inputs.recipes import Recipe, example_recipe, with_leaves
from pytest_torchexport.outcomes.subject import Subject


def search(thing, *example, calls=200, seed=0, stored=(), in_vain=200, patience=600.0, **options):
    """A finished search, and its spec."""
    forward = thing.forward if isinstance(thing, nn.Module) else thing
    spec = spec_of(forward, *example, **options)
    eager = Reference(Subject.of(thing), Plan(target="trace", device="cpu"), print, spec.example)
    observed = Observed(eager, seed)
    observed.learn(spec.example)
    budget = Budget(calls=calls, in_vain=in_vain, patience=patience)
    made = Search(spec, observed, seed=seed, budget=budget, stored=stored)
    return made.run(functools.partial(silent, "branches")), spec


def taken(explored):
    """``{text: outcomes}`` of everything that was met."""
    found = {}
    for (number, _), seen in explored.seen.items():
        found.setdefault(explored.conditions[number].text, set()).update(seen.counts)
    return found


class Learned(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.layer = nn.Linear(4, 4)
        self.register_buffer("limit", torch.tensor(37.5))

    def forward(self, x):
        y = self.layer(x)
        if y[:, 0].mean() > self.limit:
            if 11.0 < y[:, 1].mean() < 11.5:
                return y * 2
            return y + 1
        return y


def wide(x):
    return x[:, :7] if x.shape[1] > 11 else x * 2


def masks(x, mask):
    if mask.all():
        return x
    if mask.sum() == 1:
        return x + 1
    return x * 2


def steered(x, n=1, name="a", ratio=0.5):
    if n > 5 and name == "c":
        return x * 2
    return x + 1 if ratio < 0.125 else x


def rounds(lengths):
    total = lengths.new_zeros(())
    for i in range(int(lengths[0])):
        total = total + i
    return total + lengths


def iterated(x):
    n = 0
    while x.abs().max() > 1:
        x = x / 2
        n += 1
    return x if n < 4 else -x


X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))

MECHANISMS = {
    "learned and nested": (Learned(), (X,), {}),
    "a size": (
        wide,
        (X,),
        {"shapes": {"x": "b t"}, "dims": {"b": (1, 4), "t": (1, 32)}},
    ),
    "a mask": (masks, (X, torch.tensor([True, False])), {"shapes": {"x": "b 4", "mask": "b"}}),
    "Python arguments": (
        steered,
        (X, 1, "a", 0.5),
        {"values": {"n": (0, 9), "name": ["a", "b", "c"], "ratio": (0.0, 1.0)}},
    ),
    "a while": (iterated, (X,), {}),
}


def test_loops_go_round_never_once_and_often():
    explored, _ = search(rounds, torch.tensor([2, 3]), values={"lengths": (0, 9)})
    assert taken(explored) == {"range(int(lengths[0]))": {NONE, ONCE, MORE}}


def adds_up(x):
    """Three rounds instead of two if the mean is below -27: no ordinary call has that."""
    total = torch.zeros(())
    while bool(total < 0.9):
        total = total + 0.5 + 0.1 * torch.tanh(x.mean() / 50)
    return x * total


def breaks_off(x):
    """Left in its third round, unless the mean is below -27."""
    total = torch.zeros(())
    for _ in range(6):
        if total > 0.9:
            break
        total = total + 0.5 + 0.1 * torch.tanh(x.mean() / 50)
    return x * total


@pytest.mark.parametrize("forward", [adds_up, breaks_off])
def test_a_loop_goes_round_another_number_of_times_than_on_ordinary_calls(forward):
    for seed in range(3):
        explored, _ = search(forward, X, seed=seed)
        rounds = {len(found.decisions) for found in explored.corpus}
        assert len(rounds) > 1, seed


def adds_up_alone(x):
    total = torch.zeros(())
    while bool(total < 2):
        total = total + 1
    return x * total


@pytest.mark.parametrize("name", MECHANISMS)
def test_both_outcomes_of_every_condition_are_taken_by_legal_calls(name):
    thing, example, options = MECHANISMS[name]
    explored, spec = search(thing, *example, **options)
    assert all(outcomes == {True, False} for outcomes in taken(explored).values()), taken(explored)
    assert not explored.stopped
    assert explored.corpus[0].recipe == example_recipe(spec)
    assert {goal for found in explored.corpus for goal in found.taken} == {
        (key, outcome) for key, seen in explored.seen.items() for outcome in seen.counts
    }
    for found in explored.corpus:
        assert Recipe.from_dict(found.recipe.as_dict()) == found.recipe
        legal_leaves(spec, found.recipe)


def test_a_search_is_the_same_for_the_same_seed():
    thing, example, options = MECHANISMS["Python arguments"]
    first, _ = search(thing, *example, seed=5, **options)
    torch.rand(7)
    second, _ = search(thing, *example, seed=5, **options)
    assert [found.recipe for found in first.corpus] == [found.recipe for found in second.corpus]
    assert first.calls == second.calls


@pytest.mark.parametrize("calls", [1, 2, 7, 40])
def test_no_more_calls_are_made_than_there_may_be(calls):
    made = []

    def hard(x):
        made.append(1)
        if (x * 48271).sum() % 65537 == 4711:
            return x
        return -x

    explored, _ = search(hard, torch.tensor([1, 2, 3]), calls=calls, values={"x": (0, 9999)})
    assert explored.calls <= calls
    # Three more on the example: eager's own, how long it goes on, whether it differs by itself.
    assert len(made) <= calls + 3


def test_sizes_and_values_that_steer_are_told_apart():
    def both(x):
        if x.shape[0] > 2:
            x = x * 2
        return x if x.sum() > 0 else -x

    explored, _ = search(both, X, dims={"batch": (1, 5)})
    steers = {explored.conditions[key[0]].text: seen for key, seen in explored.seen.items()}
    assert steers["x.shape[0] > 2"].steers == {"batch"}
    assert not steers["x.shape[0] > 2"].on_values
    assert steers["x.sum() > 0"].on_values


def test_stored_calls_come_first():
    def magic(x):
        return x * 2 if x[0, 0] * 3 - x[0, 1] * 7 == 123456789 else x

    spec = spec_of(magic, torch.tensor([[1, 2], [3, 4]]), values={"x": (0, 2**40)})
    known = with_leaves(example_recipe(spec), {0: torch.tensor([[41152263, 0], [0, 0]])})
    explored, _ = search(
        magic,
        torch.tensor([[1, 2], [3, 4]]),
        values={"x": (0, 2**40)},
        stored=[known],
        calls=2,
    )
    assert [found.recipe for found in explored.corpus][1] == known
    assert taken(explored) == {"x[0, 0] * 3 - x[0, 1] * 7 == 123456789": {True, False}}


def test_a_users_own_strategy_map_and_filter_are_kept_to():
    def steep(x, y):
        return x if x.max() > 3 and y.sum() > 5 else y

    explored, spec = search(
        steep,
        torch.zeros(2),
        torch.zeros(2),
        values={"x": st.sampled_from([0.0, 1.0])},
        map=lambda y: {"y": y.round()},
        filter=lambda y: bool((y <= 50).all()),
    )
    for found in explored.corpus:
        x, y = build(spec, found.recipe).args
        assert torch.equal(y, y.round())
        assert y.max() <= 50
        assert found.recipe.leaves[0].kind != "literal"
        assert x.shape == (2,)


def test_calls_that_do_not_end_are_cut(monkeypatch):
    monkeypatch.setattr(recorder, "QUICK_SECONDS", 0.1)
    monkeypatch.setattr(recorder, "MAX_EVENTS", 500)

    endless = []

    def halved(x):
        endless.append(bool(x.isinf().any()))
        while x.norm() > 1:
            x = x / 2
        return x if x.sum() > 0.5 else -x

    explored, spec = search(
        halved, torch.ones(3), values={"x": [0.5, 1.0, 4.0, float("inf")]}, calls=30
    )
    assert any(endless)
    for found in explored.corpus:
        assert torch.isfinite(build(spec, found.recipe).args[0]).all()


def test_time_stops_a_search_and_it_says_so():
    explored, _ = search(iterated, X, patience=-1.0)
    assert explored.stopped.endswith("of 200 calls, in -1 s")


def test_a_search_ends_after_so_many_calls_that_brought_nothing_new():
    def never(x):
        return x + 1 if bool((x != x).any()) and x.shape[0] < 0 else x

    many, few = (search(never, X, in_vain=in_vain)[0] for in_vain in (100, 30))
    assert few.calls + 50 < many.calls < 200
    assert not few.stopped


class Flagged(nn.Module):
    flag = True
    size = 3

    def forward(self, x):
        if self.flag and self.size == 3:
            return x * 2
        return x


TICKS = itertools.count()


def ticking(x):
    return x + 1 if next(TICKS) > 10**9 else x


@pytest.mark.parametrize("thing", [adds_up_alone, Flagged(), ticking])
def test_what_no_input_decides_costs_few_calls(thing):
    explored, _ = search(thing, X)
    assert explored.calls < 60


ONES, IDS = torch.ones(2, 5, dtype=torch.int64), torch.arange(10).reshape(2, 5)


@pytest.mark.parametrize(
    ("options", "outcomes"), [({}, {True}), ({"values": {"mask": (0, 1)}}, {True, False})]
)
def test_numbers_that_never_vary_are_not_searched(options, outcomes):
    def padded(ids, mask):
        return ids if mask.bool().all() else ids * mask

    found, _ = search(padded, IDS, ONES, **options)
    assert taken(found) == {"mask.bool().all()": outcomes}
    assert found.calls < 100


def test_a_condition_that_is_met_more_often_does_not_vary():
    seen = Seen()
    for marks in ((1, 1), (1,), (1, 1, 1)):
        seen.compare(marks, {"batch": 2})
    assert not seen.varies
    seen.compare((1, 2), {"batch": 2})
    assert seen.varies
    assert seen.steers == {VALUES}
