"""explore/thresholds.py and explore/operator_run.py: how near a call came to each threshold, and the way there."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from pytest_torchexport.explore.operator_run import OUTPUT, OperatorRuns, Reach
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.torch_state import GradMode

X = torch.tensor([[0.3, -0.7, 1.9], [2.2, -1.1, 0.6]])


def layer_norm(x):
    return F.layer_norm(x, (3,))


def group_norm(x):
    return F.group_norm(x, 1)


# Per operator: a function that uses it, and its thresholds on X with what is missing (None: met).
CASES = {
    "gt": (lambda x: x > 2.5, {"above": 0.3, "below": None, "at": 0.3}),
    "le": (lambda x: x <= 2.2, {"above": 0.0, "below": None, "at": None}),
    "eq": (lambda x: x == 1.5, {"above": None, "below": None, "at": 0.4}),
    "clamp": (
        lambda x: x.clamp(-2, 3),
        {"above min": None, "below min": 0.9, "above max": 0.8, "below max": None},
    ),
    "sign": (torch.sign, {"above 0": None, "below 0": None, "at 0": 0.3}),
    "sigmoid": (
        torch.sigmoid,
        {"above 18": 15.8, "below 18": None, "above -18": None, "below -18": 16.9},
    ),
    "softshrink": (
        lambda x: F.softshrink(x, 2.5),
        {"above lambd": 0.3, "below lambd": None, "above -lambd": None, "below -lambd": 1.4},
    ),
    "softplus": (
        lambda x: F.softplus(x, 2),
        {"above threshold/beta": 7.8, "below threshold/beta": None},
    ),
    "round": (torch.round, {"at": 0.1}),
    "floor": (torch.floor, {"at": 0.1, "below": None}),
    "div": (lambda x: torch.ones(()) / x, {"at": 0.3, "next to 0": 0.3}),
    "remainder": (lambda x: x % 2, {"at multiple": 0.1, "below": None}),
    "floor_divide": (
        lambda x: x // (x + 3),
        {"at": 1.9, "next to 0": 1.9, "at multiple": 0.3, "below": None},
    ),
    "atan2": (
        lambda x: torch.atan2(x, x + 3),
        {"above y": None, "below y": None, "at y": 0.3, "above x": None, "below x": 1.9},
    ),
    "add": (lambda x: x.abs() + 1e-3, {"below epsilon": 0.299}),
    "argmax": (lambda x: x.argmax(1), {"tied": 1.6}),
    "topk": (lambda x: x.topk(2, 0).values, {"tied": 0.4}),
    "native_group_norm": (group_norm, {"constant": 1.0677}),
    "bucketize": (
        lambda x: torch.bucketize(x, torch.tensor([0.0, 2.5]), right=True),
        {
            "above right 0": None,
            "below right 0": None,
            "at right 0": 0.3,
            "above right 1": 0.3,
            "below right 1": None,
            "at right 1": 0.3,
        },
    ),
    "searchsorted": (
        lambda x: torch.searchsorted(torch.arange(12.0) / 2, x, side="left"),
        {"at left": 0.1},
    ),
    "_to_copy": (
        lambda x: (x.half(), x.int()),
        {"above overflow": 65501.8, "below overflow": 65502.9, "at": 0.1, "below": None},
    ),
}


def runs(function):
    return OperatorRuns(fresh=lambda: function, done=lambda: None, seed=0)


def near(function, x=X):
    found = runs(function).run(Call((x,)))
    return found and found.near


@pytest.mark.parametrize("name", CASES)
def test_what_is_missing_to_each_threshold_of_an_operator(name):
    function, wanted = CASES[name]
    found = {
        f"{key.side} {key.name}".strip(): item
        for key, item in near(function).items()
        if key.source == name and "[" not in key.name
    }
    assert {part: None if item.met else pytest.approx(item.missing, abs=1e-2)
            for part, item in found.items()} == wanted  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_leads_to_each_threshold(name):
    function, _ = CASES[name]
    for key, before in near(function).items():
        if before.met or any(word in key.name for word in ("[", "overflow", "underflow")):
            continue
        probe = runs(function).probe(Call((X,)), Reach((key,), (0.0,)))
        gradient = probe.demands[0].gradients[0].double()
        moved = (X.double() - before.missing / gradient.square().sum() * gradient).float()
        assert near(function, moved)[key].missing == pytest.approx(0.0, abs=1e-5), key


def test_a_call_that_raises_shows_nothing():
    assert near(lambda x: x.clamp(0, 1) @ x) is None


@pytest.mark.filterwarnings("error")
def test_an_output_with_a_gradient_gives_no_warning_of_torch():
    weight = torch.ones(3, requires_grad=True)
    side = runs(lambda x: (x * weight).topk(2).values)
    side = dataclasses.replace(side, grad_mode=GradMode.GRAD, bounds=(2.5,))
    found = side.run(Call((X,)))
    assert any(
        (key.source, key.side, key.name) == (OUTPUT, "above", "2.5") and near.met is False
        for key, near in found.near.items()
    )


@pytest.mark.parametrize(
    "x", [torch.empty(0, 3), torch.full((2, 3), torch.nan), X.to(torch.cfloat)]
)
def test_operands_without_numbers_have_no_threshold(x):
    assert near(lambda x: x == 1, x) == {}
