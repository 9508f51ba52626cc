"""Loops and branches on sizes and on values."""

from __future__ import annotations

from typing import Optional, Tuple  # noqa: UP035  # TorchScript's words

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.row import (
    B_T,
    B_T_3,
    DIFFERS,
    FROZEN,
    HERE,
    NARROWED,
    REFUSED,
    SKIPPED,
    UNEXPLAINED,
    UNVERIFIED,
    Blame,
    asks,
    baked,
    call,
    coins,
    frozen_size,
    has,
    no_construct,
    no_type,
    normal,
    row,
    section,
    truth,
    unannotated,
    undecided,
    whole,
)

section("control")


@row(
    "loop over time",
    normal(2, 5, 3),
    truth(FROZEN, script=None, onnx=NARROWED),
    export=frozen_size(),
    shapes=B_T_3,
    dims={"time": (5, 9)},
    line=HERE,
)
def forward(self, x: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    for t in range(x.shape[1]):  # here
        h = h * 0.5 + x[:, t]
    return h


@row(
    "loop over rows",
    normal(4, 3),
    truth(FROZEN, script=None, onnx=NARROWED),
    export=frozen_size(""),
    line=HERE,
    ci="onnx",
)
def forward(self, x: Tensor) -> Tensor:
    rows = []
    for one in x:  # here
        rows.append(one.cumsum(0))  # noqa: PERF401  # the loop is the point
    return torch.stack(rows)


@row("cell over fixed time", normal(2, 4, 3), ci="script")
@row(
    "cell over time",
    normal(2, 4, 3),
    truth(FROZEN, script=None, onnx=NARROWED),
    export=frozen_size(),
    shapes=B_T_3,
    line=HERE,
)
@has(cell=lambda: nn.GRUCell(3, 4))
def forward(self, x: Tensor) -> Tensor:
    h = torch.zeros(x.shape[0], 4)
    for t in range(x.shape[1]):  # here
        h = self.cell(x[:, t], h)
    return h


@row("unrolled", normal(3, 4), round_trip=True, ci="trace")
@has(layers=lambda: nn.ModuleList(nn.Linear(4, 4) for _ in range(3)))
def forward(self, x: Tensor) -> Tensor:
    """A loop whose count is a constant of the model."""
    for layer in self.layers:
        x = torch.tanh(layer(x)) + x
    return x


@row(
    "many rows branch, one side declared",
    normal(6, 3),
    shapes={"x": "batch 3"},
    dims={"batch": (5, 8)},
    ci="trace",
)
@row(
    normal(4, 3),
    truth(FROZEN, script=None, export=NARROWED, onnx=NARROWED),
    round_trip=True,
    line=HERE,
    ci="script",
)
class ManyRowsBranch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] > 4:
            return x * 2
        return x + 1


@row(
    "one row branch, from one row",
    normal(1, 3),
    truth(FROZEN, script=None, export=NARROWED, onnx=NARROWED),
    line=HERE,
)
# 0/1 specialization: torch assumes that a dynamic size is neither 0 nor 1, and keeps that side.
@row(
    "one row branch",
    normal(4, 3),
    truth(FROZEN, script=None, export=NARROWED, onnx=NARROWED),
    line=HERE,
    ci="export",
)
def forward(self, x: Tensor) -> Tensor:
    if x.shape[0] == 1:
        return x * 3
    return x + 1


@row(
    "even time from four",
    normal(2, 6),
    shapes=B_T,
    dims={"time": range(4, 11, 2)},
    round_trip=True,
    ci="export",
)
# torch.export excludes the size at which half the time is 1.
@row("even time only", normal(2, 6), export=NARROWED, shapes=B_T, dims={"time": range(2, 11, 2)})
# The ONNX file has no guard: it pads an even time too, and its Reshape then fails.
@row(
    "odd time pad",
    normal(2, 5),
    truth(FROZEN, script=None, export=NARROWED, onnx=NARROWED),
    shapes=B_T,
    line=HERE,
    ci="trace",
)
def forward(self, x: Tensor) -> Tensor:
    if x.shape[1] % 2 == 1:
        x = F.pad(x, (0, 1))
    return x.reshape(x.shape[0], -1, 2).sum(-1)


@row("last three", normal(2, 5), export=NARROWED, shapes=B_T, ci="onnx_legacy")
def forward(self, x: Tensor) -> Tensor:
    """Slicing clamps: eager takes shorter sequences too."""
    return x[:, -3:].sum(1)


@row("squeeze all", normal(4, 3, 1))
def forward(self, x: Tensor) -> Tensor:
    """Drops the batch axis too if it is 1. Exporters that assume a size above 1 keep it."""
    return x.squeeze() * 2


@row("squeeze last", normal(4, 3, 1), ci="trace")
def forward(self, x: Tensor) -> Tensor:
    return x.squeeze(-1) * 2


@row(
    "sum branch, one side by values",
    normal(4, 3).abs(),
    export=REFUSED,
    onnx=REFUSED,
    values={"x": (0.5, 2.0)},
    weak=UNVERIFIED,
    refused={"export onnx": undecided()},
)
@row(
    "sum branch, one side filtered",
    normal(4, 3).abs(),
    export=REFUSED,
    onnx=REFUSED,
    filter=lambda x: bool(x.sum() > 0),
    weak=UNVERIFIED,
    refused={"export onnx": undecided()},
)
@row(normal(4, 3), trace=FROZEN, export=REFUSED, onnx=REFUSED, onnx_legacy=FROZEN, line=HERE)
class SumBranch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x * 2
        return x - 1


@row(
    "equivalent branch",
    call(normal(4, 3), coins(4, 3)),
    export=REFUSED,
    onnx=REFUSED,
    refused={"export onnx": undecided()},
)
def forward(self, x: Tensor, mask: Tensor) -> Tensor:
    """If nothing is masked, both sides are the same."""
    if bool(mask.all()):
        return x
    return x.masked_fill(~mask, -1.0)


@row(
    "all mask branch",
    call(normal(4, 3), coins(4, 3)),
    trace=FROZEN,
    export=REFUSED,
    onnx=REFUSED,
    onnx_legacy=FROZEN,
    line=HERE,
    ci="onnx",
)
def forward(self, x: Tensor, mask: Tensor) -> Tensor:
    if bool(mask.all()):
        return x.mean(1)
    return (x * mask).sum(1)


@row(
    "token branch",
    whole(0, 9, 4, 5),
    trace=FROZEN,
    export=REFUSED,
    onnx=REFUSED,
    onnx_legacy=FROZEN,
    line=HERE,
    ci="onnx_legacy",
)
def forward(self, ids: Tensor) -> Tensor:
    total = ids.sum(1)
    if (ids == 0).any():
        total = total + 100
    return total


@row(
    "while large",
    normal(4, 3),
    trace=FROZEN,
    export=REFUSED,
    onnx=REFUSED,
    onnx_legacy=FROZEN,
    line=HERE,
    ci="export",
)
def forward(self, x: Tensor) -> Tensor:
    while bool(x.abs().max() > 0.5):
        x = x / 2
    return x


@row("where instead", normal(4, 3), ci="trace")
def forward(self, x: Tensor) -> Tensor:
    return torch.where(x.sum() > 0, x * 2, x - 1)


@row(
    "cond instead",
    normal(4, 3),
    truth(REFUSED, export=None, onnx=None),
    round_trip=True,
    refused={"trace script onnx_legacy": no_construct()},
    ci="trace script onnx onnx_legacy",
)
def forward(self, x: Tensor) -> Tensor:
    return torch.cond(x.sum() > 0, lambda x: x * 2, lambda x: x - 1, (x,))


@row(
    "present mask, given", call(normal(4, 3), coins(4, 3).long()), round_trip=True, ci="onnx_legacy"
)
@row("present mask, absent", normal(4, 3))
def forward(self, x: Tensor, mask: Optional[Tensor] = None) -> Tensor:  # noqa: UP045
    """A branch on whether an argument is given, not on its values."""
    if mask is not None:
        x = x.masked_fill(mask == 0, 0.0)
    return x.sum(1)


IN_A_CORNER = "x.sum() > 100"

section("baked")


# torch.onnx.export falls back to strict capture, which accepts float(tensor) and numpy.
@row(
    "float of max",
    normal(4, 3),
    trace=DIFFERS,
    export=undecided(),
    onnx_legacy=DIFFERS,
    blame=baked(),
    ci="onnx_legacy",
)
def forward(self, x: Tensor) -> Tensor:
    return x - float(x.max())


@row("item scale", normal(4, 3), trace=DIFFERS, onnx_legacy=DIFFERS, blame=baked())
def forward(self, x: Tensor) -> Tensor:
    return x * x.abs().sum().item()


@row(
    "to list", normal(4, 3), trace=DIFFERS, script=unannotated(), onnx_legacy=DIFFERS, blame=baked()
)
def forward(self, x: Tensor) -> Tensor:
    return x * sum(x[0].tolist())


@row(
    "through numpy",
    normal(4, 3),
    trace=DIFFERS,
    script=REFUSED,
    export=REFUSED,
    onnx_legacy=DIFFERS,
    shapes={"x": "..."},
    round_trip=True,
    blame=baked(),
    refused={"script export": no_construct()},
    ci="onnx",
)
def forward(self, x: Tensor) -> Tensor:
    return x + torch.from_numpy(x.numpy().cumsum(1))


@row(
    "new tensor of input",
    normal(4, 3),
    trace=DIFFERS,
    export=undecided(),
    onnx_legacy=DIFFERS,
    blame=baked(),
    ci="trace",
)
def forward(self, x: Tensor) -> Tensor:
    return x * torch.tensor([float(x[0, 0]), 1.0, 2.0])


@row(
    "index by value",
    call(normal(4, 3), torch.tensor(1)),
    truth(DIFFERS, script=None, export=REFUSED, onnx=REFUSED),
    values={"index": (0, 2)},
    blame=baked(),
    refused={"export onnx": undecided()},
    ci="trace export onnx",
)
def forward(self, x: Tensor, index: Tensor) -> Tensor:
    return x[:, int(index)]


@row(
    "select by tensor",
    call(normal(4, 3), torch.tensor(1)),
    values={"index": (0, 2)},
    round_trip=True,
    ci="trace",
)
def forward(self, x: Tensor, index: Tensor) -> Tensor:
    return x.index_select(1, index.reshape(1)).squeeze(1)


@row(
    "tracing branch",
    normal(4, 3),
    trace=DIFFERS,
    onnx_legacy=DIFFERS,
    round_trip=True,
    blame=asks(),
    ci="script",
)
def forward(self, x: Tensor) -> Tensor:
    if torch.jit.is_tracing():
        return x * 2
    return x


@row(
    "scripting branch",
    normal(4, 3),
    script=DIFFERS,
    round_trip=True,
    blame=asks(),
    ci="script onnx_legacy",
)
def forward(self, x: Tensor) -> Tensor:
    if torch.jit.is_scripting():
        return x * 2
    return x


@row(
    "compiling branch",
    normal(4, 3),
    export=DIFFERS,
    onnx=DIFFERS,
    blame=asks(),
    ci="export onnx_legacy",
)
def forward(self, x: Tensor) -> Tensor:
    if torch.compiler.is_compiling():
        return x * 2
    return x


@row(
    "onnx branch",
    normal(4, 3),
    script=no_construct(),
    onnx=DIFFERS,
    onnx_legacy=DIFFERS,
    blame=asks(),
    ci="script onnx",
)
def forward(self, x: Tensor) -> Tensor:
    if torch.onnx.is_in_onnx_export():
        return x * 2
    return x


@row("friendly tracing branch", normal(4, 3), round_trip=True, ci="export")
def forward(self, x: Tensor) -> Tensor:
    """Computes the same numbers in another way while it is traced."""
    if torch.jit.is_tracing():
        return x + x
    return x * 2


@row(
    "deployed by its export",
    normal(4, 3),
    script=no_type("type(self).deployed = True"),
    export=DIFFERS,
    onnx=DIFFERS,
    blame=asks("if torch.compiler.is_compiling():"),
    ci="export onnx",
)
class DeployedByItsExport(nn.Module):
    """The class notes that it was exported: what its copies share would change eager, too."""

    deployed = False

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            type(self).deployed = True
        return x * 2 if type(self).deployed else x


class OnnxSoftplus(nn.Module):
    """Spells softplus otherwise for ONNX; the plain spelling overflows."""

    def __init__(self, *, stable: bool) -> None:
        super().__init__()
        self.stable = stable

    def forward(self, x: Tensor) -> Tensor:
        x = x * 4
        if not torch.onnx.is_in_onnx_export():
            return nn.functional.softplus(x)
        if self.stable:
            return x.clamp(min=0) + (-x.abs()).exp().log1p()
        return (1 + x.exp()).log()


row(
    "softplus of onnx, overflows",
    normal(4, 3),
    script=no_construct("if not torch.onnx.is_in_onnx_export():"),
    onnx=DIFFERS,
    onnx_legacy=DIFFERS,
    blame=asks("if not torch.onnx.is_in_onnx_export():"),
    ci="onnx_legacy",
)(lambda: OnnxSoftplus(stable=False))
row(
    "softplus of onnx, stable",
    normal(4, 3),
    script=no_construct("if not torch.onnx.is_in_onnx_export():"),
)(lambda: OnnxSoftplus(stable=True))


class ScriptsOwnBranch(nn.Module):
    """Only the script has the inner branch, and no operator compares its numbers."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting() and float(x.abs().max()) > 30.0:
            return x * self.factor
        return x * 2


row(
    "own branch of the script",
    normal(4, 3),
    script=DIFFERS,
    blame=asks("if torch.jit.is_scripting() and"),
    ci="script",
)(lambda: ScriptsOwnBranch(3.0))
row("own branch of the script, the same", normal(4, 3), ci="script")(lambda: ScriptsOwnBranch(2.0))


@row(
    "forces",
    normal(4, 3),
    truth(REFUSED, script=None),
    round_trip=True,
    refused={"trace onnx_legacy": no_construct(), "export onnx": UNEXPLAINED},
    ci="trace script onnx_legacy",
)
@has(hidden=lambda: nn.Linear(3, 8), energy=lambda: nn.Linear(8, 1))
def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    """A potential with its forces, which need gradients."""
    x = x.detach().requires_grad_(True)
    energy = self.energy(self.hidden(x).tanh()).sum()
    forces = torch.autograd.grad([energy], [x])[0]  # here
    assert forces is not None
    return energy, -forces


@row("asks for the grad mode without gradients", normal(4, 3), under=torch.no_grad, ci="script")
# The script asks again each time it runs, which is without gradients.
@row(
    "asks for the grad mode",
    normal(4, 3),
    script=DIFFERS,
    otherwise="if torch.is_grad_enabled():",
    blame=Blame(owner="", cause="mode-dependent operator", line="if torch.is_grad_enabled():"),
    ci="script export",
)
def forward(self, x: Tensor) -> Tensor:
    if torch.is_grad_enabled():
        return x * 2
    return x * 3


class AsksInACorner(nn.Module):
    """Computes something else without gradients, on sums that few calls reach."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        if bool(x.sum() > 100) and not torch.is_grad_enabled():
            return x * self.factor
        return x * 2


# The truth of a warning, which is no failure: the artifact does what the test's call does.
row(
    "asks for the grad mode in a corner",
    normal(4, 3),
    script=DIFFERS,
    export=REFUSED,
    onnx=REFUSED,
    otherwise="and not torch.is_grad_enabled():",
    blame=Blame(owner="", cause="mode-dependent operator", line="and not torch.is_grad_enabled():"),
    refused={"export onnx": undecided(IN_A_CORNER)},
    ci="trace",
)(lambda: AsksInACorner(3.0))
row(
    "asks for the grad mode in a corner, the same",
    normal(4, 3),
    export=REFUSED,
    onnx=REFUSED,
    refused={"export onnx": undecided(IN_A_CORNER)},
    ci="trace",
)(lambda: AsksInACorner(2.0))


class AsksInACond(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def large(self, x: Tensor) -> Tensor:
        return x * 3 if torch.is_grad_enabled() else x * self.factor

    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 100, self.large, lambda x: x * 2, (x,))


row(
    "asks for the grad mode in a cond",
    normal(4, 3),
    truth(REFUSED, export=None, onnx=None),
    otherwise="return x * 3 if torch.is_grad_enabled() else x * self.factor",
    refused={"trace script onnx_legacy": no_construct("torch.cond(x.sum() > 100")},
    ci="export",
)(lambda: AsksInACond(4.0))
row(
    "asks for the grad mode in a cond, the same",
    normal(4, 3),
    truth(REFUSED, export=None, onnx=None),
    refused={"trace script onnx_legacy": no_construct("torch.cond(x.sum() > 100")},
)(lambda: AsksInACond(3.0))


class AsksForInferenceMode(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        if bool(x.sum() > 100) and torch.is_inference_mode_enabled():
            return x * self.factor
        return x * 2


def no_operator(line: str) -> Blame:
    """Return the blame of a function of torch's that TorchScript does not have."""
    return Blame(owner="capture", cause="unsupported operator", line=line)


row(
    "asks for inference mode",
    normal(4, 3),
    script=no_operator("torch.is_inference_mode_enabled()"),
    export=REFUSED,
    onnx=REFUSED,
    otherwise="and torch.is_inference_mode_enabled():",
    under=torch.no_grad,
    refused={"export onnx": undecided(IN_A_CORNER)},
    ci="trace",
)(lambda: AsksForInferenceMode(3.0))
row(
    "asks for inference mode, the same",
    normal(4, 3),
    script=no_operator("torch.is_inference_mode_enabled()"),
    export=REFUSED,
    onnx=REFUSED,
    under=torch.no_grad,
    refused={"export onnx": undecided(IN_A_CORNER)},
)(lambda: AsksForInferenceMode(2.0))


class AsksForThreads(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        if bool(x.sum() > 100) and torch.get_num_threads() > 4:
            return x * self.factor
        return x * 2


row(
    "asks for the number of threads",
    normal(4, 3),
    script=no_operator("torch.get_num_threads()"),
    export=REFUSED,
    onnx=REFUSED,
    otherwise="and torch.get_num_threads() > 4:",
    refused={"export onnx": undecided(IN_A_CORNER)},
    ci="trace",
)(lambda: AsksForThreads(3.0))
row(
    "asks for the number of threads, the same",
    normal(4, 3),
    script=no_operator("torch.get_num_threads()"),
    export=REFUSED,
    onnx=REFUSED,
    refused={"export onnx": undecided(IN_A_CORNER)},
)(lambda: AsksForThreads(2.0))


@row("a chunk per thread", normal(4, 3), script=no_operator("torch.get_num_threads()"))
def forward(self, x: Tensor) -> Tensor:
    """Works on as many chunks as there are threads, and on each number alone."""
    chunks = x.chunk(torch.get_num_threads(), 1)
    return torch.cat([chunk.exp() for chunk in chunks], 1)


section("callables")


class Encoder(nn.Module):
    """Has methods to export beside forward."""

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


row("bound method", normal(3, 4), round_trip=True, ci="export onnx")(
    lambda: Encoder().eval().encode
)
row("bound method, not decorated", normal(3, 2), round_trip=True, ci="script")(
    lambda: Encoder().eval().decode
)


def standardize(x: Tensor) -> Tensor:
    return (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1)


row("function", normal(4, 3), round_trip=True, ci="trace")(lambda: standardize)


def clip_if_large(x: Tensor) -> Tensor:
    if bool(x.abs().max() > 1):
        return x.clamp(-1.0, 1.0)
    return x * 1.5


row(
    "function with a branch",
    normal(4, 3),
    trace=FROZEN,
    export=REFUSED,
    onnx=REFUSED,
    onnx_legacy=FROZEN,
    blame=Blame(owner="model", cause="frozen branch", line="if bool(x.abs().max() > 1):"),
    refused={"export onnx": undecided("if bool(x.abs().max() > 1):")},
    ci="trace export onnx onnx_legacy",
)(lambda: clip_if_large)
# A ScriptModule keeps its branches under trace and in the legacy exporter.
row(
    "script module",
    normal(4, 3),
    export=SKIPPED,
    onnx=SKIPPED,
    round_trip=True,
    ci="export onnx onnx_legacy",
)(lambda: torch.jit.script(SumBranch()))
