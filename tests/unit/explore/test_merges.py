"""explore/merges.py: which numbers an operator makes equal, and calls that hold such numbers."""

from __future__ import annotations

import pytest
import torch
from specs import spec_of

from pytest_torchexport.explore.merges import WIDE, Merge, merging
from pytest_torchexport.explore.operator_run import OperatorRuns
from pytest_torchexport.inputs.building import build_leaves
from pytest_torchexport.inputs.recipes import example_recipe
from pytest_torchexport.inputs.spec import Call

IDS = torch.arange(24).reshape(4, 6)
REALS = torch.linspace(-1.0, 2.0, 24).reshape(4, 6)

CASES = {
    "float32": (lambda x: x.float(), IDS, Merge(1, 2**24)),
    "float64": (lambda x: x.double(), IDS, Merge(1, 2**53)),
    "float16": (lambda x: x.half(), IDS, Merge(1, 2**11)),
    "promoted": (lambda x: x * 1.0, IDS, Merge(1, 2**24)),
    "int32": (lambda x: x.to(torch.int32), IDS, Merge(2**32)),
    "int8": (lambda x: x.to(torch.int8), IDS, Merge(2**8)),
    "remainder": (lambda x: x % 1000, IDS, Merge(1000)),
    "fmod": (lambda x: torch.fmod(x, -7), IDS, Merge(7)),
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


def test_negative_integers():
    calls = numbers_of(IDS, Merge(1, 2**24), values=(-(2**30), 0))
    assert all(call.unique().tolist() == [-(2**24) - 1, -(2**24)] for call in calls)


@pytest.mark.parametrize("merge", [*WIDE, Merge(1000), Merge(to=torch.float16)], ids=repr)
def test_integers_of_a_short_range_are_left_alone(merge):
    assert numbers_of(IDS, merge, values=(0, 500)) == []


def test_floats_next_to_a_bound_and_to_a_number_of_the_call():
    calls = numbers_of(REALS, Merge(to=torch.float16), values=(-1.0, 3.0), starts=(0.5, 70.0))
    found = [call.unique() for call in calls]
    assert all(len(each) == 2 and len(each.half().unique()) == 1 for each in found)
    assert found[0][0] == found[1][1] == 0.5
    assert [round(float(each.mean()), 2) for each in found] == [0.5, 0.5, 2.0, 2.0]


def test_floats_that_the_type_holds_are_left_alone():
    assert numbers_of(REALS.half(), Merge(to=torch.bfloat16), values=(-1.0, 3.0)) == []
    assert numbers_of(REALS, Merge(to=torch.float32), values=(-1.0, 3.0)) == []
