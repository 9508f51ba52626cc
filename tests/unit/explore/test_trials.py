"""explore/trials.py: what calls show about a condition."""

from __future__ import annotations

import pytest
import torch
from specs import spec_of

from pytest_torchexport.config.plan import Plan
from pytest_torchexport.eager.reference import Reference
from pytest_torchexport.explore.observed import Observed
from pytest_torchexport.explore.trials import VALUES, Seen, Trials
from pytest_torchexport.inputs.recipes import example_recipe
from pytest_torchexport.outcomes.subject import Subject


def test_a_condition_that_is_met_more_often_does_not_vary():
    seen = Seen()
    for marks in ((1, 1), (1,), (1, 1, 1)):
        seen.compare(marks, {"batch": 2})
    assert not seen.varies
    seen.compare((1, 2), {"batch": 2})
    assert seen.varies
    assert seen.steers == {VALUES}


IDS, ONES = torch.arange(10).reshape(2, 5), torch.ones(2, 5, dtype=torch.int64)


def only_sizes_matter(forward, *more, **options):
    """What Trials say of the last condition that the example meets."""
    spec = spec_of(forward, IDS, ONES, *more, **options)
    eager = Reference(Subject.of(forward), Plan(target="trace", device="cpu"), print, spec.example)
    observed = Observed(eager, seed=0)
    trials = Trials(spec, observed, None)
    with observed.installed():
        trials.begin()
        path = trials.run(example_recipe(spec))
        key = path.events[-1].key
        return trials.only_sizes_matter(trials.base_on(example_recipe(spec), path, (key, True)))


def plain(ids, mask):
    return ids if mask.sum() < 3 else ids * 2


def earlier(ids, mask):
    if mask.bool().any():
        ids = ids + mask[0, int(mask[0, 0])]
    return ids if mask.sum() < 3 else ids * 2


def looked_up(ids, mask):
    ids = torch.arange(10)[ids]
    return ids if mask.sum() < 3 else ids * 2


@pytest.mark.parametrize("forward", [plain, earlier, looked_up])
def test_numbers_that_never_vary_leave_sizes(forward):
    assert only_sizes_matter(forward)


def read(ids, mask):
    return ids if mask.sum() < int(ids[0, 0]) else ids * 2


def nonzero(ids, mask):
    number = (ids[0] > 7).nonzero().shape[0]
    return ids if mask[0, :number].sum() > 2 else ids * 2


def masked(ids, mask):
    number = len(ids[ids > 7])
    return ids if mask[0, :number].sum() > 2 else ids * 2


def filtered(ids, mask):
    number = len([item for item in ids[0] if item > 7])
    return ids if mask[0, :number].sum() > 2 else ids * 2


def in_a_long_list(ids, mask):
    number = sum(item > 70 for item in ids.repeat(20, 20).tolist()[0])
    return ids if mask[0, :number].sum() > 2 else ids * 2


def by_numpy(ids, mask):
    number = int((ids[0].numpy() > 7).sum())
    return ids if mask[0, :number].sum() > 2 else ids * 2


def unequal(ids, mask):
    number = 2 if torch.equal(ids[0], ids[1]) else 1
    return ids if mask[0, :number].sum() > 2 else ids * 2


ABOUT_IDS = [read, nonzero, masked, filtered, in_a_long_list, by_numpy, unequal]


@pytest.mark.parametrize("forward", ABOUT_IDS)
def test_numbers_of_another_input_may_decide_of_how_many_that_never_vary(forward):
    assert not only_sizes_matter(forward)


def test_map_may_change_numbers_that_never_vary():
    assert not only_sizes_matter(plain, map=lambda ids, mask: {"mask": mask * ids})


def test_an_argument_may_decide_beside_numbers_that_never_vary():
    def limited(ids, mask, limit):
        return ids if mask.sum() < limit else ids * 2

    assert only_sizes_matter(limited, 5)
    assert not only_sizes_matter(limited, 5, values={"limit": (1, 50)})
