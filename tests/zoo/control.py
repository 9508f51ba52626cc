"""Loops and branches on sizes and on values."""

from __future__ import annotations

from typing import Optional, Tuple  # noqa: UP035  # TorchScript's words

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.row import *

section("control")


@branch(
    "loop over time",
    normal(2, 5, 3),
    STATIC,
    export=frozen_size(),
    x="batch time 3",
    dims={"time": (5, 9)},
)
def forward(self, x: Tensor) -> Tensor:
    h = torch.zeros_like(x[:, 0])
    for t in range(x.shape[1]):  # here
        h = h * 0.5 + x[:, t]
    return h


@row("cell over fixed time", normal(2, 4, 3))
@has(cell=lambda: nn.GRUCell(3, 4))
def forward(self, x: Tensor) -> Tensor:
    h = torch.zeros(x.shape[0], 4)
    for t in range(x.shape[1]):
        h = self.cell(x[:, t], h)
    return h


@row("unrolled", normal(3, 4))
@has(layers=lambda: nn.ModuleList(nn.Linear(4, 4) for _ in range(3)))
def forward(self, x: Tensor) -> Tensor:
    """A loop whose count is a constant of the model."""
    for layer in self.layers:
        x = torch.tanh(layer(x)) + x
    return x


@row("many rows branch, one side declared", normal(6, 3), x="batch 3", dims={"batch": (5, 8)})
@branch(normal(4, 3), SIZE)
class ManyRowsBranch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] > 4:
            return x * 2
        return x + 1


@branch("one row branch, from one row", normal(1, 3), SIZE)
# 0/1 specialization: torch assumes that a dynamic size is neither 0 nor 1, and keeps that side.
@branch("one row branch", normal(4, 3), SIZE)
def forward(self, x: Tensor) -> Tensor:
    if x.shape[0] == 1:
        return x * 3
    return x + 1


# torch.export excludes the size at which half the time is 1.
@row(
    "even time only",
    normal(2, 6),
    export=NARROWED,
    blame=guarded("return x.reshape(x.shape[0], -1, 2).sum(-1)"),
    x="batch time",
    dims={"time": range(2, 11, 2)},
)
# The ONNX file has no guard: it pads an even time too, and its Reshape then fails.
@branch("odd time pad", normal(2, 5), SIZE, x="batch time")
def forward(self, x: Tensor) -> Tensor:
    if x.shape[1] % 2 == 1:
        x = F.pad(x, (0, 1))
    return x.reshape(x.shape[0], -1, 2).sum(-1)


@row("last three of more", normal(2, 5), x="batch time", dims={"time": (4, 8)})
@row("last three", normal(2, 5), export=NARROWED, blame=guarded(), x="batch time")
def forward(self, x: Tensor) -> Tensor:
    """Slicing clamps: eager takes shorter sequences too."""
    return x[:, -3:].sum(1)


@row("squeeze all", normal(4, 3, 1))
def forward(self, x: Tensor) -> Tensor:
    """Drops the batch axis too if it is 1. Exporters that assume a size above 1 keep it."""
    return x.squeeze() * 2


@row("sum branch, one side by values", normal(4, 3).abs(), UNDECIDED, x=(0.5, 2.0), weak=UNVERIFIED)
@row(
    "sum branch, one side filtered",
    normal(4, 3).abs(),
    UNDECIDED,
    filter=lambda x: bool(x.sum() > 0),
    weak=UNVERIFIED,
)
@branch(normal(4, 3))
class SumBranch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x * 2
        return x - 1


@row("present mask, given", call(normal(4, 3), coins(4, 3).long()))
@row("present mask, absent", normal(4, 3))
def forward(self, x: Tensor, mask: Optional[Tensor] = None) -> Tensor:  # noqa: UP045
    """A branch on whether an argument is given, not on its values."""
    if mask is not None:
        x = x.masked_fill(mask == 0, 0.0)
    return x.sum(1)


@row(
    "absent mask without a type",
    normal(4, 3),
    script=RAISES,
    blame={"script": unannotated("x = x + mask")},
)
def forward(self, x, mask=None):
    if mask is not None:
        x = x + mask
    return x * 2


section("baked")


# torch.onnx.export falls back to strict capture, which accepts float(tensor) and numpy.
@row("float of max", normal(4, 3), ITEM, blame=baked())
def forward(self, x: Tensor) -> Tensor:
    return x - float(x.max())


@row(
    "to list", normal(4, 3), trace=DIFFERS, script=unannotated(), onnx_legacy=DIFFERS, blame=baked()
)
def forward(self, x: Tensor) -> Tensor:
    return x * sum(x[0].tolist())


@row(
    "through numpy",
    normal(4, 3),
    ITEM,
    x="...",
    blame=baked(),
    refused={"script export": no_construct()},
    script=REFUSED,
)
def forward(self, x: Tensor) -> Tensor:
    return x + torch.from_numpy(x.numpy().cumsum(1))


@row("new tensor of input", normal(4, 3), ITEM, blame=baked())
def forward(self, x: Tensor) -> Tensor:
    return x * torch.tensor([float(x[0, 0]), 1.0, 2.0])


@row("index by value", call(normal(4, 3), torch.tensor(1)), NUMBER, index=(0, 2), blame=baked())
def forward(self, x: Tensor, index: Tensor) -> Tensor:
    return x[:, int(index)]


@row("select by tensor", call(normal(4, 3), torch.tensor(1)), index=(0, 2))
def forward(self, x: Tensor, index: Tensor) -> Tensor:
    return x.index_select(1, index.reshape(1)).squeeze(1)


@row("tracing branch", normal(4, 3), trace=DIFFERS, onnx_legacy=DIFFERS, blame=asks())
def forward(self, x: Tensor) -> Tensor:
    if torch.jit.is_tracing():
        return x * 2
    return x


@row("scripting branch", normal(4, 3), script=DIFFERS, blame=asks())
def forward(self, x: Tensor) -> Tensor:
    if torch.jit.is_scripting():
        return x * 2
    return x


@row("compiling branch", normal(4, 3), export=DIFFERS, onnx=DIFFERS, blame=asks())
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
)
def forward(self, x: Tensor) -> Tensor:
    if torch.onnx.is_in_onnx_export():
        return x * 2
    return x


@row("friendly tracing branch", normal(4, 3))
def forward(self, x: Tensor) -> Tensor:
    """Computes the same numbers in another way while it is traced."""
    if torch.jit.is_tracing():
        return x + x
    return x * 2


@row(
    normal(4, 3),
    truth(export=DIFFERS, onnx=DIFFERS),
    script=no_type("type(self).deployed = True"),
    blame=asks("if torch.compiler.is_compiling():"),
)
class DeployedByItsExport(nn.Module):
    """The class notes that it was exported: what its copies share would change eager, too."""

    deployed = False

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            type(self).deployed = True
        return x * 2 if type(self).deployed else x


@row("softplus of onnx, stable", normal(4, 3), script=no_construct(), has={"stable": True})
@row("softplus of onnx, overflows", normal(4, 3), ON_BOTH, script=no_construct(), blame=asks())
@has(stable=False)
def forward(self, x: Tensor) -> Tensor:
    """Spells softplus otherwise for ONNX; the plain spelling overflows."""
    x = x * 4
    if not torch.onnx.is_in_onnx_export():  # here
        return nn.functional.softplus(x)
    if self.stable:
        return x.clamp(min=0) + (-x.abs()).exp().log1p()
    return (1 + x.exp()).log()


@row("own branch of the script", normal(4, 3), script=DIFFERS, blame=asks())
def forward(self, x: Tensor) -> Tensor:
    """Only the script has the inner branch, and no operator compares its numbers."""
    if torch.jit.is_scripting() and float(x.abs().max()) > 30.0:
        return x * 3
    return x * 2


@row(
    "forces",
    normal(4, 3),
    truth(REFUSED, script=None),
    refused={
        "trace onnx_legacy": no_construct(),
        "export onnx": replace(UNEXPLAINED, known=True),
    },
)
@has(hidden=lambda: nn.Linear(3, 8), energy=lambda: nn.Linear(8, 1))
def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    """A potential with its forces, which need gradients."""
    x = x.detach().requires_grad_(True)
    energy = self.energy(self.hidden(x).tanh()).sum()
    forces = torch.autograd.grad([energy], [x])[0]  # here
    assert forces is not None
    return energy, -forces


@row("asks for the grad mode without gradients", normal(4, 3), under=torch.no_grad)
# The script asks again each time it runs, which is without gradients.
@row("asks for the grad mode", normal(4, 3), truth(DIFFERS, script=None), blame=by_mode())
@row(
    "asks for the grad mode in training",
    normal(4, 3),
    script=DIFFERS,
    mode="train",
    otherwise=HERE,
    blame=by_mode(),
)
def forward(self, x: Tensor) -> Tensor:
    if torch.is_grad_enabled():
        return x * 2
    return x * 3


@row(
    "asks for the grad mode in a corner",
    normal(4, 3),
    UNDECIDED,
    trace=DIFFERS,
    onnx_legacy=DIFFERS,
    refused={"export onnx": undecided()},
    blame=decided(),
)
# In training eager keeps its gradients, and the truth is that of a warning.
@row(
    "asks for the grad mode in a corner of training",
    normal(4, 3),
    UNDECIDED,
    mode="train",
    script=DIFFERS,
    otherwise=HERE,
    refused={"export onnx": undecided()},
    blame=by_mode(),
)
def forward(self, x: Tensor) -> Tensor:
    """Computes something else without gradients, on sums that few calls reach."""
    if bool(x.sum() > 100) and not torch.is_grad_enabled():
        return x * 3
    return x * 2


@row("has another corner with gradients", normal(4, 3), UNDECIDED)
def forward(self, x: Tensor) -> Tensor:
    """Computes something else with gradients, which nobody who serves it has."""
    if bool(x.sum() > 100) and torch.is_grad_enabled():
        return x * 3
    return x * 2


@row(
    truth(REFUSED, export=DIFFERS, onnx=DIFFERS),
    call(normal(4, 3)),
    blame=by_mode("return x * 3 if torch.is_grad_enabled() else x * 4", known=False),
    refused={"trace script onnx_legacy": no_construct()},
)
class AsksForTheGradModeInACond(nn.Module):
    def large(self, x: Tensor) -> Tensor:
        return x * 3 if torch.is_grad_enabled() else x * 4

    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 100, self.large, lambda x: x * 2, (x,))


@row(
    "asks for inference mode",
    normal(4, 3),
    UNDECIDED,
    script=no_operator("torch.is_inference_mode_enabled()"),
    otherwise=HERE,
    under=torch.no_grad,
)
def forward(self, x: Tensor) -> Tensor:
    if bool(x.sum() > 100) and torch.is_inference_mode_enabled():
        return x * 3
    return x * 2


@row(
    "asks for the number of threads",
    normal(4, 3),
    UNDECIDED,
    script=no_operator("torch.get_num_threads()"),
    otherwise=HERE,
)
def forward(self, x: Tensor) -> Tensor:
    if bool(x.sum() > 100) and torch.get_num_threads() > 4:
        return x * 3
    return x * 2


@row("a chunk per thread", normal(4, 3), script=no_operator("torch.get_num_threads()"))
def forward(self, x: Tensor) -> Tensor:
    """Works on as many chunks as there are threads, and on each number alone."""
    chunks = x.chunk(torch.get_num_threads(), 1)
    return torch.cat([chunk.exp() for chunk in chunks], 1)


section("callables")


@has(down=lambda: nn.Linear(4, 2), up=lambda: nn.Linear(2, 4))
class Encoder(nn.Module):
    """Has methods to export beside forward."""

    @torch.jit.export
    def encode(self, x: Tensor) -> Tensor:
        return torch.tanh(self.down(x))

    def decode(self, z: Tensor) -> Tensor:
        return self.up(z)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.encode(x))


row("bound method", normal(3, 4))(lambda: Encoder().eval().encode)
row("bound method, not decorated", normal(3, 2))(lambda: Encoder().eval().decode)


@row("function", normal(4, 3))
def standardize(x: Tensor) -> Tensor:
    return (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1)


@branch("function with a branch", normal(4, 3))
def clip_if_large(x: Tensor) -> Tensor:
    if bool(x.abs().max() > 1):
        return x.clamp(-1.0, 1.0)
    return x * 1.5


# A ScriptModule keeps its branches under trace and in the legacy exporter.
row("script module", normal(4, 3), export=SKIPPED, onnx=SKIPPED)(
    lambda: torch.jit.script(SumBranch())
)
