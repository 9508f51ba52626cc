"""Other orders of equal elements, and what no order of equal elements gives.

``topk`` and ``sort`` may order equal elements in any way, so their artifacts may. But they follow
one order: the wrong translations here are wrong only among equal elements, and each of their
elements on its own could be eager's.
"""

from __future__ import annotations

from typing import Tuple  # noqa: UP035  # TorchScript's words

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.converters import right, wrong
from zoo.row import *

FEW = call(whole(0, 3, 4, 6).float())
WIDE = call(normal(8, 64))

section("converters", "ties")


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


@right(only_two, FEW)
def only_two_from_the_end(x: Tensor) -> Tensor:
    places = two_from_the_end(x)
    return torch.zeros_like(x).scatter(1, places, x.gather(1, places))


@wrong(only_two, "top-k by a threshold", FEW)
def all_above_the_second(x: Tensor) -> Tensor:
    return torch.where(x >= second_largest(x), x, torch.zeros_like(x))


# -- places ----------------------------------------------------------------------------------------


def ranks(x: Tensor) -> Tensor:
    return order(order(x))


@right(ranks, FEW)
def ranks_from_the_end(x: Tensor) -> Tensor:
    return order(order_from_the_end(x))


@wrong(ranks, FEW)
def dense_ranks(x: Tensor) -> Tensor:
    equal = x.unsqueeze(2) == x.unsqueeze(1)
    first = equal.long().argmax(2) == torch.arange(x.shape[1], device=x.device)
    return ((x.unsqueeze(2) > x.unsqueeze(1)) & first.unsqueeze(1)).sum(2)


def three_with_places(x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    found = x.topk(3, dim=1)
    return found.values, found.indices


@right(three_with_places, FEW)
def three_with_places_from_the_end(x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    places = x.shape[1] - 1 - x.flip(1).topk(3, dim=1).indices
    return x.gather(1, places), places


@wrong(three_with_places, "the first place of each value", FEW)
def three_with_first_places(x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    """Look each value up: equal ones are all found at one place."""
    values = x.topk(3, dim=1).values
    return values, (values.unsqueeze(2) == x.unsqueeze(1)).long().argmax(2)


# -- several outputs -------------------------------------------------------------------------------


def two_masks(x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    places = order(x)
    return is_at(x, places[:, :3]), is_at(x, places[:, 3:])


@right(two_masks, FEW)
def two_masks_from_the_end(x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    places = order_from_the_end(x)
    return is_at(x, places[:, :3]), is_at(x, places[:, 3:])


@wrong(two_masks, "masks that overlap", FEW)
def two_masks_that_overlap(x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    return is_at(x, order(x)[:, :3]), is_at(x, order_from_the_end(x)[:, 3:])


def parts(x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    places = order(x)
    return places[:, :3], places[:, 3:]


@right(parts, FEW)
def parts_from_the_end(x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    places = order_from_the_end(x)
    return places[:, :3], places[:, 3:]


@wrong(parts, FEW)
def parts_that_overlap(x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    return order(x)[:, :3], order_from_the_end(x)[:, 3:]


def boxes_with_labels(x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    boxes = torch.arange(6.0, device=x.device).expand_as(x)
    places = order(x)
    return boxes.gather(1, places), (boxes * 10).gather(1, places)


@right(boxes_with_labels, FEW)
def boxes_with_labels_from_the_end(x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    boxes = torch.arange(6.0, device=x.device).expand_as(x)
    places = order_from_the_end(x)
    return boxes.gather(1, places), (boxes * 10).gather(1, places)


@wrong(boxes_with_labels, "labels of other boxes", FEW)
def boxes_with_labels_of_others(x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    boxes = torch.arange(6.0, device=x.device).expand_as(x)
    return boxes.gather(1, order(x)), (boxes * 10).gather(1, order_from_the_end(x))


# -- pairs, of which others are kept in another order ----------------------------------------------


def box_at(places: Tensor) -> Tensor:
    """Return a box of four corners for each of six places."""
    return (torch.arange(24.0, device=places.device).reshape(6, 4) ** 1.5)[places]


def three(x: Tensor) -> Tensor:
    return x.topk(3, dim=1).indices


def three_from_the_end(x: Tensor) -> Tensor:
    return x.shape[1] - 1 - x.flip(1).topk(3, dim=1).indices


def corners(x: Tensor) -> Tensor:
    return box_at(three(x))


@right(corners, FEW)
def corners_from_the_end(x: Tensor) -> Tensor:
    return box_at(three_from_the_end(x))


@wrong(corners, FEW)
def corners_of_two_boxes(x: Tensor) -> Tensor:
    return torch.cat([box_at(three(x))[..., :2], box_at(three_from_the_end(x))[..., 2:]], -1)


def two_choices(x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    return three(x), three(2 - x)


# Each choice has an order of its own.
@right(two_choices, FEW)
def one_of_two_choices_from_the_end(x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    return three(x), three_from_the_end(2 - x)


# -- values next to each other ---------------------------------------------------------------------


def heat(x: Tensor) -> Tensor:
    """Return scores of which many are one, or next to it."""
    return torch.sigmoid(x * 20.0)[:, None]


def peaks(x: Tensor) -> Tensor:
    return F.max_pool1d(heat(x), 2, return_indices=True)[1]


right(peaks, WIDE)(peaks)


@wrong(peaks, "the last of equal peaks", WIDE)
def last_peaks(x: Tensor) -> Tensor:
    places = F.max_pool1d(heat(x).flip(-1), 2, return_indices=True)[1]
    return x.shape[1] - 1 - places.flip(-1)


def in_bfloat16(x: Tensor) -> Tensor:
    return F.gelu(x).to(torch.bfloat16).float()


right(in_bfloat16, WIDE)(in_bfloat16)
