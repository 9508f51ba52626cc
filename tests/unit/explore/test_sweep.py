"""explore/sweep.py: the values of a number for which a program decides as for few others."""

from __future__ import annotations

import dataclasses

import torch
from specs import spec_of

from pytest_torchexport.explore import sweep
from pytest_torchexport.explore.operator_run import OperatorRuns
from pytest_torchexport.inputs.spec import Call

IDS = torch.arange(6).reshape(1, 6)
ALL = torch.arange(10_000)


def groups_of(function, x=IDS, place=slice(1, 2), values=ALL):
    runs = OperatorRuns(fresh=lambda: function, done=lambda: None, seed=0)
    call = Call((x,))
    followed = sweep.follow(runs, spec_of(function, x), call, "x")
    if followed is None:
        return None
    return sweep.groups(followed, x, place, values, len(values))


def several(x):
    return torch.where((x % 97 == 5) & (x % 89 == 7), -1, x)


def of_writes(x):
    y = x.clone()
    y += 1
    y[:, 1:] *= 2
    return y > 5000  # from 2500 on


def of_a_sum(x):
    return x.sum(1) == 6 * 777


def test_a_value_that_meets_two_conditions_is_rarer_than_those_that_meet_one():
    groups = groups_of(several)
    rare = sweep.rare([groups])
    assert (rare[0] % 97, rare[0] % 89) == (5, 7)
    assert len(groups.unique()) == 9  # less than one, equal, more; and so of the other
    assert len(groups_of(lambda x: x * 2).unique()) == 1


def test_a_program_that_writes_to_its_numbers_is_swept():
    groups = groups_of(of_writes)
    assert len(groups.unique()) == 2
    assert groups[2499] == groups[0] != groups[2500]


def test_all_elements_are_swept_at_once():
    groups = groups_of(of_a_sum, place=slice(None))
    assert sweep.rare([groups])[0] == 777
    assert len(groups.unique()) == 3  # less, equal, more


def found_in(x, *functions, **domain):
    """The leaf in each call that a sweep finds."""
    spec = spec_of(functions[0], x)
    leaf = dataclasses.replace(
        spec.leaves[0], domain=dataclasses.replace(spec.leaves[0].domain, **domain)
    )
    runs = [OperatorRuns(fresh=lambda f=f: f, done=lambda: None, seed=0) for f in functions]
    programs = [sweep.follow(run, spec, Call((x,)), "x") for run in runs]
    values = sweep.values_of(leaf, numel=x.numel())
    return list(sweep.leaves(programs, x, values, 1))


def test_a_sum_that_all_numbers_pass_by_is_met_by_one_of_them():
    found = found_in(IDS, lambda x: x.sum(1) == 4_123_456, low=0, high=10**7)
    assert any(int(x.sum()) == 4_123_456 for x in found)


def test_the_values_between_two_groups_are_swept_too():
    found = found_in(IDS, lambda x: x >= 4_123_456, lambda x: x > 4_123_456, low=0, high=10**7)
    assert all((x == 4_123_456).any() for x in found)
    assert found
    halves = torch.linspace(-1.0, 1.0, 6, dtype=torch.half).reshape(1, 6)
    assert all((x == 1.25).any() for x in found_in(halves, lambda x: x == 1.25, low=-4.0, high=4.0))


def test_an_operator_that_takes_no_batch_ends_the_batches_of_its_results():
    assert groups_of(lambda x: x[torch.nonzero(x > 3)[:, 0]] > 5) is not None
    assert groups_of(lambda x: torch.unique(x) > 3).unique().tolist() == [0]


def test_the_batches_end_at_torch_cond():
    def chooses(x):
        y = torch.cond(x.max() > 2.5, lambda x: x * 2, lambda x: x.clone(), (x,))
        return y > 5

    chooses(IDS)  # loads torch._dynamo, whose first call cannot be seen
    assert len(groups_of(chooses).unique()) == 1  # the larger of the others decides
    assert len(groups_of(chooses, place=slice(None)).unique()) == 2


def test_nothing_is_known_of_a_program_that_raises():
    def refuses(x):
        raise ValueError

    assert groups_of(refuses) is None


def test_more_elements_than_are_allowed_are_left_out(monkeypatch):
    monkeypatch.setattr(sweep, "BY_OPERATOR", 10)
    assert groups_of(several).unique().tolist() == [0]


def test_the_rarest_groups_come_first_and_those_that_the_sides_split_before():
    eager = torch.zeros(10_000, dtype=torch.int64)
    eager[:40], eager[40:45] = 1, 2
    assert sweep.rare([eager]) == [40, 0]
    artifact = eager.clone()
    artifact[3:30] = 0  # in eager these are of the group of 40
    assert sweep.rare([eager, artifact]) == [3, 40, 0]
    assert sweep.rare([torch.arange(10_000) % 20]) == []


def test_integers_are_swept_whole_if_there_are_few_and_floats_between_their_bounds():
    leaf = spec_of(several, IDS).leaves[0]
    few = dataclasses.replace(leaf, domain=dataclasses.replace(leaf.domain, low=3, high=7))
    assert sweep.values_of(few, numel=6).tolist() == [3, 4, 5, 6, 7]
    many = dataclasses.replace(leaf, domain=dataclasses.replace(leaf.domain, low=0, high=2**40))
    values = sweep.values_of(many, numel=6)
    assert len(values) == sweep.BY_OPERATOR // 6
    assert values[-1] == 2**40
    of_floats = spec_of(several, torch.linspace(-2.0, 2.0, 6).reshape(1, 6)).leaves[0]
    values = sweep.values_of(of_floats, numel=6)
    assert len(values) == sweep.FLOATS
    assert values.max() == -values.min() == torch.tensor(sweep.SCALES * of_floats.domain.scale)
