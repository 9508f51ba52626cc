"""Layers of torch.nn, and small networks of them, on images and features."""

from __future__ import annotations

import math
from typing import Tuple  # noqa: UP035  # TorchScript's words

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.inputs import TupleIn
from zoo.row import (
    B_2_H_W,
    B_T_3,
    DIFFERS,
    NARROWED,
    REFUSED,
    call,
    coins,
    frozen_size,
    normal,
    row,
    truth,
    whole,
)


class ConvNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


class FixedPool(nn.Module):
    """The pooling window is the size of the example: a common mistake in hand-made backbones."""

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, kernel_size=[int(x.shape[2]), int(x.shape[3])]).flatten(1)


class AdaptivePool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, 1).flatten(1)


class PoolOfMasked(nn.Module):
    """The largest of the image around each place, without the places that are masked."""

    def __init__(self, fill: float) -> None:
        super().__init__()
        self.fill = fill

    def forward(self, image: Tensor, keep: Tensor) -> Tensor:
        return F.max_pool2d(image.masked_fill(~keep, self.fill), 3, 1, 1)


class PoolOfMaskedRow(PoolOfMasked):
    def forward(self, image: Tensor, keep: Tensor) -> Tensor:
        return F.max_pool1d(image.masked_fill(~keep[:, None], self.fill), 2)


class SoftmaxOfMasked(nn.Module):
    """Scores of keys; a row without a key has equal ones."""

    def __init__(self) -> None:
        super().__init__()
        self.lowest = torch.finfo(torch.float32).min

    def forward(self, scores: Tensor, keep: Tensor) -> Tensor:
        return torch.softmax(scores + (1.0 - keep.to(scores.dtype)) * self.lowest, -1)


class UpsampleTwice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2.0, mode="nearest")


class UpsampleToSize(nn.Module):
    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(
            x, size=[like.shape[2], like.shape[3]], mode="bilinear", align_corners=False
        )


class Norms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.group = nn.LayerNorm(6), nn.GroupNorm(2, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.group(self.layer(x))


class Ranks(nn.Module):
    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor, Tensor]:  # noqa: UP006
        return x.topk(2, dim=1).values, x.sort(dim=1).values, x.argmax(1)


class Einsum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4, 2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bti,ijo->btjo", x, self.weight)


class GatherScatter(nn.Module):
    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        return torch.zeros_like(x).scatter_add(1, index, x.gather(1, index))


class LowerTriangle(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        scores = x @ x.transpose(1, 2)
        return scores.tril().cumsum(-1)


class PairwiseDistance(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (x.unsqueeze(1) - y.unsqueeze(0)).square().sum(-1)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 2))


LOWEST = torch.finfo(torch.float32).min
# Whole parts of an image are masked.
HALF_KEPT = torch.arange(6).reshape(1, 1, 1, 6).expand(2, 1, 6, 6) < 2
MASKED_IMAGE = call(normal(2, 1, 6, 6), HALF_KEPT)
MASKED_ROWS = call(normal(2, 3, 8), torch.arange(8) < torch.tensor([[8], [3]]))
ON_ONNX = truth(onnx=DIFFERS, onnx_legacy=DIFFERS)
LOWEST_LEFT = dict.fromkeys(("onnx", "onnx_legacy"), "max pooling of minus infinity")

LAYERS = (
    row("mlp", mlp, call(normal(4, 6))),
    row(
        "mlp, empty batch",
        mlp,
        call(normal(4, 6)),
        shapes={"input": "batch 6"},
        dims={"batch": (0, 5)},
        ci="export",
        round_trip=True,
    ),
    row("mlp, from one row", mlp, call(normal(1, 6))),
    row(
        "mlp, listed batches",
        mlp,
        call(normal(2, 6)),
        shapes={"input": "batch 6"},
        dims={"batch": [1, 2, 7]},
        ci="onnx_legacy",
        round_trip=True,
    ),
    row(
        "conv net",
        ConvNet,
        call(normal(2, 2, 6, 8)),
        shapes=B_2_H_W,
        dims={"height": range(4, 13, 2), "width": range(4, 13, 2)},
    ),
    row(
        "conv transpose",
        lambda: nn.ConvTranspose2d(2, 3, 2, stride=2),
        call(normal(2, 2, 3, 5)),
        shapes={"input": "batch 2 height width"},
        ci="script",
        round_trip=True,
    ),
    row(
        "fixed pool",
        FixedPool,
        call(normal(2, 2, 4, 4)),
        truth(DIFFERS, script=None, export=REFUSED, onnx=NARROWED),
        shapes=B_2_H_W,
        dims={"height": (4, 8), "width": (4, 8)},
        ci="trace script export onnx onnx_legacy",
        blame=frozen_size("int(x.shape[2]), int(x.shape[3])"),
    ),
    row(
        "adaptive pool",
        AdaptivePool,
        call(normal(2, 2, 4, 4)),
        shapes=B_2_H_W,
        ci="onnx",
        round_trip=True,
    ),
    row(
        "ceil pool",
        lambda: nn.MaxPool2d(2, ceil_mode=True),
        call(normal(2, 2, 5, 6)),
        truth(export=NARROWED),
        shapes={"input": "batch 2 height width"},
        ci="export",
    ),
    row(
        "ceil pool from three",
        lambda: nn.MaxPool2d(2, ceil_mode=True),
        call(normal(2, 2, 5, 6)),
        shapes={"input": "batch 2 height width"},
        dims={"height": (3, 8), "width": (3, 8)},
        ci="onnx_legacy",
    ),
    # ONNX Runtime's MaxPool begins with the lowest finite number, which is left where all is -inf.
    row(
        "pool of masked",
        lambda: PoolOfMasked(-math.inf),
        MASKED_IMAGE,
        ON_ONNX,
        ci="onnx",
        known=LOWEST_LEFT,
    ),
    row(
        "pool of masked, in a row",
        lambda: PoolOfMaskedRow(-math.inf),
        MASKED_ROWS,
        ON_ONNX,
        ci="",
        known=LOWEST_LEFT,
    ),
    row("pool of masked by the lowest", lambda: PoolOfMasked(LOWEST), MASKED_IMAGE, ci="onnx"),
    row(
        "pool of masked by the lowest, in a row",
        lambda: PoolOfMaskedRow(LOWEST),
        MASKED_ROWS,
        ci="",
    ),
    row(
        "softmax of masked by the lowest",
        SoftmaxOfMasked,
        call(normal(3, 4), coins(3, 4)),
        ci="",
    ),
    row("upsample twice", UpsampleTwice, call(normal(2, 2, 3, 4)), shapes=B_2_H_W, round_trip=True),
    row(
        "upsample to size",
        UpsampleToSize,
        call(normal(2, 2, 3, 4), normal(2, 1, 6, 7)),
        shapes={"x": "batch 2 3 4", "like": "batch 1 height width"},
        ci="",
    ),
    row("norms", Norms, call(normal(4, 6))),
    row("ranks", Ranks, call(normal(4, 6)), ci="export"),
    row("einsum", Einsum, call(normal(2, 5, 3)), shapes=B_T_3),
    row(
        "gather and scatter", GatherScatter, call(normal(3, 4), whole(0, 3, 3, 4)), ci="onnx_legacy"
    ),
    row("lower triangle", LowerTriangle, call(normal(2, 5, 3)), shapes=B_T_3),
    row(
        "pairwise distance",
        PairwiseDistance,
        call(normal(3, 4), normal(5, 4, seed=1)),
        shapes={"x": "rows 4", "y": "columns 4"},
        ci="script",
    ),
    # Saving a trace renames equal argument names: x, x, x.
    row(
        "attention with a flag",
        lambda: nn.MultiheadAttention(8, 2, batch_first=True),
        call(normal(2, 5, 8), normal(2, 7, 8, seed=1), normal(2, 7, 8, seed=1), need_weights=True),
        ci="",
    ),
    row(
        "symbolically traced",
        lambda: torch.fx.symbolic_trace(nn.Sequential(nn.Linear(3, 4), nn.ReLU())),
        call(normal(4, 3)),
        ci="export",
    ),
    row(
        "tied batches",
        TupleIn,
        call((normal(3, 4), normal(3, 4, seed=1))),
        shapes={"pair[0]": "n 4", "pair[1]": "n 4"},
        dims={"n": (2, 6)},
    ),
)
