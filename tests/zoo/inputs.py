"""Container types for inputs and outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Dict, List, NamedTuple, Optional, Tuple  # noqa: UP035  # TorchScript's words

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from versions import QUANTIZE_UNKNOWN

from zoo.converters import CAPTURED, captured
from zoo.row import *


@dataclass
class Known:
    x: Tensor
    y: Tensor


torch.export.register_dataclass(Known, serialized_type_name="zoo.Known")


class TypedPair(NamedTuple):
    left: Tensor
    right: Tensor


@dataclass
class Batch:
    x: Tensor
    y: Tensor


EDGES = torch.tensor([[0, 1, 4, 2], [1, 2, 0, 3]])
# No artifact writes to the object, torch.export refuses it, and a script needs the class itself.
CACHED = truth(STATE, export=REFUSED, onnx=REFUSED)
READ = truth(script=UNLOADABLE, export=REFUSED, onnx=REFUSED)
PACKED = pack_sequence([normal(1, 3), normal(3, 3, seed=1)], enforce_sorted=False)

section("inputs")


@row(
    "int argument varies",
    call(normal(4, 3), k=2),
    truth(DIFFERS, script=None, export=RAISES),
    k=[1, 2, 3],
    blame={**dict.fromkeys(("trace", "onnx_legacy"), baked()), "export": GUARD, "onnx": baked("")},
)
@row("int argument", call(normal(4, 3), 2))
def forward(self, x: Tensor, k: int = 2) -> Tensor:
    return x * k


@row(
    "flag argument varies",
    call(normal(4, 3), double=True),
    truth(FROZEN, script=None, export=RAISES),
    double=[True, False],
    line=HERE,
    blame={"export": GUARD},
)
@row("flag argument", call(normal(4, 3), double=True))
def forward(self, x: Tensor, double: bool = False) -> Tensor:
    return x * 2 if double else x + 1


@row("mode argument", call(normal(4, 3), "mean"))
def forward(self, x: Tensor, mode: str = "sum") -> Tensor:
    if mode == "sum":
        return x.sum(1)
    return x.mean(1)


@row("keywords out of order", call(normal(4, 3), c=normal(4, 3, seed=1), b=normal(4, 3, seed=2)))
def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return a * 4 + b * 2 + c


@row("dict in, other order", call({"y": normal(4, 3), "x": normal(4, 3, seed=1)}))
@row("dict in", call({"x": normal(4, 3), "y": normal(4, 3, seed=1)}))
def forward(self, batch: Dict[str, Tensor]) -> Tensor:  # noqa: UP006
    return batch["x"] * 2 + batch["y"]


@row(call((normal(4, 3), normal(4, 3, seed=1))))
class TupleIn(nn.Module):
    def forward(self, pair: Tuple[Tensor, Tensor]) -> Tensor:  # noqa: UP006
        return pair[0] - pair[1]


@row("list in", call([normal(4, 3), normal(4, 2)]))
def forward(self, parts: List[Tensor]) -> Tensor:  # noqa: UP006
    return torch.cat(parts, dim=1)


# The clean process that loads the file does not have the classes of these containers.
@row("namedtuple in", call(TypedPair(normal(4, 3), normal(4, 3, seed=1))), export=UNLOADABLE)
def forward(self, pair: TypedPair) -> Tensor:
    return pair.left - pair.right


# torch.export takes it at one size, and cannot write it to a file.
@row("packed sequence in", call(PACKED), export=UNLOADABLE)
def forward(self, packed: PackedSequence) -> Tensor:
    return packed.data * 2.0


@row("packed sequence frozen", call(PACKED), ITEM, blame=baked())
def forward(self, packed: PackedSequence) -> Tensor:
    return packed.data * float(packed.data[0, 0])


@row(
    "packed sequence packed again",
    call(PACKED),
    truth(REFUSED, trace=None),
    script=no_construct(),
    onnx_legacy=UNEXPLAINED,
    refused={"export onnx": undecided("hidden, state = self.rnn(packed)")},
)
@has(rnn=lambda: nn.RNN(3, 4))
def forward(self, packed: PackedSequence) -> Tuple[PackedSequence, Tensor]:  # noqa: UP006
    """A PackedSequence inverts its order of sequences; of an order with duplicates nothing is."""
    hidden, state = self.rnn(packed)
    order = packed.sorted_indices
    return PackedSequence(hidden.data.tanh(), packed.batch_sizes, order), state  # here


@row(
    "known dataclass in",
    call(Known(normal(4, 3), normal(4, 3, seed=1))),
    script=unannotated(),
    export=UNLOADABLE,
)
@row(
    "dataclass in",
    call(Batch(normal(4, 3), normal(4, 3, seed=1))),
    script=unannotated(),
    export=REFUSED,
    onnx=REFUSED,
    refused={"export onnx": no_type("")},
)
def forward(self, batch):
    return batch.x * 2 + batch.y


@row(
    "nested in",
    call({"a": (normal(4, 3), {"b": normal(4, 3, seed=1)}), "c": [normal(4, 3, seed=2)]}),
    script=unannotated(),
)
def forward(self, tree):
    return tree["a"][0] + tree["a"][1]["b"] * tree["c"][0]


@row("variadic", call(normal(4, 3), normal(4, 2)), script=no_construct())
def forward(self, *parts):  # here
    return torch.cat(parts, dim=1)


@row(
    "any keywords, fixed sizes",
    call(normal(4, 3), bias=normal(4, 3, seed=1)),
    script=no_construct(),
    shapes={"x": "..."},
)
# torch 2.13 loses dynamic_shapes of **kwargs ("Must provide a tree_name"): a wrapper names them
@row("any keywords", call(normal(4, 3), bias=normal(4, 3, seed=1)), script=no_construct())
def forward(self, x, **extra):  # here
    return x + extra["bias"]


@row("a flag among keywords", call(x=normal(4, 3), flag=True), script=no_construct())
def forward(self, x: Tensor, **kwargs: Any) -> Tensor:  # here
    return x * 2 if kwargs.get("flag") else x


@row("asks for gradients", normal(4, 3).requires_grad_())
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


@row(
    "a cache is given",
    call(normal(4, 3), Cache()),
    CACHED,
    blame=dropped(""),
    refused={"export onnx": no_type("")},
)
def forward(self, x: Tensor, cache: Cache) -> Tensor:
    return x + cache.update(x)


@row("a cache is read", call(normal(4, 3), Cache()), READ, refused={"export onnx": no_type("")})
def forward(self, x: Tensor, cache: Cache) -> Tensor:
    """Reads the cache and does not change it."""
    return x + cache.seen


@row("bags of one each", call(whole(0, 19, 4), torch.arange(4)))
@row("bags in a count", call(whole(0, 19, 9), torch.arange(3)))
@row("bags", call(whole(0, 19, 9), torch.tensor([0, 2, 2, 7])))
@has(bags=lambda: nn.EmbeddingBag(20, 4, mode="sum"))
def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
    """The offsets rise from 0, and are as many as the bags."""
    return self.bags(ids, offsets)


@row("messages by int", call(normal(5, 3), EDGES), ITEM, has={"by_int": True}, blame=frozen_size())
# torch's old ONNX exporter writes a scatter that does not add at an index that occurs twice.
@row("messages", call(normal(5, 3), EDGES), onnx_legacy=DIFFERS, blame=MISTRANSLATED)
@has(by_int=False)
def forward(self, x: Tensor, edges: Tensor) -> Tensor:
    """Edges between the nodes, as a graph network has them."""
    count = int(x.shape[0]) if self.by_int else x.shape[0]  # here
    out = torch.zeros(count, x.shape[1])
    return out.index_add(0, edges[1], x[edges[0]]) + x


@row("class weights", call(normal(4, 4), torch.rand(4)))
@row(
    "class weights by int",
    call(normal(4, 3), torch.rand(3)),
    ITEM,
    has={"by_int": True},
    blame=frozen_size(),
)
@has(by_int=False)
def forward(self, x: Tensor, weights: Tensor) -> Tensor:
    """The class weights have no batch axis."""
    count = int(x.shape[0]) if self.by_int else x.shape[0]  # here
    return (x * weights).sum(1) + torch.arange(count)


@row("a row for all", call(normal(1, 4), normal(6, 4)))
def forward(self, x: Tensor, y: Tensor) -> Tensor:
    """One row of the first for all of the second."""
    return (x * y).sum(1) + torch.arange(y.shape[0])


section("outputs")


@row("dict out", normal(4, 3))
def forward(self, x: Tensor) -> Dict[str, Tensor]:  # noqa: UP006
    return {"double": x * 2, "sum": x.sum(1)}


@row("mixed dict out", normal(4, 3), trace=no_type())
def forward(self, x):
    return {"double": x * 2, "parts": (x.sum(1), x.mean(1))}


@row("nested out", normal(4, 3))
def forward(self, x: Tensor) -> Tuple[Tensor, Tuple[Tensor, List[Tensor]]]:  # noqa: UP006
    return x * 2, (x.sum(1), [x + 1, x - 1])


@row("namedtuple out", normal(4, 3), export=UNLOADABLE)
def forward(self, x: Tensor) -> TypedPair:
    return TypedPair(x * 2, x.sum(1))


@row(
    "known dataclass out",
    normal(4, 3),
    truth(REFUSED, export=UNLOADABLE, onnx=None),
    onnx_legacy=no_type(""),
    refused={"trace script": no_type()},
)
def forward(self, x):
    return Known(x * 2, x.sum(1))


@row("none out", normal(4, 3), trace=no_type())
def forward(self, x: Tensor) -> Tuple[Tensor, Optional[Tensor]]:  # noqa: UP006, UP045
    return x * 2, None


@row(
    "int out",
    normal(4, 3),
    truth(REFUSED, script=None, export=None),
    onnx_legacy=no_construct(""),
    refused={"trace onnx": no_type()},
)
def forward(self, x: Tensor) -> Tuple[Tensor, int]:  # noqa: UP006
    return x * 2, 3


# A trace returns a tensor and eager an int; ONNX has only tensors.
@row(
    "size out",
    normal(4, 3),
    trace=STRUCTURE,
    blame=Blame(owner="capture", cause="number as a tensor"),
)
def forward(self, x: Tensor) -> Tuple[Tensor, int]:  # noqa: UP006
    return x * 2, x.shape[0]


@row("structure by value", normal(4, 3), PYTHON, script=no_type(), line="if x.sum() > 0:")
def forward(self, x):
    if x.sum() > 0:
        return x, x * 2
    return (x,)  # here


@branch(
    "structure by size",
    normal(4, 3),
    STATIC,
    export=frozen_size(),
    blame=Blame(owner="model", cause="unrolled loop", line="return [row * 2 for row in x]"),
)
def forward(self, x: Tensor) -> List[Tensor]:  # noqa: UP006
    return [row * 2 for row in x]


@row("keys by mode", normal(4, 3))
@has(full=True)
def forward(self, x):
    """The keys depend on a flag of the model: a constant, so the artifact is faithful."""
    out = {"double": x * 2}
    if self.full:
        out["sum"] = x.sum(1)
    return out


@row("same twice", normal(4, 3))
def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    y = x * 2
    return y, y


@row(
    "sparse out",
    normal(4, 3),
    export=REFUSED,
    onnx=REFUSED,
    onnx_legacy=untranslated(),
    refused={
        "export onnx": Blame(
            owner="capture", cause="unsupported operator", line="(x * 2).to_sparse()"
        )
    },
)
def forward(self, x: Tensor) -> Tensor:
    return (x * 2).to_sparse()


@row("sparse out, dense", normal(4, 3), truth(DIFFERS), blame=CAPTURED)
def forward(self, x: Tensor) -> Tensor:
    """The same numbers in another layout."""
    if captured():
        return x * 2
    return (x * 2).to_sparse()


# torch.export cannot save a quantized tensor; the legacy exporter makes three outputs of it.
@row(
    "quantized out",
    normal(4, 3),
    export=UNLOADABLE,
    onnx=Blame(
        owner="translation",
        cause="unsupported type",
        line="torch.quantize_per_tensor(x, 0.1, 10, torch.quint8)",
    ),
    onnx_legacy=STRUCTURE,
    elsewhere={QUANTIZE_UNKNOWN: {"export": REFUSED}},
    blame=MISTRANSLATED,
)
def forward(self, x: Tensor) -> Tensor:
    return torch.quantize_per_tensor(x, 0.1, 10, torch.quint8)


@row(
    "quantized elsewhere",
    normal(4, 3),
    truth(DIFFERS, onnx_legacy=STRUCTURE),
    onnx=Blame(
        owner="translation",
        cause="unsupported type",
        line="torch.quantize_per_tensor(x, 0.1, 110, torch.quint8)",
    ),
    elsewhere={QUANTIZE_UNKNOWN: {"export": REFUSED}},
    blame={**dict.fromkeys(TARGETS, CAPTURED), "onnx_legacy": MISTRANSLATED},
)
def forward(self, x: Tensor) -> Tensor:
    """Another zero point: the numbers agree, but the bytes and both ends of the range differ."""
    if captured():
        return torch.quantize_per_tensor(x, 0.1, 110, torch.quint8)
    return torch.quantize_per_tensor(x, 0.1, 10, torch.quint8)


@row("channels last out", normal(2, 3, 4, 5))
def forward(self, x: Tensor) -> Tensor:
    """The same numbers with other strides: a note, not a difference."""
    y = x * 2
    if captured():
        return y
    return y.contiguous(memory_format=torch.channels_last)


@row("empty out", normal(4, 3))
def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    return x[:, 3:] * 2, x.sum(1)


section("dtypes")


# The legacy exporter keeps int32 in cumsum, and rounds integer division towards zero.
@row(
    "integer sums",
    whole(-3, 3, 4, 5, dtype=torch.int32),
    onnx_legacy=DIFFERS,
    known={"onnx_legacy": "legacy: cumsum of 32-bit integers"},
)
def forward(self, x: Tensor) -> Tuple[Tensor, Tensor, Tensor]:  # noqa: UP006
    """torch widens these to int64."""
    return x.sum(1), x.cumsum(1), x.prod(1)


# So it has no infinity, and loses nothing.
@row(
    "half inside overflows",
    normal(4, 8),
    ON_BOTH,
    blame=Blame(owner="runtime", cause=""),
    x=(-60000.0, 60000.0),
)
# ONNX Runtime leaves out the casts, and is more exact.
@row("half inside", normal(4, 8))
def forward(self, x: Tensor) -> Tensor:
    """Multiplies in half precision, between floats."""
    return (x.half() * 3).float()


@row("what half precision holds", normal(4, 8), ON_BOTH, blame=Blame(owner="runtime", cause=""))
def forward(self, x: Tensor) -> Tensor:
    """Returns what a cast to half precision loses."""
    return torch.where((x.half() * 2).float() == x * 2, 1.0, 0.0)


@row("bool sums", coins(4, 5))
def forward(self, m: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    return m.sum(1), (m.float().mean(1) > 0.5) & ~m[:, 0]


@row(
    "floor division",
    whole(-9, 9, 4, 5),
    onnx_legacy=DIFFERS,
    known={"onnx_legacy": "legacy: floor division of negative integers"},
)
def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    """Rounds towards minus infinity, and the remainder has the divisor's sign."""
    return x // 3, x % 3


@row("bfloat16", normal(4, 4, dtype=torch.bfloat16) / 4)
def forward(self, x: Tensor) -> Tensor:
    return (x.float() * 3).exp().to(x.dtype)


# The new exporter writes the numbers of Python code in float32.
@row(
    "tenth in double",
    normal(4, 4, dtype=torch.float64),
    ON_ONNX,
    known={"onnx": "numbers beside doubles are float32"},
)
def forward(self, x: Tensor) -> Tensor:
    return x * 0.1


@row(
    "complex in",
    torch.complex(normal(4, 3), normal(4, 3, seed=1)),
    onnx_legacy=Blame(owner="translation", cause="unsupported type"),
)
def forward(self, z: Tensor) -> Tensor:
    return torch.view_as_real(z * (1 + 2j))


@row("bit tricks", whole(0, 100, 4, 3), onnx_legacy=untranslated())
def forward(self, x: Tensor) -> Tensor:
    return ((x & 3) | 8) ^ (x >> 1)


@row(
    "sign of nan",
    normal(4, 3),
    ON_BOTH,
    x=[-1.0, 0.0, 2.0, math.nan],
    blame=MISTRANSLATED,
    known={"onnx": "sign of nan"},
)
def forward(self, x: Tensor) -> Tensor:
    return torch.sign(x)


@row("relu of nan", normal(4, 3), x=[-1.0, 0.0, 2.0, math.nan, math.inf, -math.inf])
def forward(self, x: Tensor) -> Tensor:
    return torch.relu(x)


row("half", normal(4, 4, dtype=torch.float16))(lambda: nn.Linear(4, 3).half())
