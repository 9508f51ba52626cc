"""Translations that differ from the operation on few calls: at numbers that became equal, at
boundaries, and where several conditions hold at once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.converters import right, wrong
from zoo.row import DIFFERS, REFUSED, call, normal, truth, untranslated, whole

# -- integers that became equal --------------------------------------------------------------------


def place_of_largest(x: Tensor) -> Tensor:
    return x.argmax(1)


def place_of_largest_in_single(x: Tensor) -> Tensor:
    return x.float().argmax(1)


def place_of_largest_negated(x: Tensor) -> Tensor:
    return (-x).argmin(1)


def place_of_smallest(x: Tensor) -> Tensor:
    return x.argmin(1)


def place_of_smallest_in_double(x: Tensor) -> Tensor:
    return x.double().argmin(1)


def repeated(x: Tensor) -> Tensor:
    return (x[:, 1:] == x[:, :-1]).sum(1)


def repeated_in_single(x: Tensor) -> Tensor:
    return repeated(x.float())


def repeated_in_int(x: Tensor) -> Tensor:
    return repeated(x.to(torch.int32))


def repeated_in_short(x: Tensor) -> Tensor:
    return repeated(x.to(torch.int16))


def repeated_by_difference(x: Tensor) -> Tensor:
    return (x[:, 1:] - x[:, :-1] == 0).sum(1)


def first_like_last(x: Tensor) -> Tensor:
    return x[:, 0] == x[:, -1]


def first_like_last_bucket(x: Tensor) -> Tensor:
    """Compare the places of a table of 10,007 rows in which the numbers are looked up."""
    return x[:, 0] % 10007 == x[:, -1] % 10007


def first_like_last_bits(x: Tensor) -> Tensor:
    return (x[:, 0] & 0xFFFF) == (x[:, -1] & 0xFFFF)


def first_like_last_in_double(x: Tensor) -> Tensor:
    return x[:, 0].double() == x[:, -1].double()


# -- floats that became equal ----------------------------------------------------------------------


def risen(x: Tensor) -> Tensor:
    return (x[:, 1:] > x[:, :-1]).sum(1)


def risen_in_single(x: Tensor) -> Tensor:
    return risen(x.float())


def risen_in_half(x: Tensor) -> Tensor:
    return risen(x.half())


def risen_mirrored(x: Tensor) -> Tensor:
    return (-x[:, 1:] < -x[:, :-1]).sum(1)


def above_a_half(x: Tensor) -> Tensor:
    return (x > 0.5).sum(1)


def above_a_half_in_single(x: Tensor) -> Tensor:
    return above_a_half(x.float())


def above_a_half_mirrored(x: Tensor) -> Tensor:
    return (-x < -0.5).sum(1)


def layer(x: Tensor) -> Tensor:
    weight = torch.linspace(-1.3, 1.7, 36, dtype=x.dtype).reshape(6, 6).sin()
    return torch.tanh(x @ weight)


def best_of_layer(x: Tensor) -> Tensor:
    return layer(x).argmax(1)


def best_of_layer_in_single(x: Tensor) -> Tensor:
    return layer(x).float().argmax(1)


def best_of_layer_negated(x: Tensor) -> Tensor:
    return (-layer(x)).argmin(1)


def layer_above(x: Tensor) -> Tensor:
    return (layer(x) > 0.2).sum(1)


def layer_above_in_single(x: Tensor) -> Tensor:
    return (layer(x).float() > 0.2).sum(1)


# -- boundaries ------------------------------------------------------------------------------------


def bucket(x: Tensor) -> Tensor:
    return torch.bucketize(x, torch.tensor([-1.5, -0.25, 0.7, 1.9]))


def bucket_from_the_right(x: Tensor) -> Tensor:
    return torch.bucketize(x, torch.tensor([-1.5, -0.25, 0.7, 1.9]), right=True)


def bucket_of_others(x: Tensor) -> Tensor:
    return torch.bucketize(x, torch.tensor([-1.5, -0.2505, 0.7, 1.9]))


def bucket_by_comparisons(x: Tensor) -> Tensor:
    return (x.unsqueeze(-1) > torch.tensor([-1.5, -0.25, 0.7, 1.9])).sum(-1)


def bucket_by_other_comparisons(x: Tensor) -> Tensor:
    return (x.unsqueeze(-1) >= torch.tensor([-1.5, -0.25, 0.7, 1.9])).sum(-1)


def bucket_of_many(x: Tensor) -> Tensor:
    return torch.bucketize(x, torch.linspace(-2.77, 2.81, 40))


def bucket_of_many_from_the_right(x: Tensor) -> Tensor:
    return torch.bucketize(x, torch.linspace(-2.77, 2.81, 40), right=True)


def place_in_order(x: Tensor) -> Tensor:
    return torch.searchsorted(torch.tensor([100, 7777, 500000]), x)


def place_in_order_from_the_right(x: Tensor) -> Tensor:
    return torch.searchsorted(torch.tensor([100, 7777, 500000]), x, right=True)


def place_in_order_by_counting(x: Tensor) -> Tensor:
    return (x.unsqueeze(-1) > torch.tensor([100, 7777, 500000])).sum(-1)


# -- several conditions ----------------------------------------------------------------------------


def fourth(x: Tensor) -> Tensor:
    return x[:, 3] * 1


def fourth_if_three_hold(x: Tensor) -> Tensor:
    held = (x[:, 0] > 2.5) & (x[:, 1] < -2.5) & (x[:, 2] > 2.0)
    return torch.where(held, x[:, 3] + 1, x[:, 3])


def fourth_of_integers_if_two_hold(x: Tensor) -> Tensor:
    return torch.where((x[:, 0] == 777) & (x[:, 1] > 990000), x[:, 3] + 1, x[:, 3])


def middle(x: Tensor) -> Tensor:
    return x.mean(1)


def middle_outside_a_band(x: Tensor) -> Tensor:
    y = x.mean(1)
    return torch.where((y > 1.2345) & (y < 1.235), -y, y)


def middle_with_a_bump(x: Tensor) -> Tensor:
    y = x.mean(1)
    return y + torch.exp(-(((y - 1.37) / 1e-4) ** 2))


def fourth_with_a_bump(x: Tensor) -> Tensor:
    far = ((x[:, 0] - 1.7) / 1e-3) ** 2 + ((x[:, 1] + 0.6) / 1e-3) ** 2
    return x[:, 3] + torch.exp(-far)


def both_high(x: Tensor) -> Tensor:
    return torch.where((x[:, 0] > 1.5) & (x[:, 1] > 1.5), x[:, 3] + 1, x[:, 3])


def both_high_by_negation(x: Tensor) -> Tensor:
    return torch.where((x[:, 0] <= 1.5) | (x[:, 1] <= 1.5), x[:, 3], x[:, 3] + 1)


def bump(x: Tensor) -> Tensor:
    return x + torch.exp(-(((x - 0.7) / 1e-2) ** 2))


def bump_by_a_product(x: Tensor) -> Tensor:
    far = (x - 0.7) * 100
    return x + 1 / torch.exp(far * far)


# -- the table -------------------------------------------------------------------------------------


# -- one number behind operators of integers -------------------------------------------------------


def marked(found: Tensor, x: Tensor) -> Tensor:
    return torch.where(found, -1, x)


def one_block(x: Tensor) -> Tensor:
    return marked(x >> 2 == 123_377, x)


def next_block(x: Tensor) -> Tensor:
    return marked(x >> 2 == 123_378, x)


def one_block_by_its_ends(x: Tensor) -> Tensor:
    return marked((x >= 493_508) & (x < 493_512), x)


def one_scrambled(x: Tensor) -> Tensor:
    return marked((x ^ 0x5A5A5) % 100_003 == 321, x)


def other_scrambled(x: Tensor) -> Tensor:
    return marked((x ^ 0x5A5A4) % 100_003 == 321, x)


def one_scrambled_by_products(x: Tensor) -> Tensor:
    scrambled = x ^ 0x5A5A5
    return marked(scrambled - scrambled // 100_003 * 100_003 == 321, x)


def one_total(x: Tensor) -> Tensor:
    return marked(x.sum(1, keepdim=True) == 4_123_456, x)


def no_total(x: Tensor) -> Tensor:
    return marked(x.sum(1, keepdim=True) == 40_123_456, x)


def one_total_by_the_mean(x: Tensor) -> Tensor:
    return marked(x.double().mean(1, keepdim=True) * 6 - 4_123_456 == 0, x)


# -- several conditions on one number --------------------------------------------------------------


def same(x: Tensor) -> Tensor:
    return x * 1


def two_digits(x: Tensor) -> Tensor:
    return marked((x % 1000 == 34) & (x // 1000 == 712), x)


def two_digits_as_one(x: Tensor) -> Tensor:
    return marked(x == 712_034, x)


def three_digits(x: Tensor) -> Tensor:
    wrong = (x % 100 != 7) | (x // 100 % 100 != 23)
    return torch.where(wrong | (x < 990_000), x * 1, -1)


def two_remainders(x: Tensor) -> Tensor:
    return marked((x % 97 == 5) & (x % 89 == 7) & (x > 900_000), x)


def two_remainders_by_products(x: Tensor) -> Tensor:
    first = x - x // 97 * 97 - 5
    second = x - x // 89 * 89 - 7
    return marked((first * first + second * second == 0) & (x > 900_000), x)


def quotients_like_remainders(x: Tensor) -> Tensor:
    return marked((x % 1009 == x // 1009) & (x > 990_000), x)


# -- one of many boundaries ------------------------------------------------------------------------


def bucket_of_many_others(x: Tensor) -> Tensor:
    place = torch.arange(40)
    moved = torch.where(place == 23, 2e-4, 0.0)
    return torch.bucketize(x, torch.linspace(-2.77, 2.81, 40) + moved)


def bucket_of_many_by_comparisons(x: Tensor) -> Tensor:
    return (x.unsqueeze(-1) > torch.linspace(-2.77, 2.81, 40)).sum(-1)


def count_of_many(x: Tensor) -> Tensor:
    return (x.unsqueeze(-1) >= torch.arange(90) * 9973).sum(-1)


def count_of_many_others(x: Tensor) -> Tensor:
    place = torch.arange(90)
    return (x.unsqueeze(-1) >= place * 9973 + (place == 41).long()).sum(-1)


def count_of_many_by_quotients(x: Tensor) -> Tensor:
    return (x // 9973 + 1).clamp(max=90)


# -- rows that are masks ---------------------------------------------------------------------------


def total(x: Tensor) -> Tensor:
    return x.sum(1)


def total_unless_one_hot(x: Tensor) -> Tensor:
    hot = ((x == 1).sum(1) == 1) & ((x == 0).sum(1) == 19)
    return torch.where(hot, x.sum(1) * 2, x.sum(1))


def total_unless_empty(x: Tensor) -> Tensor:
    empty = (x == 0).all(1)
    return torch.where(empty & ~empty.all(), x.sum(1) - 1, x.sum(1))


def total_or_zero(x: Tensor) -> Tensor:
    empty = (x == 0).all(1)
    return torch.where(empty, x[:, 0] * 0, x.sum(1))


# -- numbers behind layers -------------------------------------------------------------------------


def chosen(x: Tensor) -> Tensor:
    """Choose one of eleven places for each of 1000 ids, by a table and a layer."""
    table = (torch.arange(6000).reshape(1000, 6) * 1.7).sin()
    weight = (torch.arange(66).reshape(6, 11) * 0.9).cos()
    return (F.embedding(x, table) @ weight).argmax(-1)


def chosen_but_one(x: Tensor) -> Tensor:
    y = chosen(x)
    return marked((y == 7) & (x > 960), y)


def chosen_or_the_same(x: Tensor) -> Tensor:
    y = chosen(x)
    return torch.where((y == 7) & (x > 960), y + 0, y)


IDS = call(whole(0, 2**40, 4, 6))
FEWER_IDS = call(whole(0, 10**6, 4, 6))
DOUBLES = call(normal(4, 6, dtype=torch.float64))
SINGLES = call(normal(4, 6))

MERGED = (
    wrong("largest integer in single", place_of_largest, place_of_largest_in_single, IDS, ci=""),
    wrong(
        "smallest integer in double",
        place_of_smallest,
        place_of_smallest_in_double,
        call(whole(0, 2**60, 4, 6)),
        ci="",
    ),
    right(place_of_largest, place_of_largest_negated, IDS, ci=""),
    wrong("equal integers in single", repeated, repeated_in_single, IDS, ci=""),
    wrong("equal integers in 32 bits", repeated, repeated_in_int, IDS, ci=""),
    wrong("equal integers in 16 bits", repeated, repeated_in_short, FEWER_IDS, ci=""),
    right(repeated, repeated_by_difference, IDS, ci=""),
    wrong(
        "equal integers by remainders", first_like_last, first_like_last_bucket, FEWER_IDS, ci=""
    ),
    wrong("equal integers by their bits", first_like_last, first_like_last_bits, FEWER_IDS, ci=""),
    right(first_like_last, first_like_last_in_double, FEWER_IDS, ci=""),
    wrong("floats compared in single", risen, risen_in_single, DOUBLES, ci=""),
    wrong("floats compared in half", risen, risen_in_half, SINGLES, ci=""),
    right(risen, risen_mirrored, DOUBLES, ci=""),
    wrong("threshold in single", above_a_half, above_a_half_in_single, DOUBLES, ci=""),
    right(above_a_half, above_a_half_mirrored, DOUBLES, ci=""),
    wrong("largest of a layer in single", best_of_layer, best_of_layer_in_single, DOUBLES, ci=""),
    wrong("layer's threshold in single", layer_above, layer_above_in_single, DOUBLES, ci=""),
    right(best_of_layer, best_of_layer_negated, DOUBLES, ci=""),
)

BOUNDED = (
    wrong("boundaries from the right", bucket, bucket_from_the_right, SINGLES, ci=""),
    wrong("another boundary", bucket, bucket_of_others, SINGLES, ci=""),
    wrong("boundaries by comparisons", bucket, bucket_by_other_comparisons, SINGLES, ci=""),
    right(bucket, bucket_by_comparisons, SINGLES, ci=""),
    wrong("many boundaries", bucket_of_many, bucket_of_many_from_the_right, SINGLES, ci=""),
    wrong(
        "order from the right",
        place_in_order,
        place_in_order_from_the_right,
        FEWER_IDS,
        truth(DIFFERS, onnx=REFUSED, onnx_legacy=REFUSED),
        refused={
            "onnx": untranslated("return self.translation(x)"),
            "onnx_legacy": untranslated(),
        },
        ci="",
    ),
    right(place_in_order, place_in_order_by_counting, FEWER_IDS, ci=""),
)

RANGE = {"x": (-4.0, 4.0)}

AT_ONCE = (
    wrong("three conditions", fourth, fourth_if_three_hold, SINGLES, values=RANGE, ci=""),
    wrong("two conditions on integers", fourth, fourth_of_integers_if_two_hold, FEWER_IDS, ci=""),
    wrong("a narrow band", middle, middle_outside_a_band, SINGLES, values=RANGE, ci=""),
    wrong("a narrow bump", middle, middle_with_a_bump, SINGLES, values=RANGE, ci=""),
    wrong("a narrow bump of two", fourth, fourth_with_a_bump, SINGLES, values=RANGE, ci=""),
    right(both_high, both_high_by_negation, SINGLES, ci=""),
    right(bump, bump_by_a_product, SINGLES, ci=""),
)

BEHIND_INTEGERS = (
    wrong("another shifted number", one_block, next_block, FEWER_IDS, ci=""),
    right(one_block, one_block_by_its_ends, FEWER_IDS, ci=""),
    wrong(
        "another remainder of bits",
        one_scrambled,
        other_scrambled,
        FEWER_IDS,
        truth(DIFFERS, onnx_legacy=REFUSED),
        refused={"onnx_legacy": untranslated()},
        ci="",
    ),
    right(
        one_scrambled,
        one_scrambled_by_products,
        FEWER_IDS,
        truth(onnx_legacy=REFUSED),
        refused={"onnx_legacy": untranslated()},
        ci="",
    ),
    wrong("another sum of integers", one_total, no_total, FEWER_IDS, ci=""),
    right(one_total, one_total_by_the_mean, FEWER_IDS, ci=""),
)

OF_ONE_NUMBER = (
    wrong("two digits of one number", same, two_digits, FEWER_IDS, ci=""),
    right(two_digits, two_digits_as_one, FEWER_IDS, ci=""),
    wrong("digits that are not others", same, three_digits, FEWER_IDS, ci=""),
    wrong("two remainders of one number", same, two_remainders, FEWER_IDS, ci=""),
    right(two_remainders, two_remainders_by_products, FEWER_IDS, ci=""),
    wrong("a quotient like its remainder", quotients_like_remainders, same, FEWER_IDS, ci=""),
)

OF_MANY = (
    wrong("one of many boundaries", bucket_of_many, bucket_of_many_others, SINGLES, ci=""),
    right(bucket_of_many, bucket_of_many_by_comparisons, SINGLES, ci=""),
    wrong("one of many integers", count_of_many, count_of_many_others, FEWER_IDS, ci=""),
    right(count_of_many, count_of_many_by_quotients, FEWER_IDS, ci=""),
)

MASKS = (
    wrong("a row with a single one", total, total_unless_one_hot, call(normal(4, 20)), ci=""),
    wrong("a row of zeros among others", total, total_unless_empty, call(normal(4, 20)), ci=""),
    right(total, total_or_zero, call(normal(4, 20)), ci=""),
)

CHOSEN_IDS = call(whole(0, 999, 2, 3))

BEHIND_LAYERS = (
    wrong("a place behind a layer", chosen, chosen_but_one, CHOSEN_IDS, ci=""),
    right(chosen, chosen_or_the_same, CHOSEN_IDS, ci=""),
)

CORNERS = (
    *MERGED,
    *BOUNDED,
    *AT_ONCE,
    *BEHIND_INTEGERS,
    *OF_ONE_NUMBER,
    *OF_MANY,
    *MASKS,
    *BEHIND_LAYERS,
)
