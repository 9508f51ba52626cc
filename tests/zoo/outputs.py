"""Outputs: containers, Python numbers, None."""

from __future__ import annotations

from typing import Dict, List, Optional, Tuple  # noqa: UP035  # TorchScript's words

import torch
from torch import Tensor, nn
from versions import QUANTIZE_UNKNOWN

from zoo.containers import Batch, Known, TypedPair
from zoo.converters import CAPTURED, captured
from zoo.row import (
    DIFFERS,
    FROZEN,
    MISTRANSLATED,
    NARROWED,
    REFUSED,
    STRUCTURE,
    TARGETS,
    UNLOADABLE,
    Blame,
    call,
    frozen_size,
    no_construct,
    no_type,
    normal,
    row,
    truth,
    untranslated,
)


class DictOut(nn.Module):
    def forward(self, x: Tensor) -> Dict[str, Tensor]:  # noqa: UP006
        return {"double": x * 2, "sum": x.sum(1)}


class MixedDictOut(nn.Module):
    def forward(self, x):
        return {"double": x * 2, "parts": (x.sum(1), x.mean(1))}


class TupleOut(nn.Module):
    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
        return x * 2, x.sum(1)


class ListOut(nn.Module):
    def forward(self, x: Tensor) -> List[Tensor]:  # noqa: UP006
        return [x * 2, x.sum(1)]


class NestedOut(nn.Module):
    def forward(self, x: Tensor) -> Tuple[Tensor, Tuple[Tensor, List[Tensor]]]:  # noqa: UP006
        return x * 2, (x.sum(1), [x + 1, x - 1])


class NamedTupleOut(nn.Module):
    def forward(self, x: Tensor) -> TypedPair:
        return TypedPair(x * 2, x.sum(1))


class DataclassOut(nn.Module):
    def forward(self, x):
        return Batch(x * 2, x.sum(1))


class KnownDataclassOut(nn.Module):
    def forward(self, x):
        return Known(x * 2, x.sum(1))


class NoneOut(nn.Module):
    def forward(self, x: Tensor) -> Tuple[Tensor, Optional[Tensor]]:  # noqa: UP006, UP045
        return x * 2, None


class IntOut(nn.Module):
    def forward(self, x: Tensor) -> Tuple[Tensor, int]:  # noqa: UP006
        return x * 2, 3


class SizeOut(nn.Module):
    def forward(self, x: Tensor) -> Tuple[Tensor, int]:  # noqa: UP006
        return x * 2, x.shape[0]


class StructureByValue(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x, x * 2
        return (x,)


class StructureBySize(nn.Module):
    def forward(self, x: Tensor) -> List[Tensor]:  # noqa: UP006
        return [row * 2 for row in x]


class KeysByMode(nn.Module):
    """The keys depend on a flag of the model: a constant, so the artifact is faithful."""

    def __init__(self) -> None:
        super().__init__()
        self.full = True

    def forward(self, x):
        out = {"double": x * 2}
        if self.full:
            out["sum"] = x.sum(1)
        return out


class SameTwice(nn.Module):
    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
        y = x * 2
        return y, y


class InputOut(nn.Module):
    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
        return x, x * 2


class SparseOut(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x * 2).to_sparse()


class SparseOutDense(nn.Module):
    """The same numbers in another layout."""

    def forward(self, x: Tensor) -> Tensor:
        if captured():
            return x * 2
        return (x * 2).to_sparse()


class QuantizedOut(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.quantize_per_tensor(x, 0.1, 10, torch.quint8)


class QuantizedElsewhere(nn.Module):
    """Another zero point: the numbers agree, but the bytes and both ends of the range differ."""

    def forward(self, x: Tensor) -> Tensor:
        if captured():
            return torch.quantize_per_tensor(x, 0.1, 110, torch.quint8)
        return torch.quantize_per_tensor(x, 0.1, 10, torch.quint8)


class ChannelsLastOut(nn.Module):
    """The same numbers with other strides: a note, not a difference."""

    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        if captured():
            return y
        return y.contiguous(memory_format=torch.channels_last)


class EmptyOut(nn.Module):
    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
        return x[:, 3:] * 2, x.sum(1)


OUTPUTS = (
    row("dict out", DictOut, call(normal(4, 3)), round_trip=True),
    row(
        "mixed dict out",
        MixedDictOut,
        call(normal(4, 3)),
        truth(trace=REFUSED),
        ci="onnx_legacy",
        round_trip=True,
        refused={"trace": no_type('{"double": x * 2, "parts": (x.sum(1), x.mean(1))}')},
    ),
    row("tuple out", TupleOut, call(normal(4, 3))),
    row("list out", ListOut, call(normal(4, 3)), ci="export", round_trip=True),
    row("nested out", NestedOut, call(normal(4, 3))),
    row("namedtuple out", NamedTupleOut, call(normal(4, 3)), truth(export=UNLOADABLE), ci=""),
    row(
        "dataclass out",
        DataclassOut,
        call(normal(4, 3)),
        truth(REFUSED),
        ci="trace export onnx_legacy",
        refused={
            "trace script export onnx": no_type("Batch(x * 2, x.sum(1))"),
            "onnx_legacy": no_type(),
        },
    ),
    row(
        "known dataclass out",
        KnownDataclassOut,
        call(normal(4, 3)),
        truth(REFUSED, export=UNLOADABLE, onnx=None),
        ci="",
        refused={"trace script": no_type("Known(x * 2, x.sum(1))"), "onnx_legacy": no_type()},
    ),
    row(
        "none out",
        NoneOut,
        call(normal(4, 3)),
        truth(trace=REFUSED),
        ci="onnx",
        round_trip=True,
        refused={"trace": no_type("x * 2, None")},
    ),
    row(
        "int out",
        IntOut,
        call(normal(4, 3)),
        truth(REFUSED, script=None, export=None),
        ci="script",
        refused={"trace onnx": no_type("x * 2, 3"), "onnx_legacy": no_construct()},
    ),
    # A trace returns a tensor and eager an int; ONNX has only tensors.
    row(
        "size out",
        SizeOut,
        call(normal(4, 3)),
        truth(trace=STRUCTURE),
        blame=Blame(owner="capture", cause="number as a tensor"),
    ),
    row(
        "structure by value",
        StructureByValue,
        call(normal(4, 3)),
        truth(REFUSED, trace=FROZEN, onnx_legacy=FROZEN),
        ci="trace script",
        line="if x.sum() > 0:",
        refused={"script": no_type("(x,)")},
    ),
    row(
        "structure by size",
        StructureBySize,
        call(normal(4, 3)),
        truth(FROZEN, script=None, export=REFUSED, onnx=NARROWED),
        ci="onnx onnx_legacy",
        line="return [row * 2 for row in x]",
        blame=Blame(owner="model", cause="unrolled loop", line="return [row * 2 for row in x]"),
        refused={"export": frozen_size()},
    ),
    row("keys by mode", KeysByMode, call(normal(4, 3)), ci="script", round_trip=True),
    row("same twice", SameTwice, call(normal(4, 3))),
    row("input out", InputOut, call(normal(4, 3)), ci="export"),
    row(
        "sparse out",
        SparseOut,
        call(normal(4, 3)),
        truth(export=REFUSED, onnx=REFUSED, onnx_legacy=REFUSED),
        refused={
            "export onnx": Blame(
                owner="capture", cause="unsupported operator", line="(x * 2).to_sparse()"
            ),
            "onnx_legacy": untranslated(),
        },
    ),
    row(
        "sparse out, dense",
        SparseOutDense,
        call(normal(4, 3)),
        truth(DIFFERS),
        ci="export onnx onnx_legacy",
        blame=CAPTURED,
    ),
    # torch.export cannot save a quantized tensor; the legacy exporter makes three outputs of it.
    row(
        "quantized out",
        QuantizedOut,
        call(normal(4, 3)),
        truth(export=UNLOADABLE, onnx=REFUSED, onnx_legacy=STRUCTURE),
        elsewhere={QUANTIZE_UNKNOWN: {"export": REFUSED}},
        ci="script export onnx_legacy",
        blame=MISTRANSLATED,
        refused={
            "onnx": Blame(
                owner="translation",
                cause="unsupported type",
                line="torch.quantize_per_tensor(x, 0.1, 10, torch.quint8)",
            )
        },
    ),
    row(
        "quantized elsewhere",
        QuantizedElsewhere,
        call(normal(4, 3)),
        truth(DIFFERS, onnx=REFUSED, onnx_legacy=STRUCTURE),
        elsewhere={QUANTIZE_UNKNOWN: {"export": REFUSED}},
        ci="trace script onnx",
        blame={**dict.fromkeys(TARGETS, CAPTURED), "onnx_legacy": MISTRANSLATED},
        refused={
            "onnx": Blame(
                owner="translation",
                cause="unsupported type",
                line="torch.quantize_per_tensor(x, 0.1, 110, torch.quint8)",
            )
        },
    ),
    row("channels last out", ChannelsLastOut, call(normal(2, 3, 4, 5))),
    row("empty out", EmptyOut, call(normal(4, 3)), ci="export"),
)
