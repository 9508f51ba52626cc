"""explore/together.py: which thresholds are met at once, and at which elements."""

from __future__ import annotations

import torch

from pytest_torchexport.explore.operator_run import Key, Near
from pytest_torchexport.explore.thresholds import CONSTANT
from pytest_torchexport.explore.together import columns_of, combinations, places_of

ABOVE, BELOW = (Key("gt", "", 0, side) for side in ("above", "below"))
OTHER_ABOVE, OTHER_BELOW = (Key("clamp", "", 0, side, "max") for side in ("above", "below"))
NUMBER, OTHER_NUMBER = (Key(name, "", 0, "at", CONSTANT) for name in ("add", "sub"))
OVERFLOW = Key("exp", "", 0, "above", "overflow self")


def near(missing):
    return Near(missing=missing, met=missing < 0, scale=1.0, bound=1.0)


FIRST = {
    ABOVE: near(0.5),
    BELOW: near(-2.0),
    Key("gt", "", 0, "at"): near(0.4),
    OTHER_ABOVE: near(-1.0),
    OTHER_BELOW: near(0.1),
    NUMBER: near(0.1),
    OTHER_NUMBER: near(0.2),
    OVERFLOW: near(80.0),
}


def test_every_combination_of_sides_the_rarest_first():
    found = list(combinations(FIRST, {ABOVE, BELOW, OTHER_ABOVE, OTHER_BELOW}))
    assert found[0] == (ABOVE, OTHER_BELOW)
    assert found[-1] == (BELOW, OTHER_ABOVE)
    assert len(found) == 4


def test_comparisons_of_both_sides_are_met_with_those_of_one():
    assert len(list(combinations(FIRST, {OTHER_ABOVE, OTHER_BELOW}))) == 4
    assert not list(combinations(FIRST, {ABOVE, BELOW}))  # a clamp of both is no condition
    assert not list(combinations(FIRST, set()))


def test_numbers_are_met_without_comparisons():
    assert list(combinations(FIRST, {NUMBER, OTHER_NUMBER})) == [(NUMBER, OTHER_NUMBER)]
    assert not list(combinations(FIRST, {NUMBER, OVERFLOW}))


def test_pairs_follow_three_at_once():
    more = {
        Key("lt", "", 1, side): near(missing) for side, missing in (("above", 2.0), ("below", -1.0))
    }
    found = list(combinations({**FIRST, **more}, {ABOVE, BELOW, OTHER_ABOVE, OTHER_BELOW, *more}))
    assert [len(keys) for keys in found] == [3] * 8 + [2] * 12


def test_elements_of_one_shape_are_at_one_place():
    far = torch.tensor([[3.0, 0.0], [1.0, -5.0]])
    assert places_of([far, torch.tensor([[0.0, 9.0], [0.5, 2.0]])]) == [2, 2]


def test_elements_of_other_shapes_are_in_one_row():
    rows = torch.tensor([[0.0, 4.0], [1.0, 0.5]])
    assert places_of([rows, torch.tensor([7.0, 1.0])]) == [3, 1]


def test_elements_of_shapes_without_a_common_row_are_the_nearest():
    assert places_of([torch.tensor([2.0, 1.0]), torch.tensor([3.0, 2.0, 0.0])]) == [1, 2]
    assert places_of([torch.tensor(2.0), torch.tensor([3.0, 2.0, 0.0])]) == [0, 2]


def test_the_nearest_element_of_each_column():
    far = torch.tensor([[3.0, 0.5, 7.0], [1.0, 2.0, 7.5]])
    assert columns_of(far) == [1, 3, 2]
    assert columns_of(torch.tensor([2.0, 1.0])) == [1]
    assert columns_of(torch.tensor(2.0)) == [0]
