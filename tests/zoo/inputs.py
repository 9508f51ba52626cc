"""Inputs: Python arguments, keywords, containers."""

from __future__ import annotations

from typing import Any, Dict, List, Tuple  # noqa: UP035  # TorchScript's words

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from zoo.containers import Batch, Known, TypedPair
from zoo.row import (
    DIFFERS,
    FROZEN,
    GUARD,
    MISTRANSLATED,
    RAISES,
    REFUSED,
    STATE,
    UNLOADABLE,
    Blame,
    baked,
    call,
    dropped,
    frozen_size,
    no_construct,
    no_type,
    normal,
    row,
    truth,
    unannotated,
    undecided,
    whole,
)


class IntArgument(nn.Module):
    def forward(self, x: Tensor, k: int = 2) -> Tensor:
        return x * k


class FloatArgument(nn.Module):
    def forward(self, x: Tensor, scale: float = 0.5) -> Tensor:
        return x * scale + scale


class FlagArgument(nn.Module):
    def forward(self, x: Tensor, double: bool = False) -> Tensor:
        return x * 2 if double else x + 1


class ModeArgument(nn.Module):
    def forward(self, x: Tensor, mode: str = "sum") -> Tensor:
        if mode == "sum":
            return x.sum(1)
        return x.mean(1)


class KeywordOnly(nn.Module):
    def forward(self, x: Tensor, *, bias: Tensor) -> Tensor:
        return x * 2 + bias


class KeywordOutOfOrder(nn.Module):
    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return a * 4 + b * 2 + c


class TypedDictIn(nn.Module):
    def forward(self, batch: Dict[str, Tensor]) -> Tensor:  # noqa: UP006
        return batch["x"] * 2 + batch["y"]


class TensorThenDict(nn.Module):
    def forward(self, x: Tensor, extra: Dict[str, Tensor]) -> Tensor:  # noqa: UP006
        return x + extra["y"]


class TupleIn(nn.Module):
    def forward(self, pair: Tuple[Tensor, Tensor]) -> Tensor:  # noqa: UP006
        return pair[0] - pair[1]


class ListIn(nn.Module):
    def forward(self, parts: List[Tensor]) -> Tensor:  # noqa: UP006
        return torch.cat(parts, dim=1)


class NamedTupleIn(nn.Module):
    def forward(self, pair: TypedPair) -> Tensor:
        return pair.left - pair.right


class DoublePacked(nn.Module):
    def forward(self, packed: PackedSequence) -> Tensor:
        return packed.data * 2.0


class FrozenPacked(nn.Module):
    def forward(self, packed: PackedSequence) -> Tensor:
        return packed.data * float(packed.data[0, 0])


class PackedAgain(nn.Module):
    """A PackedSequence inverts its order of sequences; of an order with duplicates nothing is."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(3, 4)

    def forward(self, packed: PackedSequence) -> Tuple[PackedSequence, Tensor]:  # noqa: UP006
        hidden, state = self.rnn(packed)
        order = packed.sorted_indices
        return PackedSequence(hidden.data.tanh(), packed.batch_sizes, order), state


class DataclassIn(nn.Module):
    def forward(self, batch):
        return batch.x * 2 + batch.y


class NestedIn(nn.Module):
    def forward(self, tree):
        return tree["a"][0] + tree["a"][1]["b"] * tree["c"][0]


class Variadic(nn.Module):
    def forward(self, *parts):
        return torch.cat(parts, dim=1)


class AnyKeywords(nn.Module):
    def forward(self, x, **extra):
        return x + extra["bias"]


class FlagAmongKeywords(nn.Module):
    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        return x * 2 if kwargs.get("flag") else x


class AsksForGradients(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * (2 if x.requires_grad else 3)


class Cache:
    """A cache object that forward writes to, as transformers models take one."""

    def __init__(self) -> None:
        self.seen = torch.zeros(3)
        self.length = 0

    def update(self, x: Tensor) -> Tensor:
        self.seen = self.seen + x.sum(0)
        self.length += 1
        return self.seen


class GivenCache(nn.Module):
    def forward(self, x: Tensor, cache: Cache) -> Tensor:
        return x + cache.update(x)


class ReadsCache(nn.Module):
    """Reads the cache and does not change it."""

    def forward(self, x: Tensor, cache: Cache) -> Tensor:
        return x + cache.seen


class Bags(nn.Module):
    """The offsets rise from 0, and are as many as the bags."""

    def __init__(self) -> None:
        super().__init__()
        self.bags = nn.EmbeddingBag(20, 4, mode="sum")

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        return self.bags(ids, offsets)


class Messages(nn.Module):
    """Edges between the nodes, as a graph network has them."""

    def __init__(self, *, by_int: bool = False) -> None:
        super().__init__()
        self.by_int = by_int

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        count = int(x.shape[0]) if self.by_int else x.shape[0]
        out = torch.zeros(count, x.shape[1])
        return out.index_add(0, edges[1], x[edges[0]]) + x


class Weighted(nn.Module):
    """The class weights have no batch axis."""

    def __init__(self, *, by_int: bool = False) -> None:
        super().__init__()
        self.by_int = by_int

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        count = int(x.shape[0]) if self.by_int else x.shape[0]
        return (x * weights).sum(1) + torch.arange(count)


class Broadcast(nn.Module):
    """One row of the first for all of the second."""

    def __init__(self, *, by_int: bool = False) -> None:
        super().__init__()
        self.by_int = by_int

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        count = int(y.shape[0]) if self.by_int else y.shape[0]
        return (x * y).sum(1) + torch.arange(count)


EDGES = torch.tensor([[0, 1, 4, 2], [1, 2, 0, 3]])
BY_INT = truth(DIFFERS, script=None, export=REFUSED, onnx=None)

# No artifact writes to the object, torch.export refuses it, and a script needs the class itself.
CACHED = truth(STATE, export=REFUSED, onnx=REFUSED)
READ = truth(script=UNLOADABLE, export=REFUSED, onnx=REFUSED)

PACKED = pack_sequence([normal(1, 3), normal(3, 3, seed=1)], enforce_sorted=False)

INPUTS = (
    row("int argument", IntArgument, call(normal(4, 3), 2)),
    row(
        "int argument varies",
        IntArgument,
        call(normal(4, 3), k=2),
        truth(DIFFERS, script=None, export=RAISES),
        values={"k": [1, 2, 3]},
        ci="trace onnx_legacy",
        blame={
            **dict.fromkeys(("trace", "onnx_legacy"), baked("x * k")),
            "export": GUARD,
            "onnx": baked(""),
        },
    ),
    row(
        "float argument varies",
        FloatArgument,
        call(normal(4, 3), 0.5),
        truth(DIFFERS, script=None, export=RAISES),
        values={"scale": (0.25, 1.0)},
        ci="export onnx",
        blame={
            **dict.fromkeys(("trace", "onnx_legacy"), baked("x * scale + scale")),
            "export": GUARD,
            "onnx": baked(""),
        },
    ),
    row(
        "flag argument", FlagArgument, call(normal(4, 3), double=True), ci="export", round_trip=True
    ),
    row(
        "flag argument varies",
        FlagArgument,
        call(normal(4, 3), double=True),
        truth(FROZEN, script=None, export=RAISES),
        values={"double": [True, False]},
        ci="trace onnx onnx_legacy",
        line="return x * 2 if double else x + 1",
        blame={"export": GUARD},
    ),
    row(
        "mode argument", ModeArgument, call(normal(4, 3), "mean"), ci="onnx_legacy", round_trip=True
    ),
    row(
        "keyword only", KeywordOnly, call(normal(4, 3), bias=normal(4, 3, seed=1)), round_trip=True
    ),
    row(
        "keywords out of order",
        KeywordOutOfOrder,
        call(normal(4, 3), c=normal(4, 3, seed=1), b=normal(4, 3, seed=2)),
        ci="script",
        round_trip=True,
    ),
    row("dict in", TypedDictIn, call({"x": normal(4, 3), "y": normal(4, 3, seed=1)})),
    row(
        "dict in, other order",
        TypedDictIn,
        call({"y": normal(4, 3), "x": normal(4, 3, seed=1)}),
        ci="export",
    ),
    row(
        "tensor, then dict", TensorThenDict, call(normal(4, 3), {"y": normal(4, 3, seed=1)}), ci=""
    ),
    row("tuple in", TupleIn, call((normal(4, 3), normal(4, 3, seed=1))), ci=""),
    row("list in", ListIn, call([normal(4, 3), normal(4, 2)]), ci=""),
    # The clean process that loads the file does not have the classes of these containers.
    row(
        "namedtuple in",
        NamedTupleIn,
        call(TypedPair(normal(4, 3), normal(4, 3, seed=1))),
        truth(export=UNLOADABLE),
        ci="export",
    ),
    # torch.export takes it at one size, and cannot write it to a file.
    row(
        "packed sequence in",
        DoublePacked,
        call(PACKED),
        truth(export=UNLOADABLE),
        ci="export onnx",
    ),
    row(
        "packed sequence frozen",
        FrozenPacked,
        call(PACKED),
        truth(trace=DIFFERS, export=REFUSED, onnx_legacy=DIFFERS),
        ci="trace",
        blame=baked("float(packed.data[0, 0])"),
        refused={"export": undecided("packed.data * float(packed.data[0, 0])")},
    ),
    row(
        "packed sequence packed again",
        PackedAgain,
        call(PACKED),
        truth(REFUSED, trace=None),
        ci="trace onnx_legacy",
        refused={
            "script": no_construct("PackedSequence(hidden.data.tanh(), packed.batch_sizes, order"),
            "export onnx": undecided("hidden, state = self.rnn(packed)"),
            "onnx_legacy": Blame(owner="translation", cause="unsupported type"),
        },
    ),
    row(
        "dataclass in",
        DataclassIn,
        call(Batch(normal(4, 3), normal(4, 3, seed=1))),
        truth(script=REFUSED, export=REFUSED, onnx=REFUSED),
        refused={"script": unannotated("batch.x * 2 + batch.y"), "export onnx": no_type()},
    ),
    row(
        "known dataclass in",
        DataclassIn,
        call(Known(normal(4, 3), normal(4, 3, seed=1))),
        truth(script=REFUSED, export=UNLOADABLE),
        ci="",
        refused={"script": unannotated("batch.x * 2 + batch.y")},
    ),
    row(
        "nested in",
        NestedIn,
        call({"a": (normal(4, 3), {"b": normal(4, 3, seed=1)}), "c": [normal(4, 3, seed=2)]}),
        truth(script=REFUSED),
        ci="onnx",
        round_trip=True,
        refused={"script": unannotated('tree["a"][0] + tree["a"][1]["b"] * tree["c"][0]')},
    ),
    row(
        "variadic",
        Variadic,
        call(normal(4, 3), normal(4, 2)),
        truth(script=REFUSED),
        refused={"script": no_construct("def forward(self, *parts):")},
    ),
    # torch 2.13 loses dynamic_shapes of **kwargs ("Must provide a tree_name"): a wrapper names them
    row(
        "any keywords",
        AnyKeywords,
        call(normal(4, 3), bias=normal(4, 3, seed=1)),
        truth(script=REFUSED),
        refused={"script": no_construct("def forward(self, x, **extra):")},
    ),
    row(
        "a flag among keywords",
        FlagAmongKeywords,
        call(x=normal(4, 3), flag=True),
        truth(script=REFUSED),
        refused={"script": no_construct("def forward(self, x: Tensor, **kwargs: Any) -> Tensor:")},
    ),
    row("asks for gradients", AsksForGradients, call(normal(4, 3).requires_grad_())),
    row(
        "a cache is given",
        GivenCache,
        call(normal(4, 3), Cache()),
        CACHED,
        ci="trace script export onnx_legacy",
        blame=dropped(""),
        refused={"export onnx": no_type()},
    ),
    row(
        "a cache is read",
        ReadsCache,
        call(normal(4, 3), Cache()),
        READ,
        ci="script onnx onnx_legacy",
        refused={"export onnx": no_type()},
    ),
    row(
        "any keywords, fixed sizes",
        AnyKeywords,
        call(normal(4, 3), bias=normal(4, 3, seed=1)),
        truth(script=REFUSED),
        shapes={"x": "..."},
        ci="trace script",
        refused={"script": no_construct("def forward(self, x, **extra):")},
    ),
    row("bags", Bags, call(whole(0, 19, 9), torch.tensor([0, 2, 2, 7])), ci=""),
    # torch's old ONNX exporter writes a scatter that does not add at an index that occurs twice.
    row(
        "messages",
        Messages,
        call(normal(5, 3), EDGES),
        truth(onnx_legacy=DIFFERS),
        ci="",
        blame=MISTRANSLATED,
    ),
    row(
        "messages by int",
        lambda: Messages(by_int=True),
        call(normal(5, 3), EDGES),
        BY_INT,
        blame=frozen_size("count = int(x.shape[0])"),
    ),
    row("class weights", Weighted, call(normal(4, 4), torch.rand(4)), ci=""),
    row(
        "class weights by int",
        lambda: Weighted(by_int=True),
        call(normal(4, 3), torch.rand(3)),
        BY_INT,
        blame=frozen_size("count = int(x.shape[0])"),
    ),
    row("a row for all", Broadcast, call(normal(1, 4), normal(6, 4)), ci="export"),
    row(
        "a row for all by int",
        lambda: Broadcast(by_int=True),
        call(normal(1, 4), normal(6, 4)),
        BY_INT,
        ci="",
        blame=frozen_size("count = int(y.shape[0])"),
    ),
)
