"""explore/difference.py: the calls that it keeps show a threshold from nearby."""

# ruff: noqa: ARG005  # the parameters are what a spec reads of a function

from __future__ import annotations

import torch
from specs import spec_of

from pytest_torchexport.explore.difference import DifferenceSearch
from pytest_torchexport.explore.operator_run import OperatorRuns
from pytest_torchexport.inputs.building import build

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


def extremes(function, **options):
    """The smallest and the largest number of each call that the search finds."""
    return [(float(x.min()), float(x.max())) for x in found_for(function, **options)[0]]


def test_a_sigmoid_is_saturated_on_both_sides():
    found = extremes(torch.sigmoid)
    assert any(-20 < low < -18 for low, _ in found)
    assert any(18 < high < 20 for _, high in found)


def test_a_bound_of_the_file_does_not_lead_past_another_threshold():
    # The file of a cross entropy clamps the logarithm at -100. No operator of eager states this.
    found = extremes(torch.sigmoid, bounds=(-100.0,))
    assert any(low < -100 for low, _ in found)
    assert any(-20 < low < -18 for low, _ in found)


def test_a_call_half_way_to_the_files_bound_is_kept():
    found = extremes(lambda x: x.clamp(max=6.0), bounds=(8.0,))
    assert any(6.5 <= high <= 7.5 for _, high in found)


def test_without_a_threshold_that_is_left_the_same_calls_are_found_by_one_run():
    # X has numbers on both sides of zero.
    calls, runs = found_for(torch.relu, straight=True)
    same, more = found_for(torch.relu)
    assert runs == 1 < more
    assert len(calls) == len(same)
    assert all(map(torch.equal, calls, same))


def test_a_threshold_that_is_left_is_looked_for_in_straight_code_too():
    found = extremes(torch.sigmoid, straight=True)
    assert any(18 < high < 20 for _, high in found)
