"""explore/slopes.py: step functions keep their values, and have gradients in a probe."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pytest_torchexport.explore.slopes import SlopeMode, shadow_of

X = torch.tensor([[0.3, -1.7, 2.6], [0.2, 0.9, -0.4]])


@torch.no_grad()
def without_grad(x):
    return x.square().sum()


FUNCTIONS = {
    "detached": lambda x: x.detach().square().sum(),
    "data": lambda x: torch.detach(x.data).square().sum(),
    "without grad": without_grad,
    "detached count": lambda x: (x > 0.5).detach().sum(),
    "round": lambda x: torch.round(x * 3),
    "floor divided": lambda x: x // 0.5,
    "sign": torch.sign,
    "count": lambda x: (x > 0.5).sum(),
    "count by float": lambda x: (x > 0.5).float().sum(),
    "both": lambda x: ((x > 0.0) & (x < 1.0)).sum(),
    "either": lambda x: ((x > 1.0) | (x < -1.0)).sum(),
    "edges": lambda x: ((x[:, 1:] > 0) ^ (x[:, :-1] > 0)).sum(),
    "any per row": lambda x: (x > 2.0).any(1).sum(),
    "whole number": lambda x: x.sum().mul(10).int(),
    "where": lambda x: torch.where(x > 0.5, 1, 0).sum(),
    "equal": lambda x: (x.round() == 1.0).sum(),
}


def gradient(function, *, x=X, way=1):
    """The gradient of a function's result under the mode, after its value was compared.

    Truths change as they can where the result is to fall; where it is to rise if ``way`` is -1.
    """
    source = x.clone().requires_grad_()
    with SlopeMode():
        found = function(source)
    expected = function(x)
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)
    smooth = shadow_of(found) if shadow_of(found) is not None else found
    if not smooth.requires_grad:
        return None
    (slope,) = torch.autograd.grad(way * smooth.sum(), source)
    return slope


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_step_function_keeps_its_values_and_has_a_slope(name):
    slopes = [gradient(FUNCTIONS[name], way=way) for way in (1, -1)]
    assert any(bool(slope.any()) for slope in slopes)
    assert all(bool(slope.isfinite().all()) for slope in slopes)


def test_a_count_rises_with_the_nearest_that_is_not_counted():
    slope = gradient(lambda x: (x > 0.5).sum(), x=torch.tensor([0.4, -3.0, 0.9]), way=-1)
    assert slope[0] < slope[1] < 0
    assert slope[2] == 0


def test_a_count_falls_with_the_nearest_that_is_counted():
    slope = gradient(lambda x: (x > 0.5).sum(), x=torch.tensor([0.4, 0.6, 4.0]))
    assert slope[1] > slope[2] > 0
    assert slope[0] == 0


def test_it_is_remembered_what_was_looked_up():
    table, ids = torch.randn(7, 4), torch.tensor([[1, 2], [3, 3]])
    mode = SlopeMode()
    with mode:
        F.embedding(ids, table)
    assert torch.equal(mode.lookups[0].rows, table[ids])


@pytest.mark.parametrize("kind", ["mean", "sum", "max"])
def test_a_bag_returns_what_it_does_and_its_rows_are_remembered(kind):
    bag = nn.EmbeddingBag(7, 4, mode=kind).requires_grad_(False)
    ids = torch.tensor([[1, 2], [3, 3]])
    mode = SlopeMode()
    with mode:
        found = bag(ids)
    torch.testing.assert_close(found.detach(), bag(ids))
    assert len(mode.lookups) == (kind != "max")


@pytest.mark.parametrize("option", ["padding_idx", "per_sample_weights"])
def test_a_bag_that_leaves_out_or_weighs_rows_returns_what_it_does(option):
    padded = option == "padding_idx"
    bag = nn.EmbeddingBag(7, 4, mode="sum", padding_idx=1 if padded else None)
    bag.requires_grad_(False)
    given = (torch.tensor([[1, 2], [3, 3]]),)
    given += () if padded else (None, torch.tensor([[0.5, 2.0], [1.0, 3.0]]))
    mode = SlopeMode()
    with mode:
        found = bag(*given)
    assert torch.equal(found, bag(*given))
    assert not mode.lookups


def test_a_count_of_a_mask_that_is_written_to_later_has_a_slope():
    source = X.clone().requires_grad_()
    with SlopeMode():
        mask = source > 0.0
        count = mask.sum()
        mask[:, 0] = True
    assert torch.autograd.grad(shadow_of(count), source)[0].any()


def test_a_mask_that_was_written_to_has_no_slope_of_what_it_was():
    source = X.clone().requires_grad_()
    with SlopeMode():
        mask = source > 0.0
        mask[:, 0] = False
        count = mask.sum()
    assert shadow_of(mask) is None
    assert shadow_of(count) is None


def test_what_writes_in_place_is_left_alone():
    with SlopeMode():
        x = X.clone().requires_grad_().clone()
        x[0] = 0.0
        x.relu_()
        x.round_()
    assert torch.equal(x.detach(), torch.cat([X[:1] * 0, X[1:]]).relu().round())


def test_numpy_gets_what_was_detached():
    source = X.clone().requires_grad_()
    with SlopeMode():
        assert source.detach().numpy().max() == X.max()


def test_the_mode_itself_differentiates_where_it_is_paused():
    mode = SlopeMode()
    with mode, mode.paused(), torch.no_grad():
        assert not torch.is_grad_enabled()
