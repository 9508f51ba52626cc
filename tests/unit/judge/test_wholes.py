"""judge/wholes.py: a tie explains a result only if eager could give it as a whole."""

from __future__ import annotations

import pytest
import torch

from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.judge.calibrate import Calibration
from pytest_torchexport.judge.other_runs import OtherRuns, leaves_after
from pytest_torchexport.judge.wholes import Wholes
from pytest_torchexport.outcomes.compare import Tolerance, compare
from pytest_torchexport.outcomes.observe import Returned, observe
from pytest_torchexport.outcomes.subject import Subject

EQUAL = torch.ones(2, 6)
TWO_KINDS = torch.tensor([[1.0, 0.0, 1.0, 0.0, 1.0, 0.0], [3.0, 3.0, 3.0, 2.0, 2.0, 2.0]])
THREES = torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0, 0.0], [2.0, 2.0, 0.0, 2.0, 2.0, 1.0]])


def verdicts(eager, artifact, *tensors):
    """Return for each output that differs whether a tie or rounding explains it."""
    subject, call = Subject.of(eager), Call(tensors)
    expected, actual = (observe(function, call, seed=0) for function in (eager, artifact))
    assert isinstance(expected, Returned), expected
    assert isinstance(actual, Returned), actual
    differences = compare(expected, actual, Tolerance())
    found = Calibration(OtherRuns(subject, 0)).judge(
        differences, [call], leaves_after(expected, {}), leaves_after(actual, {})
    )
    return [*[False] * len(found.bugs), *[True] * len(found.explained)]


def last_first(x):
    """Return a stable descending order in which the last of equal elements is the first."""
    return x.shape[1] - 1 - in_order(x.flip(1))


def in_order(x):
    return torch.sort(x, dim=1, descending=True, stable=True).indices


def chosen(x, order, count=2):
    return torch.zeros_like(x).scatter(1, order[:, :count], x.gather(1, order[:, :count]))


def marked(x, order, count=2):
    return torch.zeros_like(x, dtype=torch.bool).scatter(1, order[:, :count], True)


def rank(order):
    return torch.zeros_like(order).scatter(1, order, torch.arange(6).expand_as(order))


def halves(x, order, other):
    return marked(x, order, 3), marked(x, other.flip(1), 3)


BOXES = torch.arange(12.0).reshape(2, 6)


def pairs(x, order, other):
    return BOXES.gather(1, order), BOXES.gather(1, other) * 10


# Eager, an artifact that orders equal elements otherwise, and one that gives no order at all.
CASES = {
    "top-k by a threshold": (
        lambda x: chosen(x, x.topk(2, 1).indices),
        lambda x: chosen(x, last_first(x)),
        lambda x: torch.where(x >= x.topk(2, 1).values[:, -1:], x, 0.0),
    ),
    "mask of the chosen by a threshold": (
        lambda x: marked(x, x.topk(2, 1).indices),
        lambda x: marked(x, last_first(x)),
        lambda x: x >= x.topk(2, 1).values[:, -1:],
    ),
    "filter by a threshold": (
        lambda x: x.masked_fill(~marked(x, x.topk(2, 1).indices), float("-inf")),
        lambda x: x.masked_fill(~marked(x, last_first(x)), float("-inf")),
        lambda x: x.masked_fill(x < x.topk(2, 1).values[:, -1:], float("-inf")),
    ),
    "rank by counting": (
        lambda x: x.argsort(1, descending=True).argsort(1),
        lambda x: rank(last_first(x)),
        lambda x: (x[:, :, None] < x[:, None, :]).sum(2),
    ),
    "dense rank": (
        lambda x: x.argsort(1, descending=True).argsort(1),
        lambda x: rank(last_first(x)),
        lambda x: torch.stack([row.unique(return_inverse=True)[1] for row in x]),
    ),
    "values that are not at the places": (
        lambda x: tuple(x.sort(1, descending=True)),
        lambda x: (x.gather(1, last_first(x)), last_first(x)),
        lambda x: (x.sort(1, descending=True)[0], last_first(x).roll(1, 1)),
    ),
    "a place twice": (
        lambda x: x.topk(3, 1).indices,
        lambda x: last_first(x)[:, :3],
        lambda x: last_first(x)[:, :1].repeat(1, 3),
    ),
    "the k-th at a place of another": (
        lambda x: x.kthvalue(2, 1).indices,
        lambda x: last_first(-x)[:, 1],
        lambda x: (last_first(-x)[:, 1] + 1) % 6,
    ),
    "two masks that overlap": (
        lambda x: halves(x, *[x.argsort(1, descending=True)] * 2),
        lambda x: halves(x, *[last_first(x)] * 2),
        lambda x: halves(x, last_first(x), in_order(x)),
    ),
    "two outputs in orders of their own": (
        lambda x: pairs(x, *[x.argsort(1, descending=True)] * 2),
        lambda x: pairs(x, *[last_first(x)] * 2),
        lambda x: pairs(x, last_first(x), in_order(x)),
    ),
}
INPUTS = (EQUAL, TWO_KINDS, THREES)


@pytest.mark.parametrize("name", CASES)
def test_another_order_of_equal_elements_explains_a_result(name):
    eager, other, _ = CASES[name]
    found = [verdicts(eager, other, given) for given in INPUTS]
    assert any(found), "there must be something to explain"
    assert all(explained for each in found for explained in each)


@pytest.mark.parametrize("name", CASES)
def test_no_order_explains_what_eager_never_gives(name):
    eager, _, wrong = CASES[name]
    found = [verdicts(eager, wrong, given) for given in INPUTS]
    assert sum(not all(each) for each in found) >= 2


def test_an_index_into_bools_is_looked_up_too():
    some = torch.tensor([[True, False, True, False, True, False]])

    def second(x):
        return x.sort(1, descending=True).indices[:, 1]

    assert verdicts(second, lambda x: second(x) * 0 + 4, some) == [True]
    assert verdicts(second, lambda x: second(x) * 0 + 3, some) == [False]


def test_a_number_is_no_index_into_a_table():
    layer = torch.nn.Linear(3, 1, bias=False)

    def most_often(x):
        return layer(x).reshape(2, 3).argmax(1).bincount(minlength=3).argmax()

    assert all(verdicts(most_often, lambda x: 2 - most_often(x), torch.ones(6, 3)))


def test_what_rarely_happens_to_rows_ordered_apart_is_not_impossible():
    """Each column is taken for two rows at most, and a kernel prefers the same one in each row."""

    def taken(x, column):
        once = torch.zeros_like(x).scatter(1, column, 1.0)
        return once * (once.cumsum(0) <= 2)

    equal = torch.randint(0, 2, (4, 300), generator=seeded()).float()
    equal[:, 7] = 1.0

    def together(x):
        return taken(x, torch.full((4, 1), 7))

    assert all(verdicts(lambda x: taken(x, x.topk(1, 1).indices), together, equal))


def test_two_results_are_too_few_to_know():
    two = torch.tensor([[1.0, 1.0, 0.0]])
    kept = verdicts(
        lambda x: chosen(x, x.topk(1, 1).indices, 1),
        lambda x: torch.where(x >= x.amax(1, keepdim=True), x, 0.0),
        two,
    )
    assert kept == [True]


def test_two_results_tell_what_an_index_points_to():
    two = torch.tensor([[1.0, 0.5, 0.2, 0.0, 0.5, -1.0]])

    def places(x):
        return x.topk(2, 1).indices

    assert verdicts(places, lambda x: torch.tensor([[0, 5 - int(places(x)[0, 1])]]), two) == [True]
    assert verdicts(places, lambda _: torch.tensor([[0, 5]]), two) == [False]


def test_what_runs_have_in_common_by_chance_is_not_held_against_an_artifact():
    """Two of a thousand places, chosen apart from each other: they are hardly ever the same."""
    runs = torch.randint(0, 1000, (40, 2), generator=seeded())
    assert all(one != other for one, other in runs.tolist())
    wholes = Wholes(
        {"output": torch.tensor([3.0, 700.0]).double()},
        {"output": torch.zeros(2).double()},
        asked=["output"],
        exact=frozenset(["output"]),
        tolerances={"output": (0.0, 0.0)},
    )
    for run in runs:
        wholes.add({"output": run.double()})
    assert wholes.doubtful
    assert not wholes.impossible()


def test_what_is_no_chance_is_held_against_an_artifact():
    """Two of four places, and never the same."""
    pairs_of_places = [torch.randperm(4, generator=seeded(seed))[:2] for seed in range(40)]
    wholes = Wholes(
        {"output": torch.tensor([3.0, 1.0]).double()},
        {"output": torch.zeros(2).double()},
        asked=["output"],
        exact=frozenset(["output"]),
        tolerances={"output": (0.0, 0.0)},
    )
    for run in pairs_of_places:
        wholes.add({"output": run.double()})
    assert wholes.impossible() == {"output"}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)
