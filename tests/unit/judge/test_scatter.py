"""judge/scatter.py: the scatter moves what was rounded, and nothing that was exact."""

from __future__ import annotations

import contextlib

import pytest
import torch
import torch.nn.functional as F
from scattering import EPS, rand, scatter
from torch import nn

from pytest_torchexport.judge.scatter import scattered

ROUNDED = {
    "product": lambda x: x * 3,
    "quotient": lambda x: x / 3,
    "exponential": torch.exp,
    "sum": lambda x: x.sum(1),
    "product of matrices": lambda x: x @ x.T,
    "softmax": lambda x: x.softmax(1),
    "convolution": lambda x: F.conv1d(x[:, None], torch.tensor([[[0.3, 0.7]]])),
    "norm": lambda x: F.layer_norm(x, (5,)),
    "in place": lambda x: x.clone().mul_(3),
    "half": lambda x: x.half() * 3,
    "mean that comes out even": lambda x: (x * 0 + torch.arange(5)).mean(1),
    "few digits that are left of a sum": lambda x: (
        (x[0] * 0 + torch.tensor([1 + 2**-12, 1, 0, 0, 0]))
        @ torch.tensor([1 + 2**-12, -1 - 2**-11, 0, 0, 0])
    ),
    "spectrum": torch.fft.rfft,
    "spectrum there and back": lambda x: torch.fft.irfft(torch.fft.rfft(x), 5),
    # Exact zeros, as torch computes them: another algorithm has other factors.
    "spectrum of equal numbers": lambda x: torch.fft.rfft(torch.ones_like(x))[:, 1:],
    "complex": lambda x: torch.complex(x, x) * (1.1 + 0.3j),
}
KEPT = {
    "moved data": lambda x: torch.cat([x.T.flip(0), x.T], 1)[1:, ::2].reshape(-1),
    "doubled": lambda x: x * 2,
    "compared": lambda x: (x > x.roll(1, 0)).float(),
    "picked": lambda x: x.max(1).values,
    "rounded by floor": torch.floor,
    "rectified": F.relu,
    "clamped": lambda x: x.clamp(-0.5, 0.5),
    "looked up": lambda x: x[torch.tensor([2, 0])],
    "counted": lambda x: (x > 0).float().sum(1),
    "place of the largest": lambda x: x.argmax(1),
    "a number for Python": lambda x: torch.tensor(x[0, 0].item()),
    "whole numbers": lambda x: (x * 100).round() @ torch.ones(5),
    "zeros": lambda x: (x * 0) @ torch.ones(5),
    "imaginary part of a sum": lambda x: torch.fft.rfft(x)[:, 0].imag,
    "imaginary part of a sum over two axes": lambda x: torch.fft.rfft2(x)[0, 0].imag,
}


@pytest.mark.parametrize("name", ROUNDED)
def test_what_is_rounded_is_moved_by_about_one_unit_in_the_last_place(name):
    x = rand(4, 5)
    gaps = scatter(ROUNDED[name], x)
    eps = 1e-3 if name == "half" else EPS
    assert 0 < float(gaps.max()) < 40 * eps * max(1.0, float(ROUNDED[name](x).abs().max()))


@pytest.mark.parametrize("name", KEPT)
def test_what_is_exact_is_not_moved(name):
    assert float(scatter(KEPT[name], rand(4, 5)).max()) == 0


@pytest.mark.parametrize("infinite", [torch.inf, -torch.inf])
def test_an_infinite_term_stays_so(infinite):
    """Else every difference where a mask is added would be excused."""
    mask = torch.tensor([0.0, infinite, 0.0, 0.0, 0.0])
    for seed in range(6):
        with scattered(seed):
            moved = (rand(3, 5) / 3 + mask) * 1.1
        assert moved.isinf().sum() == 3
        assert not moved.isnan().any()


def test_the_scatter_is_the_same_for_the_same_seed():
    x = rand(4, 5)
    with scattered(3):
        first = x @ x.T
    with scattered(3):
        second = x @ x.T
    assert torch.equal(first, second)


def test_the_random_stream_of_the_forward_is_not_touched():
    x = torch.ones(50)

    def drops():
        torch.manual_seed(0)
        return F.dropout(x) > 0

    plain = drops()
    with scattered(1):
        assert torch.equal(drops(), plain)


def test_the_users_tensors_are_not_written_to():
    layer = nn.Linear(5, 3)
    x = rand(4, 5)
    before = x.clone(), layer.weight.detach().clone()
    scatter(layer, x, runs=2)
    assert torch.equal(x, before[0])
    assert torch.equal(layer.weight, before[1])


def test_running_statistics_are_updated_once():
    def after(mode):
        norm = nn.BatchNorm1d(5)
        with mode:
            norm(rand(4, 5))
        return norm.running_mean

    plain = after(contextlib.nullcontext())
    assert torch.allclose(after(scattered(0)), plain, rtol=1e-5)


@pytest.mark.parametrize(
    "order",
    [
        lambda x: x.topk(3, 1).indices,
        lambda x: x.sort(1).indices,
        lambda x: x.argsort(1),
        lambda x: x.kthvalue(2, 1).indices,
    ],
)
def test_equal_numbers_may_come_in_any_order_and_unlike_ones_may_not(order):
    assert float(scatter(order, torch.zeros(2, 6)).max()) > 0
    assert float(scatter(order, rand(2, 6)).max()) == 0


def test_a_stable_sort_has_one_order():
    assert (
        float(scatter(lambda x: x.sort(dim=1, stable=True).indices, torch.zeros(2, 6)).max()) == 0
    )
