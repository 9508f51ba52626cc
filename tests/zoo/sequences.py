"""Models with a time axis: recurrent layers, attention, tokens, lengths."""

from __future__ import annotations

from typing import Any, Optional, Tuple  # noqa: UP035  # TorchScript's words

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from versions import GRU_RESET, GUARDS_REFUSED, NESTED_REFUSED, RNN_UNROLLED

from zoo.row import (
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
    normal,
    row,
    truth,
    undecided,
    whole,
)


class LastState(nn.Module):
    def __init__(self, kind: type[nn.Module] = nn.LSTM, **options: Any) -> None:
        super().__init__()
        self.rnn = kind(3, 4, batch_first=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.rnn(x)
        return out[:, -1]


class GivenState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(3, 4, batch_first=True)

    def forward(self, x: Tensor, h: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
        return self.rnn(x, h.unsqueeze(0))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class PaddedAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

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


class MaskedDecoder(nn.Module):
    """torch.nn asks whether the mask is the causal one, and then leaves it to a kernel."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerDecoderLayer(4, 2, 6, dropout=0.0, batch_first=True)
        self.decoder = nn.TransformerDecoder(layer, 1)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        return self.decoder(x, memory, tgt_mask=mask)


class FrequentWords(nn.Module):
    """The most probable word; torch.nn asks whether all rows' words are frequent ones."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.AdaptiveLogSoftmaxWithLoss(4, 10, [4, 7], div_value=1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.words.predict(x)


class FusedAttention(nn.Module):
    """In eval mode torch runs a fused kernel, which gives nan for a row without a key."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        return self.attention(x, x, x, key_padding_mask=~keep, need_weights=False)[0]


class FramesOfSound(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 3, 4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.unsqueeze(1)).relu().transpose(1, 2)


class ScaledAttention(nn.Module):
    def __init__(self, *, causal: bool) -> None:
        super().__init__()
        self.causal = causal

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)


class MaskedAttention(nn.Module):
    def forward(self, q: Tensor, mask: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, q, q, attn_mask=mask.unsqueeze(1))


class TokenClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, 4), nn.Embedding(16, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        h = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        weight = mask.unsqueeze(-1).to(h.dtype)
        return self.head((h * weight).sum(1) / weight.sum(1))


class SlicedPositions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.randn(16, 4))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table[: x.shape[1]]


class Lengths(nn.Module):
    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        keep = torch.arange(x.shape[1]) < lengths.unsqueeze(1)
        return (x * keep).sum(1) / lengths


class HalvesTime(nn.Module):
    """Twice as many samples as frames."""

    def forward(self, samples: Tensor, frames: Tensor) -> Tensor:
        return samples.reshape(samples.shape[0], -1, 2).sum(-1) + frames


# -- inputs without a batch, and with the batch second ---------------------------------------------


def padded(x: Tensor) -> Tensor:
    """Return the rows with a column of zeros; a trace keeps their number."""
    return torch.cat([x, torch.zeros(int(x.shape[0]), 1)], dim=1)


class Positions(nn.Module):
    """The positions have no batch axis."""

    def __init__(self, *, by_int: bool = False) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, 4), nn.Embedding(16, 4)
        self.by_int = by_int

    def forward(self, ids: Tensor, places: Tensor) -> Tensor:
        h = (self.words(ids) + self.places(places)).sum(1)
        return padded(h) if self.by_int else h


class AddedMask(nn.Module):
    """The causal mask has no batch axis. A row without a key would be NaN."""

    def __init__(self, *, by_int: bool = False) -> None:
        super().__init__()
        self.by_int = by_int

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = ((x @ x.transpose(1, 2) + mask).softmax(-1) @ x).sum(1)
        return padded(h) if self.by_int else h


class NoKeyAtAll(nn.Module):
    """Eager gives NaN for a row of the mask without a key, and forward then takes another way."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
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


class SequenceFirst(nn.Module):
    def __init__(self, *, by_int: bool = False) -> None:
        super().__init__()
        self.rnn = nn.GRU(3, 4)
        self.by_int = by_int

    def forward(self, x: Tensor) -> Tensor:
        last = self.rnn(x)[0][-1]
        return padded(last) if self.by_int else last


class Scan(nn.Module):
    """A step for each element of the sequence, which comes first, as in a CRF."""

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        state = x[0]
        for i in range(1, x.shape[0]):
            step = torch.tanh(state * 0.5 + x[i])
            state = torch.where(keep[i].unsqueeze(1), step, state)
        return state


CAUSAL = torch.full((4, 4), -torch.inf).triu(1)
BY_INT = truth(RAISES, script=None, export=REFUSED, onnx=None)
LENGTH = "is a sequence of 5: the artifact is not right at 6"
# Exporters freeze what is not declared.
FREEZE_LENGTH = dict.fromkeys(("export", "onnx", "onnx_legacy"), LENGTH)

UNROLLED = {RNN_UNROLLED: {"onnx": NARROWED}, GUARDS_REFUSED: {"onnx": REFUSED}}

SEQUENCES = (
    row(
        "frames of sound",
        FramesOfSound,
        call(normal(2, 9)),
        shapes={"x": "batch samples"},
        dims={"samples": (6, 20)},
        ci="",
    ),
    row("lstm", LastState, call(normal(3, 5, 3)), round_trip=True),
    row(
        "lstm over time",
        LastState,
        call(normal(3, 5, 3)),
        truth(export=REFUSED),
        shapes=B_T_3,
        ci="onnx",
        round_trip=True,
        elsewhere=UNROLLED,
        refused={"export": frozen_size()},
    ),
    row(
        "gru, two ways",
        lambda: LastState(nn.GRU, bidirectional=True),
        call(normal(3, 5, 3)),
        elsewhere={GRU_RESET: {"onnx": DIFFERS}},
    ),
    row(
        "gru over time",
        lambda: LastState(nn.GRU),
        call(normal(3, 5, 3)),
        truth(export=REFUSED),
        shapes=B_T_3,
        ci="export",
        elsewhere=UNROLLED,
        refused={"export": frozen_size()},
    ),
    row("given state", GivenState, call(normal(3, 5, 3), normal(3, 4)), ci=""),
    row("attention", Attention, call(normal(2, 5, 4)), ci="onnx_legacy", round_trip=True),
    row(
        "attention over time",
        Attention,
        call(normal(2, 5, 4)),
        truth(onnx_legacy=RAISES),
        shapes=B_T_4,
        ci="onnx_legacy",
        blame=MISTRANSLATED,
    ),
    row(
        "padded attention",
        PaddedAttention,
        call(normal(2, 5, 4), coins(2, 5)),
        ci="script",
        round_trip=True,
    ),
    row(
        "padded encoder",
        lambda: PaddedEncoder(nested=False),
        call(normal(2, 5, 4), coins(2, 5)),
        ci="",
    ),
    row(
        "padded encoder, nested",
        lambda: PaddedEncoder(nested=True),
        call(normal(2, 5, 4), coins(2, 5)),
        # The branch is in torch's own code, so the verdict names the difference and not the branch.
        truth(DIFFERS, script=None),
        under=torch.no_grad,
        elsewhere={NESTED_REFUSED: {"export": REFUSED, "onnx": REFUSED}},
        ci="trace onnx_legacy",
        blame=FAST_PATH,
    ),
    # With gradients no encoder takes the fast path, but for a script, which is run without.
    row(
        "padded encoder, with gradients",
        lambda: PaddedEncoder(nested=True),
        call(normal(2, 5, 4), coins(2, 5)),
        truth(script=DIFFERS),
        otherwise="return self.encoder(x",
        ci="trace script export",
        blame=Blame(owner="", cause="mode-dependent operator", line="self.encoder(x"),
    ),
    row("fused attention", FusedAttention, call(normal(2, 5, 4), coins(2, 5)), ci=""),
    row(
        "fused attention, all masked",
        FusedAttention,
        call(normal(2, 5, 4), coins(2, 5)),
        truth(export=DIFFERS),  # there attention without the fast path gives 0
        values={"keep": [True, False]},
        under=torch.no_grad,
        ci="export",
        blame=FAST_PATH,
    ),
    row(
        "causal attention",
        lambda: ScaledAttention(causal=True),
        call(*(normal(2, 1, 5, 4, seed=i) for i in range(3))),
    ),
    row(
        "cross attention over time",
        lambda: ScaledAttention(causal=False),
        call(normal(2, 2, 3, 4), normal(2, 2, 5, 4), normal(2, 2, 5, 4, seed=1)),
        shapes={"q": "batch 2 queries 4", "k": "batch 2 keys 4", "v": "batch 2 keys 4"},
        ci="onnx_legacy",
    ),
    row("masked attention", MaskedAttention, call(normal(2, 2, 5, 4), coins(2, 5, 5))),
    # A row whose mask is all False: eager gives zero, the new exporter's graph gives the mean.
    row(
        "attention, all masked",
        MaskedAttention,
        call(normal(2, 2, 3, 4), coins(2, 3, 3)),
        truth(onnx=DIFFERS),
        values={"mask": [True, False]},
        ci="onnx",
        known={"onnx": "attention with a row that is False"},
    ),
    # torch.nn's own branch on the values of a mask: torch.export refuses it, a trace freezes it.
    row(
        "mask of a decoder",
        MaskedDecoder,
        call(normal(2, 4, 4), normal(2, 2, 4), CAUSAL),
        truth(trace=FROZEN, export=REFUSED, onnx=REFUSED, onnx_legacy=FROZEN),
        values={"mask": [-torch.inf, 0.0]},
        shapes={"x": "batch 4 4", "memory": "batch 2 4", "mask": "4 4"},
        line="make_causal = bool(",
        ci="",
        refused={"export onnx": undecided("self.decoder(x, memory, tgt_mask=mask)")},
    ),
    row(
        "causal mask of a decoder",
        MaskedDecoder,
        call(normal(2, 4, 4), normal(2, 2, 4), CAUSAL),
        truth(export=REFUSED, onnx=REFUSED),
        ci="",
        refused={"export onnx": undecided("self.decoder(x, memory, tgt_mask=mask)")},
    ),
    row(
        "frequent words alone",
        FrequentWords,
        call(normal(1, 4, seed=2)),
        truth(FROZEN, script=REFUSED, export=REFUSED, onnx=REFUSED),
        line="all_in_shortlist = not (",
        ci="trace script onnx_legacy",
        refused={"script": UNEXPLAINED, "export onnx": undecided("self.words.predict(x)")},
    ),
    # The other outcome of the same branch is right for all words, only slower.
    row(
        "rare words",
        FrequentWords,
        call(normal(1, 4)),
        truth(script=REFUSED, export=REFUSED, onnx=REFUSED),
        ci="",
        refused={"script": UNEXPLAINED, "export onnx": undecided("self.words.predict(x)")},
    ),
    # The symbolic function of torch passes is_causal as a tensor.
    row(
        "encoder layer",
        lambda: nn.TransformerEncoderLayer(4, 2, 6, batch_first=True),
        call(normal(2, 5, 4)),
        truth(onnx_legacy=REFUSED),
        ci="onnx_legacy",
        refused={"onnx_legacy": UNEXPLAINED},
    ),
    row(
        "token classifier",
        TokenClassifier,
        call(whole(0, 5, 3, 4), coins(3, 4).long()),
        shapes={"ids": "batch time", "mask": "batch time"},
        dims={"time": (2, 16)},
        ci="export",
        round_trip=True,
    ),
    row("embedding bag", lambda: nn.EmbeddingBag(20, 4, mode="mean"), call(whole(0, 5, 3, 4))),
    row(
        "sliced positions",
        SlicedPositions,
        call(normal(2, 5, 4)),
        shapes=B_T_4,
        dims={"time": (1, 16)},
        ci="onnx_legacy",
    ),
    row(
        "positions too short",
        SlicedPositions,
        call(normal(2, 5, 4)),
        truth("SpecError"),
        shapes=B_T_4,
        dims={"time": (1, 20)},
        ci="trace script export onnx onnx_legacy",
    ),
    row(
        "lengths, mapped",
        Lengths,
        call(normal(3, 5), torch.tensor([5, 3, 1])),
        shapes={"x": "batch time", "lengths": "batch"},
        values={"lengths": (1, 9)},
        map=lambda x, lengths: {"lengths": lengths.clamp(max=x.shape[1])},
        ci="script",
    ),
    row(
        "halves time",
        HalvesTime,
        call(normal(2, 6), normal(2, 3)),
        truth(export=NARROWED),
        shapes={"samples": "batch 2*time", "frames": "batch time"},
        ci="script export",
    ),
    row(
        "halves time from two",
        HalvesTime,
        call(normal(2, 6), normal(2, 3)),
        shapes={"samples": "batch 2*time", "frames": "batch time"},
        dims={"time": (2, 6)},
        ci="export",
    ),
    row(
        "positions beside tokens", Positions, call(whole(0, 5, 3, 4), torch.arange(4)), ci="script"
    ),
    row(
        "positions as many as rows",
        lambda: Positions(by_int=True),
        call(whole(0, 5, 4, 4), torch.arange(4)),
        BY_INT,
        blame=frozen_size("torch.zeros(int(x.shape[0]), 1)"),
    ),
    row("added mask", AddedMask, call(normal(2, 4, 3), CAUSAL), ci="export"),
    row(
        "added mask, as many rows",
        lambda: AddedMask(by_int=True),
        call(normal(4, 4, 3), CAUSAL),
        BY_INT,
        ci="",
        blame=frozen_size("torch.zeros(int(x.shape[0]), 1)"),
    ),
    row(
        "a key in each row",
        NoKeyAtAll,
        call(normal(2, 4, 3), CAUSAL.roll(1, 0)),
        truth(export=REFUSED, onnx=REFUSED),
        weak=UNVERIFIED,
        ci="trace onnx",
        refused={"export onnx": undecided("if weights.isnan().any():")},
    ),
    row(
        "carried state",
        lambda: CarriedState(batch_first=True),
        call(normal(3, 5, 3), torch.zeros(1, 3, 4)),
        ci="",
    ),
    row(
        "carried state by int",
        lambda: CarriedState(batch_first=True, by_int=True),
        call(normal(3, 5, 3), torch.zeros(1, 3, 4)),
        BY_INT,
        ci="trace",
        blame=frozen_size("torch.zeros(int(x.shape[0]), 1)"),
    ),
    row("sequence first", SequenceFirst, call(normal(5, 3, 3)), weak=FREEZE_LENGTH, ci="export"),
    row(
        "sequence first by int",
        lambda: SequenceFirst(by_int=True),
        call(normal(5, 3, 3)),
        BY_INT,
        weak={"onnx": LENGTH},
        ci="trace",
        blame=frozen_size("torch.zeros(int(x.shape[0]), 1)"),
    ),
    row(
        "sequence first, carried state",
        lambda: CarriedState(batch_first=False),
        call(normal(5, 3, 3), torch.zeros(1, 3, 4)),
        weak=FREEZE_LENGTH,
        ci="",
    ),
    row(
        "scan",
        Scan,
        call(normal(5, 3, 4), coins(5, 3)),
        weak=FREEZE_LENGTH | {"trace": LENGTH},
        ci="trace",
    ),
)
