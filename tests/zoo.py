"""The zoo: small models, and for each of them what is true about each way out of eager.

ONE table. ``expect`` says per target which Failure is right (None: the artifact is faithful and must pass).
The truth is torch's and ONNX Runtime's, established by running eager beside the artifact by hand; where a
row is surprising, its comment says why. Not what the plugin says: a row that fails is a bug of the engine
or news from torch.

Several models per mechanism, so that no check can be written to fit one model.
"""

from __future__ import annotations

import copy
import itertools
import math
import random
from collections import namedtuple
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Dict, List, NamedTuple, Optional, Tuple  # noqa: UP035  # TorchScript's words

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TARGETS = ("trace", "script", "export", "onnx", "onnx_legacy")

DIFFERS = "OutputsDiffer"
RAISES = "ArtifactRaised"
REFUSED = "ExportRefused"
STRUCTURE = "StructureDiffers"
STATE = "StateDiffers"
UNLOADABLE = "LoadFailed"
# The artifact took one side of a branch for good. Parity sees outputs that differ.
FROZEN = DIFFERS
# torch kept the dim dynamic, under a guard of its own that refuses sizes eager takes.
GUARDED = RAISES
# Not a failure: the target has no meaning for the subject, or its random stream is not eager's.
SKIPPED = "skipped"

Example = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model, the call it is exported with, the marker's arguments, and the truth per target."""

    name: str
    build: Callable[[], Any]
    example: Callable[[], Example]
    options: Mapping[str, Any] = field(default_factory=dict)
    expect: Mapping[str, str | None] = field(default_factory=dict)


def truth(everywhere: str | None = None, **by_target: str | None) -> dict[str, str | None]:
    """What is expected of every target: ``everywhere``, and what is said of single ones."""
    return dict.fromkeys(TARGETS, everywhere) | by_target


def seeded(factory: Callable[[], Any], *, train: bool = False) -> Callable[[], Any]:
    """A factory with the same weights at every call, in eval mode."""

    def build() -> Any:
        torch.manual_seed(0)
        made = factory()
        return made.train(train) if isinstance(made, nn.Module) else made

    return build


def call(*args: Any, **kwargs: Any) -> Callable[[], Example]:
    """The example call, copied each time: some models write to their inputs."""
    return lambda: copy.deepcopy((args, kwargs))


def normal(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def whole(low: int, high: int, *shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
    """Integers from low to high, both reached."""
    flat = torch.randint(low, high + 1, shape, generator=torch.Generator().manual_seed(0))
    flat.view(-1)[0], flat.view(-1)[-1] = low, high
    return flat.to(dtype)


def coins(*shape: int) -> Tensor:
    """Booleans of both kinds; every row keeps a True."""
    tensor = torch.rand(shape, generator=torch.Generator().manual_seed(0)) > 0.5
    tensor[..., 0] = True
    tensor.view(-1)[-1] = False
    return tensor


# -- sizes that become constants ---------------------------------------------------------------------


class ViewByInt(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(int(x.shape[0]), -1) * 2


class ReshapeByLiteral(nn.Module):
    """Looks frozen and is not: eager's own meaning is 'two rows'."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, -1).sum(1)


class FlattenBySize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.view(x.size(0), -1))


class ZerosByInt(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, torch.zeros(int(x.size(0)), 2)], dim=1)


class ZerosBySize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, torch.zeros(x.size(0), 2, dtype=x.dtype)], dim=1)


class ArangeByInt(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.arange(int(x.shape[1]), dtype=x.dtype)


class ArangeBySize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.arange(x.shape[1], dtype=x.dtype)


class TokenByInt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.token.expand(int(x.shape[0]), 1, 4), x], dim=1)


class TokenBySize(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)


class OnesByLen(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.ones(len(x), 1)


class ScaledBySqrt(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1) / math.sqrt(x.shape[1])


class MeanBySize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1) / x.shape[1]


class SpatialSoftmax(nn.Module):
    """Height and width flattened and put back, by size."""

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        return x.reshape(b, c, h * w).softmax(-1).reshape(b, c, h, w)


# -- loops and branches over sizes -------------------------------------------------------------------


class LoopOverTime(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros_like(x[:, 0])
        for t in range(x.shape[1]):
            h = h * 0.5 + x[:, t]
        return h


class LoopOverRows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        rows = []
        for row in x:
            rows.append(row.cumsum(0))  # noqa: PERF401  # the loop is the point
        return torch.stack(rows)


class CellOverTime(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.shape[0], 4)
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
        return h


class Unrolled(nn.Module):
    """A loop whose count is the model's own."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x)) + x
        return x


class ManyRowsBranch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] > 4:
            return x * 2
        return x + 1


class OneRowBranch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] == 1:
            return x * 3
        return x + 1


class OddTimePad(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] % 2 == 1:
            x = F.pad(x, (0, 1))
        return x.reshape(x.shape[0], -1, 2).sum(-1)


class LastThree(nn.Module):
    """Slicing clamps: eager takes shorter sequences too."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, -3:].sum(1)


class SqueezeAll(nn.Module):
    """At batch 1 the batch goes too. Exporters that assume 'not 1' keep it."""

    def forward(self, x: Tensor) -> Tensor:
        return x.squeeze() * 2


class SqueezeLast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.squeeze(-1) * 2


# -- branches on values ------------------------------------------------------------------------------


class SumBranch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x * 2
        return x - 1


class EquivalentBranch(nn.Module):
    """Where nothing is masked, both sides are the same."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        if bool(mask.all()):
            return x
        return x.masked_fill(~mask, -1.0)


class AllMaskBranch(nn.Module):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        if bool(mask.all()):
            return x.mean(1)
        return (x * mask).sum(1)


class TokenBranch(nn.Module):
    def forward(self, ids: Tensor) -> Tensor:
        total = ids.sum(1)
        if (ids == 0).any():
            total = total + 100
        return total


class WhileLarge(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        while bool(x.abs().max() > 0.5):
            x = x / 2
        return x


class WhereInstead(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x.sum() > 0, x * 2, x - 1)


class CondInstead(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda x: x * 2, lambda x: x - 1, (x,))


class PresentMask(nn.Module):
    """A branch on what the call is, not on what it holds."""

    def forward(self, x: Tensor, mask: Optional[Tensor] = None) -> Tensor:  # noqa: UP045
        if mask is not None:
            x = x.masked_fill(mask == 0, 0.0)
        return x.sum(1)


# -- numbers read off a tensor -----------------------------------------------------------------------


class FloatOfMax(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - float(x.max())


class ItemScale(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.abs().sum().item()


class ToList(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * sum(x[0].tolist())


class ThroughNumpy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.from_numpy(x.numpy().cumsum(1))


class NewTensorOfInput(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.tensor([float(x[0, 0]), 1.0, 2.0])


class IndexByValue(nn.Module):
    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        return x[:, int(index)]


class SelectByTensor(nn.Module):
    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        return x.index_select(1, index.reshape(1)).squeeze(1)


# -- what kind of capture is going on ----------------------------------------------------------------


class TracingBranch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_tracing():
            return x * 2
        return x


class ScriptingBranch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return x * 2
        return x


class CompilingBranch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            return x * 2
        return x


class OnnxBranch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if torch.onnx.is_in_onnx_export():
            return x * 2
        return x


class FriendlyTracingBranch(nn.Module):
    """Another way to the same numbers."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_tracing():
            return x + x
        return x * 2


# -- state -------------------------------------------------------------------------------------------


class BufferCounter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.count.add_(1)
        return x * self.count


class BufferReplaced(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("last", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        out = x + self.last
        self.last = self.last * 0.5 + x.mean(0)
        return out


class BufferRead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class PythonCounter(nn.Module):
    """Counts its calls and does nothing with the count."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * 2


class PythonCounterUsed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


class WritesInput(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x.add_(1)
        return x * 2


class WritesRow(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x[0] = 0
        return x.sum(1)


class WritesClone(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x.clone()
        y[:, 0] = 0
        return y + x


# -- chance ------------------------------------------------------------------------------------------


class AddsNoise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


class PythonChance(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * random.uniform(1.0, 2.0)


class Drops(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.head(x))


_clock = itertools.count(1)


class GlobalClock(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * next(_clock)


# -- what goes in ------------------------------------------------------------------------------------


Pair = namedtuple("Pair", ["left", "right"])  # noqa: PYI024  # TorchScript reads no postponed fields


class TypedPair(NamedTuple):
    left: Tensor
    right: Tensor


@dataclass
class Batch:
    x: Tensor
    y: Tensor


@dataclass
class Known:
    x: Tensor
    y: Tensor


torch.export.register_dataclass(Known, serialized_type_name="zoo.Known")


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


# -- what comes out ----------------------------------------------------------------------------------


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
    """The structure hangs on a flag of the model's own: constant, so faithful."""

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


# -- dtypes ------------------------------------------------------------------------------------------


class IntegerSums(nn.Module):
    """torch widens these to int64."""

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor, Tensor]:  # noqa: UP006
        return x.sum(1), x.cumsum(1), x.prod(1)


class BoolSums(nn.Module):
    def forward(self, m: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
        return m.sum(1), (m.float().mean(1) > 0.5) & ~m[:, 0]


class FloorDivision(nn.Module):
    """Negative numbers: towards minus infinity, and the remainder has the divisor's sign."""

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
        return x // 3, x % 3


class TrueDivision(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 4


class IntTimesFloat(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 0.5 + 1


class HalfThenFull(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x.float() * 3).exp().to(x.dtype)


class DoubleInside(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.double().pow(2).sum(1).sqrt()


class RoundsHalf(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.round(x * 2) / 2


class ComplexIn(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return torch.view_as_real(z * (1 + 2j))


class Fourier(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.rfft(x).abs()


class BitTricks(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return ((x & 3) | 8) ^ (x >> 1)


# -- layers ------------------------------------------------------------------------------------------


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
    """The window is the example's: the classic of hand-made backbones."""

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, kernel_size=[int(x.shape[2]), int(x.shape[3])]).flatten(1)


class AdaptivePool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, 1).flatten(1)


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
    """With nested tensors torch itself branches on the mask: where the kept tokens come first, the fast path
    leaves zeros in the place of the others.
    """

    def __init__(self, *, nested: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=nested)

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        return self.encoder(x, src_key_padding_mask=~keep)


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


class HalvesTime(nn.Module):
    """Twice as many samples as frames."""

    def forward(self, samples: Tensor, frames: Tensor) -> Tensor:
        return samples.reshape(samples.shape[0], -1, 2).sum(-1) + frames


class LargeNumbers(nn.Module):
    """Cancellation: float32 has few digits left, on every runtime other ones."""

    def forward(self, x: Tensor) -> Tensor:
        y = (x * 1000).cumsum(1)
        return y - y.mean(1, keepdim=True)


class Sign(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sign(x)


class Relu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x)


class Encoder(nn.Module):
    """A method that is not forward."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(4, 2), nn.Linear(2, 4)

    @torch.jit.export
    def encode(self, x: Tensor) -> Tensor:
        return torch.tanh(self.down(x))

    def decode(self, z: Tensor) -> Tensor:
        return self.up(z)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.encode(x))


def standardize(x: Tensor) -> Tensor:
    return (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1)


def clip_if_large(x: Tensor) -> Tensor:
    if bool(x.abs().max() > 1):
        return x.clamp(-1.0, 1.0)
    return x * 1.5


def row(
    name: str,
    factory: Callable[[], Any],
    example: Callable[[], Example],
    expect: Mapping[str, str | None] | None = None,
    *,
    train: bool = False,
    **options: Any,
) -> Row:
    return Row(
        name=name,
        build=seeded(factory, train=train),
        example=example,
        options=options,
        expect=truth() if expect is None else expect,
    )


B_T = {"x": "batch time"}
B_T_3 = {"x": "batch time 3"}
B_T_4 = {"x": "batch time 4"}
B_2_H_W = {"x": "batch 2 height width"}

SIZES = (
    # torch.onnx.export makes named dims static here, silently; Dim.DYNAMIC goes by strict capture and is
    # faithful. A pass is right where the spelling is ours to choose.
    row(
        "view by int",
        ViewByInt,
        call(normal(4, 5)),
        truth(RAISES, script=None, export=REFUSED, onnx=None),
    ),
    row(
        "view by int, named by the user",
        ViewByInt,
        call(normal(4, 5)),
        truth(RAISES, script=None, export=REFUSED),
        dynamic_shapes={"x": {0: torch.export.Dim("batch")}},
    ),
    row(
        "flatten by size, hinted by the user",
        FlattenBySize,
        call(normal(4, 3, 4)),
        dynamic_shapes={"x": {0: torch.export.Dim.DYNAMIC}},
    ),
    row("reshape by literal", ReshapeByLiteral, call(normal(4, 6)), truth(export=GUARDED)),
    row("flatten by size", FlattenBySize, call(normal(4, 3, 4))),
    row(
        "zeros by int",
        ZerosByInt,
        call(normal(4, 3)),
        truth(RAISES, script=None, export=REFUSED, onnx=None),
    ),
    row("zeros by size", ZerosBySize, call(normal(4, 3))),
    row(
        "arange by int",
        ArangeByInt,
        call(normal(3, 5)),
        truth(DIFFERS, script=None, export=REFUSED, onnx=None),
        shapes=B_T,
    ),
    row("arange by size", ArangeBySize, call(normal(3, 5)), shapes=B_T),
    row(
        "token by int",
        TokenByInt,
        call(normal(3, 5, 4)),
        truth(RAISES, script=None, export=REFUSED, onnx=None),
    ),
    row("token by size", TokenBySize, call(normal(3, 5, 4)), shapes=B_T_4),
    row(
        "ones by len",
        OnesByLen,
        call(normal(4, 3)),
        truth(DIFFERS, script=None, export=REFUSED, onnx=None),
    ),
    row(
        "scaled by sqrt",
        ScaledBySqrt,
        call(normal(3, 5)),
        truth(DIFFERS, script=None, export=REFUSED, onnx=RAISES),
        shapes=B_T,
    ),
    row("mean by size", MeanBySize, call(normal(3, 5)), shapes=B_T),
    row("spatial softmax", SpatialSoftmax, call(normal(2, 2, 3, 5)), shapes=B_2_H_W),
)

CONTROL = (
    row(
        "loop over time",
        LoopOverTime,
        call(normal(2, 5, 3)),
        truth(DIFFERS, script=None, export=REFUSED, onnx=RAISES),
        shapes=B_T_3,
        dims={"time": (5, 9)},
    ),
    row(
        "loop over rows",
        LoopOverRows,
        call(normal(4, 3)),
        truth(RAISES, script=None, export=REFUSED),
    ),
    row(
        "cell over time",
        CellOverTime,
        call(normal(2, 4, 3)),
        truth(RAISES, script=None, export=REFUSED),
        shapes=B_T_3,
    ),
    row("cell over fixed time", CellOverTime, call(normal(2, 4, 3))),
    row("unrolled", Unrolled, call(normal(3, 4))),
    row(
        "many rows branch",
        ManyRowsBranch,
        call(normal(4, 3)),
        truth(FROZEN, script=None, export=GUARDED),
    ),
    row(
        "many rows branch, one side declared",
        ManyRowsBranch,
        call(normal(6, 3)),
        shapes={"x": "batch 3"},
        dims={"batch": (5, 8)},
    ),
    row("one row branch", OneRowBranch, call(normal(4, 3)), truth(FROZEN, script=None)),
    row(
        "one row branch, from one row", OneRowBranch, call(normal(1, 3)), truth(FROZEN, script=None)
    ),
    row("odd time pad", OddTimePad, call(normal(2, 5)), truth(RAISES, script=None), shapes=B_T),
    # torch.export excludes the size at which half the time is 1.
    row(
        "even time only",
        OddTimePad,
        call(normal(2, 6)),
        truth(export=GUARDED),
        shapes=B_T,
        dims={"time": range(2, 11, 2)},
    ),
    row(
        "even time from four",
        OddTimePad,
        call(normal(2, 6)),
        shapes=B_T,
        dims={"time": range(4, 11, 2)},
    ),
    row("last three", LastThree, call(normal(2, 5)), truth(export=GUARDED), shapes=B_T),
    row("squeeze all", SqueezeAll, call(normal(4, 3, 1))),
    row("squeeze last", SqueezeLast, call(normal(4, 3, 1))),
    row(
        "sum branch",
        SumBranch,
        call(normal(4, 3)),
        truth(trace=FROZEN, export=REFUSED, onnx=REFUSED, onnx_legacy=FROZEN),
    ),
    row(
        "sum branch, one side filtered",
        SumBranch,
        call(normal(4, 3).abs()),
        truth(export=REFUSED, onnx=REFUSED),
        filter=lambda x: bool(x.sum() > 0),
    ),
    row(
        "sum branch, one side by values",
        SumBranch,
        call(normal(4, 3).abs()),
        truth(export=REFUSED, onnx=REFUSED),
        values={"x": (0.5, 2.0)},
    ),
    row(
        "equivalent branch",
        EquivalentBranch,
        call(normal(4, 3), coins(4, 3)),
        truth(export=REFUSED, onnx=REFUSED),
    ),
    row(
        "all mask branch",
        AllMaskBranch,
        call(normal(4, 3), coins(4, 3)),
        truth(trace=FROZEN, export=REFUSED, onnx=REFUSED, onnx_legacy=FROZEN),
    ),
    row(
        "token branch",
        TokenBranch,
        call(whole(0, 9, 4, 5)),
        truth(trace=FROZEN, export=REFUSED, onnx=REFUSED, onnx_legacy=FROZEN),
    ),
    row(
        "while large",
        WhileLarge,
        call(normal(4, 3)),
        truth(trace=FROZEN, export=REFUSED, onnx=REFUSED, onnx_legacy=FROZEN),
    ),
    row("where instead", WhereInstead, call(normal(4, 3))),
    row("cond instead", CondInstead, call(normal(4, 3)), truth(REFUSED, export=None, onnx=None)),
    row("present mask, absent", PresentMask, call(normal(4, 3))),
    row("present mask, given", PresentMask, call(normal(4, 3), coins(4, 3).long())),
)

BAKED = (
    # torch.onnx.export falls back to strict capture, which takes float(tensor) and numpy.
    row(
        "float of max",
        FloatOfMax,
        call(normal(4, 3)),
        truth(trace=DIFFERS, export=REFUSED, onnx_legacy=DIFFERS),
    ),
    row("item scale", ItemScale, call(normal(4, 3)), truth(trace=DIFFERS, onnx_legacy=DIFFERS)),
    row(
        "to list",
        ToList,
        call(normal(4, 3)),
        truth(trace=DIFFERS, script=REFUSED, onnx_legacy=DIFFERS),
    ),
    row(
        "through numpy",
        ThroughNumpy,
        call(normal(4, 3)),
        truth(trace=DIFFERS, script=REFUSED, export=REFUSED, onnx_legacy=DIFFERS),
        shapes={"x": "..."},
    ),
    row(
        "new tensor of input",
        NewTensorOfInput,
        call(normal(4, 3)),
        truth(trace=DIFFERS, export=REFUSED, onnx_legacy=DIFFERS),
    ),
    row(
        "index by value",
        IndexByValue,
        call(normal(4, 3), torch.tensor(1)),
        truth(DIFFERS, script=None, export=REFUSED, onnx=REFUSED),
        values={"index": (0, 2)},
    ),
    row(
        "select by tensor",
        SelectByTensor,
        call(normal(4, 3), torch.tensor(1)),
        values={"index": (0, 2)},
    ),
    row(
        "tracing branch",
        TracingBranch,
        call(normal(4, 3)),
        truth(trace=DIFFERS, onnx_legacy=DIFFERS),
    ),
    row("scripting branch", ScriptingBranch, call(normal(4, 3)), truth(script=DIFFERS)),
    row(
        "compiling branch", CompilingBranch, call(normal(4, 3)), truth(export=DIFFERS, onnx=DIFFERS)
    ),
    row(
        "onnx branch",
        OnnxBranch,
        call(normal(4, 3)),
        truth(script=REFUSED, onnx=DIFFERS, onnx_legacy=DIFFERS),
    ),
    row("friendly tracing branch", FriendlyTracingBranch, call(normal(4, 3))),
)

STATEFUL = (
    # Tracing runs forward: what it saves has already counted once. ONNX graphs carry no state back.
    row(
        "buffer counter",
        BufferCounter,
        call(normal(4, 3)),
        truth(trace=DIFFERS, onnx=STATE, onnx_legacy=DIFFERS),
    ),
    row(
        "buffer replaced",
        BufferReplaced,
        call(normal(4, 3)),
        truth(trace=STATE, onnx=STATE, onnx_legacy=DIFFERS),
    ),
    row("buffer read", BufferRead, call(normal(4, 3))),
    row("python counter", PythonCounter, call(normal(4, 3))),
    row("python counter, used", PythonCounterUsed, call(normal(4, 3)), truth(STATE, script=None)),
    row("writes input", WritesInput, call(normal(4, 3)), truth(onnx=STATE, onnx_legacy=STATE)),
    row("writes row", WritesRow, call(normal(4, 3)), truth(onnx=STATE, onnx_legacy=STATE)),
    row("writes clone", WritesClone, call(normal(4, 3))),
    row(
        "batchnorm, train",
        lambda: nn.BatchNorm1d(3),
        call(normal(4, 3)),
        truth(trace=STATE, onnx=DIFFERS, onnx_legacy=DIFFERS),
        train=True,
        mode="train",
        shapes={"input": "batch 3"},
        dims={"batch": (2, 6)},
    ),
    row("adds noise", AddsNoise, call(normal(4, 3)), truth(onnx=SKIPPED, onnx_legacy=SKIPPED)),
    row("python chance", PythonChance, call(normal(4, 3)), truth(DIFFERS, script=REFUSED)),
    row("drops, eval", Drops, call(normal(4, 6))),
    # The legacy exporter puts the model into eval: constant, where eager varies with the seed.
    row(
        "drops, train",
        Drops,
        call(normal(4, 6)),
        truth(onnx=SKIPPED, onnx_legacy=DIFFERS),
        train=True,
        mode="train",
    ),
    row(
        "drops, train unmeant",
        Drops,
        call(normal(4, 6)),
        truth("TrainingMode"),
        train=True,
        mode="as-is",
    ),
    row("global clock", GlobalClock, call(normal(4, 3)), truth("NotRepeatable")),
)

INPUTS = (
    row("int argument", IntArgument, call(normal(4, 3), 2)),
    row(
        "int argument varies",
        IntArgument,
        call(normal(4, 3), k=2),
        truth(DIFFERS, script=None, export=RAISES),
        values={"k": [1, 2, 3]},
    ),
    row(
        "float argument varies",
        FloatArgument,
        call(normal(4, 3), 0.5),
        truth(DIFFERS, script=None, export=RAISES),
        values={"scale": (0.25, 1.0)},
    ),
    row("flag argument", FlagArgument, call(normal(4, 3), double=True)),
    row(
        "flag argument varies",
        FlagArgument,
        call(normal(4, 3), double=True),
        truth(DIFFERS, script=None, export=RAISES),
        values={"double": [True, False]},
    ),
    row("mode argument", ModeArgument, call(normal(4, 3), "mean")),
    row("keyword only", KeywordOnly, call(normal(4, 3), bias=normal(4, 3, seed=1))),
    row(
        "keywords out of order",
        KeywordOutOfOrder,
        call(normal(4, 3), c=normal(4, 3, seed=1), b=normal(4, 3, seed=2)),
    ),
    row("dict in", TypedDictIn, call({"x": normal(4, 3), "y": normal(4, 3, seed=1)})),
    row("dict in, other order", TypedDictIn, call({"y": normal(4, 3), "x": normal(4, 3, seed=1)})),
    row("tensor, then dict", TensorThenDict, call(normal(4, 3), {"y": normal(4, 3, seed=1)})),
    row("tuple in", TupleIn, call((normal(4, 3), normal(4, 3, seed=1)))),
    row("list in", ListIn, call([normal(4, 3), normal(4, 2)])),
    # The classes of these containers do not exist where the file is loaded.
    row(
        "namedtuple in",
        NamedTupleIn,
        call(TypedPair(normal(4, 3), normal(4, 3, seed=1))),
        truth(export=UNLOADABLE),
    ),
    row(
        "dataclass in",
        DataclassIn,
        call(Batch(normal(4, 3), normal(4, 3, seed=1))),
        truth(script=REFUSED, export=REFUSED, onnx=REFUSED),
    ),
    row(
        "known dataclass in",
        DataclassIn,
        call(Known(normal(4, 3), normal(4, 3, seed=1))),
        truth(script=REFUSED, export=UNLOADABLE),
    ),
    row(
        "nested in",
        NestedIn,
        call({"a": (normal(4, 3), {"b": normal(4, 3, seed=1)}), "c": [normal(4, 3, seed=2)]}),
        truth(script=REFUSED),
    ),
    row("variadic", Variadic, call(normal(4, 3), normal(4, 2)), truth(script=REFUSED)),
    # torch 2.13 loses dynamic_shapes of **kwargs ("Must provide a tree_name …").
    row(
        "any keywords",
        AnyKeywords,
        call(normal(4, 3), bias=normal(4, 3, seed=1)),
        truth(script=REFUSED, export=REFUSED, onnx=REFUSED),
    ),
    row(
        "any keywords, fixed sizes",
        AnyKeywords,
        call(normal(4, 3), bias=normal(4, 3, seed=1)),
        truth(script=REFUSED),
        shapes={"x": "..."},
    ),
)

OUTPUTS = (
    row("dict out", DictOut, call(normal(4, 3))),
    row("mixed dict out", MixedDictOut, call(normal(4, 3)), truth(trace=REFUSED)),
    row("tuple out", TupleOut, call(normal(4, 3))),
    row("list out", ListOut, call(normal(4, 3))),
    row("nested out", NestedOut, call(normal(4, 3))),
    row("namedtuple out", NamedTupleOut, call(normal(4, 3)), truth(export=UNLOADABLE)),
    row("dataclass out", DataclassOut, call(normal(4, 3)), truth(REFUSED)),
    row(
        "known dataclass out",
        KnownDataclassOut,
        call(normal(4, 3)),
        truth(REFUSED, export=UNLOADABLE, onnx=None),
    ),
    row("none out", NoneOut, call(normal(4, 3)), truth(trace=REFUSED)),
    row("int out", IntOut, call(normal(4, 3)), truth(REFUSED, script=None, export=None)),
    # A trace returns a tensor where eager returns an int; ONNX knows nothing but tensors.
    row("size out", SizeOut, call(normal(4, 3)), truth(trace=STRUCTURE)),
    row(
        "structure by value",
        StructureByValue,
        call(normal(4, 3)),
        truth(REFUSED, trace=STRUCTURE, onnx_legacy=STRUCTURE),
    ),
    row(
        "structure by size",
        StructureBySize,
        call(normal(4, 3)),
        truth(RAISES, script=None, export=REFUSED),
    ),
    row("keys by mode", KeysByMode, call(normal(4, 3))),
    row("same twice", SameTwice, call(normal(4, 3))),
    row("input out", InputOut, call(normal(4, 3))),
)

DTYPES = (
    # The legacy exporter keeps cumsum's int32, and divides integers towards zero.
    row(
        "integer sums",
        IntegerSums,
        call(whole(-3, 3, 4, 5, dtype=torch.int32)),
        truth(onnx_legacy=DIFFERS),
    ),
    row("bool sums", BoolSums, call(coins(4, 5))),
    row("floor division", FloorDivision, call(whole(-9, 9, 4, 5)), truth(onnx_legacy=DIFFERS)),
    row("true division", TrueDivision, call(whole(-9, 9, 4, 5))),
    row("int times float", IntTimesFloat, call(whole(-9, 9, 4, 5, dtype=torch.int32))),
    row("half", lambda: nn.Linear(4, 3).half(), call(normal(4, 4, dtype=torch.float16))),
    row("bfloat16", HalfThenFull, call(normal(4, 4, dtype=torch.bfloat16) / 4)),
    row("double", lambda: nn.Linear(4, 3).double(), call(normal(4, 4, dtype=torch.float64))),
    row("double inside", DoubleInside, call(normal(4, 4))),
    row("rounds half", RoundsHalf, call(normal(4, 4))),
    row(
        "complex in",
        ComplexIn,
        call(torch.complex(normal(4, 3), normal(4, 3, seed=1))),
        truth(onnx_legacy=REFUSED),
    ),
    row("fourier", Fourier, call(normal(4, 8)), truth(onnx_legacy=REFUSED)),
    row("bit tricks", BitTricks, call(whole(0, 100, 4, 3)), truth(onnx_legacy=REFUSED)),
    row("large numbers", LargeNumbers, call(normal(4, 64))),
    row(
        "sign of nan",
        Sign,
        call(normal(4, 3)),
        truth(onnx=DIFFERS, onnx_legacy=DIFFERS),
        values={"x": [-1.0, 0.0, 2.0, math.nan]},
    ),
    row(
        "relu of nan",
        Relu,
        call(normal(4, 3)),
        values={"x": [-1.0, 0.0, 2.0, math.nan, math.inf, -math.inf]},
    ),
)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 2))


LAYERS = (
    row("mlp", mlp, call(normal(4, 6))),
    row(
        "mlp, empty batch",
        mlp,
        call(normal(4, 6)),
        shapes={"input": "batch 6"},
        dims={"batch": (0, 5)},
    ),
    row("mlp, from one row", mlp, call(normal(1, 6))),
    row(
        "mlp, listed batches",
        mlp,
        call(normal(2, 6)),
        shapes={"input": "batch 6"},
        dims={"batch": [1, 2, 7]},
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
    ),
    row(
        "frames of sound",
        FramesOfSound,
        call(normal(2, 9)),
        shapes={"x": "batch samples"},
        dims={"samples": (6, 20)},
    ),
    row(
        "fixed pool",
        FixedPool,
        call(normal(2, 2, 4, 4)),
        truth(DIFFERS, script=None, export=REFUSED, onnx=RAISES),
        shapes=B_2_H_W,
        dims={"height": (4, 8), "width": (4, 8)},
    ),
    row("adaptive pool", AdaptivePool, call(normal(2, 2, 4, 4)), shapes=B_2_H_W),
    row(
        "ceil pool",
        lambda: nn.MaxPool2d(2, ceil_mode=True),
        call(normal(2, 2, 5, 6)),
        truth(export=GUARDED),
        shapes={"input": "batch 2 height width"},
    ),
    row(
        "ceil pool from three",
        lambda: nn.MaxPool2d(2, ceil_mode=True),
        call(normal(2, 2, 5, 6)),
        shapes={"input": "batch 2 height width"},
        dims={"height": (3, 8), "width": (3, 8)},
    ),
    row("upsample twice", UpsampleTwice, call(normal(2, 2, 3, 4)), shapes=B_2_H_W),
    row(
        "upsample to size",
        UpsampleToSize,
        call(normal(2, 2, 3, 4), normal(2, 1, 6, 7)),
        shapes={"x": "batch 2 3 4", "like": "batch 1 height width"},
    ),
    row("norms", Norms, call(normal(4, 6))),
    row("lstm", LastState, call(normal(3, 5, 3))),
    row("lstm over time", LastState, call(normal(3, 5, 3)), truth(export=REFUSED), shapes=B_T_3),
    row("gru, two ways", lambda: LastState(nn.GRU, bidirectional=True), call(normal(3, 5, 3))),
    row(
        "gru over time",
        lambda: LastState(nn.GRU),
        call(normal(3, 5, 3)),
        truth(export=REFUSED),
        shapes=B_T_3,
    ),
    row("given state", GivenState, call(normal(3, 5, 3), normal(3, 4))),
    row("attention", Attention, call(normal(2, 5, 4))),
    row(
        "attention over time",
        Attention,
        call(normal(2, 5, 4)),
        truth(onnx_legacy=RAISES),
        shapes=B_T_4,
    ),
    row("padded attention", PaddedAttention, call(normal(2, 5, 4), coins(2, 5))),
    row("padded encoder", lambda: PaddedEncoder(nested=False), call(normal(2, 5, 4), coins(2, 5))),
    row(
        "padded encoder, nested",
        lambda: PaddedEncoder(nested=True),
        call(normal(2, 5, 4), coins(2, 5)),
        truth(FROZEN, script=None),
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
    ),
    row("masked attention", MaskedAttention, call(normal(2, 2, 5, 4), coins(2, 5, 5))),
    # A row with nothing to attend to: zero in eager, the mean in the new exporter's graph.
    row(
        "attention, all masked",
        MaskedAttention,
        call(normal(2, 2, 3, 4), coins(2, 3, 3)),
        truth(onnx=DIFFERS),
        values={"mask": [True, False]},
    ),
    # torch's own symbolic hands is_causal on as a tensor.
    row(
        "encoder layer",
        lambda: nn.TransformerEncoderLayer(4, 2, 6, batch_first=True),
        call(normal(2, 5, 4)),
        truth(onnx_legacy=REFUSED),
    ),
    row(
        "token classifier",
        TokenClassifier,
        call(whole(0, 5, 3, 4), coins(3, 4).long()),
        shapes={"ids": "batch time", "mask": "batch time"},
        dims={"time": (2, 16)},
    ),
    row("embedding bag", lambda: nn.EmbeddingBag(20, 4, mode="mean"), call(whole(0, 5, 3, 4))),
    row(
        "sliced positions",
        SlicedPositions,
        call(normal(2, 5, 4)),
        shapes=B_T_4,
        dims={"time": (1, 16)},
    ),
    row(
        "positions too short",
        SlicedPositions,
        call(normal(2, 5, 4)),
        truth("SpecError"),
        shapes=B_T_4,
        dims={"time": (1, 20)},
    ),
    row(
        "lengths, mapped",
        Lengths,
        call(normal(3, 5), torch.tensor([5, 3, 1])),
        shapes={"x": "batch time", "lengths": "batch"},
        values={"lengths": (1, 9)},
        map=lambda x, lengths: {"lengths": lengths.clamp(max=x.shape[1])},
    ),
    row("ranks", Ranks, call(normal(4, 6))),
    row("einsum", Einsum, call(normal(2, 5, 3)), shapes=B_T_3),
    row("gather and scatter", GatherScatter, call(normal(3, 4), whole(0, 3, 3, 4))),
    row("lower triangle", LowerTriangle, call(normal(2, 5, 3)), shapes=B_T_3),
    row(
        "pairwise distance",
        PairwiseDistance,
        call(normal(3, 4), normal(5, 4, seed=1)),
        shapes={"x": "rows 4", "y": "columns 4"},
    ),
    row(
        "tied batches",
        TupleIn,
        call((normal(3, 4), normal(3, 4, seed=1))),
        shapes={"pair[0]": "n 4", "pair[1]": "n 4"},
        dims={"n": (2, 6)},
    ),
    row(
        "halves time",
        HalvesTime,
        call(normal(2, 6), normal(2, 3)),
        truth(export=GUARDED),
        shapes={"samples": "batch 2*time", "frames": "batch time"},
    ),
    row(
        "halves time from two",
        HalvesTime,
        call(normal(2, 6), normal(2, 3)),
        shapes={"samples": "batch 2*time", "frames": "batch time"},
        dims={"time": (2, 6)},
    ),
)

CALLABLES = (
    row("function", lambda: standardize, call(normal(4, 3))),
    row(
        "function with a branch",
        lambda: clip_if_large,
        call(normal(4, 3)),
        truth(trace=FROZEN, export=REFUSED, onnx=REFUSED, onnx_legacy=FROZEN),
    ),
    row("bound method", lambda: Encoder().eval().encode, call(normal(3, 4))),
    row(
        "bound method, not decorated",
        lambda: Encoder().eval().decode,
        call(normal(3, 2)),
    ),
    # A ScriptModule keeps its branches under trace and in the legacy exporter.
    row(
        "script module",
        lambda: torch.jit.script(SumBranch()),
        call(normal(4, 3)),
        truth(export=SKIPPED, onnx=SKIPPED),
    ),
)

ZOO = (*SIZES, *CONTROL, *BAKED, *STATEFUL, *INPUTS, *OUTPUTS, *DTYPES, *LAYERS, *CALLABLES)
