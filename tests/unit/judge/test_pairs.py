"""judge/pairs.py: elements that go together in all of eager's runs go together in the artifact."""

from __future__ import annotations

import torch

from pytest_torchexport.judge.pairs import Pairs

RUNS = 60
BOXES = torch.tensor([3.0, 1.0, 4.0, 1.5, 9.0, 2.6]).double()
LABELS = torch.tensor([7, 2, 5, 3, 11, 1]).double()


def chosen(seed, among=6):
    """Return three of the first places in any order."""
    return torch.randperm(among, generator=torch.Generator().manual_seed(seed))[:3]


def kept(boxes, labels):
    return {"boxes": BOXES[boxes], "labels": LABELS[labels]}


def impossible(actual, runs):
    expected = runs[0]
    slack = {path: torch.full_like(tensor, 1e-6) for path, tensor in expected.items()}
    pairs = Pairs(expected, actual, asked=frozenset(expected), slack=slack)
    for run in runs[1:]:
        pairs.add(run)
    return pairs.foreign, list(pairs.impossible(runs, 64, 1e-4))


ONE_CHOICE = [kept(chosen(seed), chosen(seed)) for seed in range(RUNS)]
TWO_CHOICES = [kept(chosen(seed), chosen(seed + RUNS)) for seed in range(RUNS)]


def test_the_label_of_another_box_is_impossible():
    actual = kept(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 3]))
    assert impossible(actual, ONE_CHOICE) == (True, [frozenset({"boxes", "labels"})])


def test_another_choice_of_boxes_with_their_labels_is_possible():
    places = torch.tensor([5, 3, 0])
    assert impossible(kept(places, places), ONE_CHOICE) == (False, [])


def test_rounding_makes_no_other_pair():
    places = torch.tensor([5, 3, 0])
    actual = kept(places, places)
    actual["boxes"] += 5e-7
    assert impossible(actual, ONE_CHOICE) == (False, [])


def test_choices_that_are_free_of_each_other_may_meet_in_any_way():
    pairs = {(int(b), int(i)) for run in TWO_CHOICES for b, i in zip(*run.values(), strict=True)}
    assert len(pairs) <= 36
    few = TWO_CHOICES[:12]
    for seed in range(20):
        assert impossible(kept(chosen(seed), chosen(seed + 999)), few)[1] == []


def test_a_pair_that_few_runs_show_proves_that_they_do_not_show_all():
    places = torch.tensor([0, 1, 2])
    runs = [*(kept(chosen(seed, 5), chosen(seed, 5)) for seed in range(RUNS)), ONE_CHOICE[0]]
    rare = kept(torch.tensor([0, 1, 5]), torch.tensor([0, 1, 5]))
    other = kept(places, torch.tensor([0, 1, 3]))
    assert impossible(other, runs[:-1])[1] != []
    assert impossible(other, [*runs[:-1], rare])[1] == []


def test_two_columns_of_one_output_go_together():
    rows = torch.stack([BOXES, LABELS], 1)
    runs = [{"rows": rows[chosen(seed)]} for seed in range(RUNS)]
    swapped = rows[:3].clone()
    swapped[:, 1] = swapped[:, 1].flip(0)
    assert impossible({"rows": rows[:3]}, runs) == (False, [])
    assert impossible({"rows": swapped}, runs) == (True, [frozenset({"rows"})])


def test_each_place_before_the_axis_has_pairs_of_its_own():
    """Both rows choose from other boxes: a pair of one is none of the other."""
    runs = [
        {
            "boxes": torch.stack([chosen(seed, 4), 2 + chosen(seed + RUNS, 4)]).double(),
            "labels": 10 * torch.stack([chosen(seed, 4), 2 + chosen(seed + RUNS, 4)]).double(),
        }
        for seed in range(RUNS)
    ]
    actual = {path: tensor.clone() for path, tensor in runs[1].items()}
    assert impossible(actual, runs)[1] == []
    actual["boxes"][0, 0], actual["labels"][0, 0] = 5.0, 50.0
    assert impossible(actual, runs)[1] != []


def test_runs_that_have_many_of_the_other_pairs_need_not_have_all():
    rows = torch.stack([torch.arange(100.0), torch.arange(100.0)], 1).double()
    other, most = rows.clone(), rows.clone()
    other[:, 1] += 1000
    most[:90] = other[:90]
    slack = {"rows": torch.full_like(rows, 1e-6)}
    pairs = Pairs({"rows": rows}, {"rows": other}, asked=frozenset({"rows"}), slack=slack)
    pairs.add({"rows": most})
    assert pairs.foreign
    pairs.add({"rows": other})
    assert not pairs.foreign


def test_nan_is_another_label_than_the_largest():
    places = torch.tensor([0, 4, 1])
    actual = kept(places, places)
    actual["labels"][1] = torch.nan
    assert impossible(actual, ONE_CHOICE) == (True, [frozenset({"boxes", "labels"})])
