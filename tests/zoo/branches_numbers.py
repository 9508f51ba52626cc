"""Branches without an ``if``: a comparison that is a number, ``max``, ``min``, and a key of a dict."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.branches import EQUAL, branch, filled
from zoo.row import (
    BRANCH,
    DIFFERS,
    NARROWED,
    REFUSED,
    baked,
    call,
    decided,
    frozen_size,
    normal,
    row,
    truth,
    undecided,
)


class NumberLookedUp(nn.Module):
    def forward(self, x: Tensor, k: Tensor) -> Tensor:
        return x * {3: 2.0, 999: 5.0}.get(int(k), 1.0)


class LookedUpInATable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bonus = {50256: 3.5, 17: 0.25}

    def forward(self, ids: Tensor) -> Tensor:
        last = int(ids[0, -1])
        return ids.float() + self.bonus.get(last, 0.0)


class ComparisonAsNumber(nn.Module):
    def forward(self, x: Tensor, k: Tensor) -> Tensor:
        return x * (1.0 + (k.item() == 999))


class CountAboveAsNumber(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        crowded = int((x > 2.5).sum()) > 3
        return x - 0.5 * crowded


class AtLeastOne(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / max(x.abs().max().item(), 1.0)


class NoMoreThan(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * min(float(x.abs().sum()), 40.0)


class SizeLookedUp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * {13: 2.0}.get(int(x.shape[1]), 1.0)


class SizeAsNumber(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + (x.shape[1] > 40))


class ClampedInstead(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / x.abs().max().clamp(min=1.0)


class NumbersOfItsOwn(nn.Module):
    """Its comparisons, ``max`` and keys are the same on every call."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.least = 3, 2
        self.gains = {2: 0.5, 3: 1.5}

    def forward(self, x: Tensor) -> Tensor:
        gain = self.gains.get(x.dim(), 1.0) * max(self.width, self.least)
        return x * (gain + (x.dim() == self.least))


class ComparesWithoutEffect(nn.Module):
    def forward(self, x: Tensor, k: Tensor) -> Tensor:
        found = k.item() == 999
        return x * max(2.0, 1.0 + found)


FAR = {"values": {"k": (0, 5000)}}
WIDE = {"shapes": {"x": "batch t"}, "dims": {"t": (2, 300)}}
SHORT = normal(2, 4)
FIVE, KEY = torch.tensor(5), torch.tensor(999)

NUMBER_BRANCHES = (
    branch(
        "number looked up",
        NumberLookedUp,
        call(SHORT, FIVE),
        call(SHORT, KEY),
        line="get(int(k)",
        **FAR,
    ),
    branch(
        "looked up in a table",
        LookedUpInATable,
        call(torch.tensor([[4, 5, 6]])),
        call(torch.tensor([[4, 5, 50256]])),
        line="self.bonus.get",
        refused={"export onnx": undecided("last = int(ids[0, -1])")},
        values={"ids": (0, 50256)},
        ci="",
    ),
    branch(
        "a comparison as a number",
        ComparisonAsNumber,
        call(SHORT, FIVE),
        call(SHORT, KEY),
        line="k.item() == 999",
        ci="",
        **FAR,
    ),
    branch(
        "a count above a number",
        CountAboveAsNumber,
        call(SHORT),
        call(filled(3.0, 2, 4)),
        line="> 3",
        ci="",
    ),
    row(
        "compares without effect",
        ComparesWithoutEffect,
        call(SHORT, FIVE),
        EQUAL,
        ci="",
        line="max(2.0, 1.0 + found)",
        **FAR,
    ),
)

SIZE_NUMBERS = (
    branch(
        "size looked up",
        SizeLookedUp,
        call(SHORT),
        call(normal(2, 13)),
        line="get(int(x.shape[1])",
        expect=truth(trace=BRANCH, export=REFUSED, onnx=NARROWED, onnx_legacy=BRANCH),
        refused=dict.fromkeys(("export", "onnx"), frozen_size("get(int(x.shape[1])")),
        ci="",
        **WIDE,
    ),
    # A trace computes the comparison of a size.
    row(
        "a size as a number",
        SizeAsNumber,
        call(SHORT),
        truth(export=NARROWED, onnx=NARROWED),
        blame=decided("return x * (1 + (x.shape[1] > 40))"),
        ci="",
        **WIDE,
    ),
)

BAKED_NUMBERS = (
    row(
        "at least one",
        AtLeastOne,
        call(0.1 * SHORT),
        truth(trace=DIFFERS, export=REFUSED, onnx_legacy=DIFFERS),
        witnesses=(call(30 * SHORT),),
        blame=baked("max("),
        refused={"export": undecided("max(")},
        ci="",
    ),
    row(
        "no more than",
        NoMoreThan,
        call(0.1 * SHORT),
        truth(trace=DIFFERS, export=REFUSED, onnx_legacy=DIFFERS),
        witnesses=(call(30 * SHORT),),
        blame=baked("min("),
        refused={"export": undecided("min(")},
        ci="",
    ),
    row("clamped instead", ClampedInstead, call(0.1 * SHORT), ci=""),
    row("numbers of its own", NumbersOfItsOwn, call(SHORT), ci=""),
)
