"""Other orders of equal elements, and what no order of equal elements gives.

``topk`` and ``sort`` may order equal elements in any way, so their artifacts may. But they follow
one order: the wrong translations here are wrong only among equal elements, and each of their
elements on its own could be eager's.
"""

from __future__ import annotations

from typing import Tuple  # noqa: UP035  # TorchScript's word

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.converters import right, wrong
from zoo.row import call, normal, whole

# -- orders ----------------------------------------------------------------------------------------


def two_largest(x: Tensor) -> Tensor:
    return x.topk(2, dim=1).indices


def two_from_the_end(x: Tensor) -> Tensor:
    """Return the places of the two largest, of equal ones in another order than ``topk``."""
    return x.shape[1] - 1 - x.flip(1).topk(2, dim=1).indices


def order(x: Tensor) -> Tensor:
    return torch.sort(x, dim=1).indices


def order_from_the_end(x: Tensor) -> Tensor:
    return x.shape[1] - 1 - torch.sort(x.flip(1), dim=1).indices


def second_largest(x: Tensor) -> Tensor:
    return x.topk(2, dim=1).values[:, 1:]


def is_at(x: Tensor, places: Tensor) -> Tensor:
    """Return which elements are at some places."""
    ones = torch.ones_like(places, dtype=x.dtype)
    return torch.zeros_like(x).scatter(1, places, ones) > 0


# -- the chosen ones -------------------------------------------------------------------------------


def only_two(x: Tensor) -> Tensor:
    places = two_largest(x)
    return torch.zeros_like(x).scatter(1, places, x.gather(1, places))


def only_two_from_the_end(x: Tensor) -> Tensor:
    places = two_from_the_end(x)
    return torch.zeros_like(x).scatter(1, places, x.gather(1, places))


def all_above_the_second(x: Tensor) -> Tensor:
    return torch.where(x >= second_largest(x), x, torch.zeros_like(x))


def filtered(x: Tensor) -> Tensor:
    return x.masked_fill(~is_at(x, two_largest(x)), float("-inf"))


def filtered_from_the_end(x: Tensor) -> Tensor:
    return x.masked_fill(~is_at(x, two_from_the_end(x)), float("-inf"))


def filtered_below_the_second(x: Tensor) -> Tensor:
    return x.masked_fill(x < second_largest(x), float("-inf"))


def mask_of_two(x: Tensor) -> Tensor:
    return is_at(x, two_largest(x))


def mask_of_two_from_the_end(x: Tensor) -> Tensor:
    return is_at(x, two_from_the_end(x))


def mask_above_the_second(x: Tensor) -> Tensor:
    return x >= second_largest(x)


def one_hot(x: Tensor) -> Tensor:
    return is_at(x, x.topk(1, dim=1).indices).long()


def one_hot_from_the_end(x: Tensor) -> Tensor:
    return is_at(x, two_from_the_end(x)[:, :1]).long()


def ones_at_each_maximum(x: Tensor) -> Tensor:
    return (x == x.amax(1, keepdim=True)).long()


# -- places ----------------------------------------------------------------------------------------


def ranks(x: Tensor) -> Tensor:
    return order(order(x))


def ranks_from_the_end(x: Tensor) -> Tensor:
    return order(order_from_the_end(x))


def ranks_by_counting(x: Tensor) -> Tensor:
    return (x.unsqueeze(2) > x.unsqueeze(1)).sum(2)


def dense_ranks(x: Tensor) -> Tensor:
    equal = x.unsqueeze(2) == x.unsqueeze(1)
    first = equal.long().argmax(2) == torch.arange(x.shape[1])
    return ((x.unsqueeze(2) > x.unsqueeze(1)) & first.unsqueeze(1)).sum(2)


def three_with_places(x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    found = x.topk(3, dim=1)
    return found.values, found.indices


def three_with_places_from_the_end(x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    places = x.shape[1] - 1 - x.flip(1).topk(3, dim=1).indices
    return x.gather(1, places), places


def three_with_first_places(x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    """Look each value up: equal ones are all found at one place."""
    values = x.topk(3, dim=1).values
    return values, (values.unsqueeze(2) == x.unsqueeze(1)).long().argmax(2)


def place_of_third(x: Tensor) -> Tensor:
    return order(x)[:, 2]


def place_of_third_from_the_end(x: Tensor) -> Tensor:
    return order_from_the_end(x)[:, 2]


def middle_of_those_equal_to_the_third(x: Tensor) -> Tensor:
    """Return a place between equal elements, where there may be another."""
    equal = (x == torch.sort(x, dim=1).values[:, 2:3]).long()
    last = x.shape[1] - 1 - equal.flip(1).argmax(1)
    return (equal.argmax(1) + last) // 2


# -- several outputs -------------------------------------------------------------------------------


def two_masks(x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    places = order(x)
    return is_at(x, places[:, :3]), is_at(x, places[:, 3:])


def two_masks_from_the_end(x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    places = order_from_the_end(x)
    return is_at(x, places[:, :3]), is_at(x, places[:, 3:])


def two_masks_that_overlap(x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    return is_at(x, order(x)[:, :3]), is_at(x, order_from_the_end(x)[:, 3:])


def parts(x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    places = order(x)
    return places[:, :3], places[:, 3:]


def parts_from_the_end(x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    places = order_from_the_end(x)
    return places[:, :3], places[:, 3:]


def parts_that_overlap(x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    return order(x)[:, :3], order_from_the_end(x)[:, 3:]


def boxes_with_labels(x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    boxes = torch.arange(6.0).expand_as(x)
    places = order(x)
    return boxes.gather(1, places), (boxes * 10).gather(1, places)


def boxes_with_labels_from_the_end(x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    boxes = torch.arange(6.0).expand_as(x)
    places = order_from_the_end(x)
    return boxes.gather(1, places), (boxes * 10).gather(1, places)


def boxes_with_labels_of_others(x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    boxes = torch.arange(6.0).expand_as(x)
    return boxes.gather(1, order(x)), (boxes * 10).gather(1, order_from_the_end(x))


# -- pairs, of which others are kept in another order ----------------------------------------------


def box_at(places: Tensor) -> Tensor:
    """Return a box of four corners for each of six places."""
    return (torch.arange(24.0).reshape(6, 4) ** 1.5)[places]


def label_at(places: Tensor) -> Tensor:
    """Return the label of each box."""
    return ((torch.arange(6) * 5) % 7)[places]


def three(x: Tensor) -> Tensor:
    return x.topk(3, dim=1).indices


def three_from_the_end(x: Tensor) -> Tensor:
    return x.shape[1] - 1 - x.flip(1).topk(3, dim=1).indices


def kept_boxes(x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    places = three(x)
    return box_at(places), label_at(places)


def kept_boxes_from_the_end(x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    places = three_from_the_end(x)
    return box_at(places), label_at(places)


def kept_boxes_with_labels_of_others(x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    return box_at(three(x)), label_at(three_from_the_end(x))


def corners(x: Tensor) -> Tensor:
    return box_at(three(x))


def corners_from_the_end(x: Tensor) -> Tensor:
    return box_at(three_from_the_end(x))


def corners_of_two_boxes(x: Tensor) -> Tensor:
    return torch.cat([box_at(three(x))[..., :2], box_at(three_from_the_end(x))[..., 2:]], -1)


def rows_and_columns(x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    places = three(x)
    return places // 2, places % 2


def rows_and_columns_from_the_end(x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    places = three_from_the_end(x)
    return places // 2, places % 2


def rows_and_columns_of_others(x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    return three(x) // 2, three_from_the_end(x) % 2


def two_choices(x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    return three(x), three(2 - x)


def one_of_two_choices_from_the_end(x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    return three(x), three_from_the_end(2 - x)


# -- values next to each other ---------------------------------------------------------------------


def heat(x: Tensor) -> Tensor:
    """Return scores of which many are one, or next to it."""
    return torch.sigmoid(x * 20.0)[:, None]


def peaks(x: Tensor) -> Tensor:
    return F.max_pool1d(heat(x), 2, return_indices=True)[1]


def last_peaks(x: Tensor) -> Tensor:
    places = F.max_pool1d(heat(x).flip(-1), 2, return_indices=True)[1]
    return x.shape[1] - 1 - places.flip(-1)


def in_bfloat16(x: Tensor) -> Tensor:
    return F.gelu(x).to(torch.bfloat16).float()


def in_half_before(x: Tensor) -> Tensor:
    return F.gelu(x).to(torch.float16).to(torch.bfloat16).float()


# -- the table -------------------------------------------------------------------------------------

FEW = call(whole(0, 3, 4, 6).float())
WIDE = call(normal(8, 64))
INTEGERS = call(whole(0, 3, 4, 6))

TIES = (
    wrong("top-k by a threshold", only_two, all_above_the_second, FEW),
    right(only_two, only_two_from_the_end, FEW, ci=""),
    wrong("filter by a threshold", filtered, filtered_below_the_second, FEW, ci=""),
    right(filtered, filtered_from_the_end, FEW, ci=""),
    wrong("mask by a threshold", mask_of_two, mask_above_the_second, FEW, ci=""),
    right(mask_of_two, mask_of_two_from_the_end, FEW, ci=""),
    wrong("one-hot with several ones", one_hot, ones_at_each_maximum, FEW, ci=""),
    right(one_hot, one_hot_from_the_end, FEW, ci=""),
    wrong("ranks by counting", ranks, ranks_by_counting, FEW, ci=""),
    wrong("ranks of integers by counting", ranks, ranks_by_counting, INTEGERS, ci=""),
    wrong("dense ranks", ranks, dense_ranks, FEW, ci=""),
    right(ranks, ranks_from_the_end, FEW, ci=""),
    wrong("the first place of each value", three_with_places, three_with_first_places, FEW, ci=""),
    right(three_with_places, three_with_places_from_the_end, FEW, ci=""),
    wrong(
        "a place between equals",
        place_of_third,
        middle_of_those_equal_to_the_third,
        FEW,
        ci="",
    ),
    right(place_of_third, place_of_third_from_the_end, FEW, ci=""),
    wrong("masks that overlap", two_masks, two_masks_that_overlap, FEW, ci=""),
    right(two_masks, two_masks_from_the_end, FEW, ci=""),
    wrong("parts that overlap", parts, parts_that_overlap, FEW, ci=""),
    right(parts, parts_from_the_end, FEW, ci=""),
    wrong("labels of other boxes", boxes_with_labels, boxes_with_labels_of_others, FEW, ci=""),
    right(boxes_with_labels, boxes_with_labels_from_the_end, FEW, ci=""),
    wrong(
        "labels of other boxes, of those kept",
        kept_boxes,
        kept_boxes_with_labels_of_others,
        FEW,
        ci="",
    ),
    right(kept_boxes, kept_boxes_from_the_end, FEW, ci=""),
    wrong("corners of two boxes", corners, corners_of_two_boxes, FEW, ci=""),
    right(corners, corners_from_the_end, FEW, ci=""),
    wrong("columns of other places", rows_and_columns, rows_and_columns_of_others, FEW, ci=""),
    right(rows_and_columns, rows_and_columns_from_the_end, FEW, ci=""),
    wrong("the last of equal peaks", peaks, last_peaks, WIDE, ci=""),
    right(peaks, peaks, WIDE, ci=""),
    wrong("a cast by way of another", in_bfloat16, in_half_before, WIDE, ci=""),
    right(in_bfloat16, in_bfloat16, WIDE, ci=""),
    # Each choice has an order of its own.
    right(two_choices, one_of_two_choices_from_the_end, FEW, ci=""),
)
