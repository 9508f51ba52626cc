"""checks/relations.py: what a model breaks is found, of the model first; healthy ones raise no false alarm."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from pytest_torchexport import Padding, SpecError, check_export, engine
from pytest_torchexport.config.options import parse_check_options
from pytest_torchexport.config.plan import Plan
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.results.text import failure_text

# A trace of an nn.LSTM and of attention warns.
pytestmark = pytest.mark.filterwarnings("ignore")

ROWS = ["rows alone", "rows permuted", "twice"]
QUICK = {"target": "trace", "checks": "parity", "max_examples": 1, "diagnose": False}


def randn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


class Attention(nn.Module):
    def __init__(self, *, masked=True, mask="boolean"):
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.masked, self.mask = masked, mask

    def forward(self, x, mask):
        padding = (mask < 0) if self.mask == "added" else mask
        return self.attention(x, x, x, key_padding_mask=padding if self.masked else None)[0]


class Encoder(nn.Module):
    def __init__(self, *, pooled="over what counts"):
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.pooled = pooled

    def forward(self, ids, mask):
        x = self.layer(self.embedding(ids), src_key_padding_mask=mask == 0)
        if self.pooled == "over all":
            return x.mean(1)
        weights = mask.unsqueeze(-1).to(x.dtype)
        return (x * weights).sum(1) / weights.sum(1)


class Lstm(nn.Module):
    def __init__(self, *, last=False):
        super().__init__()
        self.lstm, self.last = nn.LSTM(4, 8, batch_first=True), last

    def forward(self, x, lengths):
        y, _ = self.lstm(x)
        return y[:, -1] if self.last else y[torch.arange(x.shape[0]), lengths - 1]


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(4, 8, batch_first=True)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.gru(packed)[0], batch_first=True)[0]


class Sequence(nn.Module):
    """Its rows are the second axis."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(4, 8)

    def forward(self, x):
        return self.gru(x)[0]


class Several(nn.Module):
    """The loss has no rows: nothing is asked of it."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 4)

    def forward(self, x):
        y = self.linear(x)
        return {"y": y, "loss": y.square().mean(), "label": y.argmax(-1), "best": y.topk(2).values}


class Flat(nn.Module):
    """Each row of its input is six of its output."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        return self.linear(x.reshape(-1, 4))


class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(8))
        self.norms = nn.ModuleList(nn.GroupNorm(4, 16) for _ in range(8))

    def forward(self, x):
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = x + F.silu(norm(conv(x)))
        return x.mean((2, 3))


def convolution():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(800, 5)
    )


def times(x, **more):
    return {
        "shapes": {"x": f"batch time {x}", **more},
        "dims": {"batch": (1, 4), "time": (2, 9)},
    }


IDS = torch.arange(12).reshape(2, 6)
OF_IDS = {
    "shapes": {"ids": "batch time", "mask": "batch time"},
    "dims": {"batch": (1, 4), "time": (2, 9)},
}
OF_LENGTHS = {
    **times(4, lengths="batch"),
    "map": lambda x, lengths: {"lengths": lengths.clamp(1, x.shape[1])},
}
LENGTHS = torch.tensor([6, 4])
NO_PADDING = torch.zeros(2, 6, dtype=torch.bool)
ADDED = torch.tensor([[0.0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, -1e9]])
HEALTHY = {
    "convolution": (convolution, (randn(2, 3, 12, 12),), {"relations": ROWS}),
    "deep": (Deep, (randn(2, 16, 8, 8),), {"relations": ROWS}),
    "attention": (
        Attention,
        (randn(2, 6, 16), NO_PADDING),
        {"relations": [*ROWS, Padding("mask", keeps=False)], **times(16, mask="batch time")},
    ),
    "added mask": (
        lambda: Attention(mask="added"),
        (randn(2, 6, 16), ADDED),
        {"relations": [Padding("mask")], **times(16, mask="batch time")},
    ),
    "encoder": (
        Encoder,
        (IDS, torch.ones(2, 6, dtype=torch.long)),
        {"relations": [*ROWS, Padding("mask")], **OF_IDS},
    ),
    "lstm": (
        Lstm,
        (randn(2, 6, 4), LENGTHS),
        {"relations": [*ROWS, Padding("lengths", "time")], **OF_LENGTHS},
    ),
    "packed": (Packed, (randn(2, 6, 4), LENGTHS), {"relations": ROWS, **OF_LENGTHS}),
    "sequence first": (Sequence, (randn(5, 3, 4),), {"relations": ROWS}),
    "several outputs": (Several, (randn(3, 8),), {"relations": ROWS}),
    "flat": (Flat, (randn(3, 6, 4),), {"relations": ROWS}),
    "softmax": (
        lambda: nn.Sequential(nn.Linear(8, 64), nn.Softmax(-1), nn.LayerNorm(64)),
        (randn(3, 8),),
        {"relations": ROWS},
    ),
}


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.count += 1
        return x * self.count


def of(function, relation, **options):
    return lambda: Function(function), (randn(4, 8),), {"relations": relation, **options}


SHAPES = {"shapes": {"x": "batch 8"}}
FAULTS = {
    "centered over the batch": (*of(lambda x: x - x.mean(0), "rows alone"), "row 0"),
    "normalized by the batch": (
        *of(
            lambda x: F.batch_norm(x, None, None, training=True),
            "rows alone",
            **SHAPES,
            dims={"batch": (2, 8)},
        ),
        "rows 0, 1 of",
    ),
    "summed up over the rows": (
        *of(lambda x: x.cumsum(0), "rows permuted"),
        "rows 3, 2, 1, 0 of 4",
    ),
    "relative to the first row": (*of(lambda x: x - x[:1], "rows permuted"), "of 4"),
    "counting its calls": (Counts, (randn(4, 8),), {"relations": "twice"}, ""),
    "mean over padding": (
        lambda: Encoder(pooled="over all"),
        (IDS, torch.ones(2, 6, dtype=torch.long)),
        {"relations": Padding("mask"), **OF_IDS},
        "time = 4 padded to 6",
    ),
    "without its mask": (
        lambda: Attention(masked=False),
        (randn(2, 6, 16), NO_PADDING),
        {"relations": Padding("mask", keeps=False), **times(16, mask="batch time")},
        "time = 4 padded to 6",
    ),
    "the last step": (
        lambda: Lstm(last=True),
        (randn(2, 6, 4), LENGTHS),
        {"relations": Padding("lengths", "time"), **OF_LENGTHS},
        "time = 4 padded to 6",
    ),
}


def judged(make, args, options, **more):
    torch.manual_seed(0)
    return check_export(make().eval(), args, **{**QUICK, **more}, **options)


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_model_keeps_its_relations(name):
    verdict = judged(*HEALTHY[name], target="script" if name == "packed" else "trace")
    assert verdict.status == "passed", failure_text(verdict)
    assert not verdict.cautions
    assert verdict.seconds["relations"] > 0


@pytest.mark.parametrize("name", FAULTS)
def test_a_relation_that_the_model_itself_breaks_is_a_failure_of_the_model(name):
    *case, which = FAULTS[name]
    verdict = judged(*case, target="script" if name == "counting its calls" else "trace")
    assert verdict.failure == "RelationBroken", verdict.reason
    assert verdict.diagnosis.owner == "model"
    assert verdict.reason.startswith("the model itself breaks '")
    assert which in verdict.reason
    text = failure_text(verdict)
    assert f"{verdict.sides[0]} " in text
    assert "worst |" in text
    assert "call: x=" in text or "call: ids=" in text


@pytest.mark.parametrize(
    ("relation", "which"),
    [("rows alone", ", row 0 of 3"), ("rows permuted", ", rows 2, 1, 0 of 3")],
)
def test_a_relation_that_the_artifact_alone_breaks_is_one_that_eager_keeps(relation, which):
    """Without parity, which finds such an artifact as well."""
    model = nn.Linear(8, 4).eval()

    def served(x):
        return model(x) + (x - x[:1]).mean()

    options = parse_check_options({"relations": relation, "checks": "dims"})
    plan = Plan(target="trace", device="cpu", diagnoses=False, options=options)
    verdict = engine.check_artifact(served, model, Call((randn(3, 8),)), plan)
    assert verdict.failure == "RelationBroken", verdict.reason
    assert verdict.reason == f"trace breaks {relation!r}, which eager keeps{which}"
    assert verdict.diagnosis.owner is None


def test_rows_of_outputs_without_any_are_not_asked_and_it_is_said():
    verdict = judged(*of(lambda x: x.mean(), "rows alone"))
    assert verdict.status == "passed"
    assert "rows alone: not asked, eager takes no two calls that are to agree" in verdict.cautions


def test_a_random_model_is_not_asked():
    verdict = judged(*of(lambda x: x + torch.rand_like(x), "rows alone"))
    assert "relations: not asked, forward is random" in verdict.cautions


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"relations": "rows alone", "shapes": {"x": "4 8"}},
            "relations: rows alone: no size varies that is the number of rows",
        ),
        (
            {"relations": Padding("y")},
            "relations: 'y' is no tensor of this call; legal: x.",
        ),
        (
            {"relations": Padding("x", "time")},
            "relations: padding by x: no size varies that is the size that is padded",
        ),
    ],
)
def test_a_relation_that_calls_have_nothing_of_is_an_error(options, message):
    verdict = judged(lambda: Function(lambda x: x), (randn(4, 8),), options)
    assert verdict.failure == "SpecError"
    assert verdict.reason.startswith(message)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "row alone",
            "relations: 'row alone' is not a relation; legal: rows alone, .*Did you mean",
        ),
        ([], "relations: the list is empty"),
        ([3], "relations: 3 is not a relation"),
    ],
)
def test_wrong_relations_are_refused_with_what_is_legal(given, message):
    with pytest.raises(SpecError, match=message):
        parse_check_options({"relations": given})
