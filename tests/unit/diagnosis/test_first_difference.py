"""diagnosis/first_difference.py: two sequences are aligned, and the operator that introduces a difference is named."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from torch import nn

from pytest_torchexport.diagnosis import first_difference
from pytest_torchexport.diagnosis.first_difference import Search, aligned, equal
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.tape import record

X = torch.linspace(-2, 3, 12).reshape(3, 4)
ROW = torch.tensor([1.0, 0.0, 2.0, 3.0])
DOUBLE = torch.tensor(3.0, dtype=torch.float64)
COLUMN = torch.zeros(2, 1)
PLACES = torch.arange(4) * 1.0


def found(eager, artifact, *, differing=("output",)):
    left, right = (record(side, Call((X,)), seed=0) for side in (eager, artifact))
    return Search(left, right, differing).found()


def blocks(x, *, drop):
    for number in range(4):
        x = x @ torch.eye(4) + 1
        x = x if number == drop else x.sin()
    return x


def counted_first(x):
    count = torch.arange(4)
    return x.sum(1).cos() + count


def two(x, end):
    return torch.cat([x[:, :end], x[:, end:]], 1).sum(1)


def traced(x, end):
    return torch.cat([x[:][:, :end], x[:][:, end:]], 1)[:, 1:].sum(1)


# Eager, the artifact; the kind of the difference, the operator, and eager's and the artifact's text.
CASES = {
    "a number": (
        lambda x: (x * 2).relu().sum(),
        lambda x: (x * 3).relu().sum(),
        ("constant", "aten.mul", "2", "3"),
    ),
    "a number that is a stored tensor": (
        lambda x: x * 2,
        lambda x: x * DOUBLE,
        ("constant", "aten.mul", "2", "3"),
    ),
    "a number of an operator that stands elsewhere": (
        lambda x: x.sum(1).cos() + torch.arange(3),
        counted_first,
        ("constant", "aten.arange", "3", "4"),
    ),
    "an operator is missing among equal blocks": (
        lambda x: blocks(x, drop=-1),
        lambda x: blocks(x, drop=2),
        ("missing", "aten.sin"),
    ),
    "other operators": (
        lambda x: x.log1p().sin(),
        lambda x: (x + 2).log().sin(),
        ("other", "aten.log1p", "aten.log1p", "aten.add, aten.log"),
    ),
    "a stored result": (
        lambda x: x + x.mean(0),
        lambda x: x + ROW,
        ("constant", "aten.mean", "aten.mean", "float32[4]"),
    ),
    "a result that is stored with the right numbers": (
        lambda x: x + torch.arange(4) * 1.0 - 1,
        lambda x: x + PLACES - 2,
        ("constant", "aten.sub", "1", "2"),
    ),
    "another parameter": (nn.Linear(4, 2), nn.Linear(4, 2), ("stored",)),
    "an operator of another shape beside it": (
        lambda x: torch.rand(4) + x,
        lambda x: (torch.rand(1), torch.rand(4) + x)[1],
        ("same", "aten.rand"),
    ),
    "a rewriting that only rounds": (
        lambda x: (x / 3).sin() + 0.5,
        lambda x: (x * (1 / 3)).sin() + 0.6,
        ("constant", "aten.add", "0.5", "0.6"),
    ),
    "slices of everything, which a trace has": (
        lambda x: two(x, 2),
        lambda x: traced(x, 3),
        ("constant", "aten.slice", "2", "3"),
    ),
    "it raises": (
        lambda x: x.view(x.shape[0], -1),
        lambda x: x.view(5, -1),
        ("constant", "aten.view", "3", "5"),
    ),
    "it raises on account of an operand": (
        lambda x: torch.cat([x, torch.zeros(x.shape[0], 1)], 1),
        lambda x: torch.cat([x, COLUMN], 1),
        ("constant", "aten.zeros"),
    ),
    "it raises in an operator that eager has not": (
        lambda x: x.relu(),
        lambda x: x.exp().tanh().as_strided((9, 9), (9, 1)),
        ("extra", "aten.as_strided", "", "aten.exp, aten.tanh, aten.as_strided"),
    ),
}


@pytest.mark.parametrize(("eager", "artifact", "named"), CASES.values(), ids=CASES)
def test_the_operator_that_introduces_a_difference_is_named(eager, artifact, named):
    item = found(eager, artifact).structural
    assert (item.kind, item.operator, item.eager, item.artifact)[: len(named)] == named


def test_outputs_that_are_swapped():
    item = found(
        lambda x: (x.sin(), x.cos()),
        lambda x: (x.sin(), x.cos())[::-1],
        differing=("output[0]", "output[1]"),
    )
    assert (item.structural.kind, item.structural.eager) == ("other", "aten.sin")


def test_what_the_output_does_not_depend_on_is_not_blamed():
    item = found(
        lambda x: ((x * 4).sum(), x * 2), lambda x: ((x * 5).sum(), x * 3), differing=("output[1]",)
    )
    assert item.structural.numbers == (2.0, 3.0)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_agree_with_themselves(number):
    assert found(lambda x: (x * number).abs() + 1, lambda x: (x * number).abs() + 1) is None


def test_an_infinite_number_agrees_with_itself_alone():
    assert not any(equal(float("inf"), other) for other in (-float("inf"), 5))


# -- alignment -------------------------------------------------------------------------------------


def longest(left, right):
    rows = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i, one in enumerate(left):
        for j, other in enumerate(right):
            rows[i + 1][j + 1] = (
                rows[i][j] + 1 if one == other else max(rows[i][j + 1], rows[i + 1][j])
            )
    return rows[-1][-1]


def test_no_alignment_has_more_pairs():
    draw = random.Random(0)
    for _ in range(300):
        left, right = ("".join(draw.choices("abc", k=draw.randrange(9))) for _ in range(2))
        pairs = aligned(left, right)
        assert [left[i] for i, _ in pairs] == [right[j] for _, j in pairs]
        assert all(a < c and b < d for (a, b), (c, d) in itertools.pairwise(pairs))
        assert len(pairs) == longest(left, right), (left, right)


def test_what_comes_after_the_end_of_a_cut_side_is_no_difference():
    assert aligned("abcabcd", "abx", right_is_cut=True) == [(0, 0), (1, 1)]
    assert aligned("zcd", "c", right_is_cut=True) == [(1, 0)]


def test_of_two_programs_that_differ_too_much_the_beginning_is_paired(monkeypatch):
    monkeypatch.setattr(first_difference, "MOST", 2)
    assert aligned("ab123cd", "ab4567cd") == [(0, 0), (1, 1)]
    assert aligned("ab123cd", "ab4567", right_is_cut=True) == [(0, 0), (1, 1)]
