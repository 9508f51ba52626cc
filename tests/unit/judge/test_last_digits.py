"""judge/last_digits.py: operators round otherwise, and exact results stay as they are."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pytest_torchexport.judge.last_digits import Ties, scattered, sequential

EPS = torch.finfo(torch.float32).eps


def rand(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def wide(tensor):
    return tensor.to(torch.complex128) if tensor.is_complex() else tensor.double()


def scatter(function, *args, runs=6):
    """The largest distance between the plain result and scattered ones, per element."""
    plain = function(*args)
    gaps = []
    for seed in range(runs):
        with scattered(seed):
            moved = function(*args)
        assert moved.dtype == plain.dtype
        assert moved.shape == plain.shape
        gaps.append((wide(moved) - wide(plain)).abs())
    return torch.stack(gaps).amax(0)


ROUNDED = {
    "product": lambda x: x * 3,
    "sum": lambda x: x.sum(1),
    "product of matrices": lambda x: x @ x.T,
    "convolution": lambda x: F.conv1d(x[:, None], torch.tensor([[[0.3, 0.7]]])),
    "in place": lambda x: x.clone().mul_(3),
    "half": lambda x: x.half() * 3,
    "mean that comes out even": lambda x: (x * 0 + torch.arange(5)).mean(1),
    "few digits that are left of a sum": lambda x: (
        (x[0] * 0 + torch.tensor([1 + 2**-12, 1, 0, 0, 0]))
        @ torch.tensor([1 + 2**-12, -1 - 2**-11, 0, 0, 0])
    ),
    "spectrum": torch.fft.rfft,
    # Exact zeros, as torch computes them: another algorithm has other factors.
    "spectrum of equal numbers": lambda x: torch.fft.rfft(torch.ones_like(x))[:, 1:],
    "complex": lambda x: torch.complex(x, x) * (1.1 + 0.3j),
}
KEPT = {
    "doubled": lambda x: x * 2,
    "compared": lambda x: (x > x.roll(1, 0)).float(),
    "rounded by floor": torch.floor,
    "clamped": lambda x: x.clamp(-0.5, 0.5),
    "counted": lambda x: (x > 0).float().sum(1),
    "place of the largest": lambda x: x.argmax(1),
    "whole numbers": lambda x: (x * 100).round() @ torch.ones(5),
    "imaginary part of a sum": lambda x: torch.fft.rfft(x)[:, 0].imag,
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


def test_the_random_stream_of_the_forward_is_not_touched():
    x = torch.ones(50)

    def drops():
        torch.manual_seed(0)
        return F.dropout(x) > 0

    plain = drops()
    with scattered(1):
        assert torch.equal(drops(), plain)


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


def test_sums_one_term_after_the_other():
    terms = torch.full((2, 3, 700), 0.1)
    total = torch.tensor(0.0)
    for _ in range(700):
        total = total + 0.1
    with sequential():
        assert torch.equal(terms.sum(2), total.expand(2, 3))
        assert torch.equal(terms.sum(-1, keepdim=True), total.expand(2, 3, 1))
        assert torch.equal(terms.mean(2), (total / 700).expand(2, 3))
        assert torch.equal(terms.cumsum(2)[..., -1], total.expand(2, 3))
        assert terms.sum().shape == ()
        assert terms.long().sum(2).tolist() == [[0, 0, 0]] * 2


def test_sums_in_lanes():
    terms = rand(3, 21)
    total = torch.zeros(3, 8)
    for start in (0, 8, 16):
        total[:, : min(8, 21 - start)] += terms[:, start : start + 8]
    # As vector registers add their lanes up: the upper half to the lower one, three times.
    fours = total[:, :4] + total[:, 4:]
    twos = fours[:, :2] + fours[:, 2:]
    row = twos[:, 0] + twos[:, 1]
    with sequential(8):
        assert torch.equal(terms.sum(1), row)
        assert torch.equal(torch.mv(torch.ones(2, 21), terms[0]), row[:1].expand(2))


NORMS = {
    "variance": lambda x: x.var((0, 2)),
    "layer norm": nn.LayerNorm([5, 6]),
    "batch norm": nn.BatchNorm1d(4),
    "product of matrices": lambda x: x[0] @ x[1].T,
    "product of batches": lambda x: x @ x.transpose(1, 2),
    "logarithm of exponentials": lambda x: x.logsumexp((0, 2)),
    "sum and product of batches": lambda x: torch.baddbmm(x.sum(), x, x.mT, beta=0.5, alpha=2),
    "cross entropy": lambda x: F.cross_entropy(x[0], torch.arange(5)),
    "sum of what is a number": lambda x: torch.where(x > 1, torch.nan, x).nansum(1),
    "rows added up": lambda x: x[0].clone().index_add_(0, torch.tensor([1, 1]), x[1, :2]),
    "attention": lambda x: F.scaled_dot_product_attention(
        x[None], x[None], x[None], is_causal=True
    ),
}


@pytest.mark.parametrize("name", NORMS)
def test_other_orders_of_summation_are_the_same_function(name):
    x = rand(3, 4, 5, 6)[..., 0, :] if "norm" in name and "layer" not in name else rand(3, 5, 6)
    for parameter in getattr(NORMS[name], "parameters", list)():
        nn.init.uniform_(parameter)
    plain = NORMS[name](x)
    with sequential():
        other = NORMS[name](x)
    torch.testing.assert_close(other, plain)
    assert other.shape == plain.shape


def test_sums_within_an_operator_are_added_up_one_by_one():
    terms = torch.full((1_000_000,), 0.1)
    with sequential():
        variance, mean = torch.var_mean(terms, 0)
        assert mean.item() == pytest.approx(0.1009583, abs=1e-6)
        assert variance.item() == pytest.approx(0.0009583**2, rel=0.02)
        error = F.l1_loss(terms, torch.zeros_like(terms), reduction="sum")
        assert error.item() == pytest.approx(100958.3, abs=0.1)
        assert F.huber_loss(terms + 0.5, terms - 0.5).item() == pytest.approx(0.5)


@pytest.mark.parametrize("rounding", [sequential, lambda: scattered(0, Ties())])
def test_attention_of_a_row_that_is_all_masked_stays_zero(rounding):
    x = torch.randn(1, 1, 3, 4)
    with rounding():
        found = F.scaled_dot_product_attention(x, x, x, attn_mask=torch.zeros(3, 3).bool())
    assert torch.equal(found, torch.zeros_like(found))


def test_nan_is_made_where_the_kernel_makes_it():
    """The parts of this operator return zero for NaN."""
    image, places = torch.randn(1, 2, 5, 5), torch.zeros(1, 2, 3, 2)
    places[0, 0, 0, 0] = torch.nan
    with sequential():
        found = F.grid_sample(image, places, align_corners=False)
    assert found.isnan().sum() == F.grid_sample(image, places, align_corners=False).isnan().sum()
    assert found.isnan().sum() > 0
