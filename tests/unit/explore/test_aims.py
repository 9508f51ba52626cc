"""explore/aims.py: what a condition on chosen places or on counts may be moved towards."""

from __future__ import annotations

import pytest
import torch

from pytest_torchexport.explore.aims import flips, place_demands, rankings
from pytest_torchexport.explore.provenance import Compared, Reduced
from pytest_torchexport.explore.slopes import SlopeMode

SCORES = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 4.5]])


def choices_of(function):
    """What a function of the scores chose from, and its result."""
    source = SCORES.clone().requires_grad_()
    mode = SlopeMode(saturated=False)
    with mode:
        found = function(source)
    return mode.choices, found


def numbers(distances):
    return sorted(round(float(item.detach()), 4) for item in distances)


def test_a_place_is_to_be_ahead_of_all_others_in_its_own_row():
    choices, winners = choices_of(lambda x: x.argmax(-1))
    assert numbers(place_demands(Compared("==", winners[1], 2), True, choices)) == [-4.5, 0.5]
    assert numbers(place_demands(Compared("==", 1, winners[0]), True, choices)) == [1.0, 2.0]


def test_a_place_that_is_not_to_be_chosen_is_to_fall_behind():
    choices, winners = choices_of(lambda x: x.argmax(-1))
    assert numbers(place_demands(Compared("!=", winners[1], 1), True, choices)) == [0.5]
    assert numbers(place_demands(Compared("==", winners[0], 0), False, choices)) == [1.0]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.argmax(-1),
        lambda x: x.max(-1).indices,
        lambda x: x.topk(2).indices[:, 0],
        lambda x: x.topk(2, dim=-1).indices[:, 0],
        lambda x: (-x).topk(2, -1, False).indices[:, 0],
        lambda x: x.sort(descending=True).indices[:, 0],
        lambda x: x.argsort(-1, True)[:, 0],
        lambda x: (-x).sort().indices[:, 0],
        lambda x: (-x).argsort()[:, 0],
    ],
)
def test_places_of_all_rows_are_compared_at_once(function):
    choices, winners = choices_of(function)
    every = Reduced("all", Compared("==", winners, 2))
    assert numbers(place_demands(every, True, choices)) == [-4.5, -1.0, 0.5, 1.0]


def test_other_comparisons_ask_for_no_place():
    choices, winners = choices_of(lambda x: x.argmax(-1))
    assert place_demands(Compared("<", winners[0], 2), True, choices) == []
    assert place_demands(Compared("==", torch.tensor(2), 2), True, choices) == []
    assert place_demands(None, True, choices) == []


def test_single_rows_are_aimed_at_too():
    choices, winners = choices_of(lambda x: x.argmax(-1))
    aims = [numbers(aim) for aim in rankings(Compared("<", winners.sum(), 1), True, choices, [])]
    assert [0.5] in aims
    assert [1.0] in aims


def test_of_a_mask_those_are_flipped_first_that_help_most():
    source = torch.tensor([0.9, 0.8, 0.7, -0.6]).requires_grad_()
    mode = SlopeMode(saturated=False)
    with mode:
        above = source > 0.0
        edges = (above[1:] ^ above[:-1]).sum()
        missing = 3.0 - edges
    with mode.paused():
        from pytest_torchexport.explore.distance import violation

        found = list(flips(violation(Compared(">=", edges, 3), True), mode.masks))
    assert int(missing) == 2
    # The second alone makes two more edges.
    assert numbers(found[0]) == [0.8]
    assert list(flips(None, mode.masks)) == []


def test_a_mask_whose_gradient_was_written_over_is_passed_over():
    source = torch.tensor([0.2, -0.3]).requires_grad_()
    mode = SlopeMode(saturated=False)
    with mode:
        y = source.sigmoid()
        mask = y > 0.5
        missing = 9.0 - (mask * y).sum()
        y += 1
    assert list(flips(missing, mode.masks)) == []


def test_numbers_are_aimed_at_beside_many_choices():
    reads = [(number, torch.tensor(number).requires_grad_()) for number in (1.0, 4.0)]
    choices, _ = choices_of(lambda x: [x.argmax(-1) for _ in range(5)])
    aims = [numbers(aim) for aim in rankings(None, True, choices, reads)]
    assert [3.0] in aims


def test_a_bool_is_no_place():
    choices, _ = choices_of(lambda x: x.argmax(-1))
    for compared in (torch.tensor([True]), True):
        condition = Compared("==", compared, torch.tensor([True]))
        assert list(rankings(condition, False, choices, []))


def test_the_largest_of_whole_numbers_is_no_place():
    choices, largest = choices_of(lambda x: x.round().int().long().max())
    assert choices[-1].chosen is None
    assert place_demands(Compared("==", largest, 2), True, choices) == []
