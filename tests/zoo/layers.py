"""Layers of torch.nn, and small networks of them, on images and features."""

from __future__ import annotations

import math
from typing import Any, Optional, Tuple  # noqa: UP035  # TorchScript's words

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from versions import GRU_RESET, GUARDS_REFUSED, NESTED_REFUSED, RNN_UNROLLED

from zoo.inputs import TupleIn
from zoo.row import (
    B_2_H_W,
    B_T_3,
    B_T_4,
    DIFFERS,
    FAST_PATH,
    FROZEN,
    MISTRANSLATED,
    NARROWED,
    RAISES,
    REFUSED,
    UNEXPLAINED,
    UNVERIFIED,
    Blame,
    call,
    coins,
    frozen_size,
    has,
    normal,
    row,
    section,
    truth,
    undecided,
    whole,
)

LOWEST = torch.finfo(torch.float32).min
# Whole parts of an image are masked.
HALF_KEPT = torch.arange(6).reshape(1, 1, 1, 6).expand(2, 1, 6, 6) < 2
MASKED_IMAGE = call(normal(2, 1, 6, 6), HALF_KEPT)
MASKED_ROWS = call(normal(2, 3, 8), torch.arange(8) < torch.tensor([[8], [3]]))
ON_ONNX = truth(onnx=DIFFERS, onnx_legacy=DIFFERS)
LOWEST_LEFT = dict.fromkeys(("onnx", "onnx_legacy"), "max pooling of minus infinity")

section("layers")


@row(
    "conv net",
    normal(2, 2, 6, 8),
    shapes=B_2_H_W,
    dims={"height": range(4, 13, 2), "width": range(4, 13, 2)},
    ci="trace",
)
@has(
    body=lambda: nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)
    ),
    head=lambda: nn.Linear(4, 3),
)
def forward(self, x: Tensor) -> Tensor:
    return self.head(self.body(x).mean((2, 3)))


@row(
    "fixed pool",
    normal(2, 2, 4, 4),
    truth(DIFFERS, script=None, export=REFUSED, onnx=NARROWED),
    shapes=B_2_H_W,
    dims={"height": (4, 8), "width": (4, 8)},
    blame=frozen_size(),
    ci="trace script export onnx onnx_legacy",
)
def forward(self, x: Tensor) -> Tensor:
    """The pooling window is the size of the example: a common mistake in hand-made backbones."""
    return F.avg_pool2d(x, kernel_size=[int(x.shape[2]), int(x.shape[3])]).flatten(1)


@row("adaptive pool", normal(2, 2, 4, 4), shapes=B_2_H_W, round_trip=True, ci="onnx")
def forward(self, x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x, 1).flatten(1)


class PoolOfMasked(nn.Module):
    """The largest of the image around each place, without the places that are masked."""

    def __init__(self, fill: float) -> None:
        super().__init__()
        self.fill = fill

    def forward(self, image: Tensor, keep: Tensor) -> Tensor:
        return F.max_pool2d(image.masked_fill(~keep, self.fill), 3, 1, 1)


# ONNX Runtime's MaxPool begins with the lowest finite number, which is left where all is -inf.
row("pool of masked", MASKED_IMAGE, ON_ONNX, known=LOWEST_LEFT, ci="onnx")(
    lambda: PoolOfMasked(-math.inf)
)
row("pool of masked by the lowest", MASKED_IMAGE, ci="onnx")(lambda: PoolOfMasked(LOWEST))


class PoolOfMaskedRow(PoolOfMasked):
    def forward(self, image: Tensor, keep: Tensor) -> Tensor:
        return F.max_pool1d(image.masked_fill(~keep[:, None], self.fill), 2)


row("pool of masked, in a row", MASKED_ROWS, ON_ONNX, known=LOWEST_LEFT)(
    lambda: PoolOfMaskedRow(-math.inf)
)
row("pool of masked by the lowest, in a row", MASKED_ROWS)(lambda: PoolOfMaskedRow(LOWEST))


@row("softmax of masked by the lowest", call(normal(3, 4), coins(3, 4)))
@has(lowest=lambda: torch.finfo(torch.float32).min)
def forward(self, scores: Tensor, keep: Tensor) -> Tensor:
    """Scores of keys; a row without a key has equal ones."""
    return torch.softmax(scores + (1.0 - keep.to(scores.dtype)) * self.lowest, -1)


@row("upsample twice", normal(2, 2, 3, 4), shapes=B_2_H_W, round_trip=True, ci="trace")
def forward(self, x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


@row(
    "upsample to size",
    call(normal(2, 2, 3, 4), normal(2, 1, 6, 7)),
    shapes={"x": "batch 2 3 4", "like": "batch 1 height width"},
)
def forward(self, x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(
        x, size=[like.shape[2], like.shape[3]], mode="bilinear", align_corners=False
    )


@row("norms", normal(4, 6), ci="trace")
@has(layer=lambda: nn.LayerNorm(6), group=lambda: nn.GroupNorm(2, 6))
def forward(self, x: Tensor) -> Tensor:
    return self.group(self.layer(x))


@row("ranks", normal(4, 6), ci="export")
def forward(self, x: Tensor) -> Tuple[Tensor, Tensor, Tensor]:  # noqa: UP006
    return x.topk(2, dim=1).values, x.sort(dim=1).values, x.argmax(1)


@row("einsum", normal(2, 5, 3), shapes=B_T_3, ci="trace")
@has(weight=lambda: nn.Parameter(torch.randn(3, 4, 2)))
def forward(self, x: Tensor) -> Tensor:
    return torch.einsum("bti,ijo->btjo", x, self.weight)


@row("gather and scatter", call(normal(3, 4), whole(0, 3, 3, 4)), ci="onnx_legacy")
def forward(self, x: Tensor, index: Tensor) -> Tensor:
    return torch.zeros_like(x).scatter_add(1, index, x.gather(1, index))


@row("lower triangle", normal(2, 5, 3), shapes=B_T_3, ci="trace")
def forward(self, x: Tensor) -> Tensor:
    scores = x @ x.transpose(1, 2)
    return scores.tril().cumsum(-1)


@row(
    "pairwise distance",
    call(normal(3, 4), normal(5, 4, seed=1)),
    shapes={"x": "rows 4", "y": "columns 4"},
    ci="script",
)
def forward(self, x: Tensor, y: Tensor) -> Tensor:
    return (x.unsqueeze(1) - y.unsqueeze(0)).square().sum(-1)


@row(
    "mlp, listed batches",
    normal(2, 6),
    shapes={"input": "batch 6"},
    dims={"batch": [1, 2, 7]},
    round_trip=True,
    ci="onnx_legacy",
)
@row("mlp, from one row", normal(1, 6), ci="trace")
@row(
    "mlp, empty batch",
    normal(4, 6),
    shapes={"input": "batch 6"},
    dims={"batch": (0, 5)},
    round_trip=True,
    ci="export",
)
@row(normal(4, 6), ci="trace")
def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 2))


row(
    "conv transpose",
    normal(2, 2, 3, 5),
    shapes={"input": "batch 2 height width"},
    round_trip=True,
    ci="script",
)(lambda: nn.ConvTranspose2d(2, 3, 2, stride=2))
row(
    "ceil pool",
    normal(2, 2, 5, 6),
    export=NARROWED,
    shapes={"input": "batch 2 height width"},
    ci="export",
)(lambda: nn.MaxPool2d(2, ceil_mode=True))
row(
    "ceil pool from three",
    normal(2, 2, 5, 6),
    shapes={"input": "batch 2 height width"},
    dims={"height": (3, 8), "width": (3, 8)},
    ci="onnx_legacy",
)(lambda: nn.MaxPool2d(2, ceil_mode=True))
# Saving a trace renames equal argument names: x, x, x.
row(
    "attention with a flag",
    call(normal(2, 5, 8), normal(2, 7, 8, seed=1), normal(2, 7, 8, seed=1), need_weights=True),
)(lambda: nn.MultiheadAttention(8, 2, batch_first=True))
row("symbolically traced", normal(4, 3), ci="export")(
    lambda: torch.fx.symbolic_trace(nn.Sequential(nn.Linear(3, 4), nn.ReLU()))
)
row(
    "tied batches",
    call((normal(3, 4), normal(3, 4, seed=1))),
    shapes={"pair[0]": "n 4", "pair[1]": "n 4"},
    dims={"n": (2, 6)},
    ci="trace",
)(TupleIn)


CAUSAL = torch.full((4, 4), -torch.inf).triu(1)
BY_INT = truth(RAISES, script=None, export=REFUSED, onnx=None)
LENGTH = "is a sequence of 5: the artifact is not right at 6"
# Exporters freeze what is not declared.
FREEZE_LENGTH = dict.fromkeys(("export", "onnx", "onnx_legacy"), LENGTH)
UNROLLED = {RNN_UNROLLED: {"onnx": NARROWED}, GUARDS_REFUSED: {"onnx": REFUSED}}

section("sequences")


@row(
    "lstm over time",
    normal(3, 5, 3),
    export=frozen_size(""),
    shapes=B_T_3,
    round_trip=True,
    elsewhere=UNROLLED,
    ci="onnx",
)
@row("lstm", normal(3, 5, 3), round_trip=True, ci="trace")
class LastState(nn.Module):
    def __init__(self, kind: type[nn.Module] = nn.LSTM, **options: Any) -> None:
        super().__init__()
        self.rnn = kind(3, 4, batch_first=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.rnn(x)
        return out[:, -1]


row("gru, two ways", normal(3, 5, 3), elsewhere={GRU_RESET: {"onnx": DIFFERS}}, ci="trace")(
    lambda: LastState(nn.GRU, bidirectional=True)
)
row(
    "gru over time",
    normal(3, 5, 3),
    export=frozen_size(""),
    shapes=B_T_3,
    elsewhere=UNROLLED,
    ci="export",
)(lambda: LastState(nn.GRU))


@row("given state", call(normal(3, 5, 3), normal(3, 4)))
@has(rnn=lambda: nn.GRU(3, 4, batch_first=True))
def forward(self, x: Tensor, h: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    return self.rnn(x, h.unsqueeze(0))


@row(
    "attention over time",
    normal(2, 5, 4),
    onnx_legacy=RAISES,
    shapes=B_T_4,
    blame=MISTRANSLATED,
    ci="onnx_legacy",
)
@row("attention", normal(2, 5, 4), round_trip=True, ci="onnx_legacy")
@has(attention=lambda: nn.MultiheadAttention(4, 2, batch_first=True))
def forward(self, x: Tensor) -> Tensor:
    return self.attention(x, x, x, need_weights=False)[0]


@row("padded attention", call(normal(2, 5, 4), coins(2, 5)), round_trip=True, ci="script")
@has(attention=lambda: nn.MultiheadAttention(4, 2, batch_first=True))
def forward(self, x: Tensor, keep: Tensor) -> Tuple[Tensor, Optional[Tensor]]:  # noqa: UP006, UP045
    return self.attention(x, x, x, key_padding_mask=~keep)


class PaddedEncoder(nn.Module):
    """With nested tensors torch itself branches on the mask: if the kept tokens come first, the
    fast path writes zeros at the others.
    """

    def __init__(self, *, nested: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=nested)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        return self.encoder(x, src_key_padding_mask=~keep)


row("padded encoder", call(normal(2, 5, 4), coins(2, 5)))(lambda: PaddedEncoder(nested=False))
# The branch is in torch's own code, so the verdict names the difference and not the branch.
row(
    "padded encoder, nested",
    call(normal(2, 5, 4), coins(2, 5)),
    truth(DIFFERS, script=None),
    under=torch.no_grad,
    elsewhere={NESTED_REFUSED: {"export": REFUSED, "onnx": REFUSED}},
    blame=FAST_PATH,
    ci="trace onnx_legacy",
)(lambda: PaddedEncoder(nested=True))
# With gradients no encoder takes the fast path, but for a script, which is run without.
row(
    "padded encoder, with gradients",
    call(normal(2, 5, 4), coins(2, 5)),
    script=DIFFERS,
    otherwise="return self.encoder(x",
    blame=Blame(owner="", cause="mode-dependent operator", line="self.encoder(x"),
    ci="trace script export",
)(lambda: PaddedEncoder(nested=True))


@row(
    "causal mask of a decoder",
    call(normal(2, 4, 4), normal(2, 2, 4), CAUSAL),
    export=REFUSED,
    onnx=REFUSED,
    refused={"export onnx": undecided()},
)
# torch.nn's own branch on the values of a mask: torch.export refuses it, a trace freezes it.
@row(
    "mask of a decoder",
    call(normal(2, 4, 4), normal(2, 2, 4), CAUSAL),
    trace=FROZEN,
    export=REFUSED,
    onnx=REFUSED,
    onnx_legacy=FROZEN,
    values={"mask": [-torch.inf, 0.0]},
    shapes={"x": "batch 4 4", "memory": "batch 2 4", "mask": "4 4"},
    line="make_causal = bool(",
    refused={"export onnx": undecided()},
)
class MaskedDecoder(nn.Module):
    """torch.nn asks whether the mask is the causal one, and then leaves it to a kernel."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerDecoderLayer(4, 2, 6, dropout=0.0, batch_first=True)
        self.decoder = nn.TransformerDecoder(layer, 1)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        return self.decoder(x, memory, tgt_mask=mask)


# The other outcome of the same branch is right for all words, only slower.
@row(
    "rare words",
    normal(1, 4),
    script=UNEXPLAINED,
    export=REFUSED,
    onnx=REFUSED,
    refused={"export onnx": undecided()},
)
@row(
    "frequent words alone",
    normal(1, 4, seed=2),
    truth(FROZEN, export=REFUSED, onnx=REFUSED),
    script=UNEXPLAINED,
    line="all_in_shortlist = not (",
    refused={"export onnx": undecided()},
    ci="trace script onnx_legacy",
)
@has(words=lambda: nn.AdaptiveLogSoftmaxWithLoss(4, 10, [4, 7], div_value=1.0))
def forward(self, x: Tensor) -> Tensor:
    """The most probable word; torch.nn asks whether all rows' words are frequent ones."""
    return self.words.predict(x)


# there attention without the fast path gives 0
@row(
    "fused attention, all masked",
    call(normal(2, 5, 4), coins(2, 5)),
    export=DIFFERS,
    values={"keep": [True, False]},
    under=torch.no_grad,
    blame=FAST_PATH,
    ci="export",
)
@row("fused attention", call(normal(2, 5, 4), coins(2, 5)))
@has(attention=lambda: nn.MultiheadAttention(4, 2, batch_first=True))
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    """In eval mode torch runs a fused kernel, which gives nan for a row without a key."""
    return self.attention(x, x, x, key_padding_mask=~keep, need_weights=False)[0]


@row("frames of sound", normal(2, 9), shapes={"x": "batch samples"}, dims={"samples": (6, 20)})
@has(conv=lambda: nn.Conv1d(1, 3, 4, stride=2, padding=1))
def forward(self, x: Tensor) -> Tensor:
    return self.conv(x.unsqueeze(1)).relu().transpose(1, 2)


class ScaledAttention(nn.Module):
    def __init__(self, *, causal: bool) -> None:
        super().__init__()
        self.causal = causal

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)


row("causal attention", call(*(normal(2, 1, 5, 4, seed=i) for i in range(3))), ci="trace")(
    lambda: ScaledAttention(causal=True)
)
row(
    "cross attention over time",
    call(normal(2, 2, 3, 4), normal(2, 2, 5, 4), normal(2, 2, 5, 4, seed=1)),
    shapes={"q": "batch 2 queries 4", "k": "batch 2 keys 4", "v": "batch 2 keys 4"},
    ci="onnx_legacy",
)(lambda: ScaledAttention(causal=False))


# A row whose mask is all False: eager gives zero, the new exporter's graph gives the mean.
@row(
    "attention, all masked",
    call(normal(2, 2, 3, 4), coins(2, 3, 3)),
    onnx=DIFFERS,
    values={"mask": [True, False]},
    known={"onnx": "attention with a row that is False"},
    ci="onnx",
)
@row("masked attention", call(normal(2, 2, 5, 4), coins(2, 5, 5)), ci="trace")
def forward(self, q: Tensor, mask: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, q, q, attn_mask=mask.unsqueeze(1))


@row(
    "token classifier",
    call(whole(0, 5, 3, 4), coins(3, 4).long()),
    shapes={"ids": "batch time", "mask": "batch time"},
    dims={"time": (2, 16)},
    round_trip=True,
    ci="export",
)
@has(
    words=lambda: nn.Embedding(20, 4),
    places=lambda: nn.Embedding(16, 4),
    head=lambda: nn.Linear(4, 3),
)
def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
    h = self.words(ids) + self.places(torch.arange(ids.shape[1]))
    weight = mask.unsqueeze(-1).to(h.dtype)
    return self.head((h * weight).sum(1) / weight.sum(1))


@row(
    "positions too short",
    normal(2, 5, 4),
    truth("SpecError"),
    shapes=B_T_4,
    dims={"time": (1, 20)},
    ci="trace script export onnx onnx_legacy",
)
@row(normal(2, 5, 4), shapes=B_T_4, dims={"time": (1, 16)}, ci="onnx_legacy")
class SlicedPositions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.randn(16, 4))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table[: x.shape[1]]


@row(
    "lengths, mapped",
    call(normal(3, 5), torch.tensor([5, 3, 1])),
    shapes={"x": "batch time", "lengths": "batch"},
    values={"lengths": (1, 9)},
    map=lambda x, lengths: {"lengths": lengths.clamp(max=x.shape[1])},
    ci="script",
)
def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
    keep = torch.arange(x.shape[1]) < lengths.unsqueeze(1)
    return (x * keep).sum(1) / lengths


@row(
    "halves time from two",
    call(normal(2, 6), normal(2, 3)),
    shapes={"samples": "batch 2*time", "frames": "batch time"},
    dims={"time": (2, 6)},
    ci="export",
)
@row(
    "halves time",
    call(normal(2, 6), normal(2, 3)),
    export=NARROWED,
    shapes={"samples": "batch 2*time", "frames": "batch time"},
    ci="script export",
)
def forward(self, samples: Tensor, frames: Tensor) -> Tensor:
    """Twice as many samples as frames."""
    return samples.reshape(samples.shape[0], -1, 2).sum(-1) + frames


# -- inputs without a batch, and with the batch second ---------------------------------------------


def padded(x: Tensor) -> Tensor:
    """Return the rows with a column of zeros; a trace keeps their number."""
    return torch.cat([x, torch.zeros(int(x.shape[0]), 1)], dim=1)


@row("positions beside tokens", call(whole(0, 5, 3, 4), torch.arange(4)), ci="script")
class Positions(nn.Module):
    """The positions have no batch axis."""

    def __init__(self, *, by_int: bool = False) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, 4), nn.Embedding(16, 4)
        self.by_int = by_int

    def forward(self, ids: Tensor, places: Tensor) -> Tensor:
        h = (self.words(ids) + self.places(places)).sum(1)
        return padded(h) if self.by_int else h


row(
    "positions as many as rows",
    call(whole(0, 5, 4, 4), torch.arange(4)),
    BY_INT,
    blame=frozen_size("torch.zeros(int(x.shape[0]), 1)"),
    ci="trace",
)(lambda: Positions(by_int=True))


@row(call(normal(2, 4, 3), CAUSAL), ci="export")
class AddedMask(nn.Module):
    """The causal mask has no batch axis. A row without a key would be NaN."""

    def __init__(self, *, by_int: bool = False) -> None:
        super().__init__()
        self.by_int = by_int

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = ((x @ x.transpose(1, 2) + mask).softmax(-1) @ x).sum(1)
        return padded(h) if self.by_int else h


row(
    "added mask, as many rows",
    call(normal(4, 4, 3), CAUSAL),
    BY_INT,
    blame=frozen_size("torch.zeros(int(x.shape[0]), 1)"),
)(lambda: AddedMask(by_int=True))


@row(
    "a key in each row",
    call(normal(2, 4, 3), CAUSAL.roll(1, 0)),
    export=REFUSED,
    onnx=REFUSED,
    weak=UNVERIFIED,
    refused={"export onnx": undecided()},
    ci="trace onnx",
)
def forward(self, x: Tensor, mask: Tensor) -> Tensor:
    """Eager gives NaN for a row of the mask without a key, and forward then takes another way."""
    weights = (x @ x.transpose(1, 2) + mask).softmax(-1)
    if weights.isnan().any():
        return x * 0
    return weights @ x


class CarriedState(nn.Module):
    """The state has its batch second, also if the sequence comes first."""

    def __init__(self, *, batch_first: bool, by_int: bool = False) -> None:
        super().__init__()
        self.rnn = nn.GRU(3, 4, batch_first=batch_first)
        self.by_int = by_int

    def forward(self, x: Tensor, h: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
        out, h = self.rnn(x, h)
        return out, padded(h[0]) if self.by_int else h


row("carried state", call(normal(3, 5, 3), torch.zeros(1, 3, 4)))(
    lambda: CarriedState(batch_first=True)
)
row(
    "carried state by int",
    call(normal(3, 5, 3), torch.zeros(1, 3, 4)),
    BY_INT,
    blame=frozen_size("torch.zeros(int(x.shape[0]), 1)"),
    ci="trace",
)(lambda: CarriedState(batch_first=True, by_int=True))
row(
    "sequence first, carried state", call(normal(5, 3, 3), torch.zeros(1, 3, 4)), weak=FREEZE_LENGTH
)(lambda: CarriedState(batch_first=False))


@row(normal(5, 3, 3), weak=FREEZE_LENGTH, ci="export")
class SequenceFirst(nn.Module):
    def __init__(self, *, by_int: bool = False) -> None:
        super().__init__()
        self.rnn = nn.GRU(3, 4)
        self.by_int = by_int

    def forward(self, x: Tensor) -> Tensor:
        last = self.rnn(x)[0][-1]
        return padded(last) if self.by_int else last


row(
    "sequence first by int",
    normal(5, 3, 3),
    BY_INT,
    weak={"onnx": LENGTH},
    blame=frozen_size("torch.zeros(int(x.shape[0]), 1)"),
    ci="trace",
)(lambda: SequenceFirst(by_int=True))


@row("scan", call(normal(5, 3, 4), coins(5, 3)), weak=FREEZE_LENGTH | {"trace": LENGTH}, ci="trace")
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    """A step for each element of the sequence, which comes first, as in a CRF."""
    state = x[0]
    for i in range(1, x.shape[0]):
        step = torch.tanh(state * 0.5 + x[i])
        state = torch.where(keep[i].unsqueeze(1), step, state)
    return state


# The symbolic function of torch passes is_causal as a tensor.
row("encoder layer", normal(2, 5, 4), onnx_legacy=UNEXPLAINED, ci="onnx_legacy")(
    lambda: nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)
)
row("embedding bag", whole(0, 5, 3, 4), ci="trace")(lambda: nn.EmbeddingBag(20, 4, mode="mean"))
