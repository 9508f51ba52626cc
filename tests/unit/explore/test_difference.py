"""explore/difference.py: the calls that it keeps show a threshold from nearby."""

# ruff: noqa: ARG005  # the parameters are what a spec reads of a function

from __future__ import annotations

import pytest
import torch
from specs import spec_of

from pytest_torchexport.explore.difference import WIDE, DifferenceSearch, laid_out, merging
from pytest_torchexport.explore.operator_run import Merge, OperatorRuns
from pytest_torchexport.inputs.building import build, build_leaves
from pytest_torchexport.inputs.recipes import example_recipe, plain_recipe
from pytest_torchexport.inputs.spec import Call

X = torch.linspace(-1.0, 2.0, 12).reshape(3, 4)


def found_for(function, *, bounds=(), straight=False):
    """The calls that the search finds, and how often it ran the function."""
    spec, runs = spec_of(lambda x: x, X), []

    def counted(x):
        runs.append(x)
        return function(x)

    search = DifferenceSearch(
        spec,
        OperatorRuns(fresh=lambda: counted, done=lambda: None, seed=0),
        None,
        bounds=bounds,
        straight=straight,
        seed=0,
        before_call=lambda recipe: None,
    )
    return [build(spec, recipe).args[0] for recipe in search.run()], len(runs)


def test_a_sigmoid_is_saturated_on_both_sides_and_a_bound_of_the_file_leads_past_none_of_them():
    # The file of a cross entropy clamps the logarithm at -100. No operator of eager states this.
    calls, _ = found_for(torch.sigmoid, bounds=(-100.0,))
    extremes = [(float(x.min()), float(x.max())) for x in calls]
    assert any(low < -100 for low, _ in extremes)
    assert any(-20 < low < -18 for low, _ in extremes)
    assert any(18 < high < 20 for _, high in extremes)


def test_without_a_threshold_that_is_left_one_run_is_enough_and_no_large_call_is_made():
    # X has numbers on both sides of zero.
    calls, runs = found_for(torch.relu, straight=True)
    same, more = found_for(torch.relu)
    assert runs == 1 < more
    of_example = [call for call in same if call.shape == X.shape]
    assert len(of_example) == len(calls) < len(same)
    assert all(map(torch.equal, calls, of_example))


def test_the_first_calls_have_each_layout_in_all_inputs_and_in_one_alone():
    spec = spec_of(lambda x, y: x, torch.ones(2, 3, 4, 4), torch.ones(2, 3))
    recipes = [laid_out(spec, plain_recipe(spec, "normal", {}, 0), number) for number in range(9)]
    layouts = {tuple(leaf.layout for leaf in recipe.leaves) for recipe in recipes}
    assert {"strided", "channels_last"} <= {first for first, _ in layouts}
    assert ("strided", "strided") in layouts
    assert any(first != "contiguous" == second for first, second in layouts)
    assert any(first == "contiguous" != second for first, second in layouts)
    for recipe in recipes:
        assert build(spec, recipe) is not None


# -- equal numbers ---------------------------------------------------------------------------------

IDS = torch.arange(24).reshape(4, 6)
REALS = torch.linspace(-1.0, 2.0, 24).reshape(4, 6)

CASES = {
    "float32": (lambda x: x.float(), IDS, Merge(1, 2**24)),
    "int32": (lambda x: x.to(torch.int32), IDS, Merge(2**32)),
    "remainder": (lambda x: x % 1000, IDS, Merge(1000)),
    "bits": (lambda x: x & 0xFFFF, IDS, Merge(2**16)),
    "narrower": (lambda x: x.half(), REALS, Merge(to=torch.float16)),
}


def merges_of(function, value):
    runs = OperatorRuns(fresh=lambda: function, done=lambda: None, seed=0)
    return runs.run(Call((value,))).merges


@pytest.mark.parametrize("name", CASES)
def test_what_an_operator_makes_equal(name):
    function, value, merge = CASES[name]
    assert merges_of(function, value) == {merge}


def test_operators_that_keep_numbers_apart():
    assert not merges_of(lambda x: (x.double(), x.long(), x + 1, x.argmax(-1)), REALS)
    assert not merges_of(lambda x: (x + 1, x.to(torch.int64), x > 3, x & -1), IDS)
    assert not merges_of(lambda x: (x.float(), x.to(torch.int32)), IDS.to(torch.int16))


def numbers_of(value, merge, *, values, starts=()):
    """The input in each call of a merge."""
    spec = spec_of(lambda x: x, value, values={"x": values})
    base = example_recipe(spec)
    return [build_leaves(spec, each)[0] for each in merging(spec, base, merge, starts, 0)]


@pytest.mark.parametrize("merge", WIDE, ids=repr)
def test_wide_integers_differ_by_what_is_lost(merge):
    calls = numbers_of(IDS, merge, values=(0, 2**60))
    assert len(calls) == 2
    for call in calls:
        low, high = call.unique().tolist()
        assert high - low == merge.apart
        assert merge.start in (None, low)
    assert torch.equal(calls[0] == calls[0].min(), calls[1] == calls[1].max())


def test_floats_next_to_a_bound_and_to_a_number_of_the_call():
    calls = numbers_of(REALS, Merge(to=torch.float16), values=(-1.0, 3.0), starts=(0.5, 70.0))
    found = [call.unique() for call in calls]
    assert all(len(each) == 2 and len(each.half().unique()) == 1 for each in found)
    assert found[0][0] == found[1][1] == 0.5
    assert [round(float(each.mean()), 2) for each in found] == [0.5, 0.5, 2.0, 2.0]
