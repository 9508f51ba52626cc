"""Layers of torch.nn, and small networks of them, on images and features."""

from __future__ import annotations

import math
from typing import Any, Optional, Tuple  # noqa: UP035  # TorchScript's words

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from versions import GRU_RESET, GUARDS_REFUSED, NESTED_REFUSED, RNN_UNROLLED

from zoo.inputs import TupleIn
from zoo.row import *

# Whole parts of an image are masked.
HALF_KEPT = torch.arange(6).reshape(1, 1, 1, 6).expand(2, 1, 6, 6) < 2
MASKED_IMAGE = call(normal(2, 1, 6, 6), HALF_KEPT)
LOWEST_LEFT = dict.fromkeys(("onnx", "onnx_legacy"), "max pooling of minus infinity")

section("layers")


@row(
    "conv net",
    normal(2, 2, 6, 8),
    x="batch 2 height width",
    dims={"height": range(4, 13, 2), "width": range(4, 13, 2)},
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
    x="batch 2 height width",
    dims={"height": (4, 8), "width": (4, 8)},
    blame=frozen_size(),
)
def forward(self, x: Tensor) -> Tensor:
    """The pooling window is the size of the example: a common mistake in hand-made backbones."""
    return F.avg_pool2d(x, kernel_size=[int(x.shape[2]), int(x.shape[3])]).flatten(1)


@row("adaptive pool", normal(2, 2, 4, 4), x="batch 2 height width")
def forward(self, x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x, 1).flatten(1)


# ONNX Runtime's MaxPool begins with the lowest finite number, which is left where all is -inf.
@row("pool of masked", MASKED_IMAGE, ON_BOTH, known=LOWEST_LEFT)
@row("pool of masked by the lowest", MASKED_IMAGE, has={"fill": torch.finfo(torch.float32).min})
@has(fill=-math.inf)
def forward(self, image: Tensor, keep: Tensor) -> Tensor:
    """The largest of the image around each place, without the places that are masked."""
    return F.max_pool2d(image.masked_fill(~keep, self.fill), 3, 1, 1)


@row("softmax of masked by the lowest", call(normal(3, 4), coins(3, 4)))
@has(lowest=lambda: torch.finfo(torch.float32).min)
def forward(self, scores: Tensor, keep: Tensor) -> Tensor:
    """Scores of keys; a row without a key has equal ones."""
    return torch.softmax(scores + (1.0 - keep.to(scores.dtype)) * self.lowest, -1)


@row(
    "upsample to size",
    call(normal(2, 2, 3, 4), normal(2, 1, 6, 7)),
    x="batch 2 3 4",
    like="batch 1 height width",
)
def forward(self, x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(
        x, size=[like.shape[2], like.shape[3]], mode="bilinear", align_corners=False
    )


@row("mlp, listed batches", normal(2, 6), shapes={"input": "batch 6"}, dims={"batch": [1, 2, 7]})
@row("mlp, empty batch", normal(4, 6), shapes={"input": "batch 6"}, dims={"batch": (0, 5)})
@row(normal(4, 6))
def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 2))


row("ceil pool", normal(2, 2, 5, 6), export=NARROWED, shapes={"input": "batch 2 height width"})(
    lambda: nn.MaxPool2d(2, ceil_mode=True)
)
row(
    "ceil pool from three",
    normal(2, 2, 5, 6),
    shapes={"input": "batch 2 height width"},
    dims={"height": (3, 8), "width": (3, 8)},
)(lambda: nn.MaxPool2d(2, ceil_mode=True))
# Saving a trace renames equal argument names: x, x, x.
row(
    "attention with a flag",
    call(normal(2, 5, 8), normal(2, 7, 8, seed=1), normal(2, 7, 8, seed=1), need_weights=True),
)(lambda: nn.MultiheadAttention(8, 2, batch_first=True))
row("symbolically traced", normal(4, 3))(
    lambda: torch.fx.symbolic_trace(nn.Sequential(nn.Linear(3, 4), nn.ReLU()))
)
row(
    "tied batches",
    call((normal(3, 4), normal(3, 4, seed=1))),
    shapes={"pair[0]": "n 4", "pair[1]": "n 4"},
    dims={"n": (2, 6)},
)(TupleIn)


PADDED = call(normal(2, 5, 4), coins(2, 5))
CAUSAL = torch.full((4, 4), -torch.inf).triu(1)
LENGTH = "is a sequence of 5: the artifact is not right at 6"
# Exporters freeze what is not declared.
FREEZE_LENGTH = dict.fromkeys(("export", "onnx", "onnx_legacy"), LENGTH)
UNROLLED = {RNN_UNROLLED: {"onnx": NARROWED}, GUARDS_REFUSED: {"onnx": REFUSED}}

section("sequences")


@row(
    "lstm over time",
    normal(3, 5, 3),
    export=guarded("out, _ = self.rnn(x)"),
    x="batch time 3",
    elsewhere=UNROLLED,
)
@row("lstm", normal(3, 5, 3))
class LastState(nn.Module):
    def __init__(self, kind: type[nn.Module] = nn.LSTM, **options: Any) -> None:
        super().__init__()
        self.rnn = kind(3, 4, batch_first=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.rnn(x)
        return out[:, -1]


row("gru, two ways", normal(3, 5, 3), elsewhere={GRU_RESET: {"onnx": DIFFERS}})(
    lambda: LastState(nn.GRU, bidirectional=True)
)


@row(
    "attention over time",
    normal(2, 5, 4),
    onnx_legacy=RAISES,
    x="batch time 4",
    blame=MISTRANSLATED,
)
@row("attention", normal(2, 5, 4))
@has(attention=lambda: nn.MultiheadAttention(4, 2, batch_first=True))
def forward(self, x: Tensor) -> Tensor:
    return self.attention(x, x, x, need_weights=False)[0]


@row("padded attention", PADDED)
@has(attention=lambda: nn.MultiheadAttention(4, 2, batch_first=True))
def forward(self, x: Tensor, keep: Tensor) -> Tuple[Tensor, Optional[Tensor]]:  # noqa: UP006, UP045
    return self.attention(x, x, x, key_padding_mask=~keep)


def encoder(*, nested: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)
    return nn.TransformerEncoder(layer, 1, enable_nested_tensor=nested)


@row("padded encoder", PADDED, has={"encoder": lambda: encoder(nested=False)})
# The branch is in torch's own code, so the verdict names the difference and not the branch.
@row(
    "padded encoder, nested",
    PADDED,
    truth(DIFFERS, script=None),
    under=torch.no_grad,
    elsewhere={NESTED_REFUSED: {"export": REFUSED, "onnx": REFUSED}},
    blame=FAST_PATH,
)
# Exported with gradients no encoder takes the fast path, but for a script, which is run without:
# https://github.com/pytorch/pytorch/issues/110557
# An export without gradients has the fast path of its example alone, and would not help.
@row(
    "padded encoder, with gradients",
    PADDED,
    truth(DIFFERS, script=None),
    blame=FAST_PATH,
    tags="slow",
)
@row(
    "padded encoder, in training",
    PADDED,
    mode="train",
    script=DIFFERS,
    otherwise=HERE,
    blame=by_mode(),
    tags="slow",
)
@has(encoder=lambda: encoder(nested=True))
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    """With nested tensors torch itself branches on the mask: if the kept tokens come first, the
    fast path writes zeros at the others.
    """
    return self.encoder(x, src_key_padding_mask=~keep)


@row("causal mask of a decoder", call(normal(2, 4, 4), normal(2, 2, 4), CAUSAL), UNDECIDED)
# torch.nn's own branch on the values of a mask: torch.export refuses it, a trace freezes it.
@row(
    "mask of a decoder",
    call(normal(2, 4, 4), normal(2, 2, 4), CAUSAL),
    VALUE,
    x="batch 4 4",
    memory="batch 2 4",
    mask=("4 4", [-torch.inf, 0.0]),
    line="make_causal = bool(",
    tags="slow",
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
@row("rare words", normal(1, 4), script=UNEXPLAINED, export=REFUSED, onnx=REFUSED)
@row(
    "frequent words alone",
    normal(1, 4, seed=2),
    PYTHON,
    script=UNEXPLAINED,
    line="all_in_shortlist = not (",
    refused={"export onnx": undecided()},
)
@has(words=lambda: nn.AdaptiveLogSoftmaxWithLoss(4, 10, [4, 7], div_value=1.0))
def forward(self, x: Tensor) -> Tensor:
    """The most probable word; torch.nn asks whether all rows' words are frequent ones."""
    return self.words.predict(x)


# there attention without the fast path gives 0
@row(
    "fused attention, all masked",
    PADDED,
    export=DIFFERS,
    keep=[True, False],
    under=torch.no_grad,
    blame=FAST_PATH,
)
@row("fused attention", PADDED)
@has(attention=lambda: nn.MultiheadAttention(4, 2, batch_first=True))
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    """In eval mode torch runs a fused kernel, which gives nan for a row without a key."""
    return self.attention(x, x, x, key_padding_mask=~keep, need_weights=False)[0]


@row(
    "cross attention over time",
    call(normal(2, 2, 3, 4), normal(2, 2, 5, 4), normal(2, 2, 5, 4, seed=1)),
    q="batch 2 queries 4",
    k="batch 2 keys 4",
    v="batch 2 keys 4",
)
def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


# A row whose mask is all False: eager gives zero, the new exporter's graph gives the mean.
@row(
    "attention, all masked",
    call(normal(2, 2, 3, 4), coins(2, 3, 3)),
    ON_ONNX,
    mask=[True, False],
    known={"onnx": "attention with a row that is False"},
)
@row("masked attention", call(normal(2, 2, 5, 4), coins(2, 5, 5)))
def forward(self, q: Tensor, mask: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, q, q, attn_mask=mask.unsqueeze(1))


@row(
    "positions too short",
    normal(2, 5, 4),
    truth("SpecError"),
    x="batch time 4",
    dims={"time": (1, 20)},
)
@row(normal(2, 5, 4), x="batch time 4", dims={"time": (1, 16)})
@has(table=lambda: Buffer(torch.randn(16, 4)))
class SlicedPositions(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.table[: x.shape[1]]


@row(
    "lengths, mapped",
    call(normal(3, 5), torch.tensor([5, 3, 1])),
    x="batch time",
    lengths=("batch", (1, 9)),
    map=lambda x, lengths: {"lengths": lengths.clamp(max=x.shape[1])},
)
def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
    keep = torch.arange(x.shape[1]) < lengths.unsqueeze(1)
    return (x * keep).sum(1) / lengths


@row(
    "halves time from two",
    call(normal(2, 6), normal(2, 3)),
    samples="batch 2*time",
    frames="batch time",
    dims={"time": (2, 6)},
)
@row(
    "halves time",
    call(normal(2, 6), normal(2, 3)),
    export=NARROWED,
    blame=guarded(),
    samples="batch 2*time",
    frames="batch time",
)
def forward(self, samples: Tensor, frames: Tensor) -> Tensor:
    """Twice as many samples as frames."""
    return samples.reshape(samples.shape[0], -1, 2).sum(-1) + frames


# -- inputs without a batch, and with the batch second ---------------------------------------------


def padded(x: Tensor) -> Tensor:
    """Return the rows with a column of zeros; a trace keeps their number."""
    return torch.cat([x, torch.zeros(int(x.shape[0]), 1)], dim=1)


FROZEN_ROWS = {"has": {"by_int": True}, "blame": frozen_size("torch.zeros(int(x.shape[0]), 1)")}


@row("positions beside tokens", call(whole(0, 5, 3, 4), torch.arange(4)))
@row(
    "positions as many as rows",
    call(whole(0, 5, 4, 4), torch.arange(4)),
    ITEM_RAISES,
    **FROZEN_ROWS,
)
@has(words=lambda: nn.Embedding(20, 4), places=lambda: nn.Embedding(16, 4), by_int=False)
def forward(self, ids: Tensor, places: Tensor) -> Tensor:
    """The positions have no batch axis."""
    h = (self.words(ids) + self.places(places)).sum(1)
    return padded(h) if self.by_int else h


@row("added mask", call(normal(2, 4, 3), CAUSAL))
@row("added mask, as many rows", call(normal(4, 4, 3), CAUSAL), ITEM_RAISES, **FROZEN_ROWS)
@has(by_int=False)
def forward(self, x: Tensor, mask: Tensor) -> Tensor:
    """The causal mask has no batch axis. A row without a key would be NaN."""
    h = ((x @ x.transpose(1, 2) + mask).softmax(-1) @ x).sum(1)
    return padded(h) if self.by_int else h


@row("a key in each row", call(normal(2, 4, 3), CAUSAL.roll(1, 0)), UNDECIDED, weak=UNVERIFIED)
def forward(self, x: Tensor, mask: Tensor) -> Tensor:
    """Eager gives NaN for a row of the mask without a key, and forward then takes another way."""
    weights = (x @ x.transpose(1, 2) + mask).softmax(-1)
    if weights.isnan().any():
        return x * 0
    return weights @ x


@row("carried state", call(normal(3, 5, 3), torch.zeros(1, 3, 4)))
@row(
    "carried state by int", call(normal(3, 5, 3), torch.zeros(1, 3, 4)), ITEM_RAISES, **FROZEN_ROWS
)
@has(rnn=lambda: nn.GRU(3, 4, batch_first=True), by_int=False)
def forward(self, x: Tensor, h: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    """The state has its batch second."""
    out, h = self.rnn(x, h)
    return out, padded(h[0]) if self.by_int else h


@row("sequence first", normal(5, 3, 3), weak=FREEZE_LENGTH)
@row("sequence first by int", normal(5, 3, 3), ITEM_RAISES, weak={"onnx": LENGTH}, **FROZEN_ROWS)
@has(rnn=lambda: nn.GRU(3, 4), by_int=False)
def forward(self, x: Tensor) -> Tensor:
    last = self.rnn(x)[0][-1]
    return padded(last) if self.by_int else last


@row("scan", call(normal(5, 3, 4), coins(5, 3)), weak=FREEZE_LENGTH | {"trace": LENGTH})
def forward(self, x: Tensor, keep: Tensor) -> Tensor:
    """A step for each element of the sequence, which comes first, as in a CRF."""
    state = x[0]
    for i in range(1, x.shape[0]):
        step = torch.tanh(state * 0.5 + x[i])
        state = torch.where(keep[i].unsqueeze(1), step, state)
    return state


# The symbolic function of torch passes is_causal as a tensor.
row("encoder layer", normal(2, 5, 4), onnx_legacy=UNEXPLAINED)(
    lambda: nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)
)
row("embedding bag", whole(0, 5, 3, 4))(lambda: nn.EmbeddingBag(20, 4, mode="mean"))
