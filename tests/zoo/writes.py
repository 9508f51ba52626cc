"""Writes into the inputs: faithful only if the artifact changes the caller's tensor too."""

from __future__ import annotations

from typing import Dict, List, Tuple  # noqa: UP035  # TorchScript's words

import torch
from torch import Tensor, nn

from zoo.converters import CAPTURED, captured
from zoo.row import (
    DIFFERS,
    MISTRANSLATED,
    REFUSED,
    STATE,
    Blame,
    call,
    dropped,
    normal,
    row,
    truth,
    untranslated,
    whole,
)

# -- into the caller's tensor ----------------------------------------------------------------------


class WritesInput(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x.add_(1)
        return x * 2


class WritesRow(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x[0] = 0
        return x.sum(1)


class WritesThroughView(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x[:, 1:].copy_(x[:, :-1] * 2)
        return x + 1


class WritesOut(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        torch.mul(x, 2.0, out=x)
        return x.sum(1)


class MasksInPlace(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.masked_fill_(x < 0, -1.0) * 3


class InPlaceActivation(nn.Module):
    """``nn.ReLU(inplace=True)`` as the first layer, a common mistake."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class WritesSecond(nn.Module):
    """Accumulates into a tensor that the caller passes for that."""

    def forward(self, x: Tensor, total: Tensor) -> Tensor:
        total += x
        return total * 2


class WritesDictEntry(nn.Module):
    def forward(self, batch: Dict[str, Tensor]) -> Tensor:  # noqa: UP006
        batch["x"].sub_(1.0)
        return batch["x"] * batch["y"]


class ReturnsItsDict(nn.Module):
    """Adds an entry to the dict that it was given, and returns it, as detectors do."""

    def forward(self, batch: Dict[str, Tensor]) -> Dict[str, Tensor]:  # noqa: UP006
        batch["y"] = batch["x"] * 2
        return batch


class ReturnsItsList(nn.Module):
    def forward(self, states: List[Tensor]) -> List[Tensor]:  # noqa: UP006
        states.append(states[0] * 2)
        return states


class ReplacesAnEntry(nn.Module):
    def forward(self, batch: Dict[str, Tensor]) -> Tensor:  # noqa: UP006
        batch["x"] = batch["x"] * 2
        return batch["x"] + 1


class PopsAnEntry(nn.Module):
    def forward(self, batch: Dict[str, Tensor]) -> Tensor:  # noqa: UP006
        return batch.pop("x") * 2


class ExtendsAndWrites(nn.Module):
    """Its caller's tensor is other than before, which the new entry does not hide."""

    def forward(self, batch: Dict[str, Tensor]) -> Tensor:  # noqa: UP006
        batch["y"] = batch["x"] * 2
        batch["x"].sub_(1.0)
        return batch["y"]


class WritesAfterUse(nn.Module):
    """The output does not show the write: it was computed before."""

    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        x.zero_()
        return y


class FillsRows(nn.Module):
    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        x.index_fill_(0, rows, 7.0)
        return x.sum(1)


# -- a converter that writes too much, too little, or to another tensor ----------------------------


class ForgetsToWrite(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if captured():
            return (x + 1) * 2
        x.add_(1)
        return x * 2


class WritesOnlyCaptured(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        if captured():
            x.mul_(0.5)
        return y


class WritesOther(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        out = x + y
        if captured():
            y.neg_()
        else:
            x.neg_()
        return out


# -- into the model's own tensors ------------------------------------------------------------------


class WritesClone(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x.clone()
        y[:, 0] = 0
        return y + x


class WritesContiguousCopy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x.t().clone(memory_format=torch.contiguous_format)
        y.mul_(2.0)
        return x + y.t()


class WritesSometimesCopy(nn.Module):
    """contiguous() copies unless the caller's tensor is transposed; then that tensor changes."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.t().contiguous()
        y.mul_(2.0)
        return y.sum(0)


class WritesFlippedCopy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x.flip(1)
        y.add_(1.0)
        return x + y


class WritesFloatCopy(nn.Module):
    """The conversion copies, so the caller's integers do not change."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.to(torch.float32)
        y.div_(2.0)
        return y + x


class WritesIntoResult(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x @ x.t()
        y.sub_(1.0)
        return y.masked_fill_(y < 0, 0.0)


class WritesIntoDiagonal(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x @ x.t()
        y.diagonal().zero_()
        return y


class InPlaceLater(nn.Module):
    """In-place activations after a layer write into the output of that layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Hardtanh(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class WritesAndUndoes(nn.Module):
    """Multiplies by two and then by a half, which is exact: the caller's tensor is unchanged."""

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(2.0)
        y = x + 1
        x.mul_(0.5)
        return y


class ReturnsView(nn.Module):
    """Returns a view of the input and writes nothing."""

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
        return x[:, 1:], x.t() * 1.5


X = call(normal(4, 3))
# An ONNX graph does not write to its inputs.
BY_VALUE = truth(onnx=STATE, onnx_legacy=STATE)

WRITES = (
    row("writes input", WritesInput, X, BY_VALUE, blame=dropped("x.add_(1)"), ci="script"),
    row("writes row", WritesRow, X, BY_VALUE, blame=dropped("x[0] = 0"), ci=""),
    row(
        "writes through a view",
        WritesThroughView,
        X,
        BY_VALUE,
        blame=dropped("x[:, 1:].copy_("),
        ci="",
    ),
    row(
        "writes out=",
        WritesOut,
        X,
        BY_VALUE | {"onnx_legacy": REFUSED},
        blame=dropped("torch.mul(x, 2.0, out=x)"),
        ci="onnx onnx_legacy",
        refused={"onnx_legacy": untranslated()},
    ),
    row("masks in place", MasksInPlace, X, BY_VALUE, blame=dropped("x.masked_fill_(x < 0"), ci=""),
    row(
        "in-place activation first",
        InPlaceActivation,
        X,
        BY_VALUE,
        blame=dropped("return self.body(x)"),
        ci="script",
    ),
    row(
        "writes second",
        WritesSecond,
        call(normal(4, 3), normal(4, 3, seed=1)),
        BY_VALUE,
        blame=dropped("total += x"),
        ci="",
    ),
    row(
        "writes a dict's entry",
        WritesDictEntry,
        call({"x": normal(4, 3), "y": normal(4, 3, seed=1)}),
        BY_VALUE,
        blame=dropped('batch["x"].sub_(1.0)'),
        ci="",
    ),
    row(
        "returns its dict, extended",
        ReturnsItsDict,
        call({"x": normal(4, 3)}),
        ci="export",
    ),
    row("returns its list, extended", ReturnsItsList, call([normal(4, 3)]), ci="onnx_legacy"),
    row("replaces an entry", ReplacesAnEntry, call({"x": normal(4, 3)}), ci="onnx"),
    row("pops an entry", PopsAnEntry, call({"x": normal(4, 3)}), ci="script"),
    row(
        "extends and writes",
        ExtendsAndWrites,
        call({"x": normal(4, 3)}),
        BY_VALUE,
        blame=dropped('batch["x"].sub_(1.0)'),
        ci="trace",
    ),
    row("writes after use", WritesAfterUse, X, BY_VALUE, blame=dropped("x.zero_()"), ci=""),
    row(
        "fills rows",
        FillsRows,
        call(normal(4, 3), torch.tensor([0, 2])),
        BY_VALUE,
        blame=dropped("x.index_fill_(0, rows"),
        shapes={"x": "4 3", "rows": "2"},
        values={"rows": (0, 3)},
        ci="",
    ),
    row("forgets to write", ForgetsToWrite, X, truth(STATE), blame=CAPTURED),
    row(
        "writes only when captured",
        WritesOnlyCaptured,
        X,
        truth(STATE, onnx=None, onnx_legacy=None),
        ci="script",
        blame=CAPTURED,
    ),
    row(
        "writes the other one",
        WritesOther,
        call(normal(4, 3), normal(4, 3, seed=1)),
        truth(STATE),
        ci="export",
        blame=CAPTURED,
    ),
    row("writes clone", WritesClone, X, ci="script", round_trip=True),
    row("writes a contiguous copy", WritesContiguousCopy, X),
    row("writes a flipped copy", WritesFlippedCopy, X, ci="export", round_trip=True),
    row("writes a float copy", WritesFloatCopy, call(whole(-9, 9, 4, 3)), round_trip=True),
    row("writes into a result", WritesIntoResult, X, ci="onnx_legacy", round_trip=True),
    # A write through a view: the new exporter fails, the legacy one drops the write.
    row(
        "writes into a diagonal",
        WritesIntoDiagonal,
        X,
        truth(onnx=REFUSED, onnx_legacy=DIFFERS),
        ci="trace onnx onnx_legacy",
        blame=MISTRANSLATED,
        refused={"onnx": Blame(owner="capture", cause="unsupported construct")},
    ),
    row(
        "writes what is a copy sometimes",
        WritesSometimesCopy,
        X,
        BY_VALUE,
        shapes={"x": "batch 3"},
        dims={"batch": (2, 8)},
        ci="onnx_legacy",
    ),
    row("in-place activations later", InPlaceLater, X),
    row("writes and undoes", WritesAndUndoes, X, ci="onnx", round_trip=True),
    row("returns a view", ReturnsView, X),
)
