"""Models whose eager does not repeat (uninitialized memory, clocks, globals), and look-alikes."""

from __future__ import annotations

# ruff: noqa: PLW0603  # this file is about globals that change
import itertools
import time
from typing import Any

import torch
from torch import Tensor, nn

from zoo.row import NOT_REPEATABLE, REFUSED, call, no_construct, normal, row, truth, untranslated

# -- not repeatable --------------------------------------------------------------------------------

_clock = itertools.count(1)
_steps = 0
_seen: list[int] = []
_met: dict[str, int] = {"calls": 0}


class GlobalClock(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * next(_clock)


class GlobalNumber(nn.Module):
    def forward(self, x):
        global _steps
        _steps += 1
        return x + _steps


class GlobalList(nn.Module):
    def forward(self, x):
        _seen.append(len(_seen))
        return x * len(_seen)


class GlobalDict(nn.Module):
    def forward(self, x):
        _met["calls"] += 1
        return x / _met["calls"]


class ClassCounter(nn.Module):
    """The count is on the class, so copies of the instance share it."""

    calls = 0

    def forward(self, x):
        ClassCounter.calls += 1
        return x - ClassCounter.calls


class WallClock(nn.Module):
    def forward(self, x):
        return x * (time.perf_counter() % 1000.0)


class Nanoseconds(nn.Module):
    def forward(self, x):
        return x + float(time.perf_counter_ns() % 9973)


class FreshIdentity(nn.Module):
    """Keeps a new object at every call, so all ids differ."""

    def forward(self, x):
        _kept.append(object())
        return x * float(id(_kept[-1]) % 9973)


_kept: list[object] = []


class FreshHash(nn.Module):
    """The default hash of an object depends on its address."""

    def forward(self, x):
        _kept.append(Anything())
        return x + float(hash(_kept[-1]) % 9973)


class Anything:
    pass


class Unwritten(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.empty(x.shape[0], 3)


class ForgottenColumn(nn.Module):
    """Writes every column but the last."""

    def forward(self, x: Tensor) -> Tensor:
        out = torch.empty(x.shape[0], 4, dtype=x.dtype)
        out[:, :3] = x
        return out


class UnwrittenMean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x) * x.new_empty(x.shape[0], 64).mean(1, keepdim=True)


class LeftByAnother(nn.Module):
    """Uninitialized memory still holds what was written last: another number at every call."""

    def forward(self, x):
        global _steps
        _steps += 1
        left = torch.full((64, 64), float(_steps))
        del left
        return x + torch.empty(64, 64)[32:33, :3]


# -- repeatable, against appearances ---------------------------------------------------------------


class EmptyZeroed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.empty(x.shape[0], 2, dtype=x.dtype).zero_() + x.sum(1, keepdim=True)


class EmptyFilled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.empty_like(x).fill_(0.5) * x


class EmptyCopied(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        out = torch.empty_like(x)
        out.copy_(x * 2)
        return out


class EmptyUnused(nn.Module):
    """The mask chooses the other side, so the uninitialized memory has no effect."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(torch.ones_like(x) > 0, x * 3, torch.empty_like(x))


class EmptyWrittenByPart(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        out = torch.empty(x.shape[0], 6, dtype=x.dtype)
        out[:, :3] = x
        out[:, 3:] = -x
        return out


class GlobalNumberUnused(nn.Module):
    def forward(self, x):
        global _steps
        _steps += 1
        return x + 1


class GlobalListUnused(nn.Module):
    def forward(self, x):
        _seen.append(0)
        return x * 2


class ClockUnused(nn.Module):
    def forward(self, x):
        started = time.perf_counter()
        y = torch.tanh(x)
        self_seconds = time.perf_counter() - started
        return y if self_seconds >= 0 else x


_tables: dict[int, Tensor] = {}


class GlobalTable(nn.Module):
    """A cached table in a global: made once, always the same numbers."""

    def forward(self, x):
        if 3 not in _tables:
            _tables[3] = torch.arange(3, dtype=torch.float32)
        return x + _tables[3]


class IdentityOfItself(nn.Module):
    """An id that is the same at every call."""

    def forward(self, x):
        return x * 2 if id(self) == id(self) else x


class SetOfNames(nn.Module):
    """The order of a set of strings depends on the process; a sum over it does not."""

    def forward(self, x):
        scales = {"a": 1.0, "b": 2.0, "c": 4.0}
        total = x * 0
        for name in ("a", "b", "c"):
            total = total + scales[name] * x
        return total


X = call(normal(4, 3))
NO: dict[str, Any] = truth(NOT_REPEATABLE)

REPEATABLE = (
    row("global clock", GlobalClock, X, NO, ci="onnx_legacy"),
    row("global number", GlobalNumber, X, NO),
    row("global list", GlobalList, X, NO, ci="script"),
    row("global dict", GlobalDict, X, NO),
    row("counter on the class", ClassCounter, X, NO, ci="export"),
    row("wall clock", WallClock, X, NO, ci="onnx"),
    row("nanoseconds", Nanoseconds, X, NO, ci="onnx"),
    row("id of a new object", FreshIdentity, X, NO),
    row("hash of a new object", FreshHash, X, NO, ci="script"),
    row("memory nobody wrote", Unwritten, X, NO),
    row("a column nobody wrote", ForgottenColumn, X, NO, ci="export"),
    row("mean of memory nobody wrote", UnwrittenMean, X, NO),
    row("memory left by another tensor", LeftByAnother, X, NO, ci="onnx_legacy"),
    row("empty, zeroed", EmptyZeroed, X),
    row("empty, filled", EmptyFilled, X, ci="script", round_trip=True),
    # The legacy exporter does not support aten::copy.
    row(
        "empty, copied to",
        EmptyCopied,
        X,
        truth(onnx_legacy=REFUSED),
        ci="onnx_legacy",
        refused={"onnx_legacy": untranslated()},
    ),
    row("empty, not chosen", EmptyUnused, X, ci="export", round_trip=True),
    row("empty, written by part", EmptyWrittenByPart, X, round_trip=True),
    row(
        "global number, unused",
        GlobalNumberUnused,
        X,
        truth(script=REFUSED),
        ci="",
        refused={"script": no_construct("global _steps")},
    ),
    row(
        "global list, unused",
        GlobalListUnused,
        X,
        truth(script=REFUSED),
        ci="onnx",
        round_trip=True,
        refused={"script": no_construct("_seen.append(0)")},
    ),
    row(
        "clock, unused",
        ClockUnused,
        X,
        truth(script=REFUSED),
        ci="onnx_legacy",
        round_trip=True,
        refused={"script": no_construct("started = time.perf_counter()")},
    ),
    row(
        "global table",
        GlobalTable,
        X,
        truth(script=REFUSED),
        ci="trace script",
        refused={"script": no_construct("if 3 not in _tables:")},
    ),
    row("id of itself", IdentityOfItself, X, ci="export"),
    row("set of names", SetOfNames, X),
)
