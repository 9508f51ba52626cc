"""Branches on float tensors, by where the condition stands: ternaries, comprehensions, helpers,
closures, methods, several instances of one class. Also frozen branches that change no output.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from zoo.branches import EQUAL, PYTHON, branch
from zoo.row import REFUSED, Blame, call, no_construct, normal, row, truth, undecided

# -- where the condition stands --------------------------------------------------------------------


class Ternary(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        sign = 1.0 if x.sum() > 0 else -1.0
        return x * sign + 1


class TernaryInCall(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, x.neg() if x.max() > 1.9 else x.exp()], dim=1)


class FilteredRows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        kept = [one for one in x if one.sum() > 0]
        return torch.stack([x.new_zeros(3), *kept]).sum(0)


class TernaryRows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([one if bool(one.max() < 1.8) else one * 0.5 for one in x])


class AnyOfRows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if any(float(one) > 1.2 for one in x.mean(1)):
            return x * 3
        return x + 2


class PositiveAsserted(nn.Module):
    """If the assertion fails, eager raises, and the artifact has nothing to be equal to."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.min() >= 0, "negative"
        return x.sqrt()


class AssertedThenBranch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        assert bool(torch.isfinite(x).all())
        if x.mean() > 0.4:
            return x + 1
        return x * 2


def softened(x: Tensor) -> Tensor:
    if x.max() > 2.2:
        return x.tanh()
    return x


class InHelper(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return softened(x) * 2


class InHelperTwice(nn.Module):
    """One line, two places that call it."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return softened(x) - softened(y)


class InClosure(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        limit = 0.3

        def pick(value: Tensor) -> Tensor:
            return value * 2 if value.mean() > limit else value.neg()

        return pick(x)


def announced(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Tensor:
        return function(*args, **kwargs)

    return wrapper


class Decorated(nn.Module):
    @announced
    def forward(self, x: Tensor) -> Tensor:
        if x.var() > 2.0:
            return x / x.var()
        return x


class WithoutGrad(nn.Module):
    @torch.no_grad()
    def gate(self, x: Tensor) -> float:
        if x.mean() > 0.25:
            return 2.0
        return 0.5

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class InMethod(nn.Module):
    def excited(self, x: Tensor) -> bool:
        return bool(x.abs().mean() > 1.1)

    def forward(self, x: Tensor) -> Tensor:
        if self.excited(x):
            return x.sin()
        return x.cos()


class InProperty(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("center", torch.tensor(0.5))

    @property
    def limit(self) -> Tensor:
        return self.center * 2 if self.center < 1 else self.center

    def forward(self, x: Tensor) -> Tensor:
        if x.amax() - x.mean() > 2 * self.limit:
            return x - x.mean()
        return x * self.limit


class InStaticMethod(nn.Module):
    @staticmethod
    def squash(x: Tensor) -> Tensor:
        if x.sum() < -6:
            return x.sigmoid()
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.squash(x) + 1


class InLambda(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pick = lambda x: x.relu() if x.sum() > 1 else x.neg()

    def forward(self, x: Tensor) -> Tensor:
        return self.pick(x)


class EarlyReturn(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if bool((x < 0).all()):
            return torch.zeros_like(x)
        x = x.relu()
        if bool((x > 0.5).all()):
            return torch.ones_like(x)
        return x


# -- several instances of one class ----------------------------------------------------------------


class Gate(nn.Module):
    def __init__(self, limit: float, factor: float) -> None:
        super().__init__()
        self.limit = limit
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        if x.abs().amax() > self.limit:
            return x * self.factor
        return x


class TwoGates(nn.Module):
    """Both sides of the first gate give the same numbers, so freezing it changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.harmless = Gate(2.0, 1.0)
        self.harmful = Gate(2.6, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.harmful(self.harmless(x)) + 1


class ThreeGates(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.ModuleList([Gate(2.5, 0.8), Gate(3.0, 0.6), Gate(3.2, 0.4)])

    def forward(self, x: Tensor) -> Tensor:
        for gate in self.gates:
            x = gate(x)
        return x


# -- frozen, but with the same outputs -------------------------------------------------------------


class SameSides(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x * 2
        return x + x


class StableSoftmax(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.max() > 10:
            x = x - 8
        return x.softmax(1)


class ReluWhereNeeded(nn.Module):
    """Faithful if the example has a negative number; otherwise the trace has lost the relu."""

    def forward(self, x: Tensor) -> Tensor:
        if x.min() < 0:
            x = x.relu()
        return x * 2


# -- conditions that depend on no tensor -----------------------------------------------------------


class OnAttributes(nn.Module):
    def __init__(self, *, bias: bool) -> None:
        super().__init__()
        self.bias = bias
        self.mode = "mean"

    def forward(self, x: Tensor) -> Tensor:
        if self.bias and self.mode != "max":
            x = x + 1
        return x.mean(1) if self.mode == "mean" else x.sum(1)


class OnKind(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float16:
            x = x.float()
        if x.dim() == 3:
            x = x.flatten(1)
        if not x.is_floating_point():
            x = x / 255
        return x * 2


class OnTraining(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return x.sum(1)
        return x.amax(1)


class OnParameter(nn.Module):
    """The side taken depends on a parameter only, so it is the same at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        if self.slope > 0:
            return x * self.slope
        return x


# -- the same semantics without Python's branches --------------------------------------------------


class SignByWhere(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x.mean() > 0, x * 2, x - 1)


class MaxByWhere(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x.max() > 2.5, x / x.max(), x) + 1


class NanByWhere(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x.isnan(), torch.full_like(x, -1.0), x) * 2


class MaxByCond(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.max() > 2.5, lambda x: x / x.max(), lambda x: x.clone(), (x,)) + 1


class BufferByCond(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("limit", torch.tensor(1.25))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(
            x.std() > self.limit, lambda x: (x - x.mean()) / x.std(), lambda x: x.clone(), (x,)
        )


@torch.jit.script
def softened_script(x: Tensor) -> Tensor:
    if bool(x.max() > 2.2):
        x = x.tanh()
    return x


class InScriptedHelper(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return softened_script(x) * 2


class ThroughScriptedGate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = torch.jit.script(Gate(2.6, 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(x) + 1


X = call(normal(4, 3))
WIDE = {"x": (-4.0, 4.0)}
FIXED = {"x": "..."}
N = normal(4, 3)
GRID = torch.tensor([[-1.0, 0.0, 2.0], [2.0, -1.0, -1.0], [0.0, 2.0, -1.0], [-1.0, 2.0, 2.0]])

PLACE_BRANCHES = (
    branch(
        "ternary", Ternary, X, call(N + 1), line="1.0 if x.sum() > 0 else -1.0", ci="onnx_legacy"
    ),
    branch(
        "ternary in call",
        TernaryInCall,
        X,
        call(N + 1),
        line="x.neg() if x.max() > 1.9 else x.exp()",
        ci="",
    ),
    branch(
        "filtered rows",
        FilteredRows,
        X,
        call(N.abs()),
        call(-N.abs()),
        line="if one.sum() > 0",
        expect=PYTHON,
        shapes=FIXED,
        ci="script",
        refused={"script": no_construct("kept = [one for one in x if one.sum() > 0]")},
    ),
    branch(
        "ternary rows",
        TernaryRows,
        X,
        call(N + 1),
        call(N + 4),
        line="one if bool(one.max() < 1.8) else one * 0.5",
        shapes=FIXED,
        ci="",
    ),
    branch(
        "any of rows",
        AnyOfRows,
        X,
        call(N + 1.5),
        line="if any(float(one) > 1.2 for one in x.mean(1))",
        shapes=FIXED,
        ci="",
    ),
    # The strict capture that torch.onnx.export falls back to accepts assertions.
    row(
        "positive, asserted",
        PositiveAsserted,
        call(N.abs()),
        truth(export=REFUSED),
        ci="",
        refused={"export": undecided('assert x.min() >= 0, "negative"')},
    ),
    branch(
        "asserted, then branch",
        AssertedThenBranch,
        X,
        call(N + 1),
        line="if x.mean() > 0.4",
        ci="trace",
        refused={"export onnx": undecided("assert bool(torch.isfinite(x).all())")},
    ),
    branch("in helper", InHelper, X, call(N * 2), line="if x.max() > 2.2", ci=""),
    branch(
        "in helper, twice",
        InHelperTwice,
        call(N, N.flip(0)),
        call(N * 2, N),
        call(N, N * 2),
        line="if x.max() > 2.2",
        ci="",
    ),
    branch(
        "in closure",
        InClosure,
        X,
        call(N + 1),
        line="value * 2 if value.mean() > limit else value.neg()",
        expect=PYTHON,
        ci="",
        refused={"script": no_construct("def pick(value: Tensor) -> Tensor:")},
    ),
    branch("decorated", Decorated, X, call(N * 2), line="if x.var() > 2.0", ci=""),
    branch("without grad", WithoutGrad, X, call(N + 1), line="if x.mean() > 0.25", ci=""),
    branch(
        "in method",
        InMethod,
        X,
        call(N * 2),
        line="if self.excited(x)",
        ci="",
        refused={"export onnx": undecided("bool(x.abs().mean() > 1.1)")},
    ),
    branch(
        "in property",
        InProperty,
        X,
        call(N * 2),
        line="if x.amax() - x.mean() > 2 * self.limit",
        ci="script",
        round_trip=True,
        refused={"export onnx": undecided("self.center * 2 if self.center < 1 else self.center")},
    ),
    branch("in static method", InStaticMethod, X, call(N - 1), line="if x.sum() < -6", ci=""),
    branch(
        "in lambda",
        InLambda,
        X,
        call(N + 1),
        line="x.relu() if x.sum() > 1 else x.neg()",
        expect=PYTHON,
        ci="",
        refused={"script": no_construct("self.pick(x)")},
    ),
    branch(
        "early return",
        EarlyReturn,
        X,
        call(-N.abs()),
        call(N.abs() + 1),
        line=".all()",
        ci="onnx",
    ),
    branch(
        "two gates",
        TwoGates,
        X,
        call(N * 0.5),
        call(N * 1.5),
        line="if x.abs().amax() > self.limit",
        ci="",
    ),
    branch(
        "three gates",
        ThreeGates,
        X,
        call(N * 1.25),
        call(N * 2),
        call(N * 4),
        line="if x.abs().amax() > self.limit",
        ci="",
    ),
    row(
        "harmless gate",
        lambda: Gate(2.0, 1.0),
        X,
        EQUAL,
        witnesses=(call(N * 0.5),),
        ci="",
        refused={"export onnx": undecided("if x.abs().amax() > self.limit:")},
    ),
    row(
        "same sides",
        SameSides,
        X,
        EQUAL,
        witnesses=(call(N + 1),),
        ci="",
        refused={"export onnx": undecided("if x.sum() > 0:")},
    ),
    row(
        "stable softmax",
        StableSoftmax,
        X,
        EQUAL,
        witnesses=(call(N * 6 + 5),),
        values={"x": (-15.0, 15.0)},
        round_trip=True,
        refused={"export onnx": undecided("if x.max() > 10:")},
    ),
    row(
        "relu where needed",
        ReluWhereNeeded,
        X,
        EQUAL,
        witnesses=(call(N.abs()),),
        ci="",
        refused={"export onnx": undecided("if x.min() < 0:")},
    ),
    branch(
        "relu where needed, from positive",
        ReluWhereNeeded,
        call(N.abs()),
        call(N),
        line="if x.min() < 0",
        values=WIDE,
        ci="script",
    ),
    row("on attributes", lambda: OnAttributes(bias=True), X, ci="onnx_legacy", round_trip=True),
    row("on attributes, off", lambda: OnAttributes(bias=False), X),
    row("on kind", OnKind, X, ci=""),
    row("on training", OnTraining, X, ci=""),
    row(
        "on parameter",
        OnParameter,
        X,
        EQUAL,
        ci="",
        refused={"export onnx": undecided("if self.slope > 0:")},
    ),
    row("sign by where", SignByWhere, X, witnesses=(call(N + 1),), ci=""),
    row("max by where", MaxByWhere, X, witnesses=(call(N * 1.75),), values=WIDE, ci="onnx_legacy"),
    row(
        "nan by where",
        NanByWhere,
        call(GRID),
        witnesses=(call(torch.where(GRID == 0, torch.nan, GRID)),),
        values={"x": [-1.0, 0.0, 2.0, torch.nan]},
    ),
    row(
        "max by cond",
        MaxByCond,
        X,
        truth(REFUSED, export=None, onnx=None),
        witnesses=(call(N * 1.75),),
        values=WIDE,
        ci="export",
        round_trip=True,
        refused={
            "trace script onnx_legacy": no_construct(
                "torch.cond(x.max() > 2.5, lambda x: x / x.max(), lambda x: x"
            )
        },
    ),
    row(
        "buffer by cond",
        BufferByCond,
        X,
        truth(REFUSED, export=None, onnx=None),
        witnesses=(call(N * 1.75),),
        ci="trace onnx",
        round_trip=True,
        refused={
            "trace onnx_legacy": no_construct("torch.cond("),
            "script": no_construct("x.std() > self.limit, lambda x: (x - x.mean()) / x.std(), la"),
        },
    ),
    row(
        "in scripted helper",
        InScriptedHelper,
        X,
        EQUAL,
        witnesses=(call(N * 2),),
        ci="export",
        refused={"export onnx": undecided("if bool(x.max() > 2.2):")},
    ),
    # The legacy exporter traces only submodules that belong to the module.
    row(
        "through scripted gate",
        ThroughScriptedGate,
        X,
        truth(export=REFUSED, onnx=REFUSED, onnx_legacy=REFUSED),
        witnesses=(call(N * 1.5),),
        ci="onnx_legacy",
        refused={
            "export onnx": undecided("if x.abs().amax() > self.limit:"),
            "onnx_legacy": Blame(
                owner="capture", cause="unsupported construct", line="self.gate(x) + 1"
            ),
        },
    ),
)
