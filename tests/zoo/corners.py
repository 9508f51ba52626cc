"""Translations that differ from the operation on few calls: at numbers that became equal, at
boundaries, and where several conditions hold at once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.converters import right, wrong
from zoo.row import *

IDS = call(whole(0, 2**40, 4, 6))
FEWER_IDS = call(whole(0, 10**6, 4, 6))
DOUBLES = call(normal(4, 6, dtype=torch.float64))
SINGLES = call(normal(4, 6))
RANGE = {"x": (-4.0, 4.0)}
CHOSEN_IDS = call(whole(0, 999, 2, 3))

section("converters", "merged")


# -- integers that became equal --------------------------------------------------------------------


def place_of_largest(x: Tensor) -> Tensor:
    return x.argmax(1)


@wrong(place_of_largest, "largest integer in single", IDS)
def place_of_largest_in_single(x: Tensor) -> Tensor:
    return x.float().argmax(1)


@right(place_of_largest, IDS)
def place_of_largest_negated(x: Tensor) -> Tensor:
    return (-x).argmin(1)


def repeated(x: Tensor) -> Tensor:
    return (x[:, 1:] == x[:, :-1]).sum(1)


@wrong(repeated, "equal integers in single", IDS)
def repeated_in_single(x: Tensor) -> Tensor:
    return repeated(x.float())


@wrong(repeated, "equal integers in 32 bits", IDS)
def repeated_in_int(x: Tensor) -> Tensor:
    return repeated(x.to(torch.int32))


@right(repeated, IDS)
def repeated_by_difference(x: Tensor) -> Tensor:
    return (x[:, 1:] - x[:, :-1] == 0).sum(1)


def first_like_last(x: Tensor) -> Tensor:
    return x[:, 0] == x[:, -1]


@wrong(first_like_last, "equal integers by remainders", FEWER_IDS)
def first_like_last_bucket(x: Tensor) -> Tensor:
    """Compare the places of a table of 10,007 rows in which the numbers are looked up."""
    return x[:, 0] % 10007 == x[:, -1] % 10007


@right(first_like_last, FEWER_IDS)
def first_like_last_in_double(x: Tensor) -> Tensor:
    return x[:, 0].double() == x[:, -1].double()


# -- floats that became equal ----------------------------------------------------------------------


def risen(x: Tensor) -> Tensor:
    return (x[:, 1:] > x[:, :-1]).sum(1)


@wrong(risen, "floats compared in single", DOUBLES)
def risen_in_single(x: Tensor) -> Tensor:
    return risen(x.float())


@right(risen, DOUBLES)
def risen_mirrored(x: Tensor) -> Tensor:
    return (-x[:, 1:] < -x[:, :-1]).sum(1)


def above_a_half(x: Tensor) -> Tensor:
    return (x > 0.5).sum(1)


@wrong(above_a_half, "threshold in single", DOUBLES)
def above_a_half_in_single(x: Tensor) -> Tensor:
    return above_a_half(x.float())


@right(above_a_half, DOUBLES)
def above_a_half_mirrored(x: Tensor) -> Tensor:
    return (-x < -0.5).sum(1)


def layer(x: Tensor) -> Tensor:
    weight = torch.linspace(-1.3, 1.7, 36, dtype=x.dtype).reshape(6, 6).sin()
    return torch.tanh(x @ weight)


def best_of_layer(x: Tensor) -> Tensor:
    return layer(x).argmax(1)


@wrong(best_of_layer, "largest of a layer in single", DOUBLES)
def best_of_layer_in_single(x: Tensor) -> Tensor:
    return layer(x).float().argmax(1)


@right(best_of_layer, DOUBLES)
def best_of_layer_negated(x: Tensor) -> Tensor:
    return (-layer(x)).argmin(1)


section("converters", "bounded")


# -- boundaries ------------------------------------------------------------------------------------


def bucket(x: Tensor) -> Tensor:
    return torch.bucketize(x, torch.tensor([-1.5, -0.25, 0.7, 1.9]))


@wrong(bucket, "boundaries from the right", SINGLES)
def bucket_from_the_right(x: Tensor) -> Tensor:
    return torch.bucketize(x, torch.tensor([-1.5, -0.25, 0.7, 1.9]), right=True)


@wrong(bucket, "another boundary", SINGLES)
def bucket_of_others(x: Tensor) -> Tensor:
    return torch.bucketize(x, torch.tensor([-1.5, -0.2505, 0.7, 1.9]))


@right(bucket, SINGLES)
def bucket_by_comparisons(x: Tensor) -> Tensor:
    return (x.unsqueeze(-1) > torch.tensor([-1.5, -0.25, 0.7, 1.9])).sum(-1)


def bucket_of_many(x: Tensor) -> Tensor:
    return torch.bucketize(x, torch.linspace(-2.77, 2.81, 40))


def place_in_order(x: Tensor) -> Tensor:
    return torch.searchsorted(torch.tensor([100, 7777, 500000]), x)


@wrong(
    place_in_order,
    "order from the right",
    FEWER_IDS,
    truth(DIFFERS, onnx=REFUSED, onnx_legacy=REFUSED),
    onnx=untranslated("return self.translation(x)"),
    onnx_legacy=untranslated(),
)
def place_in_order_from_the_right(x: Tensor) -> Tensor:
    return torch.searchsorted(torch.tensor([100, 7777, 500000]), x, right=True)


@right(place_in_order, FEWER_IDS)
def place_in_order_by_counting(x: Tensor) -> Tensor:
    return (x.unsqueeze(-1) > torch.tensor([100, 7777, 500000])).sum(-1)


# -- one of many boundaries ------------------------------------------------------------------------


@wrong(bucket_of_many, "one of many boundaries", SINGLES)
def bucket_of_many_others(x: Tensor) -> Tensor:
    place = torch.arange(40)
    moved = torch.where(place == 23, 2e-4, 0.0)
    return torch.bucketize(x, torch.linspace(-2.77, 2.81, 40) + moved)


@right(bucket_of_many, SINGLES)
def bucket_of_many_by_comparisons(x: Tensor) -> Tensor:
    return (x.unsqueeze(-1) > torch.linspace(-2.77, 2.81, 40)).sum(-1)


section("converters", "at once")


# -- several conditions ----------------------------------------------------------------------------


def fourth(x: Tensor) -> Tensor:
    return x[:, 3] * 1


@wrong(fourth, "three conditions", SINGLES, values=RANGE)
def fourth_if_three_hold(x: Tensor) -> Tensor:
    held = (x[:, 0] > 2.5) & (x[:, 1] < -2.5) & (x[:, 2] > 2.0)
    return torch.where(held, x[:, 3] + 1, x[:, 3])


def middle(x: Tensor) -> Tensor:
    return x.mean(1)


@wrong(middle, "a narrow band", SINGLES, values=RANGE)
def middle_outside_a_band(x: Tensor) -> Tensor:
    y = x.mean(1)
    return torch.where((y > 1.2345) & (y < 1.235), -y, y)


@wrong(middle, "a narrow bump", SINGLES, values=RANGE)
def middle_with_a_bump(x: Tensor) -> Tensor:
    y = x.mean(1)
    return y + torch.exp(-(((y - 1.37) / 1e-4) ** 2))


def both_high(x: Tensor) -> Tensor:
    return torch.where((x[:, 0] > 1.5) & (x[:, 1] > 1.5), x[:, 3] + 1, x[:, 3])


@right(both_high, SINGLES)
def both_high_by_negation(x: Tensor) -> Tensor:
    return torch.where((x[:, 0] <= 1.5) | (x[:, 1] <= 1.5), x[:, 3], x[:, 3] + 1)


section("converters", "integers")


# -- one number behind operators of integers -------------------------------------------------------


def marked(found: Tensor, x: Tensor) -> Tensor:
    return torch.where(found, -1, x)


def one_block(x: Tensor) -> Tensor:
    return marked(x >> 2 == 123_377, x)


@wrong(one_block, "another shifted number", FEWER_IDS)
def next_block(x: Tensor) -> Tensor:
    return marked(x >> 2 == 123_378, x)


@right(one_block, FEWER_IDS)
def one_block_by_its_ends(x: Tensor) -> Tensor:
    return marked((x >= 493_508) & (x < 493_512), x)


def one_total(x: Tensor) -> Tensor:
    return marked(x.sum(1, keepdim=True) == 4_123_456, x)


@wrong(one_total, "another sum of integers", FEWER_IDS)
def no_total(x: Tensor) -> Tensor:
    return marked(x.sum(1, keepdim=True) == 40_123_456, x)


@right(one_total, FEWER_IDS)
def one_total_by_the_mean(x: Tensor) -> Tensor:
    return marked(x.double().mean(1, keepdim=True) * 6 - 4_123_456 == 0, x)


# -- several conditions on one number --------------------------------------------------------------


def same(x: Tensor) -> Tensor:
    return x * 1


@wrong(same, "two digits of one number", FEWER_IDS)
def two_digits(x: Tensor) -> Tensor:
    return marked((x % 1000 == 34) & (x // 1000 == 712), x)


@right(two_digits, FEWER_IDS)
def two_digits_as_one(x: Tensor) -> Tensor:
    return marked(x == 712_034, x)


section("converters", "masks")


# -- rows that are masks ---------------------------------------------------------------------------


def total(x: Tensor) -> Tensor:
    return x.sum(1)


@wrong(total, "a row with a single one", normal(4, 20))
def total_unless_one_hot(x: Tensor) -> Tensor:
    hot = ((x == 1).sum(1) == 1) & ((x == 0).sum(1) == 19)
    return torch.where(hot, x.sum(1) * 2, x.sum(1))


@right(total, normal(4, 20))
def total_or_zero(x: Tensor) -> Tensor:
    empty = (x == 0).all(1)
    return torch.where(empty, x[:, 0] * 0, x.sum(1))


section("converters", "layers")


# -- numbers behind layers -------------------------------------------------------------------------


def chosen(x: Tensor) -> Tensor:
    """Choose one of eleven places for each of 1000 ids, by a table and a layer."""
    table = (torch.arange(6000).reshape(1000, 6) * 1.7).sin()
    weight = (torch.arange(66).reshape(6, 11) * 0.9).cos()
    return (F.embedding(x, table) @ weight).argmax(-1)


@wrong(chosen, "a place behind a layer", CHOSEN_IDS)
def chosen_but_one(x: Tensor) -> Tensor:
    y = chosen(x)
    return marked((y == 7) & (x > 960), y)


@right(chosen, CHOSEN_IDS)
def chosen_or_the_same(x: Tensor) -> Tensor:
    y = chosen(x)
    return torch.where((y == 7) & (x > 960), y + 0, y)
